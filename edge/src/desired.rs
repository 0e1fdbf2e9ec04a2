//! What a device is to run: a document in the desired properties of its `$edgeAgent`, signed by the server for this device
//! and this state.
//!
//! The signature is checked with a key that the device learnt when it enrolled. So neither who reaches the hub's disk nor
//! who stands between hub and device makes a device run anything, and an older document, signed though it is, is not taken
//! again.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use moorline_core::Digest;
pub use moorline_core::Golden;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::{
    hub::{NamedRoute, Route, RouteError},
    manifest::{ManifestError, Module, Registry, RestartPolicy, Status, is_module_name},
};

const SCHEMA: &str = "1.1";
const INTEGRITY: &str = "integrity";
const SIGNATURE: &str = "signature";
/// Modules of one device.
pub(crate) const MOST_MODULES: usize = 64;
/// The type of modules that are containers.
const DOCKER: &str = "docker";

/// Why a document is not taken. What runs goes on.
#[derive(Debug, Error)]
pub enum DesiredError {
    #[error("the document is not signed")]
    NotSigned,
    #[error("the document is not signed by a key that this device trusts")]
    Signature,
    #[error("the document is for the device `{named}`, and this is `{own}`")]
    OtherDevice { named: String, own: String },
    #[error("the document has serial {found}, and {known} was taken already")]
    Older { found: u64, known: u64 },
    #[error("the document cannot be read")]
    Shape(#[source] serde_json::Error),
    #[error("the document has schemaVersion `{0}`; this agent reads {SCHEMA}")]
    Schema(String),
    #[error("`{0}` is no name of a module: letters, digits, `-` and `_`")]
    Name(String),
    #[error("the document has {0} modules; {MOST_MODULES} is the most")]
    TooMany(usize),
    #[error("the container `{name}` of the document cannot be read")]
    Container { name: String, source: ManifestError },
    #[error("the registries of the document cannot be read")]
    Registries(#[source] ManifestError),
    #[error("the route `{name}` of the document cannot be read")]
    Route { name: String, source: RouteError },
    #[error("a document is an object")]
    NotAnObject,
}

/// The codes of `lastDesiredStatus`, as Azure's agent has them.
impl DesiredError {
    pub const fn code(&self) -> u16 {
        match self {
            Self::Schema(_) => 412,
            _ => 400,
        }
    }
}

/// A document that was checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// Counts the states of this device.
    pub serial: u64,
    pub modules: BTreeMap<String, DesiredModule>,
    /// Modules that are containers. None has the name of one that is a release.
    pub containers: BTreeMap<String, Module>,
    /// Where their images come from.
    pub registries: BTreeMap<String, Registry>,
    /// Of the device's own hub.
    pub routes: BTreeMap<String, DesiredRoute>,
}

/// A route of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DesiredRoute {
    pub route: String,
    /// How long a message may wait at its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_to_live_secs: Option<u32>,
}

/// A release that a module serves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DesiredModule {
    #[serde(rename = "type")]
    pub kind: ModuleKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The deployment that it is of, `workspace/endpoint/deployment`; none, where somebody named the module itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<String>,
    pub status: Status,
    pub restart_policy: RestartPolicy,
    #[serde(default = "last", skip_serializing_if = "is_last")]
    pub startup_order: u32,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, Variable>,
    pub settings: ReleaseSettings,
}

fn last() -> u32 {
    u32::MAX
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references")]
fn is_last(order: &u32) -> bool {
    *order == u32::MAX
}

/// What a module is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModuleKind {
    /// A release, served by a scorer.
    Release,
}

/// A variable of a module's environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Variable {
    Plain {
        value: String,
    },
    /// The device asks for it: a document lies in a twin in the clear.
    Secret {
        secret: String,
        version: u64,
    },
}

impl Variable {
    pub(crate) fn secret(&self) -> Option<(&str, u64)> {
        match self {
            Self::Plain { .. } => None,
            Self::Secret { secret, version } => Some((secret, *version)),
        }
    }
}

impl DesiredModule {
    /// The secrets that its variables are, with their versions.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = (&str, u64)> {
        self.env.values().filter_map(Variable::secret)
    }
}

