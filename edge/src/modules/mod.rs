//! Modules of a device that are releases: each a scorer, in a process of its own or in a container, watched and started
//! again, and reached at an address that stays while versions come and go.
//!
//! A new version is started beside the old one. Only when it is ready, and has answered its golden request, do new
//! connections go to it and the old one ends. A version that fails that never takes a request; one that crashes again and
//! again before it has proved itself gives way to the version before it.

mod container;
mod front;
mod life;
mod process;
mod state;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use moorline_core::Digest;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    task::JoinHandle,
};

pub use self::container::ContainerHost;
use crate::{
    chain,
    containers::{EngineError, OptionsError, Usage},
    desired::DesiredModule,
    secrets::SecretsError,
};

/// Bytes of a log that are told.
const LOG: usize = 64 * 1024;
const LOG_LINES: usize = 1000;

/// What can go wrong with a module.
#[derive(Debug, Error)]
pub enum ModuleError {
    #[error("could not read or write `{}`", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("could not listen on port {port} for the module")]
    Listen { port: u16, source: io::Error },
    #[error("could not start `{}`", program.display())]
    Start { program: PathBuf, source: io::Error },
    #[error("{how} before it was ready{log}")]
    Ended { how: String, log: String },
    #[error("was not ready within {} s{log}", within.as_secs())]
    NotReady { within: Duration, log: String },
    #[error("the Engine did not do what the module needs")]
    Engine(#[from] EngineError),
    #[error("the container cannot be described")]
    Options(#[source] OptionsError),
    #[error("this device runs no containers: its agent was started without --engine")]
    NoHost,
    #[error("the machine gives no random numbers")]
    Random,
    #[error(transparent)]
    Secret(#[from] SecretsError),
    #[error("the client for modules could not be made")]
    Client(#[source] reqwest::Error),
    #[error("did not answer its golden request")]
    NoAnswer(#[source] reqwest::Error),
    #[error("answered its golden request with {status}: {answer}")]
    Status { status: u16, answer: String },
    #[error("answered its golden request with {answer}, which is not the known answer")]
    OtherAnswer { answer: String },
}

/// Why something that was asked of a module was not done.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OrderError {
    #[error("there is no module `{0}`")]
    NoModule(String),
    #[error("the module `{0}` does not run")]
    NotRunning(String),
    #[error("the module `{0}` has no golden request")]
    NoGolden(String),
    #[error("the module `{0}` has too much to do; try again later")]
    Busy(String),
    #[error("the module did not start: {0}")]
    Failed(String),
}

/// What became of a golden request.
#[derive(Clone, Debug, PartialEq)]
pub struct GoldenRun {
    pub release: Digest,
    pub took: Duration,
    /// Why the answer is not the known one.
    pub failure: Option<String>,
}

/// How modules are run.
#[derive(Clone, Debug)]
pub struct ModulesConfig {
    /// `moorline-scorer`.
    pub scorer: PathBuf,
    /// Of what is known of modules, and of their logs.
    pub folder: PathBuf,
    /// What every module's environment begins with.
    pub environment: BTreeMap<String, String>,
    /// For a version to become ready.
    pub start_timeout: Duration,
    /// For the requests of a version that ends.
    pub drain_timeout: Duration,
    /// A version that ran this long without a crash has proved itself.
    pub proof: Duration,
}

impl ModulesConfig {
    pub fn new(scorer: PathBuf, folder: PathBuf, environment: BTreeMap<String, String>) -> Self {
        Self {
            scorer,
            folder,
            environment,
            start_timeout: Duration::from_mins(2),
            drain_timeout: Duration::from_secs(30),
            proof: Duration::from_mins(1),
        }
    }
}

/// What of the device modules need.
#[derive(Debug)]
pub struct About {
    /// Of the secrets that were fetched.
    pub secrets: PathBuf,
    /// Where versions run that are images, if it has an Engine.
    pub host: Option<Arc<ContainerHost>>,
}

/// A version of a module whose release is on the device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Version {
    pub module: DesiredModule,
    /// Of its release; of one that is an image, nothing.
    pub folder: PathBuf,
    /// By which it finds its hub; what the module says itself is above it.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Of its workload socket, which a container is given.
    #[serde(default)]
    pub sockets: Option<PathBuf>,
    /// The name by which a container finds the hub, where that is not its own.
    #[serde(default)]
    pub hub_name: Option<String>,
}

impl DesiredModule {
    /// What has to be on the device for it: its release, or the image that this is.
    pub(crate) fn needs(&self) -> Digest {
        let settings = &self.settings;
        settings.image.as_ref().map_or(settings.release, |image| image.digest)
    }
}

/// What a module does, in the words of Azure's agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RuntimeStatus {
    #[default]
    Unknown,
    /// It ended, and is started again in a while.
    Backoff,
    Running,
    /// It runs, and says itself that it does not work.
    Unhealthy,
    Stopped,
    /// It does not run, and is not tried again before something changes.
    Failed,
}

impl RuntimeStatus {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Backoff => "backoff",
            Self::Running => "running",
            Self::Unhealthy => "unhealthy",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

/// What is seen of a module.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModuleView {
    pub status: RuntimeStatus,
    /// Why it is as it is: above all, why a version was not taken.
    pub description: String,
    /// The version that takes requests.
    pub running: Option<DesiredModule>,
    /// A version that was not taken, and is not tried again.
    pub refused: Option<DesiredModule>,
    pub exit_code: Option<i32>,
    pub restarts: u32,
    pub last_start: Option<jiff::Timestamp>,
    pub last_exit: Option<jiff::Timestamp>,
    /// Where it takes requests, whichever version runs.
    pub address: Option<SocketAddr>,
    pub process: Option<u32>,
    /// The Engine's id, of one that is a container.
    pub container: Option<String>,
    /// Where the version that runs takes them itself: the next one does elsewhere.
    pub scorer: Option<SocketAddr>,
    /// Where the version that runs tells its metrics.
    pub admin: Option<SocketAddr>,
}

impl ModuleView {
    fn nothing_runs(&mut self) {
        (self.running, self.process, self.container) = (None, None, None);
        (self.scorer, self.admin) = (None, None);
    }
}

#[derive(Debug)]
struct Handle {
    wish: watch::Sender<Option<Version>>,
    restarts: mpsc::Sender<life::Restart>,
    view: Arc<Mutex<ModuleView>>,
    task: JoinHandle<()>,
}

/// The modules of a device.
#[derive(Debug)]
pub struct Modules {
    config: Arc<ModulesConfig>,
    about: Arc<About>,
    handles: Mutex<BTreeMap<String, Handle>>,
    changed: Arc<Notify>,
    client: reqwest::Client,
}

impl Modules {
    /// Ends what a run before this one left, which nobody watches.
    pub fn open(config: ModulesConfig, about: About) -> Result<Self, ModuleError> {
        fs_err::create_dir_all(&config.folder)
            .map_err(|source| ModuleError::Io { path: config.folder.clone(), source })?;
        let killed = process::end_orphans(&config.folder);
        if killed > 0 {
            tracing::info!(processes = killed, "ended modules that a run before this one left");
        }
        // To processes of this machine, never through a proxy.
        let client = reqwest::Client::builder().no_proxy().build().map_err(ModuleError::Client)?;
        Ok(Self {
            config: Arc::new(config),
            about: Arc::new(about),
            handles: Mutex::new(BTreeMap::new()),
            changed: Arc::new(Notify::new()),
            client,
        })
    }

    /// Makes a module that of `version`. The same again changes nothing.
    pub async fn set(&self, name: &str, version: Version) -> Result<(), ModuleError> {
        self.begin(name).await?;
        if let Some(handle) = self.handles().get(name) {
            handle.wish.send_if_modified(|wish| {
                let new = wish.as_ref() != Some(&version);
                *wish = Some(version);
                new
            });
        }
        Ok(())
    }

    /// Runs the last version of a module that worked, until it is told of another.
    pub async fn resume(&self, name: &str) -> Result<(), ModuleError> {
        self.begin(name).await
    }

    /// Takes a module up, with what is known of it, if that was not done yet.
    async fn begin(&self, name: &str) -> Result<(), ModuleError> {
        if self.handles().contains_key(name) {
            return Ok(());
        }
        let state = state::State::open(&self.config.folder, name)?;
        let front = front::Front::open(state.port).await?;
        let (wish, hears) = watch::channel(None);
        // One at a time: more of them at once ask for the same.
        let (restarts, asked) = mpsc::channel(1);
        let view =
            Arc::new(Mutex::new(ModuleView { address: Some(front.address()), ..ModuleView::default() }));
        let life = life::Life::new(
            name.to_owned(),
            self.client.clone(),
            (Arc::clone(&self.config), Arc::clone(&self.about)),
            state,
            front,
            life::Shown { view: Arc::clone(&view), changed: Arc::clone(&self.changed) },
        )?;
        let task = tokio::spawn(life.run(hears, asked));
        self.handles().insert(name.to_owned(), Handle { wish, restarts, view, task });
        Ok(())
    }

    /// Ends a module and forgets what is known of it.
    pub async fn remove(&self, name: &str) {
        let handle = self.handles().remove(name);
        if let Some(Handle { wish, task, .. }) = handle {
            drop(wish);
            // A task that panicked has ended as well.
            let _ = task.await;
        }
        let folder = state::folder(&self.config.folder, name);
        if let Err(error) = fs_err::remove_dir_all(&folder)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "could not remove what is known of a module");
        }
        self.changed.notify_one();
    }

