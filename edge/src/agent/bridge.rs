//! A bridge to another broker: sensors that already speak plain MQTT reach inputs of modules, and what modules say leads to
//! topics. What leads there waits on disk while the broker is away; what comes from there is acknowledged once it is stored.

use std::{
    collections::{HashMap, VecDeque},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use moorline_core::Backoff;
use rumqttc::{
    AsyncClient, ClientError, Event, EventLoop, MqttOptions, Outgoing, Packet, Publish, QoS, SubscribeFilter,
    SubscribeReasonCode, TlsConfiguration, Transport, matches, valid_filter, valid_topic,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use serde::Deserialize;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::gateway::Gateway;
use crate::{
    hub::{ClientId, HubError, Properties, Upstream, UpstreamMessage},
    manifest::is_module_name,
};

const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Bytes of a packet of the broker's; a message of ours is smaller.
const PACKET: usize = 1024 * 1024;
/// Messages that the broker has not acknowledged.
const IN_FLIGHT: usize = 32;
/// Lines of each kind.
const MOST_LINES: usize = 64;
const LONGEST_NAME: usize = 128;
/// By which a module knows where a message comes from.
const TOPIC: &str = "mqtt-topic";

/// Why a bridge cannot be used.
#[derive(Debug, Error)]
pub enum BridgeError {
    #[error("could not read `{}`", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("`{}` cannot be read", path.display())]
    Yaml { path: PathBuf, source: serde_norway::Error },
    #[error("`{0}` is no filter of topics")]
    Filter(String),
    #[error("`{0}` is no topic to publish to")]
    Topic(String),
    #[error("`{0}` cannot be the name of a module, an input or an output: letters, digits, `-` and `_`")]
    Name(String),
    #[error("a bridge has 1 to {MOST_LINES} lines each way")]
    Lines,
    #[error("`{}` holds no certificate that can be trusted", .0.display())]
    Certificate(PathBuf),
    #[error("`user` and `password_file` go together")]
    Password,
    #[error("TLS to the broker cannot be spoken")]
    Tls(#[source] rustls::Error),
}

/// Which broker, and what is carried from and to it.
#[derive(Clone, Debug)]
pub struct BridgeConfig {
    host: String,
    port: u16,
    user: Option<String>,
    /// Read again at each connection.
    password_file: Option<PathBuf>,
    tls: Option<Arc<ClientConfig>>,
    client_id: Option<String>,
    inputs: Vec<Inward>,
    outputs: Vec<Outward>,
}

/// The file. Paths are relative to it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    host: String,
    port: Option<u16>,
    user: Option<String>,
    password_file: Option<PathBuf>,
    /// Whose certificate the broker's is to be of; without it nothing is encrypted.
    ca: Option<PathBuf>,
    client_id: Option<String>,
    #[serde(default)]
    inputs: Vec<Inward>,
    #[serde(default)]
    outputs: Vec<Outward>,
}

/// From topics to an input.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Inward {
    topic: String,
    module: String,
    input: String,
}

/// From an output to a topic.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Outward {
    module: String,
    output: String,
    topic: String,
}

impl BridgeConfig {
    pub fn read(path: &Path) -> Result<Self, BridgeError> {
        let text = fs_err::read_to_string(path).map_err(io_error(path))?;
        let written: Written = serde_norway::from_str(&text)
            .map_err(|source| BridgeError::Yaml { path: path.to_owned(), source })?;
        Self::check(written, path.parent().unwrap_or(Path::new("")))
    }

    fn check(written: Written, folder: &Path) -> Result<Self, BridgeError> {
        let Written { host, port, user, password_file, ca, client_id, inputs, outputs } = written;
        let lines = inputs.len() + outputs.len();
        if lines == 0 || inputs.len() > MOST_LINES || outputs.len() > MOST_LINES {
            return Err(BridgeError::Lines);
        }
        if let Some(bad) = inputs.iter().find(|line| !valid_filter(&line.topic)) {
            return Err(BridgeError::Filter(bad.topic.clone()));
        }
        if let Some(bad) = outputs.iter().find(|line| line.topic.is_empty() || !valid_topic(&line.topic)) {
            return Err(BridgeError::Topic(bad.topic.clone()));
        }
        let inward = inputs.iter().flat_map(|line| [&line.module, &line.input]);
        let outward = outputs.iter().flat_map(|line| [&line.module, &line.output]);
        if let Some(bad) =
            inward.chain(outward).find(|name| !is_module_name(name) || name.len() > LONGEST_NAME)
        {
            return Err(BridgeError::Name(bad.clone()));
        }
        if user.is_some() != password_file.is_some() {
            return Err(BridgeError::Password);
        }
        let tls = ca.map(|ca| tls(&folder.join(ca))).transpose()?;
        let port = port.unwrap_or(if tls.is_some() { 8883 } else { 1883 });
        let password_file = password_file.map(|path| folder.join(path));
        Ok(Self { host, port, user, password_file, tls, client_id, inputs, outputs })
    }

