//! The local target: scorers as supervised processes of this machine.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use moorline_core::{
    DeploymentId, Desired, LogOptions, LogStream, Manifest, Observation, Placement, Target, TargetError,
};

/// Where it keeps what it has to remember, and what it runs.
#[derive(Clone, Debug)]
pub struct LocalConfig {
    /// The folder of its own: `$MOORLINE_HOME/local`.
    pub home: PathBuf,
    /// The binary `moorline-scorer`.
    pub scorer: PathBuf,
    /// The environment of this process; replicas get a few of its variables, such as `PATH`, and no others.
    pub environment: BTreeMap<String, String>,
    /// How long requests in flight may take once a replica is drained.
    pub drain_timeout: Duration,
    /// How long a replica may take to end after it was told to.
    pub kill_after: Duration,
    /// The size at which a replica's log is turned over.
    pub log_file_bytes: u64,
}

impl LocalConfig {
    pub fn new(home: PathBuf, scorer: PathBuf, environment: BTreeMap<String, String>) -> Self {
        Self {
            home,
            scorer,
            environment,
            drain_timeout: Duration::from_secs(30),
            kill_after: Duration::from_secs(10),
            log_file_bytes: 10 * 1024 * 1024,
        }
    }
}

/// Told of every deployment whose observation changed. It is called from tasks of the runtime and must not block.
pub type OnChange = Arc<dyn Fn(DeploymentId) + Send + Sync>;

/// Scorers as processes of this machine.
#[derive(Debug)]
pub struct LocalTarget;

impl LocalTarget {
    /// Takes `home` for this process alone, and adopts every replica of it that runs.
    pub async fn open(config: LocalConfig, on_change: OnChange) -> Result<Arc<Self>, TargetError> {
        let _ = (config, on_change);
        unimplemented!()
    }

    /// Says which deployments there are, once every one of them was applied: what runs for others is drained and removed.
    pub async fn settle(&self, known: &[DeploymentId]) {
        let _ = known;
    }

    /// Ends: with `keep` the replicas run on and are adopted by the next [`LocalTarget::open`]; else they are drained
    /// and stopped. What is remembered of the deployments stays in both cases. Nothing is started afterwards.
    pub async fn shutdown(&self, keep: bool) {
        let _ = keep;
    }
}

#[async_trait]
impl Target for LocalTarget {
    async fn admit(&self, _desired: &Desired) -> Result<(), TargetError> {
        unimplemented!()
    }

    fn render(&self, _placement: &Placement) -> Result<Manifest, TargetError> {
        unimplemented!()
    }

    async fn apply(&self, _placement: &Placement) -> Result<(), TargetError> {
        unimplemented!()
    }

    async fn observe(&self, _id: &DeploymentId) -> Result<Observation, TargetError> {
        unimplemented!()
    }

    async fn logs(&self, _id: &DeploymentId, _options: LogOptions) -> Result<LogStream, TargetError> {
        unimplemented!()
    }

    async fn remove(&self, _id: &DeploymentId) -> Result<(), TargetError> {
        unimplemented!()
    }
}