    /// What is seen of each module.
    pub fn views(&self) -> BTreeMap<String, ModuleView> {
        let view = |handle: &Handle| handle.view.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.handles().iter().map(|(name, handle)| (name.clone(), view(handle))).collect()
    }

    /// Where the version that runs takes requests itself, of whoever looks again when it is gone.
    pub fn scorer(&self, name: &str) -> Option<SocketAddr> {
        self.handles().get(name)?.view.lock().unwrap_or_else(PoisonError::into_inner).scorer
    }

    pub fn names(&self) -> Vec<String> {
        self.handles().keys().cloned().collect()
    }

    /// Starts a module that runs anew, in the version that it has; is done when that takes requests.
    pub async fn restart(&self, name: &str) -> Result<(), OrderError> {
        let no_module = || OrderError::NoModule(name.to_owned());
        let restarts = self.handles().get(name).map(|handle| handle.restarts.clone());
        let (told, hears) = oneshot::channel();
        match restarts.ok_or_else(no_module)?.try_send(told) {
            Ok(()) => hears.await.unwrap_or_else(|_| Err(no_module())),
            Err(mpsc::error::TrySendError::Full(_)) => Err(OrderError::Busy(name.to_owned())),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(no_module()),
        }
    }

    /// Asks the version that runs its golden request, as any other client would.
    pub async fn run_golden(&self, name: &str) -> Result<GoldenRun, OrderError> {
        let view = self.views().remove(name).ok_or_else(|| OrderError::NoModule(name.to_owned()))?;
        let (Some(running), Some(address)) = (view.running, view.address) else {
            return Err(OrderError::NotRunning(name.to_owned()));
        };
        let settings = running.settings;
        let golden = settings.golden.ok_or_else(|| OrderError::NoGolden(name.to_owned()))?;
        let begun = Instant::now();
        let asked = process::ask_golden(&self.client, address, &golden, self.config.start_timeout).await;
        let failure = asked.err().map(|error| chain(&error));
        Ok(GoldenRun { release: settings.release, took: begun.elapsed(), failure })
    }

