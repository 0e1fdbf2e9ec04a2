//! A fleet: the devices that a server has, and the deployments that are meant for them.
//!
//! Each device has one document, in the desired properties of its `$edgeAgent`, which is made of all deployments whose
//! condition it meets, and signed. Documents are all that is remembered: a server that starts again finds in them what it
//! told whom, and is told the deployments by whoever desires them.

mod files;
mod plan;
mod reported;
mod target;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt,
    path::PathBuf,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use moorline_core::{DeploymentId, Digest, ErrorClass, Name, Observation, Secret, TargetError};
use serde_json::json;
use thiserror::Error;
use tokio::sync::{Notify, broadcast::error::RecvError};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use self::files::{Blob, ImageManifest};
use self::plan::{Device, Wish};
pub use self::{
    files::Files,
    reported::{Reported, ReportedModule},
    target::{FleetSettings, FleetTarget},
};
use crate::{
    desired::{Desired, DesiredModule, Signer, TrustedKey},
    hub::{AGENT, ClientId, Hub, HubError, HubEvent, Twin},
};

/// What is seen is gathered so long before it is acted upon.
const GATHER: Duration = Duration::from_millis(50);
/// Everything is looked at again this often, whatever was heard.
const TICK: Duration = Duration::from_secs(30);
/// Documents that are written at one time; the disk takes them together.
const TOGETHER: usize = 512;

/// A part of the devices that a deployment is for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Share {
    Devices(u32),
    /// Above 0, and up to 100.
    Percent(f64),
}

/// A text that is no part of a fleet.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "`{0}` is no part of a fleet; expected a number of devices, such as `1`, or a percentage, such as `10%`"
)]
pub struct ShareError(String);

impl Share {
    fn of(self, total: usize) -> usize {
        let devices = match self {
            Self::Devices(devices) => devices as usize,
            Self::Percent(percent) => (total as f64 * percent / 100.0).ceil() as usize,
        };
        devices.clamp(1, total.max(1))
    }
}

impl FromStr for Share {
    type Err = ShareError;

    fn from_str(text: &str) -> Result<Self, ShareError> {
        let error = || ShareError(text.to_owned());
        match text.trim().strip_suffix('%') {
            None => text.trim().parse().ok().filter(|count| *count > 0).map(Self::Devices).ok_or_else(error),
            Some(percent) => {
                let percent: f64 = percent.trim().parse().map_err(|_| error())?;
                if percent > 0.0 && percent <= 100.0 { Ok(Self::Percent(percent)) } else { Err(error()) }
            }
        }
    }
}

/// A device that has an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub workspace: Name,
    pub device: String,
}

/// A device of the fleet, as it was seen last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetDevice {
    pub workspace: Name,
    pub name: String,
    /// Its agent.
    pub connected: bool,
}

/// Which devices there are, and what their secrets are: the server's store.
#[async_trait]
pub trait Members: fmt::Debug + Send + Sync {
    async fn members(&self) -> Result<Vec<Member>, MembersError>;

    /// A secret as it is now, if it is set.
    async fn secret(&self, workspace: &Name, name: &str) -> Result<Option<Secret>, MembersError>;
}

/// The store could not be read.
#[derive(Debug, Error)]
#[error("could not read what is known of devices")]
pub struct MembersError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// What a fleet is made of.
pub struct FleetConfig {
    pub hub: Hub,
    pub signer: Signer,
    pub members: Arc<dyn Members>,
    pub files: Files,
    /// Told when what is true of a deployment has changed.
    pub on_change: Arc<dyn Fn(DeploymentId) + Send + Sync>,
}

impl fmt::Debug for FleetConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetConfig")
            .field("hub", &self.hub)
            .field("members", &self.members)
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

/// A fleet; clones are the same one.
#[derive(Clone, Debug)]
pub struct Fleet(Arc<Inner>);

struct Inner {
    config: FleetConfig,
    state: Mutex<State>,
    /// One at a time plans.
    planning: tokio::sync::Mutex<Seen>,
    wake: Notify,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet").field("hub", &self.config.hub).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    placed: BTreeMap<DeploymentId, Wish>,
    /// Deployments that are known to exist, and have not been placed yet.
    pending: BTreeSet<DeploymentId>,
    observations: BTreeMap<DeploymentId, Observation>,
    /// Devices of which something has changed.
    dirty: BTreeSet<String>,
    /// The list of devices has, or much else.
    all_dirty: bool,
    devices: Vec<FleetDevice>,
}

/// Devices as they were seen last.
#[derive(Default)]
struct Seen(BTreeMap<Name, BTreeMap<String, SeenDevice>>);

