//! The row of a hub that is killed: whether anything that it has acknowledged is lost, or overtaken, while it is killed again
//! and again.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::BytesMut;
use moorline_edge::hub::ClientId;
use rumqttc::mqttbytes::{
    Error as Codec, QoS,
    v4::{Connect, Login, Packet, PubAck, Publish, Subscribe, SubscribeFilter},
};
use rustls::{ClientConfig, pki_types::ServerName};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    edge_place::{DAY, HUB, certificates, tls, until, within},
    report::{Bound, Row},
    rows::Effort,
    stage::Stage,
};

/// Messages that the hub has not acknowledged.
const IN_FLIGHT: u64 = 256;
/// Numbers of packets go round before they are as many.
const PACKETS: u64 = 10_000;
const LONGEST: usize = 64 * 1024;
const POLL: Duration = Duration::from_millis(2);

pub(crate) fn kills(stage: &Stage<'_>, effort: Effort) -> Result<Vec<Row>> {
    let (count, kills) = if effort.rounds > 2 { (1_000_000, 50) } else { (100_000, 10) };
    let binary = stage.workspace.binary("moorline-edge");
    let folder = stage.folder("kills");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let begun = Instant::now();
    let heard = runtime.block_on(run(folder, binary, count, kills))?;
    let seconds = begun.elapsed().as_secs_f64();
    let row = |name, wrong: u64, told: String| Row {
        name,
        baseline: "–".to_owned(),
        ours: told,
        value: wrong as f64,
        unit: "",
        bound: Bound::AtMost(0.0),
    };
    let lost = heard.missing.len() as u64;
    let told = format!(
        "{lost} of {count} over {kills} kills, {} came twice; {:.0}/s with the kills",
        heard.again,
        count as f64 / seconds
    );
    Ok(vec![
        row("messages lost, from module to module over kills of the hub", lost, told),
        row("messages out of order over the same kills", heard.late, format!("{} of {count}", heard.late)),
    ])
}

/// A hub in a process of its own. It ends with the value, by SIGKILL.
struct Process(Child);

impl Process {
    fn start(binary: &Path, config: &Path) -> Result<(Self, SocketAddr)> {
        let mut command = std::process::Command::new(binary);
        command.args(["hub", "--file"]).arg(config).env("MOORLINE_LOG", "error").stdout(Stdio::piped());
        let mut child = command.spawn().context("could not start moorline-edge")?;
        let said = child.stdout.take().context("it has a standard output")?;
        let process = Self(child);
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line)?;
        let said: serde_json::Value = serde_json::from_str(&line).context("the hub says where it listens")?;
        let address = said["mqtt"].as_str().context("the hub listens for MQTT")?.parse()?;
        Ok((process, address))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the receiver was sent.
#[derive(Default)]
struct Heard {
    /// The number that is next, if nothing is lost.
    expected: u64,
    /// Numbers that were jumped over, and have not come.
    missing: BTreeSet<u64>,
    /// Came behind a greater number, for the first time.
    late: u64,
    again: u64,
}

impl Heard {
    fn take(&mut self, number: u64) {
        if number >= self.expected {
            self.missing.extend(self.expected..number);
            self.expected = number + 1;
        } else if self.missing.remove(&number) {
            self.late += 1;
        } else {
            self.again += 1;
        }
    }
}

async fn run(folder: PathBuf, binary: PathBuf, count: u64, kills: u64) -> Result<Heard> {
    let (authority, files) = certificates(&folder)?;
    let (sender, receiver) = (ClientId::module("dev1", "a")?, ClientId::module("dev1", "b")?);
    let config_of = |id: &ClientId| -> Result<Arc<ClientConfig>> {
        tls(authority.certificate(), Some(&authority.issue_client(id, DAY)?))
    };
    let (own, other) = (config_of(&sender)?, config_of(&receiver)?);
    let path = folder.join("hub.json");
    let write = |port: u16| -> Result<()> {
        let route = "FROM /messages/modules/a/* INTO BrokeredEndpoint(\"/modules/b/inputs/in\")";
        // YAML that is JSON.
        let text = json!({
            "name": HUB, "folder": folder.join("hub"), "mqtt": format!("127.0.0.1:{port}"),
            "certificates": files.certificates, "key": files.key,
            "client_authorities": files.client_authorities,
            "inbox": { "max_bytes": 1_u64 << 30 },
            "routes": { "across": route },
            "identities": [{ "id": "dev1/a", "authority": true }, { "id": "dev1/b", "authority": true }],
        });
        Ok(fs_err::write(&path, text.to_string())?)
    };
    write(0)?;
    let (mut process, address) = Process::start(&binary, &path)?;
    // The same port after each kill.
    write(address.port())?;
    // Whoever receives is there first: of what comes before, nothing is kept.
    let mut line = within(Line::open(address, &other, &receiver)).await?;
    line.subscribe("devices/dev1/modules/b/inputs/#").await?;
    let received = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&received);
    let receiving = tokio::spawn(async move {
        let mut heard = Heard::default();
        let (mut open, mut often) = (Some(line), tokio::time::interval(POLL));
        while heard.expected < count {
            // The first one is open already; another is made once the hub was started again.
            let line = if let Some(line) = open.take() {
                line
            } else {
                often.tick().await;
                let Ok(line) = Line::open(address, &other, &receiver).await else { continue };
                line
            };
            // What breaks it off is the kill.
            let _ = receive(line, &mut heard, count, &seen).await;
        }
        heard
    });
    let sending = tokio::spawn(async move {
        let (mut acknowledged, mut often) = (0, tokio::time::interval(POLL));
        while acknowledged < count {
            often.tick().await;
            let _ = send(address, &own, &sender, &mut acknowledged, count).await;
        }
    });
    for kill in 1..=kills {
        let due = kill * count / (kills + 1);
        until(|| (received.load(Ordering::Relaxed) >= due || receiving.is_finished()).then_some(())).await?;
        drop(process);
        process = Process::start(&binary, &path)?.0;
    }
    until(|| receiving.is_finished().then_some(())).await?;
    sending.abort();
    drop(process);
    Ok(receiving.await?)
}

