//! The connection to the hub: made again and again, with the newest certificate. Nothing is kept in it that a broken
//! connection could lose or reorder: the twin is read anew each time, and what is reported is told as a difference to it.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use moorline_core::Backoff;
use rumqttc::{
    AsyncClient, ClientError, Event, EventLoop, LastWill, MqttOptions, Outgoing, Packet, Publish, QoS,
    TlsConfiguration, Transport,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use serde_json::{Value, json};
use thiserror::Error;
use tokio::sync::{Notify, broadcast, mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use super::{
    gateway::{Gateway, forwarded},
    identity::Identity,
    methods,
    reconcile::Document,
    report::{self, Status},
    runs::Runs,
    twins::{Request, Twins},
};
use crate::{
    enrol::AGENT,
    hub::{HubError, HubEvent, Upstream, UpstreamMessage},
    metrics::Snapshot,
};

const FILTERS: [&str; 3] =
    ["$iothub/twin/res/#", "$iothub/twin/PATCH/properties/desired/#", "$iothub/methods/POST/#"];
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// A hub that does not answer a request in this time is connected to again.
const PATIENCE: Duration = Duration::from_mins(1);
const PACKET: usize = 512 * 1024;
/// Messages that the hub has not acknowledged.
const IN_FLIGHT: usize = 32;
/// Methods that are being answered at one time.
const METHODS: usize = 16;
/// What is reported waits so long for more of it.
const GATHER: Duration = Duration::from_millis(200);

/// Why a connection ended.
#[derive(Debug, Error)]
enum LinkError {
    #[error("the certificate, its key or the hub's authority cannot be used")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the connection to the hub broke, or was not made")]
    Connection(#[source] Box<rumqttc::ConnectionError>),
    #[error("the hub could not be asked")]
    Ask(#[source] Box<ClientError>),
    #[error("the hub did not answer in time")]
    Silent,
    #[error("what waits for the hub could not be read")]
    Waiting(#[source] Box<HubError>),
}

impl From<HubError> for LinkError {
    fn from(error: HubError) -> Self {
        Self::Waiting(Box::new(error))
    }
}

impl From<ClientError> for LinkError {
    fn from(error: ClientError) -> Self {
        Self::Ask(Box::new(error))
    }
}

/// Keeps a connection for ever.
pub(super) async fn keep(identity: watch::Receiver<Identity>, link: Link<'_>, renewed: &Notify) {
    let mut backoff = Backoff::default();
    loop {
        let current = identity.borrow().clone();
        let mut connected = false;
        tokio::select! {
            ended = link.run(&current, &mut connected) => {
                if let Err(error) = ended {
                    tracing::info!(error = &error as &dyn std::error::Error, "no connection to the hub");
                }
            }
            () = renewed.notified() => tracing::info!("connects again with the new certificate"),
        }
        if connected {
            backoff.forget();
        }
        tokio::time::sleep(backoff.next_pause()).await;
    }
}

/// What is published, in its order: the numbers of those messages that wait in the device's own hub until they are
/// acknowledged.
struct Sender {
    client: AsyncClient,
    /// Published, and not sent yet.
    order: VecDeque<Option<u64>>,
    sent: HashMap<u16, u64>,
}

impl Sender {
    fn publish(
        &mut self,
        topic: String,
        payload: impl Into<Vec<u8>>,
        number: Option<u64>,
    ) -> Result<(), LinkError> {
        self.client.try_publish(topic, QoS::AtLeastOnce, false, payload)?;
        self.order.push_back(number);
        Ok(())
    }

    fn open(&self) -> usize {
        self.order.len() + self.sent.len()
    }
}

/// What a connection is for.
pub(super) struct Link<'a> {
    pub(super) documents: &'a watch::Sender<Document>,
    pub(super) runs: &'a Runs,
    pub(super) gateway: Option<&'a Arc<Gateway>>,
    pub(super) status: &'a Status,
    /// What was measured last.
    pub(super) measured: watch::Receiver<Option<Snapshot>>,
}

impl Link<'_> {
    async fn run(&self, identity: &Identity, connected: &mut bool) -> Result<(), LinkError> {
        let (client, events) = open(identity)?;
        let (sender, mut heard) = mpsc::channel(64);
        // By itself: connecting must not begin anew whenever something else happens.
        let _polling = AbortOnDropHandle::new(tokio::spawn(poll(events, sender)));
        let mut client = Sender { client, order: VecDeque::new(), sent: HashMap::new() };
        let mut upstream = self.gateway.map(|gateway| gateway.hub().upstream());
        let events_topic = format!("devices/{}/modules/{AGENT}/messages/events/", identity.id.device_name());
        // What the hub knows of what was reported; nothing before it has said so.
        let mut known: Option<Value> = None;
        // A report that is under way: what the hub knows once it has taken it.
        let mut reporting: Option<Value> = None;
        let mut request = 0_u64;
        let mut asked = tokio::time::Instant::now();
        let mut waiting = false;
        let mut due = Some(tokio::time::Instant::now());
        let mut measured = self.measured.clone();
        // Methods that are being answered; nothing else waits for them.
        let mut answering = FuturesUnordered::new();
        let mut twins = Twins::new(self.gateway.cloned(), identity.id.device_name());
        let mut happenings = self.gateway.map(|gateway| gateway.hub().events());
        let mut twin_asked = tokio::time::Instant::now();
        loop {
            let deadline = asked + PATIENCE;
            if known.is_some()
                && client.open() < IN_FLIGHT
                && let Some(Request { topic, payload }) = twins.next()?
            {
                twin_asked = tokio::time::Instant::now();
                client.publish(topic, payload, None)?;
            }
            tokio::select! {
                event = heard.recv() => match event.ok_or(LinkError::Silent)?? {
                    Event::Incoming(Packet::ConnAck(_)) => {
                        *connected = true;
                        tracing::info!("connected to the hub");
                        client.client.try_subscribe_many(
                            FILTERS.map(|filter| rumqttc::SubscribeFilter::new(filter.to_owned(), QoS::AtLeastOnce)),
                        )?;
                    }
                    Event::Incoming(Packet::SubAck(_)) => {
                        request += 1;
                        (asked, waiting) = (tokio::time::Instant::now(), true);
                        client.publish(format!("$iothub/twin/GET/?$rid={request}"), " ", None)?;
                    }
                    Event::Incoming(Packet::Publish(publish)) => match read(&publish) {
                        Some(Heard::Twin(twin)) => {
                            waiting = false;
                            known = Some(twin["reported"].clone());
                            due = Some(tokio::time::Instant::now());
                            self.desired(twin["desired"].clone());
                            twins.follow(self.names());
                        }
                        Some(Heard::OfModule { rid, status, twin }) => twins.heard(&rid, status, &twin).await?,
                        Some(Heard::ModuleChanged(name)) => twins.changed(&name),
                        Some(Heard::Taken) => {
                            waiting = false;
                            known = reporting.take().or(known);
                        }
                        Some(Heard::Refused(status)) => {
                            tracing::warn!(status, "the hub did not take what was reported");
                            // It is asked what it knows, a while later.
                            tokio::time::sleep(GATHER).await;
                            request += 1;
                            (asked, waiting, reporting) = (tokio::time::Instant::now(), true, None);
                            client.publish(format!("$iothub/twin/GET/?$rid={request}"), " ", None)?;
                        }
                        // A patch has no signature: the whole is read.
                        Some(Heard::Changed) => {
                            request += 1;
                            (asked, waiting) = (tokio::time::Instant::now(), true);
                            client.publish(format!("$iothub/twin/GET/?$rid={request}"), " ", None)?;
                        }
                        Some(Heard::Method { name, rid, payload }) => {
                            if answering.len() < METHODS {
                                answering.push(self.method(rid, name, payload));
                            } else {
                                let busy = json!({ "message": "the agent has too many methods to answer" });
                                client.publish(method_answer(429, &rid), busy.to_string(), None)?;
                            }
                        }
                        None => {}
                    },
                    Event::Outgoing(Outgoing::Publish(id)) => {
                        if let Some(number) = client.order.pop_front().flatten() {
                            client.sent.insert(id, number);
                        }
                    }
                    Event::Incoming(Packet::PubAck(ack)) => {
                        if let (Some(number), Some(upstream)) = (client.sent.remove(&ack.pkid), &mut upstream) {
                            upstream.done(number)?;
                        }
                    }
                    _ => {}
                },
                message = next_message(&mut upstream), if known.is_some() && client.open() < IN_FLIGHT => {
                    let message = message?;
                    let properties = forwarded(&message.sender, message.sequence, message.properties);
                    let topic = format!("{events_topic}{}", properties.encode());
                    client.publish(topic, message.payload, Some(message.sequence))?;
                }
                Some((rid, status, answer)) = answering.next(), if !answering.is_empty() => {
                    client.publish(method_answer(status, &rid), answer.to_string(), None)?;
                }
                Ok(()) = measured.changed(), if known.is_some() && client.open() < IN_FLIGHT => {
                    let snapshot = measured.borrow_and_update().as_ref().map(Snapshot::encode);
                    if let Some(payload) = snapshot {
                        let topic = format!("{events_topic}{}", Snapshot::properties().encode());
                        client.publish(topic, payload, None)?;
                    }
                }
                event = next_event(&mut happenings) => twins.happened(event.as_ref()),
                () = tokio::time::sleep_until(twin_asked + PATIENCE), if twins.waits() => {
                    return Err(LinkError::Silent);
                }
                () = self.status.changed.notified() => due = Some(tokio::time::Instant::now() + GATHER),
                () = self.runs.changed() => due = Some(tokio::time::Instant::now() + GATHER),
                () = tokio::time::sleep_until(due.unwrap_or(deadline)), if due.is_some() && !waiting && known.is_some() => {
                    due = None;
                    twins.follow(self.names());
                    let now = report::reported(&self.status.get(), &self.runs.modules.views(), &self.runs.container_views());
                    let patch = known.as_ref().and_then(|known| report::patch(known, &now));
                    if let Some(patch) = patch {
                        request += 1;
                        (asked, waiting, reporting) = (tokio::time::Instant::now(), true, Some(now));
                        let topic = format!("$iothub/twin/PATCH/properties/reported/?$rid={request}");
                        client.publish(topic, patch.to_string(), None)?;
                    }
                }
                () = tokio::time::sleep_until(deadline), if waiting => return Err(LinkError::Silent),
            }
        }
    }

    /// Hands a document over if it is another one.
    fn desired(&self, mut desired: Value) {
        let Some(object) = desired.as_object_mut() else { return };
        let version = object.shift_remove("$version").and_then(|version| version.as_u64()).unwrap_or(0);
        self.documents.send_if_modified(|document| {
            let new = Some((version, desired));
            let differs = *document != new;
            *document = new;
            differs
        });
    }

    /// The modules of the state that was taken last.
    fn names(&self) -> impl Iterator<Item = String> {
        let desired = self.status.get().desired.unwrap_or_default();
        desired.names().into_keys().map(str::to_owned).collect::<Vec<_>>().into_iter()
    }

    async fn method(&self, rid: String, name: String, payload: Value) -> (String, u16, Value) {
        let (status, answer) = methods::answer(self.runs, &name, &payload).await;
        (rid, status, answer)
    }
}

fn method_answer(status: u16, rid: &str) -> String {
    format!("$iothub/methods/res/{status}/?$rid={rid}")
}

async fn next_message(upstream: &mut Option<Upstream>) -> Result<UpstreamMessage, HubError> {
    match upstream {
        Some(upstream) => upstream.next().await,
        None => std::future::pending().await,
    }
}

/// What happens at the device's own hub; `None` where some of it was missed.
async fn next_event(happenings: &mut Option<broadcast::Receiver<HubEvent>>) -> Option<HubEvent> {
    let Some(events) = happenings else { return std::future::pending().await };
    match events.recv().await {
        Ok(event) => Some(event),
        Err(broadcast::error::RecvError::Lagged(_)) => None,
        Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
    }
}

async fn poll(mut events: EventLoop, sender: mpsc::Sender<Result<Event, LinkError>>) {
    loop {
        let event = events.poll().await.map_err(|error| LinkError::Connection(Box::new(error)));
        let ended = event.is_err();
        if sender.send(event).await.is_err() || ended {
            return;
        }
    }
}

enum Heard {
    Twin(Value),
    /// What was reported.
    Taken,
    Refused(u16),
    /// The desired properties.
    Changed,
    /// Those of a module.
    ModuleChanged(String),
    /// The answer to a request for a module's twin.
    OfModule {
        rid: String,
        status: u16,
        twin: Value,
    },
    Method {
        name: String,
        rid: String,
        payload: Value,
    },
}

fn read(publish: &Publish) -> Option<Heard> {
    let rest = publish.topic.strip_prefix("$iothub/")?;
    if let Some(query) = rest.strip_prefix("twin/PATCH/properties/desired/") {
        let module = query.split('&').find_map(|pair| pair.strip_prefix("$module="));
        return Some(module.map_or(Heard::Changed, |module| Heard::ModuleChanged(module.to_owned())));
    }
    if let Some(method) = rest.strip_prefix("methods/POST/") {
        let (name, query) = method.split_once("/?$rid=")?;
        let payload = serde_json::from_slice(&publish.payload).unwrap_or_default();
        return Some(Heard::Method { name: name.to_owned(), rid: query.to_owned(), payload });
    }
    let (status, query) = rest.strip_prefix("twin/res/")?.split_once('/')?;
    let rid = query.trim_start_matches('?').split('&').find_map(|pair| pair.strip_prefix("$rid="))?;
    if Twins::is_ours(rid) {
        let (rid, status) = (rid.to_owned(), status.parse().ok()?);
        let twin = serde_json::from_slice(&publish.payload).unwrap_or_default();
        return Some(Heard::OfModule { rid, status, twin });
    }
    match status.parse().ok()? {
        200 => serde_json::from_slice(&publish.payload).ok().map(Heard::Twin),
        204 => Some(Heard::Taken),
        status => Some(Heard::Refused(status)),
    }
}

fn open(identity: &Identity) -> Result<(AsyncClient, EventLoop), LinkError> {
    let facts = &identity.enrolled.facts;
    let mut options = MqttOptions::new(identity.id.to_string(), &facts.hub_host, facts.hub_port);
    let agent = concat!("moorline-edge/", env!("CARGO_PKG_VERSION"));
    options.set_credentials(
        format!("{}/{}/?api-version=2019-10-01&DeviceClientType={agent}", facts.hub, identity.id),
        "",
    );
    options.set_clean_session(false);
    options.set_keep_alive(KEEP_ALIVE);
    options.set_max_packet_size(PACKET, PACKET);
    let topic =
        format!("devices/{}/modules/{}/messages/events/%24.on=status", identity.id.device_name(), AGENT);
    options.set_last_will(LastWill::new(topic, r#"{"connected":false}"#, QoS::AtLeastOnce, false));
    options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(tls(identity)?))));
    Ok(AsyncClient::new(options, 64))
}

fn tls(identity: &Identity) -> Result<ClientConfig, LinkError> {
    let make = || -> Result<ClientConfig, Box<dyn std::error::Error + Send + Sync>> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(identity.enrolled.facts.trust.as_bytes()) {
            roots.add(certificate?)?;
        }
        let chain: Vec<_> = CertificateDer::pem_slice_iter(identity.enrolled.certificates.as_bytes())
            .collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?;
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?;
        Ok(builder.with_root_certificates(roots).with_client_auth_cert(chain, key)?)
    };
    make().map_err(LinkError::Tls)
}
