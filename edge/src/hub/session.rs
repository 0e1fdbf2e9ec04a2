//! One client's session, from CONNACK to its end: everything that the client says and hears passes through here, and
//! nothing of any other client does.

mod requests;

use std::{
    collections::HashMap,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesOrdered};
use rumqttc::mqttbytes::{
    QoS,
    v4::{ConnAck, ConnectReturnCode, LastWill, Packet, PubAck, Publish},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

use super::{
    Inner, SESSION_PREFIX,
    clients::Control,
    identity::ClientId,
    listen::Client,
    login::Until,
    methods::Open,
    metrics::ClientMetrics,
    packets,
    rate::Rate,
    routing,
    topic::{self, Feature, Published, Subscriptions},
};
use crate::disk::{Consumer, DiskError, Entry};

/// Bytes that wait to be sent, above which nothing more is read or taken from the queue.
const OUT_SOFT: usize = 64 * 1024;
const READ: usize = 8 * 1024;
/// For the end of a session to be told; a client that comes again waits for it.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The client said so.
    Disconnect,
    /// The connection broke.
    Closed,
    /// The client connected again.
    Superseded,
    /// The hub's owner said so.
    Asked,
    /// Nothing was heard for one and a half times the keep-alive.
    KeepAlive,
    /// The token expired.
    Expired,
    /// What the client sent is not of the protocol, or beyond a bound.
    Protocol,
    /// A topic that is not the client's.
    ForeignTopic,
    /// The client did not take in what it was sent.
    SlowReader,
    /// What the client sent could not be stored.
    Disk,
    Shutdown,
}

impl Ended {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disconnect => "disconnect",
            Self::Closed => "closed",
            Self::Superseded => "superseded",
            Self::Asked => "asked",
            Self::KeepAlive => "keep_alive",
            Self::Expired => "expired",
            Self::Protocol => "protocol",
            Self::ForeignTopic => "foreign_topic",
            Self::SlowReader => "slow_reader",
            Self::Disk => "disk",
            Self::Shutdown => "shutdown",
        }
    }
}

impl From<DiskError> for Ended {
    fn from(error: DiskError) -> Self {
        match error {
            DiskError::Closed => Self::Shutdown,
            error => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a session ends, since the disk failed"
                );
                Self::Disk
            }
        }
    }
}

/// What is sent when something is done.
enum Reply {
    Packet(Packet),
    /// A message to the client, and then the acknowledgement of the one that asked for it.
    Answer {
        topic: String,
        payload: Bytes,
        ack: Option<u16>,
    },
    End(Ended),
}

struct Session<'a> {
    hub: &'a Arc<Inner>,
    id: ClientId,
    /// Whether it is forgotten when it ends.
    clean: bool,
    metrics: ClientMetrics,
    subscriptions: Subscriptions,
    out: BytesMut,
    /// What is being done, answered in the order in which it was asked for.
    doing: FuturesOrdered<BoxFuture<'a, Reply>>,
    consumer: Option<Consumer>,
    /// Messages that the client has not acknowledged, with their numbers in the queue.
    in_flight: HashMap<u16, u64>,
    /// Those that it has acknowledged since that was last written down.
    acknowledged: Vec<u64>,
    last_packet_id: u16,
    methods: Open,
    twin_requests: Rate,
}

/// Serves the client until one side ends the session.
pub(super) async fn serve(hub: &Arc<Inner>, client: Client, stream: TlsStream<TcpStream>) {
    let Client { id, connect, until, bytes } = client;
    let will = connect.last_will;
    if will.as_ref().is_some_and(|will| !fits(&id, will)) {
        hub.metrics.ended(Ended::ForeignTopic.as_str());
        tracing::info!(client = %id, "refused a client whose last will is for a topic that is not its own");
        return;
    }
    let entering = hub.clients.enter(&id, &hub.shutdown);
    let Ok(place) = tokio::time::timeout(hub.config.limits.connect_timeout, entering).await else {
        hub.metrics.ended(Ended::Superseded.as_str());
        return;
    };
    hub.metrics.clients.inc();
    let session = Session {
        hub,
        metrics: hub.metrics.of_client(&id),
        clean: connect.clean_session,
        subscriptions: Subscriptions::default(),
        out: BytesMut::new(),
        doing: FuturesOrdered::new(),
        consumer: None,
        in_flight: HashMap::new(),
        acknowledged: Vec::new(),
        last_packet_id: 0,
        methods: Open::default(),
        twin_requests: Rate::new(hub.config.limits.twin_requests_per_second, Instant::now()),
        id: id.clone(),
    };
    tracing::debug!(client = %id, "connected");
    let keep_alive = Duration::from_secs(connect.keep_alive.into());
    let ended = session.run(place, stream, bytes, keep_alive, until).await;
    // Of a hub that ends, nobody learns that its clients are gone: they are not.
    if !matches!(ended, Ended::Disconnect | Ended::Shutdown)
        && let Some(will) = will
    {
        send_will(hub, &id, will).await;
    }
    hub.metrics.clients.dec();
    hub.metrics.ended(ended.as_str());
    tracing::debug!(client = %id, reason = ended.as_str(), "disconnected");
}

