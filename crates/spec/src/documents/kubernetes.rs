//! What a compute of `type: kubernetes` says beyond what every compute says: the cluster, how images reach it, and how
//! requests do.

use std::path::PathBuf;

use moorline_core::Toleration;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::container::{absolute, public_keys, registry, secret};
use crate::{
    fields::Fields,
    quantity::parse_bytes,
    reader::{Finding, Reader},
    scalars,
    yaml::Node,
};

/// The longest name of a namespace, and of whatever else is a DNS label.
const LABEL_LENGTH: usize = 63;

/// A namespace of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KubernetesCluster {
    /// A file of the server's machine; where it is left out, the one that `kubectl` would use, and inside of a cluster
    /// the pod's own account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<PathBuf>,
    /// The file's current context where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// The context's namespace where it is left out, else `default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// `registry[/prefix]` that images are pushed to and the cluster pulls from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<String>,
    /// Secrets of the namespace with the credentials of that registry.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<String>,
    /// How the server's gateway reaches the pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reach: Option<Reach>,
    /// The secret with the private key that images are signed with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sign_with: Option<String>,
    /// Public keys (PEM), one of which has to have signed every image that runs here. None: no signature is needed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trusted_keys: Vec<String>,
    /// Large models are kept out of the images of releases.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_volume: Option<ModelVolume>,
    /// A gateway of the namespace's own, so that requests do not pass the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<ClusterGateway>,
    /// Azure ML's, which say nothing here.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub properties: Map<String, Value>,
}

/// Which models are images of their own, and how pods get them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelVolume {
    /// Those of more bytes than this, as it was written: `2Gi`.
    pub over: String,
    /// What the cluster can, where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<ModelVolumeKind>,
}

impl ModelVolume {
    /// Whether a model of so many bytes is an image of its own.
    pub fn takes(&self, bytes: u64) -> bool {
        parse_bytes(&self.over).is_ok_and(|most| bytes > most)
    }
}

/// How a pod gets a model that is an image of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelVolumeKind {
    /// The image is a volume.
    Image,
    /// A container that runs first copies it into one.
    InitContainer,
}

/// The gateway of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterGateway {
    /// Of its objects, its account and its role.
    pub name: String,
    pub replicas: u32,
    /// The host that requests from outside are sent to, which scoring URIs begin with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The class of the Ingress that is made for the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_class: Option<String>,
    /// The secret of the namespace with the host's certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_secret: Option<String>,
    /// A Gateway of the Gateway API, through which an HTTPRoute leads in the place of an Ingress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<GatewayParent>,
}

/// A Gateway of the Gateway API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayParent {
    pub name: String,
    /// The compute's where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its listener; all of them where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section: Option<String>,
    /// Whether that listener speaks TLS, so that scoring URIs begin with `https`.
    pub tls: bool,
}

impl ClusterGateway {
    /// What scoring URIs begin with, where requests come from outside.
    pub fn origin(&self) -> Option<String> {
        let tls = self.parent.as_ref().map_or(self.tls_secret.is_some(), |parent| parent.tls);
        let host = self.host.as_ref()?;
        Some(format!("{}://{host}", if tls { "https" } else { "http" }))
    }
}

/// How a server reaches pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// By their addresses: what runs in the cluster, or on a machine that has a route to its pods.
    Pods,
    /// Through the API server, as `kubectl port-forward` does: what runs anywhere else.
    Forward,
}

impl KubernetesCluster {
    /// Of a compute's settings, which were checked when its document was read.
    pub(super) fn of(settings: &Map<String, Value>) -> Self {
        serde_json::from_value(Value::Object(settings.clone())).unwrap_or_default()
    }

    pub(super) fn read(reader: &mut Reader, fields: &mut Fields<'_>) -> Map<String, Value> {
        let ways = [("pods", Reach::Pods), ("forward", Reach::Forward)];
        let read = Self {
            kubeconfig: fields.optional(reader, "kubeconfig", absolute),
            context: fields.optional(reader, "context", scalars::filled),
            namespace: fields.optional(reader, "namespace", label),
            registry: fields.optional(reader, "registry", registry),
            image_pull_secrets: fields
                .optional(reader, "image_pull_secrets", |reader, node| {
                    scalars::list(reader, node, scalars::filled)
                })
                .unwrap_or_default(),
            reach: fields.optional(reader, "reach", scalars::choice(&ways)),
            sign_with: fields.optional(reader, "sign_with", secret),
            trusted_keys: fields.optional(reader, "trusted_keys", public_keys).unwrap_or_default(),
            model_volume: fields.optional(reader, "model_volume", model_volume),
            gateway: fields.optional(reader, "gateway", gateway),
            properties: fields
                .optional(reader, "properties", |reader, node| {
                    scalars::object(reader, node)?;
                    node.to_json().as_object().cloned()
                })
                .unwrap_or_default(),
        };
        match serde_json::to_value(read) {
            Ok(Value::Object(settings)) => settings,
            _ => unreachable!("a struct is an object"),
        }
    }
}