struct SeenDevice {
    device: Device,
    /// Of the twin of its agent.
    version: u64,
    serial: u64,
}

impl Fleet {
    /// Begins to look after the devices of the hub.
    pub fn start(config: FleetConfig) -> Self {
        let state = State { all_dirty: true, ..State::default() };
        let fleet = Self(Arc::new(Inner {
            config,
            state: Mutex::new(state),
            planning: tokio::sync::Mutex::default(),
            wake: Notify::new(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }));
        fleet.0.tasks.spawn(Box::pin(watch(fleet.clone())));
        fleet
    }

    /// By which devices know the documents of this server.
    pub fn public_key(&self) -> TrustedKey {
        self.0.config.signer.public_key()
    }

    /// Devices have come or gone, or their tags have changed.
    pub fn look(&self) {
        self.0.state().all_dirty = true;
        self.0.wake.notify_one();
    }

    /// Every device that has an agent.
    pub fn devices(&self) -> Vec<FleetDevice> {
        self.0.state().devices.clone()
    }

    /// Which deployments there are: what devices run of any other is taken away.
    pub fn settle(&self, known: BTreeSet<DeploymentId>) {
        self.0.state().pending = known;
        self.look();
    }

    /// The target of a compute.
    pub fn target(&self, settings: FleetSettings) -> FleetTarget {
        FleetTarget::new(self.clone(), settings)
    }

    /// A file of a release that a device is told to run; `None` for any other.
    pub async fn file(&self, device: &str, digest: &Digest) -> Result<Option<PathBuf>, HubError> {
        let (told, files, digest) = (self.0.told(device)?, self.0.config.files.clone(), *digest);
        let found = tokio::task::spawn_blocking(move || files.find(&told, &digest));
        // One that panicked has found nothing.
        Ok(found.await.ok().flatten())
    }

    /// A secret that a variable of a device's modules is, as it is now; `None` for any other.
    pub async fn secret(&self, device: &str, name: &str) -> Result<Option<Secret>, FleetError> {
        let told = self.0.told(device)?;
        let mut named = told.modules.values().flat_map(DesiredModule::secrets);
        let workspace = self.0.state().devices.iter().find(|own| own.name == device).cloned();
        match workspace.filter(|_| named.any(|(own, _)| own == name)) {
            Some(device) => Ok(self.0.config.members.secret(&device.workspace, name).await?),
            None => Ok(None),
        }
    }

    /// What a deployment's module is called on its devices.
    pub fn module_of(&self, id: &DeploymentId) -> Option<String> {
        self.0.state().placed.get(id).map(|wish| wish.module_name.clone())
    }

    /// Every release and image that some device is told of: they must not be taken away.
    pub fn needed(&self) -> BTreeSet<Digest> {
        let devices = self.devices();
        let told: Vec<Desired> = devices.iter().filter_map(|device| self.0.told(&device.name).ok()).collect();
        files::needed(told.iter())
    }

    /// Gives a device modules and routes that are no deployment's, in the place of those that it was given before.
    pub async fn set_own(&self, device: &str, own: Desired) -> Result<(), FleetError> {
        let mut seen = self.0.planning.lock().await;
        self.0.refresh(&mut seen).await?;
        let Some(there) = seen.0.values().find_map(|devices| devices.get(device)) else {
            return Err(FleetError::NotEnrolled(device.to_owned()));
        };
        let told = &there.device.told;
        let mut next = Desired { containers: own.containers, registries: own.registries, ..told.clone() };
        if let Some(name) = next.containers.keys().find(|name| next.modules.contains_key(*name)) {
            return Err(FleetError::Taken { device: device.to_owned(), module: name.clone() });
        }
        // Those of deployments are named after their modules.
        next.routes.retain(|name, _| name.contains('/'));
        next.routes.extend(own.routes.into_iter().map(|(name, route)| (name.replace('/', "-"), route)));
        self.0.write(device, there, &next).await?;
        self.0.state().dirty.insert(device.to_owned());
        self.0.wake.notify_one();
        Ok(())
    }

    /// Ends.
    pub async fn shutdown(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Takes a wish up, and tells the first devices of it.
    async fn place(&self, id: &DeploymentId, mut wish: Wish) -> Result<(), FleetError> {
        {
            let mut state = self.0.state();
            state.pending.remove(id);
            if let Some(before) = state.placed.get(id) {
                wish.finished = before.finished && before.module == wish.module;
            }
            state.placed.insert(id.clone(), wish);
        }
        self.0.plan().await
    }

    /// Its compute says something else of who is meant and how they are reached: that holds for a rollout under way as well.
    pub fn adjust(&self, id: &DeploymentId, settings: &FleetSettings) {
        if let Some(wish) = self.0.state().placed.get_mut(id) {
            wish.condition.clone_from(&settings.condition);
            wish.stages.clone_from(&settings.stages);
            (wish.priority, wish.paused) = (settings.priority, settings.paused);
            wish.max_failure_rate = settings.max_failure_rate;
        }
        self.look();
    }

    /// Takes a deployment away from all devices: from their documents now, and from each when it reads its own.
    pub async fn remove(&self, id: &DeploymentId) -> Result<(), TargetError> {
        {
            let mut state = self.0.state();
            state.pending.remove(id);
            state.placed.remove(id);
            state.observations.remove(id);
        }
        self.0.plan().await.map_err(target::failed)
    }

    fn observation(&self, id: &DeploymentId) -> Observation {
        self.0.state().observations.get(id).cloned().unwrap_or_else(Observation::absent)
    }

    /// One of these devices that is connected.
    fn connected<'a>(&self, names: &BTreeSet<&'a str>) -> Option<&'a str> {
        let connected = connected(&self.0.config.hub);
        names.iter().find(|name| connected.contains(**name)).copied()
    }

