//! The hub: an MQTT 3.1.1 session server that devices and modules talk to with the topics of Azure IoT Hub. The same
//! one is in the server and on devices.
//!
//! It is no broker. Topics such as `$iothub/twin/GET` name no client, so a broker would hand one client's twin to
//! another: here every message is answered within the session that it came from, and what a client may say and hear is
//! the closed set of [`topic`].

mod api;
mod certificate;
mod clients;
mod condition;
mod config;
mod error;
mod identity;
mod listed;
mod listen;
mod login;
mod methods;
mod metrics;
mod packets;
mod properties;
mod rate;
mod route;
mod routing;
mod sas;
mod session;
mod tls;
mod topic;
mod twin;
mod twins;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock, PoisonError, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use serde_json::Value;
use tokio::{
    net::TcpListener,
    sync::{broadcast, oneshot},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use clients::{ClientState, HubEvent};
pub use condition::{ConditionError, DeviceCondition};
pub use config::{HubConfig, Limits, NamedRoute, TlsFiles};
pub use error::HubError;
pub use identity::{
    ClientId, ClientIdError, Identities, IdentitiesError, Identity, Proof, SharedKey, SharedKeyError,
};
pub use listed::Listed;
pub use methods::{MethodAnswer, MethodCall, MethodError};
pub use properties::{Properties, PropertiesError};
pub use route::{Route, RouteError, Sink};
pub use session::Ended;
/// The module that speaks for a device.
pub const AGENT: &str = topic::AGENT;
pub use twin::{Section, Twin, TwinError};

pub(crate) use certificate::Presented;

use self::{
    clients::{Clients, Control},
    metrics::Metrics,
    routing::Routing,
    tls::Tls,
    twins::{Side, Twins},
};
use crate::disk::{Clock, Consumer, Disk, DiskError, Documents, Queue, Queues, Stored};

/// The name of the queue of messages for `$upstream`.
const UPSTREAM: &str = "$upstream";
/// The same of those for another broker.
const BRIDGE: &str = "$bridge";
const SESSION_PREFIX: &str = "session/";
/// How often the clock is written down, and the certificate's files are looked at.
const CHORES: Duration = Duration::from_secs(5);

/// A hub that runs. Clones are the same hub; it runs until [`Hub::shutdown`].
#[derive(Clone, Debug)]
pub struct Hub(Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    config: HubConfig,
    identities: Arc<dyn Identities>,
    tls: Tls,
    clients: Arc<Clients>,
    twins: Twins,
    documents: Arc<Documents>,
    queues: Arc<Queues>,
    upstream: Arc<Queue>,
    bridge: Option<Arc<Queue>>,
    routing: Routing,
    metrics: Metrics,
    disk: Disk,
    clock: Arc<Clock>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    mqtt: SocketAddr,
    https: Option<SocketAddr>,
    /// What else is answered over HTTPS.
    also: OnceLock<axum::Router>,
    /// Held for as long as the hub's folder is in use.
    lock: Mutex<Option<std::fs::File>>,
}

/// A message of a device or module that a route led upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamMessage {
    /// Its number, for [`Upstream::done`].
    pub sequence: u64,
    pub sender: ClientId,
    pub properties: Properties,
    pub payload: Bytes,
}

/// What waits in the queues of a hub, and what was not delivered since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Messages for `$upstream`.
    pub upstream: u64,
    /// Bytes on disk, of all queues.
    pub bytes: u64,
    /// Messages for which there was no space, that became too old, or that were damaged.
    pub lost: u64,
    /// Messages that no route took.
    pub unrouted: u64,
}

/// Reads what routes lead upstream, in its order, each message until it is done.
#[derive(Debug)]
pub struct Upstream(Consumer);