/// A last will is a message as any other of the client.
fn fits(id: &ClientId, will: &LastWill) -> bool {
    will.qos != QoS::ExactlyOnce && matches!(topic::published(&will.topic, id), Ok(Published::Telemetry(_)))
}

async fn send_will(hub: &Inner, id: &ClientId, will: LastWill) {
    let Ok(Published::Telemetry(mut properties)) = topic::published(&will.topic, id) else { return };
    properties.set_own("iothub-MessageType", "Will");
    let stored = match hub.route(id, properties, will.message).await {
        Ok(storing) => routing::all_stored(storing).await,
        Err(error) => Err(error),
    };
    if let Err(error) = stored {
        tracing::warn!(client = %id, error = &error as &dyn std::error::Error, "could not store a last will");
    }
}

impl Session<'_> {
    async fn run(
        mut self,
        mut place: super::clients::Place,
        stream: TlsStream<TcpStream>,
        bytes: BytesMut,
        keep_alive: Duration,
        until: Until,
    ) -> Ended {
        if let Err(ended) = self.resume().await {
            return ended;
        }
        let ended = self.talk(&mut place, stream, bytes, keep_alive, until).await;
        // Before the client's place is free again: what it has acknowledged is done, the rest comes again.
        if let Err(error) = self.write_down() {
            tracing::debug!(client = %self.id, reason = error.as_str(), "messages may come again");
        }
        self.consumer = None;
        if self.clean {
            self.subscriptions = Subscriptions::default();
        }
        drop(place);
        ended
    }

    /// Takes up what the last session left, or forgets it; answers CONNECT.
    async fn resume(&mut self) -> Result<(), Ended> {
        let key = format!("{SESSION_PREFIX}{}", self.id);
        let stored = self.hub.documents.get(&key);
        let present = stored.is_some() && !self.clean;
        match (self.clean, stored) {
            (true, None) => {}
            (true, Some(_)) => self.hub.documents.put(&key, None).await?,
            (false, Some(digits)) => {
                self.subscriptions = Subscriptions::decode(&digits);
                self.follow_queue().await?;
            }
            // Kept though it is subscribed to nothing: a client that is told that there was no session forgets what it
            // has not sent yet.
            (false, None) => self.hub.documents.put(&key, Some(self.subscriptions.encode())).await?,
        }
        packets::write(&Packet::ConnAck(ConnAck::new(ConnectReturnCode::Success, present)), &mut self.out);
        self.hub.clients.arrived();
        Ok(())
    }

    async fn talk(
        &mut self,
        place: &mut super::clients::Place,
        stream: TlsStream<TcpStream>,
        mut bytes: BytesMut,
        keep_alive: Duration,
        until: Until,
    ) -> Ended {
        let limits = self.hub.config.limits.clone();
        let (mut reader, mut writer) = tokio::io::split(stream);
        let longest = limits.keep_alive;
        let silence = if keep_alive.is_zero() { longest } else { keep_alive.min(longest) }.mul_f32(1.5);
        let start = Instant::now();
        let expires = match until {
            Until::In(time) => start.checked_add(time),
            Until::Whenever => None,
        };
        let mut rate = Rate::new(limits.packets_per_second, start);
        let (mut heard, mut moved, mut paused, mut flushed) = (start, start, None::<Instant>, false);
        let ended = 'talk: loop {
            let mut now = Instant::now();
            paused = paused.filter(|end| *end > now);
            while paused.is_none() && self.has_room(limits.unacknowledged_in) {
                let packet = match packets::next(&mut bytes, limits.packet) {
                    Ok(Some(packet)) => packet,
                    Ok(None) => break,
                    Err(error) => {
                        tracing::info!(client = %self.id, error = &error as &dyn std::error::Error, "ended a session");
                        break 'talk Ended::Protocol;
                    }
                };
                if !rate.take(now) {
                    self.metrics.throttled.inc();
                    paused = Some(now + rate.pause());
                }
                if let Err(ended) = self.take_in(packet).await {
                    if ended == Ended::ForeignTopic || ended == Ended::Protocol {
                        tracing::info!(client = %self.id, reason = ended.as_str(), "ended a session");
                    }
                    break 'talk ended;
                }
                now = Instant::now();
            }
            match self.write_down().and_then(|()| self.gather(limits.unacknowledged_out)) {
                Ok(gathered) => flushed &= !gathered,
                Err(ended) => break 'talk ended,
            }
            let reading = paused.is_none() && self.has_room(limits.unacknowledged_in);
            let writing = !self.out.is_empty() || !flushed;
            if !reading {
                // What it says waits in its connection: it is not silent.
                heard = now;
            }
            if !writing {
                moved = now;
            }
            let delivering = self.in_flight.len() < limits.unacknowledged_out && self.out.len() < OUT_SOFT;
            let next =
                [Some(heard + silence), expires, paused, writing.then(|| moved + limits.write_timeout)];
            let deadline = next.into_iter().flatten().min().unwrap_or(heard + silence);
            if reading {
                bytes.reserve(READ);
            }
            tokio::select! {
                ended = place.end.ended() => break 'talk ended,
                read = reader.read_buf(&mut bytes), if reading => match read {
                    Ok(0) | Err(_) => break 'talk Ended::Closed,
                    Ok(_) => heard = Instant::now(),
                },
                written = push(&mut writer, &mut self.out), if writing => match written {
                    Ok(done) => (flushed, moved) = (done, Instant::now()),
                    Err(_) => break 'talk Ended::Closed,
                },
                Some(reply) = self.doing.next(), if !self.doing.is_empty() => {
                    flushed = false;
                    if let Err(ended) = self.reply(reply) {
                        break 'talk ended;
                    }
                }
                entry = next_entry(&mut self.consumer), if delivering && self.consumer.is_some() => {
                    flushed = false;
                    match entry {
                        Ok(entry) => if let Err(ended) = self.deliver(&entry) {
                            break 'talk ended;
                        },
                        Err(error) => break 'talk error.into(),
                    }
                }
                Some(control) = place.controls.recv() => {
                    flushed = false;
                    self.control(control);
                }
                () = tokio::time::sleep_until(deadline.into()) => {
                    let now = Instant::now();
                    if expires.is_some_and(|at| at <= now) {
                        break 'talk Ended::Expired;
                    }
                    if writing && moved + limits.write_timeout <= now {
                        break 'talk Ended::SlowReader;
                    }
                    if heard + silence <= now {
                        break 'talk Ended::KeepAlive;
                    }
                }
            }
        };
        // What was answered is told, and that this is the end; to whoever still listens.
        if !matches!(ended, Ended::Closed | Ended::SlowReader) {
            let _ = tokio::time::timeout(LAST_WORDS, finish(&mut writer, &mut self.out)).await;
        }
        ended
    }

    /// Whether another packet may be taken in.
    fn has_room(&self, most: usize) -> bool {
        self.doing.len() < most && self.out.len() < OUT_SOFT
    }

    /// What the client has acknowledged does not come again.
    fn write_down(&mut self) -> Result<(), Ended> {
        if self.acknowledged.is_empty() {
            return Ok(());
        }
        let acknowledged = self.acknowledged.drain(..);
        Ok(self.consumer.as_mut().map_or(Ok(()), |consumer| consumer.done(acknowledged))?)
    }

    /// Takes what is there by now, so that it leaves in one write; whether there was anything.
    fn gather(&mut self, most: usize) -> Result<bool, Ended> {
        let before = self.out.len();
        while self.out.len() < OUT_SOFT
            && let Some(Some(reply)) = self.doing.next().now_or_never()
        {
            self.reply(reply)?;
        }
        while self.in_flight.len() < most
            && self.out.len() < OUT_SOFT
            && let Some(entry) = next_entry(&mut self.consumer).now_or_never()
        {
            let entry = entry?;
            self.deliver(&entry)?;
        }
        Ok(self.out.len() > before)
    }

    /// Reads the client's queue if it is subscribed to it, and only then.
    async fn follow_queue(&mut self) -> Result<(), Ended> {
        let subscribed =
            self.subscriptions.has(Feature::Inputs) || self.subscriptions.has(Feature::DeviceBound);
        match (subscribed, &self.consumer) {
            (true, None) => self.consumer = Some(Consumer::new(self.hub.inbox(&self.id).await?)),
            (false, Some(_)) => {
                self.write_down()?;
                self.consumer = None;
                self.in_flight.clear();
            }
            _ => {}
        }
        Ok(())
    }

    /// Sends a message of the queue.
    fn deliver(&mut self, entry: &Entry) -> Result<(), Ended> {
        let feature = if self.id.module_name().is_some() { Feature::Inputs } else { Feature::DeviceBound };
        self.metrics.sent.inc();
        if self.subscriptions.acknowledged(feature) {
            let id = self.free_packet_id();
            self.in_flight.insert(id, entry.sequence);
            self.publish(&entry.topic, entry.payload.clone(), id);
        } else {
            self.publish(&entry.topic, entry.payload.clone(), 0);
            if let Some(consumer) = &mut self.consumer {
                consumer.done([entry.sequence])?;
            }
        }
        Ok(())
    }

    /// There are always some: many fewer may be in flight.
    fn free_packet_id(&mut self) -> u16 {
        loop {
            self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
            if !self.in_flight.contains_key(&self.last_packet_id) {
                return self.last_packet_id;
            }
        }
    }

    /// With quality of service 1 unless `packet_id` is 0.
    fn publish(&mut self, topic: &str, payload: Bytes, packet_id: u16) {
        let qos = if packet_id == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
        let mut publish = Publish::from_bytes(topic, qos, payload);
        publish.pkid = packet_id;
        packets::write(&Packet::Publish(publish), &mut self.out);
    }

    fn control(&mut self, control: Control) {
        match control {
            Control::Desired { version, patch } => {
                if self.subscriptions.has(Feature::DesiredPatches) {
                    self.publish(&topic::desired_patch(version), patch.into(), 0);
                }
            }
            Control::ModuleDesired { module, version, patch } => {
                if self.subscriptions.has(Feature::DesiredPatches) {
                    self.publish(&topic::desired_patch_of(&module, version), patch.into(), 0);
                }
            }
            Control::Method(request) => {
                if !self.subscriptions.has(Feature::Methods) {
                    let _ = request.answer.send(Err(super::methods::MethodError::Offline));
                } else if let Some(rid) = self.methods.add(request.answer, self.hub.config.limits.methods) {
                    let topic = topic::method_request(&request.name, &rid.to_string());
                    self.publish(&topic, request.payload, 0);
                }
            }
        }
    }

    fn reply(&mut self, reply: Reply) -> Result<(), Ended> {
        match reply {
            Reply::Packet(packet) => packets::write(&packet, &mut self.out),
            Reply::Answer { topic, payload, ack } => {
                if self.subscriptions.has(Feature::TwinResponses) {
                    self.publish(&topic, payload, 0);
                }
                self.acknowledge(ack);
            }
            Reply::End(ended) => return Err(ended),
        }
        Ok(())
    }

    fn acknowledge(&mut self, packet_id: Option<u16>) {
        if let Some(id) = packet_id {
            packets::write(&Packet::PubAck(PubAck::new(id)), &mut self.out);
        }
    }
}

async fn next_entry(consumer: &mut Option<Consumer>) -> Result<Arc<Entry>, DiskError> {
    match consumer {
        Some(consumer) => consumer.next().await,
        None => std::future::pending().await,
    }
}

/// Sends some of what waits; `true` once nothing waits any more, here or in TLS.
async fn push(writer: &mut (impl AsyncWrite + Unpin), out: &mut BytesMut) -> io::Result<bool> {
    if out.is_empty() {
        writer.flush().await?;
        return Ok(true);
    }
    match writer.write_buf(out).await? {
        0 => Err(io::ErrorKind::WriteZero.into()),
        _ => Ok(false),
    }
}

async fn finish(writer: &mut (impl AsyncWrite + Unpin), out: &mut BytesMut) -> io::Result<()> {
    writer.write_all_buf(out).await?;
    writer.shutdown().await
}