    fn hub(&self) -> &Hub {
        &self.0.config.hub
    }
}

/// Why devices were not told.
#[derive(Debug, Error)]
pub enum FleetError {
    #[error(transparent)]
    Members(#[from] MembersError),
    #[error("a device's document could not be kept")]
    Hub(#[from] HubError),
    #[error("device `{0}` has no agent; enrol it first")]
    NotEnrolled(String),
    #[error("module `{module}` of device `{device}` is a deployment's")]
    Taken { device: String, module: String },
}

impl FleetError {
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Members(_) => ErrorClass::Unavailable,
            Self::Hub(error) => error.class(),
            Self::NotEnrolled(_) => ErrorClass::NotFound,
            Self::Taken { .. } => ErrorClass::Conflict,
        }
    }
}

/// Plans whenever something was heard.
async fn watch(fleet: Fleet) {
    let inner = &fleet.0;
    let mut events = inner.config.hub.events();
    let mut due: Option<tokio::time::Instant> = None;
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = inner.stop.cancelled() => return,
            () = inner.wake.notified() => {}
            event = events.recv() => match event {
                Ok(HubEvent::Connected(id) | HubEvent::Disconnected(id) | HubEvent::Reported(id)) => {
                    inner.state().dirty.insert(id.device_name().to_owned());
                }
                Err(RecvError::Lagged(_)) => inner.state().all_dirty = true,
                Err(RecvError::Closed) => return,
            },
            _ = tick.tick() => inner.state().all_dirty = true,
            () = tokio::time::sleep_until(due.unwrap_or_else(tokio::time::Instant::now)), if due.is_some() => {
                due = None;
                if let Err(error) = inner.plan().await {
                    tracing::warn!(error = &error as &dyn std::error::Error, "devices could not be told; it is tried again");
                    inner.state().all_dirty = true;
                }
                continue;
            }
        }
        due = due.or_else(|| Some(tokio::time::Instant::now() + GATHER));
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at what has changed, plans, and tells devices.
    async fn plan(&self) -> Result<(), FleetError> {
        let mut seen = self.planning.lock().await;
        self.refresh(&mut seen).await?;
        let (wishes, pending) = {
            let state = self.state();
            (state.placed.clone(), state.pending.clone())
        };
        let mut workspaces: BTreeSet<Name> = seen.0.keys().cloned().collect();
        workspaces.extend(wishes.keys().map(|id| id.workspace.clone()));
        let mut changed = Vec::new();
        // One device that cannot be told keeps nobody else waiting.
        let failed = Mutex::new(None);
        for workspace in workspaces {
            let none = BTreeMap::new();
            let own = seen.0.get(&workspace).unwrap_or(&none);
            let devices: Vec<&Device> = own.values().map(|seen| &seen.device).collect();
            let planned = plan::plan(&devices, &wishes, &workspace, &pending);
            stream::iter(&planned.documents)
                .for_each_concurrent(TOGETHER, async |(name, told)| {
                    let Some(device) = own.get(name) else { return };
                    match self.write(name, device, told).await {
                        // It is read back, and planned with, at once. What was refused would be again.
                        Ok(()) => {
                            self.state().dirty.insert(name.clone());
                            self.wake.notify_one();
                        }
                        Err(error) => {
                            *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                        }
                    }
                })
                .await;
            let mut state = self.state();
            for (id, observation) in planned.observations {
                // One that was taken away meanwhile has none.
                let Some(wish) = state.placed.get_mut(&id) else { continue };
                wish.finished |= planned.finished.contains(&id);
                if state.observations.get(&id) != Some(&observation) {
                    state.observations.insert(id.clone(), observation);
                    changed.push(id);
                }
            }
        }
        let devices = seen.0.iter().flat_map(|(workspace, devices)| {
            devices.values().map(|seen| FleetDevice {
                workspace: workspace.clone(),
                name: seen.device.name.clone(),
                connected: seen.device.connected,
            })
        });
        self.state().devices = devices.collect();
        for id in changed {
            (self.config.on_change)(id);
        }
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(FleetError::Hub(error)),
            None => Ok(()),
        }
    }

    /// Reads again what has changed.
    async fn refresh(&self, seen: &mut Seen) -> Result<(), FleetError> {
        let (all, dirty) = {
            let mut state = self.state();
            (std::mem::take(&mut state.all_dirty), std::mem::take(&mut state.dirty))
        };
        let hub = &self.config.hub;
        if all {
            let members =
                self.config.members.members().await.inspect_err(|_| self.state().all_dirty = true)?;
            let connected = connected(hub);
            let mut now: BTreeMap<Name, BTreeMap<String, SeenDevice>> = BTreeMap::new();
            for member in members {
                if let Some(device) = read(hub, &member.device, connected.contains(&member.device)) {
                    now.entry(member.workspace).or_default().insert(member.device, device);
                }
            }
            seen.0 = now;
        } else if !dirty.is_empty() {
            let connected = connected(hub);
            for devices in seen.0.values_mut() {
                for (name, device) in devices.iter_mut().filter(|(name, _)| dirty.contains(*name)) {
                    if let Some(now) = read(hub, name, connected.contains(name)) {
                        *device = now;
                    }
                }
            }
        }
        Ok(())
    }

    /// What a device's document says.
    fn told(&self, device: &str) -> Result<Desired, HubError> {
        let id = ClientId::module(device, AGENT).map_err(|_| HubError::UnknownClient(device.to_owned()))?;
        Ok(told(&self.config.hub.twin(&id)?))
    }

    async fn write(&self, name: &str, device: &SeenDevice, told: &Desired) -> Result<(), HubError> {
        let id = ClientId::module(name, AGENT).map_err(|_| HubError::UnknownClient(name.to_owned()))?;
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        // Also above those of a life of this server that was lost with its disk.
        let desired = Desired { serial: seconds.max(device.serial + 1), ..told.clone() };
        let document = self.config.signer.document(name, &desired);
        self.config.hub.replace_desired(&id, &document, device.version + 1).await
    }
}