impl Upstream {
    /// The next message; waits for one. Nothing is lost when this future is dropped.
    pub async fn next(&mut self) -> Result<UpstreamMessage, HubError> {
        loop {
            let entry = self.0.next().await?;
            if let Some((sender, properties)) = topic::parse_events(&entry.topic) {
                let payload = entry.payload.clone();
                return Ok(UpstreamMessage { sequence: entry.sequence, sender, properties, payload });
            }
            tracing::warn!(topic = entry.topic, "skipped what is no message");
            self.0.done([entry.sequence])?;
        }
    }

    /// The message was taken in: it does not come again.
    pub fn done(&mut self, sequence: u64) -> Result<(), HubError> {
        Ok(self.0.done([sequence])?)
    }

    /// Messages that were handed out and are not done.
    pub fn open(&self) -> usize {
        self.0.open()
    }
}

/// A message for an input of a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputMessage {
    /// Its number, for [`Inputs::done`].
    pub sequence: u64,
    pub input: String,
    pub properties: Properties,
    pub payload: Bytes,
}

/// Reads the inputs of a module that has no connection: one whose messages are scored for it.
#[derive(Debug)]
pub struct Inputs {
    consumer: Consumer,
    id: ClientId,
}

impl Inputs {
    /// The next message; waits for one. Nothing is lost when this future is dropped.
    pub async fn next(&mut self) -> Result<InputMessage, HubError> {
        loop {
            let entry = self.consumer.next().await?;
            if let Some((input, properties)) = topic::parse_input(&entry.topic, &self.id) {
                let payload = entry.payload.clone();
                return Ok(InputMessage { sequence: entry.sequence, input, properties, payload });
            }
            tracing::warn!(topic = entry.topic, "skipped what is no message");
            self.consumer.done([entry.sequence])?;
        }
    }

    /// These messages were taken in: they do not come again.
    pub fn done(&mut self, sequences: impl IntoIterator<Item = u64>) -> Result<(), HubError> {
        Ok(self.consumer.done(sequences)?)
    }
}

impl Hub {
    /// Opens the folder, listens, and serves until the hub is told to end.
    pub async fn start(
        config: HubConfig,
        identities: Arc<dyn Identities>,
        registry: &prometheus::Registry,
    ) -> Result<Self, HubError> {
        let folder = config.folder.clone();
        let lock = lock(&folder)?;
        let tls = Tls::new(config.tls.clone())?;
        let disk = Disk::start().map_err(HubError::Thread)?;
        let clock = Arc::new(Clock::open(&folder)?);
        let documents = Documents::open(folder.join("documents"), disk.clone())?;
        let queues = Arc::new(Queues::new(folder.join("queues"), disk.clone(), Arc::clone(&clock)));
        let upstream = queues.get(UPSTREAM, config.upstream).await?;
        let bridge =
            if config.bridged.is_empty() { None } else { Some(queues.get(BRIDGE, config.upstream).await?) };
        let metrics = Metrics::register(registry, Arc::clone(&queues))?;
        let listen = async |address: SocketAddr| {
            let error = |source| HubError::Listen { address, source };
            let listener = TcpListener::bind(address).await.map_err(error)?;
            let own = listener.local_addr().map_err(error)?;
            Ok::<_, HubError>((listener, own))
        };
        let (mqtt_listener, mqtt) = listen(config.mqtt).await?;
        let (https_listener, https) = match config.https {
            None => (None, None),
            Some(address) => listen(address).await.map(|(listener, own)| (Some(listener), Some(own)))?,
        };
        let inner = Arc::new(Inner {
            routing: Routing::new(config.routes.clone()),
            twins: Twins::new(Arc::clone(&documents)),
            clients: Clients::new(),
            config,
            identities,
            tls,
            documents,
            queues,
            upstream,
            bridge,
            metrics,
            disk,
            clock,
            shutdown: CancellationToken::new(),
            tasks: TaskTracker::new(),
            mqtt,
            https,
            also: OnceLock::new(),
            lock: Mutex::new(Some(lock)),
        });
        inner.tasks.spawn(listen::mqtt(Arc::clone(&inner), mqtt_listener));
        if let Some(listener) = https_listener {
            inner.tasks.spawn(listen::https(Arc::clone(&inner), listener));
        }
        inner.tasks.spawn(chores(Arc::clone(&inner)));
        Ok(Self(inner))
    }

