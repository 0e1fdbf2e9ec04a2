//! What a hub is started with.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::route::Route;
use crate::disk::QueueLimits;

/// Where a hub listens, what it keeps and what bounds it.
#[derive(Clone, Debug)]
pub struct HubConfig {
    /// Twins, sessions and queues. One hub at a time.
    pub folder: PathBuf,
    /// The hub's name, as in user names, tokens and connection strings (`HostName=`). Clients may reach it by another.
    pub name: String,
    /// MQTT over TLS; port 8883 is the one that Azure's client libraries know.
    pub mqtt: SocketAddr,
    /// Methods over HTTPS; port 443 is the one that Azure's client libraries know.
    pub https: Option<SocketAddr>,
    pub tls: TlsFiles,
    /// On a device: its name. `BrokeredEndpoint` then leads to its modules, whoever sent the message. Without it, to
    /// those of the device that sent the message.
    pub device: Option<String>,
    pub routes: Vec<NamedRoute>,
    /// Modules and their outputs whose messages also wait for [`super::Hub::bridged`].
    pub bridged: Vec<(String, String)>,
    /// Of messages that wait for `$upstream`.
    pub upstream: QueueLimits,
    /// Of messages that wait for one device or module.
    pub inbox: QueueLimits,
    pub limits: Limits,
}

impl HubConfig {
    /// With the bounds and the route that a hub has if nothing is said: everything goes upstream.
    pub fn new(folder: PathBuf, name: String, mqtt: SocketAddr, tls: TlsFiles) -> Self {
        Self {
            folder,
            name,
            mqtt,
            https: None,
            tls,
            device: None,
            routes: NamedRoute::everything_upstream(),
            bridged: Vec::new(),
            upstream: QueueLimits { max_bytes: 256 * 1024 * 1024, ..QueueLimits::default() },
            inbox: QueueLimits { max_bytes: 16 * 1024 * 1024, ..QueueLimits::default() },
            limits: Limits::default(),
        }
    }
}

/// The hub's certificate in PEM files. They are read again when they change.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The hub's own first, then those between it and its authority.
    pub certificates: PathBuf,
    pub key: PathBuf,
    /// Whose certificates prove a client's name. Without them only thumbprints do.
    pub client_authorities: Option<PathBuf>,
}

/// A route and its name.
#[derive(Clone, Debug)]
pub struct NamedRoute {
    pub name: String,
    pub route: Route,
    /// How long a message may wait at the route's end; for ever without it.
    pub time_to_live: Option<Duration>,
}

impl NamedRoute {
    pub fn everything_upstream() -> Vec<Self> {
        "FROM /* INTO $upstream"
            .parse()
            .map(|route| Self { name: "upstream".to_owned(), route, time_to_live: None })
            .into_iter()
            .collect()
    }
}

/// What bounds clients.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at one time, whoever they are of.
    pub connections: usize,
    /// Of these, those that have not said who they are.
    pub handshakes: usize,
    /// Devices and modules connected at one time.
    pub clients: usize,
    /// For the TLS handshake and CONNECT together.
    pub connect_timeout: Duration,
    /// For a client to take in something of what it was sent.
    pub write_timeout: Duration,
    /// Of one message with its topic, in bytes.
    pub packet: usize,
    /// Of one topic, in bytes.
    pub topic: usize,
    /// The longest keep-alive; 0 and longer ones count as this.
    pub keep_alive: Duration,
    /// Messages of one client that wait to be stored.
    pub unacknowledged_in: usize,
    /// Messages that one client has not acknowledged.
    pub unacknowledged_out: usize,
    /// Packets that one client may send in a second on average; it is read more slowly if it sends more.
    pub packets_per_second: u32,
    /// Requests for a twin in a second on average; more are answered with 429.
    pub twin_requests_per_second: u32,
    /// Methods that one client may have to answer.
    pub methods: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            handshakes: 128,
            clients: 512,
            connect_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(20),
            packet: 256 * 1024 + 16 * 1024,
            topic: 8 * 1024,
            keep_alive: Duration::from_secs(1767),
            unacknowledged_in: 128,
            unacknowledged_out: 64,
            packets_per_second: 20_000,
            twin_requests_per_second: 50,
            methods: 64,
        }
    }
}
