//! Deployments: what is desired, what a target is asked to run, and what is true now.
//!
//! `Desired → Placement → Observation` is the second half of the chain of nouns: each is made from the one before it,
//! and none looks back.

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    digest::Digest,
    environment::{Environment, InferenceConfig},
    golden::Golden,
    release::{FileEntry, Name, Release},
    secret::Secret,
};

/// Which deployment: unique on a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DeploymentId {
    pub workspace: Name,
    pub endpoint: Name,
    pub deployment: Name,
}

impl fmt::Display for DeploymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.workspace, self.endpoint, self.deployment)
    }
}

/// A deployment whose references are resolved: everything but the place of its files and the values of its secrets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Desired {
    pub id: DeploymentId,
    pub compute: Name,
    /// What kind of place that compute is.
    pub target: TargetKind,
    pub release: Release,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<Environment>,
    /// The files of the environment's build context, where it has one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub context: Vec<FileEntry>,
    /// The bitstream that runs the model, on a compute of that kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bitstream: Option<PinnedBitstream>,
    /// The compute below one of FPGAs, which starts the scorers; this machine where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<Below>,
    /// Where the model lies in an image that brings its own server, where it is not to be in the usual place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_mount_path: Option<String>,
    pub scale: Scale,
    #[serde(default)]
    pub resources: Resources,
    #[serde(default, skip_serializing_if = "Scheduling::is_empty")]
    pub scheduling: Scheduling,
    #[serde(default)]
    pub liveness: Probe,
    #[serde(default)]
    pub readiness: Probe,
    /// Asked of it before it takes requests, where the place does that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub golden: Option<Golden>,
}

impl Desired {
    /// The compute that starts its scorers, and its kind.
    pub fn runs_on(&self) -> (Name, TargetKind) {
        match (&self.below, self.target) {
            (Some(below), _) => (below.compute.clone(), below.target),
            (None, TargetKind::Fpga) => ("local".parse().expect("it is a name"), TargetKind::Local),
            (None, target) => (self.compute.clone(), target),
        }
    }
}

/// A compute that another one stands on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Below {
    pub compute: Name,
    pub target: TargetKind,
}

/// A version of a bitstream, and its file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedBitstream {
    pub name: Name,
    pub version: String,
    pub sha256: Digest,
    /// The contract that the deployment asks for, of those that the bitstream keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numerics: Option<String>,
}

/// The kinds of places that can run deployments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetKind {
    Local,
    Container,
    Kubernetes,
    Fpga,
    Edge,
}

impl TargetKind {
    /// The word in documents and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Container => "container",
            Self::Kubernetes => "kubernetes",
            Self::Fpga => "fpga",
            Self::Edge => "edge",
        }
    }
}

/// How many replicas, and who decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Scale {
    Fixed {
        instances: u32,
    },
    /// Azure ML's `target_utilization`: utilization is requests in flight over what the replicas take at one time.
    TargetUtilization {
        min_instances: u32,
        max_instances: u32,
        target_utilization_percentage: u32,
        /// Seconds between decisions.
        polling_interval: u32,
        /// Seconds for which fewer must have been enough before replicas are taken away.
        scale_down_delay: u32,
    },
}

impl Scale {
    /// The least and the most replicas, both inclusive.
    pub fn bounds(self) -> (u32, u32) {
        match self {
            Self::Fixed { instances } => (instances, instances),
            Self::TargetUtilization { min_instances, max_instances, .. } => (min_instances, max_instances),
        }
    }
}

/// What one replica may use; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Cores, in thousandths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
}

impl Resources {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What a place of many machines has to know beyond [`Resources`] to choose one for a replica. Places of one machine do
/// not look at it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scheduling {
    /// What a replica is guaranteed; as much as it may use, where that is left out.
    #[serde(skip_serializing_if = "Resources::is_empty")]
    pub requests: Resources,
    /// Devices by the name that the place knows them by (`nvidia.com/gpu`), and how many.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub devices: BTreeMap<String, u32>,
    /// Labels that the machine has to have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints of machines that do not keep it away, as Kubernetes writes them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
}

impl Scheduling {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// One of Kubernetes' tolerations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Toleration {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// `Equal` or `Exists`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<String>,
}

/// Azure ML's probe settings, times in seconds.
///
/// A failed probe counts only after `initial_delay`; a replica that is ready sooner is used sooner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Probe {
    pub initial_delay: u32,
    pub period: u32,
    pub timeout: u32,
    pub success_threshold: u32,
    pub failure_threshold: u32,
}

impl Default for Probe {
    fn default() -> Self {
        Self { initial_delay: 10, period: 10, timeout: 2, success_threshold: 1, failure_threshold: 30 }
    }
}

/// An environment variable of a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Variable {
    Plain(String),
    /// `version` changes with the value, so that a placement's revision can depend on a secret without holding it.
    Secret {
        reference: String,
        version: u64,
        value: Secret,
    },
}