    /// Where MQTT is listened for.
    pub fn mqtt_address(&self) -> SocketAddr {
        self.0.mqtt
    }

    /// Answers these over HTTPS as well, beside methods, from now on. Only the first call has an effect.
    pub fn serve_also(&self, router: axum::Router) {
        if self.0.also.set(router).is_err() {
            tracing::error!("the hub has other routes already");
        }
    }

    /// The device or module that a certificate proves, if it may connect.
    pub(crate) async fn proved_by(&self, presented: &Presented) -> Option<ClientId> {
        let id = presented.by_authority()?;
        let (identities, name) = (self.0.identities.as_ref(), &self.0.config.name);
        login::prove(identities, name, &id, None, Some(presented)).await.ok().map(|_| id)
    }

    /// Where HTTPS is listened for, if it is.
    pub fn https_address(&self) -> Option<SocketAddr> {
        self.0.https
    }

    /// The reading end of `$upstream`. One at a time: two would hand out the same messages.
    pub fn upstream(&self) -> Upstream {
        Upstream(Consumer::new(Arc::clone(&self.0.upstream)))
    }

    /// The reading end of what is bridged, if anything is. One at a time.
    pub fn bridged(&self) -> Option<Upstream> {
        self.0.bridge.as_ref().map(|queue| Upstream(Consumer::new(Arc::clone(queue))))
    }

    /// The reading end of a module's inputs, in place of a client of this name.
    pub async fn inputs(&self, id: &ClientId) -> Result<Inputs, HubError> {
        Ok(Inputs { consumer: Consumer::new(self.0.inbox(id).await?), id: id.clone() })
    }

    /// How much waits.
    pub fn backlog(&self) -> Backlog {
        let mut backlog = Backlog { unrouted: self.0.metrics.unrouted_count(), ..Backlog::default() };
        backlog.upstream = self.0.upstream.depth().0;
        for (_, queue) in self.0.queues.all() {
            backlog.bytes += queue.depth().1;
            let counts = &queue.counts;
            for count in [&counts.dropped, &counts.expired, &counts.damaged] {
                backlog.lost += count.load(Ordering::Relaxed);
            }
        }
        backlog
    }

    /// What happens from now on.
    pub fn events(&self) -> broadcast::Receiver<HubEvent> {
        self.0.clients.events()
    }

    /// Every client that was connected since the hub started.
    pub fn clients(&self) -> Vec<(ClientId, ClientState)> {
        self.0.clients.states()
    }

    /// Routes messages by these from now on.
    pub fn set_routes(&self, routes: Vec<NamedRoute>) {
        self.0.routing.set(routes);
    }

    /// Reads the certificate again; the old one stays where that fails. Changed files are noticed by themselves, within
    /// seconds.
    pub fn reload_certificates(&self) -> Result<(), HubError> {
        self.0.tls.reload()
    }

    pub fn twin(&self, id: &ClientId) -> Result<Twin, HubError> {
        self.0.twins.get(id)
    }

    /// Every twin in which something was said.
    pub fn twins(&self) -> Vec<(ClientId, Twin)> {
        self.0.twins.all()
    }

    /// Changes desired properties, and tells the client if it is connected; gives their version.
    pub async fn patch_desired(
        &self,
        id: &ClientId,
        patch: &Value,
        if_version: Option<u64>,
    ) -> Result<u64, HubError> {
        let version = self.0.twins.patch(id, Side::Desired, patch, if_version).await?;
        self.0.tell_desired(id, patch, version);
        Ok(version)
    }

