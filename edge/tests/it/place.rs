//! What the tests run: a hub in a temporary folder with certificates of its own, and a client that speaks MQTT packet by
//! packet.

use std::{
    env,
    future::Future,
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::BytesMut;
use moorline_edge::{
    authority::{Authority, Issued},
    hub::{ClientId, Hub, HubConfig, Identity, Listed, Proof, SharedKey, TlsFiles},
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use prometheus::{Encoder as _, Registry, TextEncoder};
use ring::hmac;
use rumqttc::mqttbytes::{
    QoS,
    v4::{
        ConnAck, Connect, ConnectReturnCode, LastWill, Login, Packet, PubAck, Publish, Subscribe,
        SubscribeFilter,
    },
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Long enough for a machine that does many other things.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
const DAY: Duration = Duration::from_hours(24);
pub(crate) const HUB: &str = "localhost";

pub(crate) fn skip(why: &str) {
    // Not fatal: a closed stderr must not turn a skipped test into a failed one.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
    assert!(env::var_os("CI").is_none_or(|value| value != "true"), "CI must not skip a test: {why}");
}

/// Within the time that nothing should take.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it is done in time")
}

/// Looks again and again until there is something.
pub(crate) async fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let mut often = tokio::time::interval(Duration::from_millis(10));
    soon(async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            often.tick().await;
        }
    })
    .await
}

pub(crate) fn id(text: &str) -> ClientId {
    text.parse().expect("the test's names are names")
}

/// Certificates of one test.
pub(crate) struct Pki {
    pub(crate) authority: Arc<Authority>,
    pub(crate) folder: PathBuf,
}

impl Pki {
    pub(crate) fn new(folder: &Path, names: &[&str]) -> Self {
        let folder = folder.join("pki");
        fs_err::create_dir_all(&folder).unwrap();
        let (authority, _) = Authority::create("test authority", DAY).unwrap();
        let pki = Self { authority: Arc::new(authority), folder };
        fs_err::write(pki.trust(), pki.authority.certificate()).unwrap();
        pki.renew(names);
        pki
    }

    /// Gives the hub a new certificate.
    pub(crate) fn renew(&self, names: &[&str]) {
        let issued = self.authority.issue_server(names, DAY).unwrap();
        fs_err::write(self.folder.join("hub.key"), &issued.key).unwrap();
        fs_err::write(self.folder.join("hub.pem"), &issued.certificates).unwrap();
    }

    pub(crate) fn trust(&self) -> PathBuf {
        self.folder.join("authority.pem")
    }

    pub(crate) fn tls_files(&self) -> TlsFiles {
        TlsFiles {
            certificates: self.folder.join("hub.pem"),
            key: self.folder.join("hub.key"),
            client_authorities: Some(self.trust()),
        }
    }

    pub(crate) fn client_config(&self, certificate: Option<&Issued>) -> ClientConfig {
        let roots = roots(self.authority.certificate());
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        match certificate {
            None => builder.with_no_client_auth(),
            Some(issued) => {
                let chain = CertificateDer::pem_slice_iter(issued.certificates.as_bytes());
                let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain.collect::<Result<_, _>>().unwrap(), key).unwrap()
            }
        }
    }
}

fn roots(trust: &str) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trust.as_bytes()).unwrap()).unwrap();
    roots
}

/// A client that trusts this authority, in PEM.
pub(crate) fn trusting(trust: &str) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots(trust))
        .with_no_client_auth()
}

/// The key of an identity of a test: one for each name.
pub(crate) fn key_of(id: &ClientId) -> Vec<u8> {
    format!("the key of {:<20}", id.to_string()).into_bytes()
}

pub(crate) fn sas_identity(id: &ClientId) -> Identity {
    let primary = SharedKey::new(&STANDARD.encode(key_of(id))).unwrap();
    Identity { proof: Proof::Sas { primary, secondary: None }, enabled: true }
}

pub(crate) fn resource(id: &ClientId) -> String {
    match id.module_name() {
        None => format!("devices/{}", id.device_name()),
        Some(module) => format!("devices/{}/modules/{module}", id.device_name()),
    }
}