async fn receive(mut line: Line, heard: &mut Heard, count: u64, seen: &AtomicU64) -> Result<()> {
    while heard.expected < count {
        let Packet::Publish(publish) = line.hear().await? else { continue };
        line.say(&Packet::PubAck(PubAck::new(publish.pkid)))?;
        let text = std::str::from_utf8(&publish.payload)?;
        heard.take(text.split(':').next().unwrap_or_default().parse()?);
        seen.store(heard.expected, Ordering::Relaxed);
        if line.out.len() > LONGEST {
            line.flush().await?;
        }
    }
    line.flush().await
}

/// Sends what is not acknowledged, in its order, until the connection breaks or everything is acknowledged.
///
/// Not by rumqttc's client: what that has in flight when a connection breaks for the second time, it sends behind what is
/// newer.
async fn send(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
    id: &ClientId,
    acknowledged: &mut u64,
    count: u64,
) -> Result<()> {
    let mut line = Line::open(address, config, id).await?;
    ensure!(line.present || *acknowledged == 0, "the hub has forgotten the session");
    let packet_id = |number: u64| (number % PACKETS) as u16 + 1;
    let filler = "x".repeat(100);
    let mut sent = *acknowledged;
    while *acknowledged < count {
        while sent < count && sent < *acknowledged + IN_FLIGHT {
            let payload = format!("{sent}:{filler}");
            let topic = "devices/dev1/modules/a/messages/events/";
            let mut publish = Publish::new(topic, QoS::AtLeastOnce, payload);
            publish.pkid = packet_id(sent);
            line.say(&Packet::Publish(publish))?;
            sent += 1;
        }
        line.flush().await?;
        match line.hear().await? {
            Packet::PubAck(ack) => {
                ensure!(ack.pkid == packet_id(*acknowledged), "it was not acknowledged in order");
                *acknowledged += 1;
            }
            other => bail!("expected PUBACK, not {other:?}"),
        }
    }
    Ok(())
}

/// A connection whose packets are said one by one.
struct Line {
    stream: TlsStream<TcpStream>,
    bytes: BytesMut,
    out: BytesMut,
    /// Whether the hub knows the session.
    present: bool,
}

impl Line {
    async fn open(address: SocketAddr, config: &Arc<ClientConfig>, id: &ClientId) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let connector = TlsConnector::from(Arc::clone(config));
        let stream = connector.connect(ServerName::try_from(HUB)?, stream).await?;
        let mut line = Self { stream, bytes: BytesMut::new(), out: BytesMut::new(), present: false };
        let mut connect = Connect::new(id.to_string());
        (connect.clean_session, connect.keep_alive) = (false, 60);
        connect.login = Some(Login::new(format!("{HUB}/{id}/?api-version=2019-10-01"), String::new()));
        line.say(&Packet::Connect(connect))?;
        line.flush().await?;
        match line.hear().await? {
            Packet::ConnAck(ack) => line.present = ack.session_present,
            other => bail!("expected CONNACK, not {other:?}"),
        }
        Ok(line)
    }

    async fn subscribe(&mut self, filter: &str) -> Result<()> {
        let filters = [SubscribeFilter::new(filter.to_owned(), QoS::AtLeastOnce)];
        let mut subscribe = Subscribe::new_many(filters);
        subscribe.pkid = 1;
        self.say(&Packet::Subscribe(subscribe))?;
        self.flush().await?;
        match self.hear().await? {
            Packet::SubAck(_) => Ok(()),
            other => bail!("expected SUBACK, not {other:?}"),
        }
    }

    /// Is sent with the next flush.
    fn say(&mut self, packet: &Packet) -> Result<()> {
        packet.write(&mut self.out, usize::MAX).map_err(|error| anyhow::anyhow!("{error}"))?;
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        self.stream.write_all_buf(&mut self.out).await?;
        Ok(self.stream.flush().await?)
    }

    async fn hear(&mut self) -> Result<Packet> {
        loop {
            match Packet::read(&mut self.bytes, LONGEST) {
                Ok(packet) => return Ok(packet),
                Err(Codec::InsufficientBytes(_)) => {}
                Err(error) => bail!("the hub says no MQTT: {error}"),
            }
            // What was said waits for an answer.
            self.flush().await?;
            ensure!(self.stream.read_buf(&mut self.bytes).await? > 0, "the hub has closed the connection");
        }
    }
}