    /// Makes the desired properties those of `properties`, at the version of whoever owns them; tells the client what
    /// has changed.
    pub async fn replace_desired(
        &self,
        id: &ClientId,
        properties: &Value,
        version: u64,
    ) -> Result<(), HubError> {
        if let Some(patch) = self.0.twins.replace_desired(id, properties, version).await? {
            self.0.tell_desired(id, &patch, version);
        }
        Ok(())
    }

    /// Changes reported properties in the name of the client; gives their version.
    pub async fn patch_reported(&self, id: &ClientId, patch: &Value) -> Result<u64, HubError> {
        let version = self.0.twins.patch(id, Side::Reported, patch, None).await?;
        self.0.clients.reported(id);
        Ok(version)
    }

    pub async fn patch_tags(&self, id: &ClientId, patch: &Value) -> Result<(), HubError> {
        self.0.twins.patch_tags(id, patch).await
    }

    /// Calls a method of a connected client.
    pub async fn call(&self, id: &ClientId, call: MethodCall) -> Result<MethodAnswer, MethodError> {
        self.0.call(id, call).await
    }

    /// Keeps a message for a device until it takes it in, or until it expires.
    pub async fn send_to_device(
        &self,
        id: &ClientId,
        properties: &Properties,
        payload: Bytes,
        time_to_live: Option<Duration>,
    ) -> Result<(), HubError> {
        if id.module_name().is_some() {
            return Err(HubError::NotADevice(id.clone()));
        }
        let mut properties = properties.clone();
        properties.set_system("to", Some(&format!("/devices/{}/messages/deviceBound", id.device_name())));
        self.keep(id, topic::device_bound(id, &properties), payload, time_to_live).await
    }

    /// Keeps a message for an input of a module until it takes it in, whatever the routes say.
    pub async fn send_to_input(
        &self,
        id: &ClientId,
        input: &str,
        properties: &Properties,
        payload: Bytes,
    ) -> Result<(), HubError> {
        self.keep(id, topic::input(id, input, properties), payload, None).await
    }

    async fn keep(
        &self,
        id: &ClientId,
        topic: String,
        payload: Bytes,
        time_to_live: Option<Duration>,
    ) -> Result<(), HubError> {
        let limits = &self.0.config.limits;
        if topic.len() > limits.topic || topic.len() + payload.len() > limits.packet {
            return Err(HubError::MessageTooLong(limits.packet));
        }
        let queue = self.0.inbox(id).await?;
        let ttl = time_to_live.map(|ttl| ttl.as_millis() as u64);
        let stored = queue.append(topic, payload, ttl).await?;
        match stored.await.map_err(|_| DiskError::Closed)?? {
            Stored::At(_) => Ok(()),
            Stored::Full => Err(HubError::QueueFull(id.clone())),
        }
    }

    /// Routes a message as if the client had sent it: of the device's own agent, which has no connection.
    pub async fn send_from(
        &self,
        id: &ClientId,
        properties: Properties,
        payload: Bytes,
    ) -> Result<(), HubError> {
        self.route_from(id, properties, payload).await?.await
    }

    /// The same; what comes back is done when the message is stored. Messages are stored in the order of the calls.
    pub(crate) async fn route_from(
        &self,
        id: &ClientId,
        properties: Properties,
        payload: Bytes,
    ) -> Result<impl Future<Output = Result<(), HubError>> + Send + use<>, HubError> {
        let storing = self.0.route(id, properties, payload).await?;
        Ok(async move { Ok(routing::all_stored(storing).await?) })
    }

    /// Ends the client's session; it may come again.
    pub fn disconnect(&self, id: &ClientId) {
        self.0.clients.end(id, Ended::Asked);
    }

    /// Forgets a client that is no more: its session, twin, subscriptions and messages.
    pub async fn remove(&self, id: &ClientId) -> Result<(), HubError> {
        self.disconnect(id);
        self.0.twins.remove(id).await?;
        self.0.documents.put(&format!("{SESSION_PREFIX}{id}"), None).await?;
        self.0.metrics.forget(id);
        Ok(self.0.queues.remove(&id.to_string())?)
    }

