//! The local target: scorers as supervised processes of this machine.
//!
//! A replica is a process in a group of its own that outlives the server which started it. It is known by a variable of
//! its environment, so that a server that was killed leaves nothing behind which the next one does not find. What a
//! replica is started with is described in `command`, what to do next is decided in `plan`; both are pure.

mod command;
mod deployment;
mod failure;
mod layout;
mod limits;
mod log_source;
mod logs;
mod process;
mod replica;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::join_all;
use moorline_core::{
    DeploymentId, Desired, ErrorClass, LogOptions, LogStream, Manifest, Observation, Placement, Target,
    TargetError,
};

use self::{deployment::Deployment, layout::Layout, limits::Limits};

/// Where it keeps what it has to remember, and what it runs.
#[derive(Clone)]
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

impl fmt::Debug for LocalConfig {
    /// Without the environment, which may hold what is nobody's business.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalConfig")
            .field("home", &self.home)
            .field("scorer", &self.scorer)
            .finish_non_exhaustive()
    }
}

/// Told of every deployment whose observation changed. It is called from tasks of the runtime and must not block.
pub type OnChange = Arc<dyn Fn(DeploymentId) + Send + Sync>;

/// What deployments and their replicas share.
pub(crate) struct Context {
    config: LocalConfig,
    layout: Layout,
    limits: Limits,
    on_change: OnChange,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("home", &self.config.home).finish_non_exhaustive()
    }
}

/// Scorers as processes of this machine.
///
/// Dropping it leaves the replicas running, to be adopted by the next one that is opened.
#[derive(Debug)]
pub struct LocalTarget {
    context: Arc<Context>,
    deployments: Mutex<HashMap<DeploymentId, Arc<Deployment>>>,
    closed: AtomicBool,
}

impl LocalTarget {
    /// Takes `home` for this process alone, and adopts every replica of it that runs.
    ///
    /// What was adopted serves on as it is, and is not started again, until its deployment is applied.
    pub async fn open(config: LocalConfig, on_change: OnChange) -> Result<Arc<Self>, TargetError> {
        let scan = move || {
            let layout = Layout::open(&config.home)?;
            let limits = Limits::find(&layout.id);
            let records = layout.records();
            Ok::<_, TargetError>((Context { config, layout, limits, on_change }, records))
        };
        let (context, records) = tokio::task::spawn_blocking(scan).await.map_err(|error| {
            TargetError::caused(ErrorClass::Internal, "could not open the local target", error)
        })??;
        let target = Arc::new(Self {
            context: Arc::new(context),
            deployments: Mutex::default(),
            closed: AtomicBool::new(false),
        });
        for (id, record) in records {
            let deployment = Deployment::open(Arc::clone(&target.context), id.clone(), Some(record));
            target.deployments().insert(id, deployment);
        }
        for (identity, process) in process::find(&target.context.layout) {
            target.deployment(&identity.deployment).adopt(identity, process);
        }
        Ok(target)
    }

    /// Says which deployments there are, once every one of them was applied: what runs for others is drained and removed.
    pub async fn settle(&self, known: &[DeploymentId]) {
        let others: Vec<_> = self
            .deployments()
            .iter()
            .filter(|(id, _)| !known.contains(id))
            .map(|(_, deployment)| Arc::clone(deployment))
            .collect();
        for deployment in &others {
            deployment.remove();
        }
        join_all(others.iter().map(|deployment| deployment.gone())).await;
        self.deployments().retain(|_, deployment| !deployment.is_gone());
    }

    /// Ends: with `keep` the replicas run on and are adopted by the next [`LocalTarget::open`]; else they are drained
    /// and stopped. What is remembered of the deployments stays in both cases. Nothing is started afterwards.
    pub async fn shutdown(&self, keep: bool) {
        self.closed.store(true, Ordering::SeqCst);
        let all: Vec<_> = self.deployments().values().map(Arc::clone).collect();
        if keep {
            join_all(all.iter().map(|deployment| deployment.leave())).await;
        } else {
            for deployment in &all {
                deployment.stop();
            }
            join_all(all.iter().map(|deployment| deployment.gone())).await;
        }
    }

    fn deployments(&self) -> MutexGuard<'_, HashMap<DeploymentId, Arc<Deployment>>> {
        self.deployments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The deployment, new where it is not known or was removed.
    fn deployment(&self, id: &DeploymentId) -> Arc<Deployment> {
        let mut deployments = self.deployments();
        match deployments.get(id) {
            Some(known) if !known.is_gone() => Arc::clone(known),
            _ => {
                let new = Deployment::open(Arc::clone(&self.context), id.clone(), None);
                deployments.insert(id.clone(), Arc::clone(&new));
                new
            }
        }
    }

    fn known(&self, id: &DeploymentId) -> Option<Arc<Deployment>> {
        self.deployments().get(id).filter(|deployment| !deployment.is_gone()).map(Arc::clone)
    }

    fn check_open(&self) -> Result<(), TargetError> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(TargetError::new(ErrorClass::Unavailable, "the local target is shutting down"));
        }
        Ok(())
    }
}

impl Drop for LocalTarget {
    fn drop(&mut self) {
        for deployment in self.deployments().values() {
            deployment.abandon();
        }
    }
}

#[async_trait]
impl Target for LocalTarget {
    async fn admit(&self, desired: &Desired) -> Result<(), TargetError> {
        command::check_desired(desired)
    }

    fn render(&self, placement: &Placement) -> Result<Manifest, TargetError> {
        let folder = |replica: &str| self.context.layout.replica(&placement.id, replica);
        Ok(Manifest { documents: vec![command::render(&self.context.config, placement, folder)?] })
    }

    async fn apply(&self, placement: &Placement) -> Result<(), TargetError> {
        self.check_open()?;
        command::check_placement(placement)?;
        // A removal that is under way ends first; its deployment is another one.
        if let Some(known) = self.known(&placement.id)
            && known.is_ending()
        {
            known.gone().await;
            self.check_open()?;
        }
        self.deployment(&placement.id).apply(placement)
    }

    async fn observe(&self, id: &DeploymentId) -> Result<Observation, TargetError> {
        Ok(self.known(id).map_or_else(Observation::absent, |deployment| deployment.observe()))
    }

    async fn logs(&self, id: &DeploymentId, options: LogOptions) -> Result<LogStream, TargetError> {
        logs::open(&self.context, id, options).await
    }

    async fn remove(&self, id: &DeploymentId) -> Result<(), TargetError> {
        self.check_open()?;
        if let Some(known) = self.known(id) {
            known.remove();
            known.gone().await;
            self.deployments().retain(|own, deployment| own != id || !deployment.is_gone());
        }
        self.context.layout.forget(id).map_err(|error| {
            TargetError::caused(
                ErrorClass::Unavailable,
                format!("could not remove what was kept of deployment `{id}`"),
                error,
            )
        })
    }
}