    /// The outputs of modules that are carried to the broker.
    pub(super) fn taken(&self) -> Vec<(String, String)> {
        self.outputs.iter().map(|line| (line.module.clone(), line.output.clone())).collect()
    }

    fn options(&self, device: &str) -> Result<MqttOptions, LinkError> {
        let id = self.client_id.clone().unwrap_or_else(|| format!("moorline-{device}"));
        let mut options = MqttOptions::new(id, &self.host, self.port);
        if let (Some(user), Some(path)) = (&self.user, &self.password_file) {
            let password = fs_err::read_to_string(path).map_err(io_error(path))?;
            options.set_credentials(user, password.trim_end_matches(['\r', '\n']));
        }
        // The broker keeps what comes while the device is away.
        options.set_clean_session(false);
        options.set_manual_acks(true);
        options.set_keep_alive(KEEP_ALIVE);
        options.set_max_packet_size(PACKET, PACKET);
        if let Some(tls) = &self.tls {
            options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::clone(tls))));
        }
        Ok(options)
    }
}

fn io_error(path: &Path) -> impl FnOnce(std::io::Error) -> BridgeError {
    let path = path.to_owned();
    move |source| BridgeError::Io { path, source }
}

fn tls(ca: &Path) -> Result<Arc<ClientConfig>, BridgeError> {
    let text = fs_err::read(ca).map_err(io_error(ca))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text).flatten() {
        // One that cannot be trusted leaves the others.
        let _ = roots.add(certificate);
    }
    if roots.is_empty() {
        return Err(BridgeError::Certificate(ca.to_owned()));
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(BridgeError::Tls)?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

/// Why a connection ended.
#[derive(Debug, Error)]
enum LinkError {
    #[error(transparent)]
    Settings(#[from] BridgeError),
    #[error("the connection to the broker broke, or was not made")]
    Connection(#[source] Box<rumqttc::ConnectionError>),
    #[error("the broker could not be asked")]
    Ask(#[source] Box<ClientError>),
    #[error("the broker does not let topics be subscribed to: {0}")]
    Refused(String),
    #[error("a message of the bridge could not be stored, or read")]
    Hub(#[source] Box<HubError>),
    #[error("the connection to the broker ended")]
    Ended,
}

impl From<ClientError> for LinkError {
    fn from(error: ClientError) -> Self {
        Self::Ask(Box::new(error))
    }
}

impl From<HubError> for LinkError {
    fn from(error: HubError) -> Self {
        Self::Hub(Box::new(error))
    }
}

/// Keeps a connection to the broker for ever.
pub(super) async fn keep(config: &BridgeConfig, gateway: &Gateway) {
    let mut backoff = Backoff::default();
    loop {
        let mut connected = false;
        let mut bridge =
            Bridge { config, gateway, order: VecDeque::new(), sent: HashMap::new(), open: HashMap::new() };
        if let Err(error) = bridge.run(&mut connected).await {
            let broker = format!("{}:{}", config.host, config.port);
            tracing::info!(
                broker,
                error = &error as &dyn std::error::Error,
                "no connection to the other broker"
            );
        }
        if connected {
            backoff.forget();
        }
        tokio::time::sleep(backoff.next_pause()).await;
    }
}

struct Bridge<'a> {
    config: &'a BridgeConfig,
    gateway: &'a Gateway,
    /// Published, and not sent yet: the numbers of messages in the queue.
    order: VecDeque<u64>,
    sent: HashMap<u16, u64>,
    /// How often a message is published that is not acknowledged everywhere yet.
    open: HashMap<u64, usize>,
}

impl Bridge<'_> {
    async fn run(&mut self, connected: &mut bool) -> Result<(), LinkError> {
        let (client, events) = AsyncClient::new(self.config.options(self.gateway.device())?, 128);
        let (sender, mut heard) = mpsc::channel(64);
        // By itself: connecting must not begin anew whenever something else happens.
        let _polling = AbortOnDropHandle::new(tokio::spawn(poll(events, sender)));
        let mut outward = self.gateway.hub().bridged();
        loop {
            tokio::select! {
                event = heard.recv() => match event.ok_or(LinkError::Ended)?? {
                    Event::Incoming(Packet::ConnAck(_)) => {
                        *connected = true;
                        tracing::info!(host = self.config.host, "connected to the other broker");
                        let filters = self.config.inputs.iter().map(|line| {
                            SubscribeFilter::new(line.topic.clone(), QoS::AtLeastOnce)
                        });
                        if !self.config.inputs.is_empty() {
                            client.try_subscribe_many(filters)?;
                        }
                    }
                    Event::Incoming(Packet::SubAck(ack)) => self.check(&ack.return_codes)?,
                    Event::Incoming(Packet::Publish(publish)) => {
                        self.inward(&publish).await?;
                        client.try_ack(&publish)?;
                    }
                    Event::Outgoing(Outgoing::Publish(id)) => {
                        if let Some(number) = self.order.pop_front() {
                            self.sent.insert(id, number);
                        }
                    }
                    Event::Incoming(Packet::PubAck(ack)) => {
                        if let (Some(number), Some(outward)) = (self.sent.remove(&ack.pkid), &mut outward) {
                            self.acknowledged(number, outward)?;
                        }
                    }
                    _ => {}
                },
                message = next_message(&mut outward), if *connected && self.order.len() + self.sent.len() < IN_FLIGHT => {
                    let message = message?;
                    self.outward(&client, &message)?;
                    if let (false, Some(outward)) = (self.open.contains_key(&message.sequence), &mut outward) {
                        // Of a line that is no more.
                        outward.done(message.sequence)?;
                    }
                }
            }
        }
    }

    fn check(&self, codes: &[SubscribeReasonCode]) -> Result<(), LinkError> {
        let refused = codes.iter().zip(&self.config.inputs);
        let refused: Vec<&str> = refused
            .filter(|(code, _)| **code == SubscribeReasonCode::Failure)
            .map(|(_, line)| line.topic.as_str())
            .collect();
        if refused.is_empty() { Ok(()) } else { Err(LinkError::Refused(refused.join(", "))) }
    }

    /// Hands a message of the broker's to each input that it is for.
    async fn inward(&self, publish: &Publish) -> Result<(), LinkError> {
        let mut properties = Properties::default();
        if !publish.topic.contains(char::is_control) {
            properties.set_own(TOPIC, &publish.topic);
        }
        if publish.retain {
            properties.set_own("mqtt-retain", "true");
        }
        for line in self.config.inputs.iter().filter(|line| matches(&publish.topic, &line.topic)) {
            let Ok(id) = ClientId::module(self.gateway.device(), &line.module) else { continue };
            let payload: Bytes = publish.payload.clone();
            match self.gateway.hub().send_to_input(&id, &line.input, &properties, payload).await {
                Ok(()) => {}
                // It would be as long the next time.
                Err(error @ (HubError::MessageTooLong(_) | HubError::QueueFull(_))) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(topic = publish.topic, error, "a message of the other broker is dropped");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn outward(&mut self, client: &AsyncClient, message: &UpstreamMessage) -> Result<(), LinkError> {
        let (module, output) = (message.sender.module_name(), message.properties.system("on"));
        let lines = self.config.outputs.iter();
        for line in
            lines.filter(|line| module == Some(line.module.as_str()) && output == Some(line.output.as_str()))
        {
            client.try_publish(line.topic.as_str(), QoS::AtLeastOnce, false, message.payload.to_vec())?;
            self.order.push_back(message.sequence);
            *self.open.entry(message.sequence).or_default() += 1;
        }
        Ok(())
    }

    fn acknowledged(&mut self, number: u64, outward: &mut Upstream) -> Result<(), LinkError> {
        let Some(left) = self.open.get_mut(&number) else { return Ok(()) };
        *left -= 1;
        if *left == 0 {
            self.open.remove(&number);
            outward.done(number)?;
        }
        Ok(())
    }
}

async fn next_message(outward: &mut Option<Upstream>) -> Result<UpstreamMessage, HubError> {
    match outward {
        Some(outward) => outward.next().await,
        None => std::future::pending().await,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<BridgeConfig, BridgeError> {
        BridgeConfig::check(serde_norway::from_str(text).unwrap(), Path::new("/x"))
    }

    #[test]
    fn what_is_wrong_with_a_bridge_is_told() {
        let inward = "{topic: 'a/+/b', module: m, input: i}";
        let good = read(&format!("{{host: h, inputs: [{inward}]}}")).unwrap();
        assert_eq!((good.port, good.taken().len()), (1883, 0));
        let error = |text: &str| read(text).unwrap_err();
        assert!(matches!(error("{host: h}"), BridgeError::Lines));
        let filter = "{host: h, inputs: [{topic: 'a/#/b', module: m, input: i}]}";
        assert!(matches!(error(filter), BridgeError::Filter(_)));
        let topic = "{host: h, outputs: [{topic: 'a/+', module: m, output: o}]}";
        assert!(matches!(error(topic), BridgeError::Topic(_)));
        let name = "{host: h, outputs: [{topic: 'a', module: 'm/n', output: o}]}";
        assert!(matches!(error(name), BridgeError::Name(_)));
        assert!(matches!(error(&format!("{{host: h, user: u, inputs: [{inward}]}}")), BridgeError::Password));
        let missing = error(&format!("{{host: h, ca: gone.pem, inputs: [{inward}]}}"));
        assert!(matches!(missing, BridgeError::Io { .. }));
    }
}
