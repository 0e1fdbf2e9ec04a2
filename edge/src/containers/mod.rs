//! Modules of a device as containers, where it has an Engine: brought about from what Azure's manifests say of them, found
//! again by their labels when the agent was away, and started again when they end. They run on without the agent.
//!
//! An image is fetched before anything is stopped, and one that is on the device needs no registry. The container before
//! is kept until the new one has proved itself: one that crashes again and again before that gives way to it.

mod engine;
mod life;
mod options;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use moorline_core::Digest;
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    task::JoinHandle,
};

pub(crate) use engine::Engine;
pub use engine::{EngineError, Usage};
pub use options::{Allowed, OptionsError};
pub(crate) use options::{body, check as check_options};

use self::life::Life;
use crate::{
    manifest::{Module, Registry},
    modules::{OrderError, RuntimeStatus},
};

/// The network of modules that choose none.
const NETWORK: &str = "moorline-edge";
/// Lines and bytes of a log that are told.
const LOG_LINES: usize = 1000;
const LOG_BYTES: usize = 64 * 1024;

/// How containers are run.
#[derive(Clone, Debug)]
pub struct ContainersConfig {
    /// Of the Engine.
    pub socket: PathBuf,
    pub allowed: Allowed,
    /// Whose containers they are: another agent's are not touched.
    pub owner: String,
    /// A container that ran this long without a crash has proved itself.
    pub proof: Duration,
    /// How often each is looked at.
    pub poll: Duration,
}

impl ContainersConfig {
    /// For the agent whose state is in `folder`.
    pub fn new(socket: PathBuf, allowed: Allowed, folder: &std::path::Path) -> Self {
        let owner = Digest::of(folder.to_string_lossy().as_bytes()).hex()[..16].to_owned();
        Self { socket, allowed, owner, proof: Duration::from_mins(1), poll: Duration::from_secs(1) }
    }
}

/// A module as it is to run.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    pub name: String,
    pub module: Module,
    /// Of the registry of its image.
    pub credentials: Option<Registry>,
    /// By which it finds the device's hub.
    pub environment: BTreeMap<String, String>,
    /// The folder with its workload socket.
    pub sockets: Option<PathBuf>,
    /// The name by which it reaches the hub.
    pub hub_name: Option<String>,
}

impl Spec {
    /// Where a module looks for its workload socket.
    pub const WORKLOAD: &'static str = "unix:///run/moorline-edge/workload.sock";
}

/// The registry of these that an image comes from.
pub fn registry_of<'a>(image: &str, registries: &'a BTreeMap<String, Registry>) -> Option<&'a Registry> {
    let host = match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "docker.io",
    };
    let address = |registry: &Registry| {
        let address = registry.address.trim_start_matches("https://").trim_start_matches("http://");
        address.trim_end_matches('/').split('/').next().unwrap_or_default().to_owned()
    };
    registries.values().find(|registry| address(registry) == host)
}

/// What is seen of a container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerView {
    pub status: RuntimeStatus,
    pub description: String,
    pub image: Option<String>,
    pub image_hash: Option<String>,
    pub exit_code: Option<i64>,
    pub restarts: u32,
    pub last_start: Option<String>,
    pub last_exit: Option<String>,
    /// The Engine's id of the one that runs.
    pub id: Option<String>,
}

/// What becomes of a module.
#[derive(Clone, Debug, Default, PartialEq)]
enum Wish {
    /// Nothing was said yet: what runs goes on.
    #[default]
    Unknown,
    Run(Arc<Spec>),
    Remove,
}

type Restart = oneshot::Sender<Result<(), OrderError>>;

#[derive(Debug)]
struct Handle {
    wish: watch::Sender<Wish>,
    restarts: mpsc::Sender<Restart>,
    view: Arc<Mutex<ContainerView>>,
    task: JoinHandle<()>,
}

/// The containers of a device.
#[derive(Debug)]
pub struct Containers {
    config: Arc<ContainersConfig>,
    engine: Arc<Engine>,
    handles: Mutex<BTreeMap<String, Handle>>,
    changed: Arc<Notify>,
}

impl Containers {
    /// Asks nothing of the Engine: it may start later.
    pub fn new(config: ContainersConfig) -> Self {
        Self {
            engine: Arc::new(Engine::new(config.socket.clone())),
            config: Arc::new(config),
            handles: Mutex::new(BTreeMap::new()),
            changed: Arc::new(Notify::new()),
        }
    }