/// The name of a gateway where none is given.
const GATEWAY: &str = "moorline-gateway";
/// So that one can be replaced while the other serves.
const GATEWAYS: u32 = 2;
const MOST_GATEWAYS: u32 = 64;
/// The longest name of a host.
const HOST_LENGTH: usize = 253;

fn model_volume(reader: &mut Reader, node: &Node) -> Option<ModelVolume> {
    let ways = [("image", ModelVolumeKind::Image), ("init_container", ModelVolumeKind::InitContainer)];
    let mut fields = Fields::open(reader, node, "model_volume")?;
    let over = fields.required(reader, "over", scalars::memory);
    let by = fields.optional(reader, "by", scalars::choice(&ways));
    fields.close(reader);
    Some(ModelVolume { over: over?, by })
}

fn gateway(reader: &mut Reader, node: &Node) -> Option<ClusterGateway> {
    let mut fields = Fields::open(reader, node, "gateway")?;
    let read = ClusterGateway {
        name: fields.optional(reader, "name", label).unwrap_or_else(|| GATEWAY.to_owned()),
        replicas: fields.optional(reader, "replicas", scalars::between(1, MOST_GATEWAYS)).unwrap_or(GATEWAYS),
        host: fields.optional(reader, "host", host),
        ingress_class: fields.optional(reader, "ingress_class", scalars::filled),
        tls_secret: fields.optional(reader, "tls_secret", scalars::filled),
        parent: fields.optional(reader, "parent", parent),
    };
    for key in ["ingress_class", "tls_secret"] {
        let Some(place) = fields.peek(key).map(|entry| entry.place) else { continue };
        if read.parent.is_some() {
            let why = format!("`{key}` is of an Ingress, and `parent` says that there is none");
            reader.report(Finding::error(place, why).hint("leave one of the two out"));
        } else if read.host.is_none() {
            let why = format!("`{key}` is of an Ingress, which is made for a `host`");
            reader.report(Finding::error(place, why).hint("name the host that requests are sent to"));
        }
    }
    fields.close(reader);
    Some(read)
}

fn parent(reader: &mut Reader, node: &Node) -> Option<GatewayParent> {
    let mut fields = Fields::open(reader, node, "parent")?;
    let name = fields.required(reader, "name", scalars::filled);
    let namespace = fields.optional(reader, "namespace", label);
    let section = fields.optional(reader, "section", scalars::filled);
    let tls = fields.optional(reader, "tls", scalars::boolean).unwrap_or_default();
    fields.close(reader);
    Some(GatewayParent { name: name?, namespace, section, tls })
}

/// The name of a host, without a port: DNS labels between dots.
fn host(reader: &mut Reader, node: &Node) -> Option<String> {
    let text = scalars::filled(reader, node)?;
    let sound = |label: &str| {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        (1..=LABEL_LENGTH).contains(&label.len())
            && label.chars().all(fits)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.len() <= HOST_LENGTH && text.split('.').all(sound) {
        return Some(text);
    }
    reader.mismatch(node, "the name of a host, like models.example.org");
    None
}

/// A DNS label, as RFC 1123 has it.
fn label(reader: &mut Reader, node: &Node) -> Option<String> {
    let text = scalars::filled(reader, node)?;
    let sound = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if text.len() <= LABEL_LENGTH && text.chars().all(sound) && !text.starts_with('-') && !text.ends_with('-')
    {
        return Some(text);
    }
    reader.mismatch(node, "a name of at most 63 lower-case letters, digits and `-`");
    None
}

pub(super) fn toleration(reader: &mut Reader, node: &Node) -> Option<Toleration> {
    let mut fields = Fields::open(reader, node, "toleration")?;
    let operators = [("equal", "Equal"), ("exists", "Exists")];
    let effects = [
        ("no_schedule", "NoSchedule"),
        ("prefer_no_schedule", "PreferNoSchedule"),
        ("no_execute", "NoExecute"),
    ];
    let read = Toleration {
        key: fields.optional(reader, "key", scalars::filled),
        operator: fields.optional(reader, "operator", scalars::choice(&operators)).map(str::to_owned),
        value: fields.optional(reader, "value", scalars::text),
        effect: fields.optional(reader, "effect", scalars::choice(&effects)).map(str::to_owned),
    };
    fields.close(reader);
    Some(read)
}