/// A token for `id`, signed with `key`.
pub(crate) fn token(hub: &str, id: &ClientId, key: &[u8], valid: Duration) -> String {
    let resource = utf8_percent_encode(&format!("{hub}/{}", resource(id)), NON_ALPHANUMERIC).to_string();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let expiry = (now + valid).as_secs();
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let signature = STANDARD.encode(hmac::sign(&key, format!("{resource}\n{expiry}").as_bytes()));
    let signature = utf8_percent_encode(&signature, NON_ALPHANUMERIC);
    format!("SharedAccessSignature sr={resource}&sig={signature}&se={expiry}")
}

pub(crate) fn user_name(hub: &str, id: &ClientId) -> String {
    format!("{hub}/{id}/?api-version=2019-10-01&DeviceClientType=test")
}

/// A hub that runs in this process.
pub(crate) struct TestHub {
    pub(crate) hub: Hub,
    pub(crate) identities: Arc<Listed>,
    pub(crate) registry: Registry,
    pub(crate) pki: Pki,
    pub(crate) folder: TempDir,
}

impl TestHub {
    pub(crate) async fn start(set: impl FnOnce(&mut HubConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::new(folder.path(), &["localhost", "127.0.0.1"]);
        let identities = Arc::new(Listed::default());
        for name in ["dev1", "dev1/m1", "dev1/m2", "dev2", "dev2/m1"] {
            identities.set(id(name), sas_identity(&id(name)));
        }
        let registry = Registry::new();
        let mut config = HubConfig::new(
            folder.path().join("hub"),
            HUB.to_owned(),
            ([127, 0, 0, 1], 0).into(),
            pki.tls_files(),
        );
        set(&mut config);
        let hub = Hub::start(config, Arc::clone(&identities) as _, &registry).await.unwrap();
        Self { hub, identities, registry, pki, folder }
    }

    pub(crate) fn metrics(&self) -> String {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    /// A line of TLS to the hub, on which nothing was said.
    pub(crate) async fn dial(&self) -> Wire {
        Wire::dial(self.hub.mqtt_address(), &self.pki.client_config(None)).await
    }

    /// A client that proves itself by its token, and keeps its session.
    pub(crate) async fn connect(&self, name: &str) -> Wire {
        let mut wire = self.dial().await;
        let ack = wire.login(&id(name), |_| {}).await;
        assert_eq!(ack.code, ConnectReturnCode::Success, "{name}");
        wire
    }
}

/// A connection on which a test says packets.
pub(crate) struct Wire {
    stream: TlsStream<TcpStream>,
    bytes: BytesMut,
    pub(crate) seen: Vec<Publish>,
}

impl Wire {
    pub(crate) async fn dial(address: SocketAddr, config: &ClientConfig) -> Self {
        soon(Self::try_dial(address, config)).await.expect("the hub listens")
    }

    /// `None` where the hub does not listen, or goes away.
    pub(crate) async fn try_dial(address: SocketAddr, config: &ClientConfig) -> Option<Self> {
        let stream = TcpStream::connect(address).await.ok()?;
        stream.set_nodelay(true).ok()?;
        let connector = TlsConnector::from(Arc::new(config.clone()));
        let name = ServerName::try_from(HUB).unwrap();
        let stream = connector.connect(name, stream).await.ok()?;
        Some(Self { stream, bytes: BytesMut::new(), seen: Vec::new() })
    }

    pub(crate) fn version(&self) -> Option<rustls::ProtocolVersion> {
        self.stream.get_ref().1.protocol_version()
    }

    /// The hub's certificate.
    pub(crate) fn certificate(&self) -> Vec<u8> {
        self.stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    }

    /// Says CONNECT as `id` with its right token, after `set`.
    pub(crate) async fn login(&mut self, id: &ClientId, set: impl FnOnce(&mut Connect)) -> ConnAck {
        self.try_login(id, set).await.expect("the hub answers CONNECT")
    }

    pub(crate) async fn try_login(
        &mut self,
        id: &ClientId,
        set: impl FnOnce(&mut Connect),
    ) -> Option<ConnAck> {
        let mut connect = Connect::new(id.to_string());
        connect.clean_session = false;
        connect.keep_alive = 60;
        connect.login = Some(Login::new(user_name(HUB, id), token(HUB, id, &key_of(id), DAY)));
        set(&mut connect);
        self.say(&Packet::Connect(connect)).await;
        match self.hear().await? {
            Packet::ConnAck(ack) => Some(ack),
            other => panic!("expected CONNACK, not {other:?}"),
        }
    }

    pub(crate) async fn say(&mut self, packet: &Packet) {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, usize::MAX).unwrap();
        self.say_bytes(&bytes).await;
    }

    /// What the hub does about it is heard afterwards: it may have closed the connection.
    pub(crate) async fn say_bytes(&mut self, bytes: &[u8]) {
        let _ = soon(async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        })
        .await;
    }