    /// The end of the log of the version that was started last.
    pub async fn log(&self, name: &str) -> Option<String> {
        let view = self.views().remove(name)?;
        if let (Some(host), Some(id)) = (&self.about.host, &view.container) {
            return host.log(id, LOG_LINES, LOG).await.ok();
        }
        let entries = fs_err::read_dir(state::folder(&self.config.folder, name)).ok()?.flatten();
        let logs = entries.filter(|entry| entry.path().extension().is_some_and(|end| end == "log"));
        let newest =
            logs.max_by_key(|entry| entry.metadata().and_then(|metadata| metadata.modified()).ok())?;
        let bytes = fs_err::read(newest.path()).ok()?;
        Some(String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(LOG)..]).into_owned())
    }

    /// Is done when something of a view has changed since this was last done.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What a module that is a container takes now.
    pub async fn usage(&self, name: &str) -> Option<Usage> {
        let id = self.views().remove(name)?.container?;
        self.about.host.as_ref()?.usage(&id).await
    }

    /// The versions that modules run or may go back to.
    pub fn kept(&self) -> Vec<Version> {
        let states = state::names(&self.config.folder);
        let states = states.iter().filter_map(|name| state::State::open(&self.config.folder, name).ok());
        states.flat_map(|state| state.good.into_iter().chain(state.previous)).collect()
    }

    /// Removes containers that a run before this one left.
    pub async fn remove_strays(&self) -> Result<(), ModuleError> {
        match &self.about.host {
            Some(host) => Ok(host.remove_strays().await?),
            None => Ok(()),
        }
    }

    /// Ends all modules once they have answered what they were asked; they are taken up again by the next run.
    pub async fn shutdown(&self) {
        let handles = std::mem::take(&mut *self.handles());
        let mut tasks = Vec::new();
        for (_, Handle { wish, task, .. }) in handles {
            drop(wish);
            tasks.push(task);
        }
        for task in tasks {
            let _ = task.await;
        }
    }

    fn handles(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Handle>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