    /// Ends all sessions, stores what was taken in, and lets the folder go.
    pub async fn shutdown(self) {
        self.0.shutdown.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
        self.0.disk.close().await;
        if let Err(error) = self.0.clock.save() {
            tracing::warn!(error = &error as &dyn std::error::Error, "could not write the hub's clock down");
        }
        *self.0.lock.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Inner {
    /// The queue of messages for one client.
    async fn inbox(&self, id: &ClientId) -> Result<Arc<Queue>, DiskError> {
        self.queues.get(&id.to_string(), self.config.inbox).await
    }

    fn tell_desired(&self, id: &ClientId, patch: &Value, version: u64) {
        let patch = Section::notice(patch, version).to_string();
        if let Some(module) = id.module_name().filter(|module| *module != AGENT)
            && let Ok(agent) = ClientId::module(id.device_name(), AGENT)
        {
            let told = Control::ModuleDesired { module: module.to_owned(), version, patch: patch.clone() };
            self.clients.tell(&agent, told);
        }
        self.clients.tell(id, Control::Desired { version, patch });
    }

    async fn call(&self, id: &ClientId, call: MethodCall) -> Result<MethodAnswer, MethodError> {
        let answer = self.try_call(id, &call).await;
        self.metrics.method(match &answer {
            Ok(_) => "answered",
            Err(error) => error.class().as_str(),
        });
        answer
    }

    async fn try_call(&self, id: &ClientId, call: &MethodCall) -> Result<MethodAnswer, MethodError> {
        let payload = call.encoded()?;
        let mut arrivals = self.clients.arrivals();
        let connect_by = tokio::time::Instant::now() + call.connect_timeout;
        loop {
            arrivals.mark_unchanged();
            let sent = match self.clients.control(id) {
                None => None,
                Some(control) => {
                    let (answer, answered) = oneshot::channel();
                    let request =
                        methods::Request { name: call.name.clone(), payload: payload.clone(), answer };
                    match control.try_send(Control::Method(request)) {
                        Ok(()) => Some(answered),
                        Err(tokio::sync::mpsc::error::TrySendError::Full(_)) => {
                            return Err(MethodError::Busy);
                        }
                        Err(tokio::sync::mpsc::error::TrySendError::Closed(_)) => None,
                    }
                }
            };
            if let Some(answered) = sent {
                let answer = match tokio::time::timeout(call.timeout, answered).await {
                    Ok(Ok(answer)) => answer,
                    Ok(Err(_)) => Err(MethodError::Gone),
                    Err(_) => Err(MethodError::Timeout),
                };
                if answer != Err(MethodError::Offline) {
                    return answer;
                }
            }
            match tokio::time::timeout_at(connect_by, arrivals.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(MethodError::Offline),
            }
        }
    }
}

/// What is done from time to time.
async fn chores(hub: Arc<Inner>) {
    let mut often = tokio::time::interval(CHORES);
    loop {
        tokio::select! {
            _ = often.tick() => {}
            () = hub.shutdown.cancelled() => return,
        }
        let own = Arc::clone(&hub);
        let done = tokio::task::spawn_blocking(move || {
            own.tls.reload_changed();
            own.clock.save()
        });
        if let Ok(Err(error)) = done.await {
            tracing::warn!(error = &error as &dyn std::error::Error, "could not write the hub's clock down");
        }
    }
}

/// A folder has one hub.
fn lock(folder: &std::path::Path) -> Result<std::fs::File, DiskError> {
    let path = folder.join("lock");
    fs_err::create_dir_all(folder).map_err(DiskError::io(folder))?;
    let file = fs_err::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(DiskError::io(&path))?.into_file();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| DiskError::InUse(folder.to_owned()))?;
    Ok(file)
}