/// Where a target finds the release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The release's folder on this machine, and the interpreter of its environment if it has a scoring script.
    Folder { path: PathBuf, python: Option<PathBuf> },
    /// The release as an image: `registry/repository@sha256:…`. One whose registry is [`Source::UNPUSHED`] is in this
    /// server's own store of images and nowhere else. It has all of the release in it, but for a model that is an image of
    /// its own.
    Image { reference: String, model: Option<ModelImage> },
}

/// A model that is an image of its own, in [`ModelImage::FOLDER`] of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelImage {
    pub reference: String,
    /// Where the release's image looks for the model's files.
    pub place: String,
    /// Of the model's files.
    pub bytes: u64,
}

impl ModelImage {
    pub const FOLDER: &str = "opt/moorline/release/model";
}

impl Source {
    /// What stands in the place of the registry in the reference of an image that was pushed to none: a name that can
    /// never be looked up (RFC 6761).
    pub const UNPUSHED: &str = "moorline.invalid";

    /// An image with all of a release in it.
    pub fn image(reference: impl Into<String>) -> Self {
        Self::Image { reference: reference.into(), model: None }
    }
}

/// What a target is asked to run.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    pub id: DeploymentId,
    pub release: Release,
    pub source: Source,
    /// How many now; within the bounds of `scale`.
    pub replicas: u32,
    pub scale: Scale,
    pub resources: Resources,
    pub scheduling: Scheduling,
    pub liveness: Probe,
    pub readiness: Probe,
    pub variables: BTreeMap<String, Variable>,
    /// The routes of an image that brings its own server; `None` where a scorer serves.
    pub own_server: Option<InferenceConfig>,
    /// Devices of the machine that a container is given.
    pub machine_devices: Option<MachineDevices>,
    /// Asked of a replica before it takes requests, where the place does that.
    pub golden: Option<Golden>,
}

/// Devices of the machine itself, passed through to a container. Whatever uses them leases them in one folder that all
/// containers of that machine share: [`MachineDevices::LEASES`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineDevices {
    /// Paths below `/dev`, the same inside.
    pub nodes: Vec<String>,
    /// Numbers of the groups that may open them.
    pub groups: Vec<u32>,
}

impl MachineDevices {
    /// The folder of leases, in the container.
    pub const LEASES: &str = "/var/lib/moorline/devices";
}

impl Placement {
    /// The identity of everything that a running replica cannot change: placements that differ only in replicas and
    /// probes have the same revision, and a replica of another revision has to be replaced.
    pub fn revision(&self) -> Digest {
        let variables: BTreeMap<&str, String> = self
            .variables
            .iter()
            .map(|(name, variable)| {
                let value = match variable {
                    Variable::Plain(value) => format!("={value}"),
                    Variable::Secret { reference, version, .. } => format!("secret:{reference}@{version}"),
                };
                (name.as_str(), value)
            })
            .collect();
        let source = match &self.source {
            Source::Folder { python, .. } => python.as_ref().map(|path| path.to_string_lossy().into_owned()),
            Source::Image { reference, model: None } => Some(reference.clone()),
            Source::Image { reference, model: Some(model) } => {
                Some(format!("{reference} {}", model.reference))
            }
        };
        let parts = (self.release.digest(), source, self.resources, &self.scheduling, variables);
        let text = match &self.machine_devices {
            None => serde_json::to_vec(&parts),
            Some(devices) => serde_json::to_vec(&(parts, devices)),
        };
        Digest::of(&text.expect("a revision has only string keys"))
    }
}

/// What is true of a deployment now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    pub phase: Phase,
    /// Of the newest placement that was applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Digest>,
    pub replicas: Vec<Replica>,
    /// What it waits for, in words: `no machine has room for it`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Why the phase is `Failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

impl Observation {
    /// What is observed of a name that a target does not know.
    pub fn absent() -> Self {
        Self { phase: Phase::Absent, revision: None, replicas: Vec::new(), notes: Vec::new(), failure: None }
    }
}

/// How far the newest placement has come. Replicas of an older one serve on until it is `Ready`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Not known here.
    Absent,
    /// Its replicas are starting, or those of an older revision are still being replaced.
    Progressing,
    /// As many replicas of the newest revision as were asked for are ready, and no others run. With zero replicas asked
    /// for, none running is `Ready`.
    Ready,
    /// The newest revision did not start; replicas of an older one are left as they were.
    Failed,
}

/// Why a revision did not start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub reason: String,
    /// The last lines of the log, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
}

/// One running copy of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// Unique among the replicas of a deployment, for as long as it runs.
    pub id: String,
    pub revision: Digest,
    pub state: ReplicaState,
    /// Once its sockets are bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<ReplicaAddress>,
    /// Times that it was started again after it ended by itself.
    pub restarts: u32,
}

/// Where a replica listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaAddress {
    pub data: SocketAddr,
    pub admin: SocketAddr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaState {
    Starting,
    /// Takes requests.
    Ready,
    /// Runs, and its readiness probe fails.
    Unready,
    /// Finishes the requests that it has; is sent no others.
    Draining,
    /// Ended, and waits to be started again.
    BackingOff,
}
