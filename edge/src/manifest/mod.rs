//! Deployment manifests of Azure IoT Edge, schema 1.0 and 1.1: read with every mistake and its place, and written so that
//! Azure's own runtime takes them.

mod apply;
mod read;
mod write;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use apply::Applied;
pub(crate) use read::read_registries;
pub use read::{ManifestError, Mistake};
pub(crate) use write::registries_to_json;

/// What a device is to run.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    pub agent: AgentSection,
    pub hub: HubSection,
    /// Desired properties of modules.
    pub twins: BTreeMap<String, Map<String, Value>>,
}

/// `$edgeAgent`: the modules.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AgentSection {
    pub min_docker_version: Option<String>,
    pub logging_options: Option<String>,
    pub registries: BTreeMap<String, Registry>,
    pub agent: Module,
    pub hub: Module,
    pub modules: BTreeMap<String, Module>,
}

/// A registry that images come from.
#[derive(Clone, PartialEq, Eq)]
pub struct Registry {
    pub address: String,
    pub username: String,
    pub password: String,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("address", &self.address).finish_non_exhaustive()
    }
}

/// One module.
#[derive(Clone, Debug, PartialEq)]
pub struct Module {
    pub version: Option<String>,
    pub image: String,
    /// Of the container, as the Engine's API has them.
    pub create_options: Map<String, Value>,
    pub status: Status,
    pub restart_policy: RestartPolicy,
    pub image_pull_policy: ImagePullPolicy,
    /// Lower ones start first.
    pub startup_order: u32,
    /// Texts, numbers and booleans.
    pub environment: BTreeMap<String, Value>,
}

impl Default for Module {
    fn default() -> Self {
        Self {
            version: None,
            image: String::new(),
            create_options: Map::new(),
            status: Status::Running,
            restart_policy: RestartPolicy::OnUnhealthy,
            image_pull_policy: ImagePullPolicy::OnCreate,
            startup_order: u32::MAX,
            environment: BTreeMap::new(),
        }
    }
}

/// Whether a module is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    Running,
    Stopped,
}

/// When a module that ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    Never,
    OnFailure,
    OnUnhealthy,
    Always,
}

/// When an image is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImagePullPolicy {
    OnCreate,
    Never,
}

impl Status {
    pub const ALL: [(&'static str, Self); 2] = [("running", Self::Running), ("stopped", Self::Stopped)];
}

impl RestartPolicy {
    pub const ALL: [(&'static str, Self); 4] = [
        ("never", Self::Never),
        ("on-failure", Self::OnFailure),
        ("on-unhealthy", Self::OnUnhealthy),
        ("always", Self::Always),
    ];
}

impl ImagePullPolicy {
    pub const ALL: [(&'static str, Self); 2] = [("on-create", Self::OnCreate), ("never", Self::Never)];
}

/// The word for a value of a closed set.
fn word<T: Copy + PartialEq>(all: &[(&'static str, T)], value: T) -> &'static str {
    all.iter().find(|(_, known)| *known == value).map_or("", |(word, _)| word)
}

/// `$edgeHub`: the routes.
#[derive(Clone, Debug, PartialEq)]
pub struct HubSection {
    pub routes: BTreeMap<String, RouteSpec>,
    /// How long messages wait at most, in seconds.
    pub time_to_live: u64,
    /// How many bytes of them.
    pub max_bytes: Option<u64>,
}

/// A route as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSpec {
    pub route: String,
    /// 0 goes first, 9 last.
    pub priority: Option<u8>,
    /// In seconds.
    pub time_to_live: Option<u32>,
}

/// Whether this can be the name of a module in a manifest.
pub fn is_module_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}