    /// The next packet; `None` once the hub has closed the connection.
    pub(crate) async fn hear(&mut self) -> Option<Packet> {
        loop {
            match Packet::read(&mut self.bytes, 1 << 20) {
                Ok(packet) => return Some(packet),
                Err(rumqttc::mqttbytes::Error::InsufficientBytes(_)) => {}
                Err(error) => panic!("the hub says no MQTT: {error}"),
            }
            match soon(self.stream.read_buf(&mut self.bytes)).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// The next packet that is no message; messages are kept.
    pub(crate) async fn hear_answer(&mut self) -> Option<Packet> {
        loop {
            match self.hear().await? {
                Packet::Publish(publish) => self.seen.push(publish),
                other => return Some(other),
            }
        }
    }

    /// The next message, acknowledged if it asks for that.
    pub(crate) async fn message(&mut self) -> Publish {
        if !self.seen.is_empty() {
            return self.seen.remove(0);
        }
        loop {
            match self.hear().await {
                Some(Packet::Publish(publish)) => {
                    if publish.qos == QoS::AtLeastOnce {
                        self.say(&Packet::PubAck(PubAck::new(publish.pkid))).await;
                    }
                    return publish;
                }
                Some(_) => {}
                None => panic!("the hub closed the connection"),
            }
        }
    }

    /// Subscribes; gives the codes.
    pub(crate) async fn subscribe(
        &mut self,
        filters: &[&str],
    ) -> Vec<rumqttc::mqttbytes::v4::SubscribeReasonCode> {
        let filters = filters.iter().map(|path| SubscribeFilter::new((*path).to_owned(), QoS::AtLeastOnce));
        let mut subscribe = Subscribe::new_many(filters);
        subscribe.pkid = 77;
        self.say(&Packet::Subscribe(subscribe)).await;
        match self.hear_answer().await {
            Some(Packet::SubAck(ack)) => ack.return_codes,
            other => panic!("expected SUBACK, not {other:?}"),
        }
    }

    /// Publishes with quality of service 1 and does not wait.
    pub(crate) async fn publish(&mut self, topic: &str, payload: &str, packet_id: u16) {
        let mut publish = Publish::new(topic, QoS::AtLeastOnce, payload);
        publish.pkid = packet_id;
        self.say(&Packet::Publish(publish)).await;
    }

    /// Publishes and waits for the acknowledgement; `false` if the connection was closed instead.
    pub(crate) async fn deliver(&mut self, topic: &str, payload: &str) -> bool {
        self.publish(topic, payload, 5).await;
        match self.hear_answer().await {
            Some(Packet::PubAck(ack)) => ack.pkid == 5,
            Some(other) => panic!("expected PUBACK, not {other:?}"),
            None => false,
        }
    }

    /// Says that it goes, and waits until it has.
    pub(crate) async fn leave(mut self) {
        self.say(&Packet::Disconnect).await;
        while self.hear().await.is_some() {}
    }

    /// Whether the hub closes the connection without saying anything more than messages.
    pub(crate) async fn is_closed(&mut self) -> bool {
        self.hear_answer().await.is_none()
    }
}

pub(crate) fn will(topic: &str, payload: &str) -> LastWill {
    LastWill::new(topic, payload, QoS::AtLeastOnce, false)
}

/// The Python of Azure's client, if it is installed. Says that a test is skipped where it is not, and fails where
/// `CI=true`.
pub(crate) fn python() -> Option<PathBuf> {
    let venvs = env::var_os("MOORLINE_TEST_VENVS").map(PathBuf::from).or_else(|| {
        let own = env::current_exe().ok()?;
        Some(own.ancestors().nth(3)?.join("venvs"))
    });
    let path = venvs?.join("edge/bin/python");
    if path.exists() {
        return Some(path);
    }
    skip(&format!("{} is missing; run `cargo xtask tools edge`", path.display()));
    None
}