/// Which release, and how it is told that it works.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReleaseSettings {
    pub release: Digest,
    /// Of its `release.json`, in bytes.
    pub size: u64,
    /// The release as an image, where it runs in a container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ReleaseImage>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub golden: Option<Golden>,
    /// Messages of an input are scored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messaging: Option<Messaging>,
}

/// A release that runs in a container: one whose script needs an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReleaseImage {
    /// Of its manifest.
    pub digest: Digest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u32>,
}

/// From which input messages are taken, and to which output their answers go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Messaging {
    pub input: String,
    pub output: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    schema_version: String,
    modules: BTreeMap<String, Value>,
    #[serde(default)]
    runtime: Option<Value>,
    #[serde(default)]
    routes: BTreeMap<String, DesiredRoute>,
    integrity: Integrity,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Integrity {
    device: String,
    serial: u64,
    #[expect(dead_code, reason = "was checked before the rest was read")]
    signature: String,
}

/// Signs documents: the server's.
pub struct Signer(Ed25519KeyPair);

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Signer").finish_non_exhaustive()
    }
}

/// A key that is no Ed25519 key in PKCS #8.
#[derive(Clone, Copy, Debug, Error)]
#[error("the key is no Ed25519 key in PKCS #8")]
pub struct SignerError;

impl Signer {
    /// A new key, in PKCS #8, which is to be kept.
    pub fn create() -> Result<Vec<u8>, SignerError> {
        let random = ring::rand::SystemRandom::new();
        let document = Ed25519KeyPair::generate_pkcs8(&random).map_err(|_| SignerError)?;
        Ok(document.as_ref().to_vec())
    }

    pub fn open(pkcs8: &[u8]) -> Result<Self, SignerError> {
        Ed25519KeyPair::from_pkcs8(pkcs8).map(Self).map_err(|_| SignerError)
    }

    /// What devices are to trust.
    pub fn public_key(&self) -> TrustedKey {
        TrustedKey(STANDARD.encode(self.0.public_key().as_ref()))
    }

    /// The document of a device, for the desired properties of its `$edgeAgent`.
    pub fn document(&self, device: &str, desired: &Desired) -> Value {
        let mut modules = json!(desired.modules);
        for (name, module) in &desired.containers {
            modules[name] = module.to_json();
        }
        let mut document = json!({
            "schemaVersion": SCHEMA,
            "modules": modules,
            INTEGRITY: { "device": device, "serial": desired.serial },
        });
        if !desired.registries.is_empty() {
            let registries = crate::manifest::registries_to_json(&desired.registries);
            document["runtime"] =
                json!({ "type": DOCKER, "settings": { "registryCredentials": registries } });
        }
        if !desired.routes.is_empty() {
            document["routes"] = json!(desired.routes);
        }
        let signature = self.0.sign(canonical(&document).as_bytes());
        document[INTEGRITY][SIGNATURE] = STANDARD.encode(signature).into();
        document
    }
}

/// The public half of a [`Signer`], as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TrustedKey(String);

impl Desired {
    /// Reads a document that `device` was given, after one with the serial `known`. The same one may come again.
    pub fn read(
        document: &Value,
        device: &str,
        trusted: &[TrustedKey],
        known: u64,
    ) -> Result<Self, DesiredError> {
        let mut unsigned = document.as_object().ok_or(DesiredError::NotAnObject)?.clone();
        let signature = unsigned
            .get_mut(INTEGRITY)
            .and_then(Value::as_object_mut)
            .and_then(|integrity| integrity.shift_remove(SIGNATURE));
        let signature = signature.as_ref().and_then(Value::as_str).ok_or(DesiredError::NotSigned)?;
        let signature = STANDARD.decode(signature).map_err(|_| DesiredError::Signature)?;
        let signed = canonical(&Value::Object(unsigned));
        let by = |key: &TrustedKey| {
            STANDARD.decode(&key.0).is_ok_and(|key| {
                UnparsedPublicKey::new(&ED25519, key).verify(signed.as_bytes(), &signature).is_ok()
            })
        };
        if !trusted.iter().any(by) {
            return Err(DesiredError::Signature);
        }
        let (own, desired) = Self::read_own(document)?;
        if own != device {
            return Err(DesiredError::OtherDevice { named: own, own: device.to_owned() });
        }
        if desired.serial < known {
            return Err(DesiredError::Older { found: desired.serial, known });
        }
        Ok(desired)
    }