    /// The Engine that they are of.
    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Whose containers they are.
    pub(crate) fn owner(&self) -> &str {
        &self.config.owner
    }

    fn handles(&self) -> MutexGuard<'_, BTreeMap<String, Handle>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a module that of `spec`. The same again changes nothing.
    pub fn set(&self, spec: Spec) {
        let mut handles = self.handles();
        let handle = handles.entry(spec.name.clone()).or_insert_with(|| self.begin(&spec.name));
        handle.wish.send_if_modified(|wish| {
            let new = Wish::Run(Arc::new(spec));
            let differs = *wish != new;
            *wish = new;
            differs
        });
    }

    /// Removes every module that is not named, also those that a run before this one left.
    pub async fn retain(&self, names: &BTreeSet<&str>) -> Result<(), EngineError> {
        for (_, handle) in self.handles().iter().filter(|(name, _)| !names.contains(name.as_str())) {
            remove(handle);
        }
        let found = self.engine.containers(&self.config.owner, None).await?;
        let mut handles = self.handles();
        let left = found.into_iter().map(|found| found.module).filter(|name| !names.contains(name.as_str()));
        for name in left {
            let handle = handles.entry(name).or_insert_with_key(|name| self.begin(name));
            remove(handle);
        }
        // Of those that are gone, nothing is kept.
        handles.retain(|name, handle| names.contains(name.as_str()) || !handle.task.is_finished());
        Ok(())
    }

    fn begin(&self, name: &str) -> Handle {
        let (wish, wishes) = watch::channel(Wish::Unknown);
        let (restarts, asked) = mpsc::channel(1);
        let view = Arc::new(Mutex::new(ContainerView::default()));
        let life = Life::new(
            name.to_owned(),
            Arc::clone(&self.config),
            Arc::clone(&self.engine),
            Arc::clone(&view),
            Arc::clone(&self.changed),
        );
        let task = tokio::spawn(life.run(wishes, asked));
        Handle { wish, restarts, view, task }
    }

    /// What is seen of each module.
    pub fn views(&self) -> BTreeMap<String, ContainerView> {
        let handles = self.handles();
        let there = handles.iter().filter(|(_, handle)| *handle.wish.borrow() != Wish::Remove);
        let view = |handle: &Handle| handle.view.lock().unwrap_or_else(PoisonError::into_inner).clone();
        there.map(|(name, handle)| (name.clone(), view(handle))).collect()
    }

    /// The end of a module's log; `None` if there is no such module.
    pub async fn log(&self, name: &str) -> Option<String> {
        if !self.views().contains_key(name) {
            return None;
        }
        let found = self.engine.containers(&self.config.owner, Some(name)).await.ok()?;
        let Some(newest) = found.into_iter().max_by_key(|found| found.created) else {
            return Some(String::new());
        };
        self.engine.log(&newest.id, LOG_LINES, LOG_BYTES).await.ok()
    }

    /// Starts a module that runs anew.
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

    /// What a module takes now, if it runs.
    pub async fn usage(&self, name: &str) -> Option<Usage> {
        let id = self.views().remove(name)?.id?;
        self.engine.usage(&id).await
    }

    /// Is done when something of a view has changed since this was last done.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Looks after them no longer. They run on.
    pub async fn leave(&self) {
        let handles = std::mem::take(&mut *self.handles());
        for (_, Handle { wish, task, .. }) in handles {
            drop(wish);
            // One that panicked has ended as well.
            let _ = task.await;
        }
    }
}

fn remove(handle: &Handle) {
    handle.wish.send_if_modified(|wish| std::mem::replace(wish, Wish::Remove) != Wish::Remove);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_go_to_the_registry_that_they_are_for() {
        let registry = |address: &str| Registry {
            address: address.to_owned(),
            username: "u".to_owned(),
            password: "p".to_owned(),
        };
        let registries = BTreeMap::from([
            ("a".to_owned(), registry("https://own.example:5000/")),
            ("b".to_owned(), registry("docker.io")),
        ]);
        let of = |image: &str| registry_of(image, &registries).map(|registry| registry.address.as_str());
        assert_eq!(of("own.example:5000/x/y:1"), Some("https://own.example:5000/"));
        assert_eq!(of("library/x:1"), Some("docker.io"));
        assert_eq!(of("x"), Some("docker.io"));
        assert_eq!(of("other.example/x:1"), None);
        assert_eq!(of("own.example/x"), None);
    }
}