/// The devices whose agent is connected.
fn connected(hub: &Hub) -> HashSet<String> {
    let clients = hub.clients().into_iter();
    let agents = clients.filter(|(id, state)| state.connected && id.module_name() == Some(AGENT));
    agents.map(|(id, _)| id.device_name().to_owned()).collect()
}

fn read(hub: &Hub, name: &str, connected: bool) -> Option<SeenDevice> {
    let read = || -> Result<SeenDevice, HubError> {
        let unknown = |_| HubError::UnknownClient(name.to_owned());
        let device = hub.twin(&ClientId::device(name).map_err(unknown)?)?;
        let agent = hub.twin(&ClientId::module(name, AGENT).map_err(unknown)?)?;
        let facts = json!({
            "deviceId": name,
            "tags": device.tags,
            "properties": { "desired": device.desired.properties, "reported": device.reported.properties },
        });
        let told = told(&agent);
        Ok(SeenDevice {
            version: agent.desired.version,
            serial: told.serial,
            device: Device {
                name: name.to_owned(),
                connected,
                facts,
                told: Desired { serial: 0, ..told },
                reported: Reported::of(&agent),
            },
        })
    };
    read()
        .inspect_err(|error| {
            tracing::warn!(device = name, error = error as &dyn std::error::Error, "a device is left out");
        })
        .ok()
}

/// What the document in an agent's twin says; nothing, where there is none or somebody has spoilt it.
fn told(agent: &Twin) -> Desired {
    if agent.desired.properties.is_empty() {
        return Desired::default();
    }
    let document = agent.desired.properties.clone().into();
    match Desired::read_own(&document) {
        Ok((_, desired)) => desired,
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the document of a device cannot be read, and is written anew");
            // An older serial would not be taken.
            let serial = document["integrity"]["serial"].as_u64().unwrap_or_default();
            Desired { serial, ..Desired::default() }
        }
    }
}