    /// Reads a document whose signature need not be looked at, as the one who signed it keeps it; whose it is, and what it
    /// says.
    pub(crate) fn read_own(document: &Value) -> Result<(String, Self), DesiredError> {
        let Document { schema_version, modules: listed, runtime, routes, integrity } =
            serde_json::from_value(document.clone()).map_err(DesiredError::Shape)?;
        if schema_version != SCHEMA {
            return Err(DesiredError::Schema(schema_version));
        }
        if listed.len() > MOST_MODULES {
            return Err(DesiredError::TooMany(listed.len()));
        }
        if let Some(name) = listed.keys().find(|name| !is_module_name(name)) {
            return Err(DesiredError::Name(name.clone()));
        }
        let (mut modules, mut containers) = (BTreeMap::new(), BTreeMap::new());
        for (name, module) in listed {
            if module["type"] == DOCKER {
                let read = Module::read(&module);
                let read = read.map_err(|source| DesiredError::Container { name: name.clone(), source })?;
                containers.insert(name, read);
            } else {
                modules.insert(name, serde_json::from_value(module).map_err(DesiredError::Shape)?);
            }
        }
        let registries = runtime.as_ref().map(crate::manifest::read_registries).transpose();
        let registries = registries.map_err(DesiredError::Registries)?.unwrap_or_default();
        for (name, route) in &routes {
            if let Err(source) = route.route.parse::<Route>() {
                return Err(DesiredError::Route { name: name.clone(), source });
            }
        }
        Ok((integrity.device, Self { serial: integrity.serial, modules, containers, registries, routes }))
    }

    /// Every module, with what of its messages is scored for it.
    pub(crate) fn names(&self) -> BTreeMap<&str, Option<&Messaging>> {
        let releases =
            self.modules.iter().map(|(name, module)| (name.as_str(), module.settings.messaging.as_ref()));
        releases.chain(self.containers.keys().map(|name| (name.as_str(), None))).collect()
    }

    /// The routes as a hub takes them.
    pub fn named_routes(&self) -> Vec<NamedRoute> {
        let named = |(name, route): (&String, &DesiredRoute)| {
            let time_to_live = route.time_to_live_secs.map(|seconds| Duration::from_secs(seconds.into()));
            Some(NamedRoute { name: name.clone(), route: route.route.parse().ok()?, time_to_live })
        };
        self.routes.iter().filter_map(named).collect()
    }
}

