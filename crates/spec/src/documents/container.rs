//! What a compute of `type: container` says beyond what every compute says: the Engine, and how images reach it.

use std::{net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    fields::Fields,
    reader::{Finding, Reader},
    scalars,
    yaml::Node,
};

/// An Engine's sockets, as `DOCKER_HOST` has them.
const SCHEMES: [&str; 3] = ["unix://", "tcp://", "ssh://"];
const MAX_KEYS: usize = 32;

/// A container host: Docker's or Podman's Engine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ContainerHost {
    /// `unix:///run/docker.sock`, `tcp://host:2376` or `ssh://user@host`; the server's usual one where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Of a `tcp://` host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<EngineTls>,
    /// The host's address that containers are published on: loopback where it is left out and the host is this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish: Option<IpAddr>,
    /// `registry[/prefix]` that images are pushed to and the host pulls from; without one they are loaded into the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<String>,
    /// The secret with the private key that images are signed with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sign_with: Option<String>,
    /// Public keys (PEM), one of which has to have signed every image that runs here. None: no signature is needed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trusted_keys: Vec<String>,
}

/// Files of the server's machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineTls {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl ContainerHost {
    /// Of a compute's settings, which were checked when its document was read.
    pub(super) fn of(settings: &Map<String, Value>) -> Self {
        serde_json::from_value(Value::Object(settings.clone())).unwrap_or_default()
    }

    pub(super) fn read(reader: &mut Reader, fields: &mut Fields<'_>) -> Map<String, Value> {
        let host = fields.optional(reader, "host", host);
        let tls = fields.optional(reader, "tls", tls);
        if tls.is_some() && host.as_ref().is_some_and(|host| !host.starts_with("tcp://")) {
            reader.error(fields.place(), "`tls` belongs to a `host` that begins with `tcp://`");
        }
        let read = Self {
            host,
            tls,
            publish: fields.optional(reader, "publish", address),
            registry: fields.optional(reader, "registry", registry),
            sign_with: fields.optional(reader, "sign_with", secret),
            trusted_keys: fields.optional(reader, "trusted_keys", public_keys).unwrap_or_default(),
        };
        match serde_json::to_value(read) {
            Ok(Value::Object(settings)) => settings,
            _ => unreachable!("a struct is an object"),
        }
    }
}

fn host(reader: &mut Reader, node: &Node) -> Option<String> {
    let text = scalars::filled(reader, node)?;
    if SCHEMES.iter().any(|scheme| text.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty())) {
        return Some(text);
    }
    reader.mismatch(node, "`unix:///path`, `tcp://host:port` or `ssh://user@host`");
    None
}

fn tls(reader: &mut Reader, node: &Node) -> Option<EngineTls> {
    let mut fields = Fields::open(reader, node, "tls")?;
    let ca = fields.required(reader, "ca", absolute);
    let cert = fields.required(reader, "cert", absolute);
    let key = fields.required(reader, "key", absolute);
    fields.close(reader);
    Some(EngineTls { ca: ca?, cert: cert?, key: key? })
}

/// A file of the server's machine, which need not be the one that the document lies on.
pub(super) fn absolute(reader: &mut Reader, node: &Node) -> Option<PathBuf> {
    let path = PathBuf::from(scalars::filled(reader, node)?);
    if !path.is_absolute() {
        reader.mismatch(node, "an absolute path of the server's machine");
        return None;
    }
    Some(path)
}

fn address(reader: &mut Reader, node: &Node) -> Option<IpAddr> {
    let address = scalars::filled(reader, node)?.parse().ok();
    if address.is_none() {
        reader.mismatch(node, "an IP address, such as `127.0.0.1` or `0.0.0.0`");
    }
    address
}

/// `registry[:port][/prefix]`.
pub(super) fn registry(reader: &mut Reader, node: &Node) -> Option<String> {
    let text = scalars::filled(reader, node)?;
    let host = text.split('/').next().unwrap_or_default();
    if (host.contains(['.', ':']) || host == "localhost") && !text.contains("://") && !text.ends_with('/') {
        return Some(text);
    }
    reader.mismatch(
        node,
        "a registry and a prefix in it, such as `registry.example.org/ml` or `localhost:5000`",
    );
    None
}

/// The name of a secret of the workspace, with or without `secret:` before it.
pub(super) fn secret(reader: &mut Reader, node: &Node) -> Option<String> {
    let text = scalars::filled(reader, node)?;
    Some(text.strip_prefix("secret:").unwrap_or(&text).to_owned())
}

pub(super) fn public_keys(reader: &mut Reader, node: &Node) -> Option<Vec<String>> {
    let keys = scalars::list(reader, node, public_key)?;
    if keys.len() > MAX_KEYS {
        reader.mismatch(node, &format!("at most {MAX_KEYS} keys"));
        return None;
    }
    Some(keys)
}

fn public_key(reader: &mut Reader, node: &Node) -> Option<String> {
    let text = scalars::filled(reader, node)?;
    if text.contains("PRIVATE KEY") {
        let finding = Finding::error(node.place, "this is a private key");
        reader.report(finding.hint("keep it secret; a public key begins with `-----BEGIN PUBLIC KEY-----`"));
        return None;
    }
    if !text.trim_start().starts_with("-----BEGIN PUBLIC KEY-----") {
        reader.mismatch(node, "a public key in PEM: `-----BEGIN PUBLIC KEY-----` and so on");
        return None;
    }
    Some(text)
}
