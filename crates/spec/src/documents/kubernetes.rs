//! What a compute of `type: kubernetes` says beyond what every compute says: the cluster, how images reach it, and how
//! requests do.

use std::path::PathBuf;

use moorline_core::Toleration;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::container::{absolute, public_keys, registry, secret};
use crate::{fields::Fields, reader::Reader, scalars, yaml::Node};

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
    /// Azure ML's, which say nothing here.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub properties: Map<String, Value>,
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