/// The same text for the same document, however a twin ordered it.
pub(crate) fn canonical(value: &Value) -> String {
    fn sorted(value: &Value) -> Value {
        match value {
            Value::Object(object) => {
                let ordered: BTreeMap<&String, &Value> = object.iter().collect();
                let entries = ordered.into_iter().map(|(name, value)| (name.clone(), sorted(value)));
                Value::Object(entries.collect::<Map<String, Value>>())
            }
            Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
            other => other.clone(),
        }
    }
    sorted(value).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(release: &[u8]) -> DesiredModule {
        DesiredModule {
            kind: ModuleKind::Release,
            version: Some("1".to_owned()),
            deployment: None,
            status: Status::Running,
            restart_policy: RestartPolicy::Always,
            startup_order: u32::MAX,
            env: BTreeMap::from([("A".to_owned(), Variable::Plain { value: "b".to_owned() })]),
            settings: ReleaseSettings {
                release: Digest::of(release),
                size: 10,
                image: None,
                golden: Some(Golden { request: json!([1.5]), answer: json!({"y": [0.5]}), tolerance: 0.001 }),
                messaging: None,
            },
        }
    }

    fn desired(serial: u64) -> Desired {
        Desired {
            serial,
            modules: BTreeMap::from([("detector".to_owned(), module(b"1"))]),
            containers: BTreeMap::from([(
                "cam".to_owned(),
                Module {
                    image: "registry.example/cam:1".to_owned(),
                    create_options: json!({"HostConfig": {"Memory": 1000, "Binds": ["x".repeat(2000)]}})
                        .as_object()
                        .unwrap()
                        .clone(),
                    environment: BTreeMap::from([("GREY".to_owned(), json!(true))]),
                    ..Module::default()
                },
            )]),
            registries: BTreeMap::from([(
                "own".to_owned(),
                Registry {
                    address: "registry.example".to_owned(),
                    username: "me".to_owned(),
                    password: "not-a-secret".to_owned(),
                },
            )]),
            routes: BTreeMap::from([(
                "up".to_owned(),
                DesiredRoute { route: "FROM /* INTO $upstream".to_owned(), time_to_live_secs: Some(9) },
            )]),
        }
    }

    #[test]
    fn only_what_was_signed_for_this_device_and_no_older_state_is_taken() {
        let signer = Signer::open(&Signer::create().unwrap()).unwrap();
        let other = Signer::open(&Signer::create().unwrap()).unwrap();
        let trusted = [other.public_key(), signer.public_key()];
        let document = signer.document("dev1", &desired(7));
        // As a twin gives it back: in another order.
        let shuffled: BTreeMap<String, Value> = serde_json::from_value(document.clone()).unwrap();
        let read = |document: &Value, device: &str, known| Desired::read(document, device, &trusted, known);
        assert_eq!(read(&json!(shuffled), "dev1", 7).unwrap(), desired(7));
        assert!(matches!(read(&document, "dev2", 0), Err(DesiredError::OtherDevice { .. })));
        assert!(matches!(read(&document, "dev1", 8), Err(DesiredError::Older { found: 7, known: 8 })));
        let error = Desired::read(&document, "dev1", &trusted[..1], 0);
        assert!(matches!(error, Err(DesiredError::Signature)));
        for (place, value) in [
            ("/integrity/serial", json!(9)),
            ("/integrity/device", json!("dev2")),
            ("/modules/detector/settings/size", json!(11)),
            ("/modules/detector/env/A/value", json!("c")),
            ("/integrity/signature", json!("AAAA")),
            ("/integrity/signature", json!("?")),
        ] {
            let mut forged = document.clone();
            *forged.pointer_mut(place).unwrap() = value;
            assert!(matches!(read(&forged, "dev2", 0), Err(DesiredError::Signature)), "{place}");
        }
        let mut added = document.clone();
        added["modules"]["extra"] = document["modules"]["detector"].clone();
        assert!(matches!(read(&added, "dev1", 0), Err(DesiredError::Signature)));
        let mut bare = document;
        bare["integrity"].as_object_mut().unwrap().remove("signature");
        assert!(matches!(read(&bare, "dev1", 0), Err(DesiredError::NotSigned)));
        assert!(matches!(read(&json!([]), "dev1", 0), Err(DesiredError::NotAnObject)));
    }

    #[test]
    fn signed_nonsense_is_refused_too() {
        let signer = Signer::open(&Signer::create().unwrap()).unwrap();
        let trusted = [signer.public_key()];
        let mut bad = desired(1);
        bad.modules.insert("../x".to_owned(), module(b"2"));
        let error = Desired::read(&signer.document("d", &bad), "d", &trusted, 0).unwrap_err();
        assert!(matches!(error, DesiredError::Name(_)));
        let mut many = desired(1);
        many.containers.clear();
        many.modules = (0..65).map(|n| (format!("m{n}"), module(b"2"))).collect();
        let error = Desired::read(&signer.document("d", &many), "d", &trusted, 0).unwrap_err();
        assert!(matches!(error, DesiredError::TooMany(65)));
        let mut document = json!({"schemaVersion": "1.1", "modules": {"cam": {"type": "docker", "settings": {}}},
            "integrity": {"device": "d", "serial": 1}});
        let signature = signer.0.sign(canonical(&document).as_bytes());
        document["integrity"]["signature"] = STANDARD.encode(signature).into();
        let error = Desired::read(&document, "d", &trusted, 0).unwrap_err();
        assert!(matches!(error, DesiredError::Container { .. }), "{error}");
        let mut lost = desired(1);
        lost.routes
            .insert("x".to_owned(), DesiredRoute { route: "INTO".to_owned(), time_to_live_secs: None });
        let error = Desired::read(&signer.document("d", &lost), "d", &trusted, 0).unwrap_err();
        assert!(matches!(error, DesiredError::Route { .. }));
        assert!(Signer::open(b"x").is_err());
    }
}
