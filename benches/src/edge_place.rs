//! What the rows of devices are measured in: a hub in this process, an agent in one of its own, and clients of both.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use moorline_core::{
    Digest, EngineSettings, FileEntry, ModelType, Name, Release, ReleaseModel, RequestSettings,
};
use moorline_edge::{
    agent::Identity as AgentIdentity,
    authority::{Authority, Issued},
    desired::{Desired, Signer},
    enrol::{AGENT, Enrolled, Facts},
    hub::{ClientId, Hub, HubConfig, HubEvent, Identity, Listed, Proof, TlsFiles},
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use ring::hmac;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS, TlsConfiguration, Transport};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use xtask::Workspace;

pub(crate) const DAY: Duration = Duration::from_hours(24);
pub(crate) const HUB: &str = "localhost";
pub(crate) const DEVICE: &str = "dev1";
/// Nothing here takes as long.
const PATIENCE: Duration = Duration::from_mins(2);

/// A hub of this process, with certificates of its own.
pub(crate) struct Place {
    pub(crate) folder: PathBuf,
    authority: Arc<Authority>,
    pub(crate) identities: Arc<Listed>,
    pub(crate) hub: Hub,
    signer: Signer,
}

impl Place {
    pub(crate) async fn start(folder: PathBuf, set: impl FnOnce(&mut HubConfig)) -> Result<Self> {
        let (authority, tls) = certificates(&folder)?;
        let mut config = HubConfig::new(folder.join("hub"), HUB.to_owned(), ([127, 0, 0, 1], 0).into(), tls);
        set(&mut config);
        let identities = Arc::new(Listed::default());
        let hub = Hub::start(config, identities.clone(), &prometheus::Registry::new()).await?;
        let signer = Signer::open(&Signer::create()?)?;
        Ok(Self { folder, authority: Arc::new(authority), identities, hub, signer })
    }

    /// One certificate, by which any identity may prove itself.
    pub(crate) fn certificate(&self) -> Result<(Issued, Identity)> {
        let issued = self.authority.issue_client(&DEVICE.parse()?, DAY)?;
        let leaf = CertificateDer::from_pem_slice(issued.certificates.as_bytes())
            .map_err(|error| anyhow::anyhow!("the certificate cannot be read: {error}"))?;
        let proof = Proof::Thumbprint { primary: Digest::of(&leaf), secondary: None };
        Ok((issued, Identity { proof, enabled: true }))
    }

    pub(crate) fn tls(&self, certificate: Option<&Issued>) -> Result<Arc<ClientConfig>> {
        tls(self.authority.certificate(), certificate)
    }

    /// An enrolled device with `release` on it; gives the folder of its agent.
    pub(crate) fn enrol(&self, release: Option<&Path>) -> Result<PathBuf> {
        let folder = self.folder.join("device");
        let id = ClientId::module(DEVICE, AGENT)?;
        self.identities.set(id.clone(), Identity { proof: Proof::Authority, enabled: true });
        let issued = self.authority.issue_client(&id, DAY)?;
        let facts = Facts {
            hub: HUB.to_owned(),
            hub_host: HUB.to_owned(),
            hub_port: self.hub.mqtt_address().port(),
            trust: self.authority.certificate().to_owned(),
            // It has what it needs.
            releases: "http://127.0.0.1:9/blobs".to_owned(),
            keys: vec![self.signer.public_key()],
        };
        let enrolled = Enrolled { certificates: issued.certificates, facts };
        let server = "http://127.0.0.1:9".to_owned();
        AgentIdentity { id, server, enrolled, key: issued.key }.save(&folder)?;
        if let Some(release) = release {
            let text = fs_err::read_to_string(release.join(Release::FILE))?;
            let target = folder.join("releases/releases").join(Release::parse(&text)?.digest().hex());
            fs_err::create_dir_all(target.join(Release::MODEL_DIR))?;
            for file in [Release::FILE.to_owned(), format!("{}/model.onnx", Release::MODEL_DIR)] {
                fs_err::copy(release.join(&file), target.join(&file))?;
            }
        }
        Ok(folder)
    }

    /// Wishes for it at the hub, and lets the device have heard of it: what nobody wishes for is deleted there.
    pub(crate) async fn wish(&self, desired: &Desired, device: &Path) -> Result<()> {
        let id = ClientId::module(DEVICE, AGENT)?;
        let document = self.signer.document(DEVICE, desired);
        fs_err::write(device.join("desired.json"), document.to_string())?;
        Ok(self.hub.replace_desired(&id, &document, desired.serial + 1).await?)
    }

    /// The real agent; connected.
    pub(crate) async fn agent(&self, workspace: &Workspace, folder: &Path, more: &[&str]) -> Result<Agent> {
        let mut events = self.hub.events();
        let mut command = workspace.command(workspace.binary("moorline-edge"));
        command
            .args(["run", "--folder"])
            .arg(folder)
            .arg("--scorer")
            .arg(workspace.binary("moorline-scorer"));
        command.args(more).env("MOORLINE_LOG", "warn").stdin(Stdio::null());
        let agent = Agent(command.spawn().context("could not start moorline-edge")?);
        let id = ClientId::module(DEVICE, AGENT)?;
        within(async {
            while events.recv().await? != HubEvent::Connected(id.clone()) {}
            Ok(())
        })
        .await?;
        Ok(agent)
    }
}

/// An authority, and the certificate of a server of this machine, in `folder`.
pub(crate) fn certificates(folder: &Path) -> Result<(Authority, TlsFiles)> {
    // Whoever was first chose the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    fs_err::create_dir_all(folder)?;
    let (authority, _) = Authority::create("bench", DAY)?;
    let issued = authority.issue_server(&[HUB], DAY)?;
    let trusted = folder.join("authority.pem");
    fs_err::write(&trusted, authority.certificate())?;
    let files = TlsFiles {
        certificates: folder.join("hub.pem"),
        key: folder.join("hub.key"),
        client_authorities: Some(trusted),
    };
    fs_err::write(&files.certificates, &issued.certificates)?;
    fs_err::write(&files.key, &issued.key)?;
    Ok((authority, files))
}

/// An agent in a process of its own. It ends with the value.
pub(crate) struct Agent(Child);

impl Agent {
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Its modules end with it: the next run of the stage finds none.
        let _ = std::process::Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

pub(crate) async fn within<T>(done: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(PATIENCE, done).await.context("it is not done in time")?
}

/// Asks again and again until there is something.
pub(crate) async fn until<T>(mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let begun = Instant::now();
    let mut often = tokio::time::interval(Duration::from_millis(20));
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if begun.elapsed() > PATIENCE {
            bail!("it is not there in time");
        }
        often.tick().await;
    }
}

pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

pub(crate) fn tls(trust: &str, certificate: Option<&Issued>) -> Result<Arc<ClientConfig>> {
    let pem = |error| anyhow::anyhow!("a certificate cannot be read: {error}");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trust.as_bytes()).map_err(pem)?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = builder.with_root_certificates(roots);
    Ok(Arc::new(match certificate {
        None => builder.with_no_client_auth(),
        Some(issued) => {
            let chain = CertificateDer::pem_slice_iter(issued.certificates.as_bytes());
            let chain = chain.collect::<Result<Vec<_>, _>>().map_err(pem)?;
            let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).map_err(pem)?;
            builder.with_client_auth_cert(chain, key)?
        }
    }))
}

/// How a client of these rows connects.
pub(crate) fn options(id: &str, port: u16, tls: Option<Arc<ClientConfig>>) -> MqttOptions {
    let mut options = MqttOptions::new(id, "localhost", port);
    options.set_credentials(format!("{HUB}/{id}/?api-version=2019-10-01"), "");
    options.set_keep_alive(Duration::from_mins(1));
    options.set_inflight(256);
    if let Some(tls) = tls {
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls)));
    }
    options
}

/// A token of a module whose key is in `file`.
pub(crate) fn token(id: &ClientId, file: &Path) -> Result<String> {
    let key = STANDARD.decode(fs_err::read_to_string(file)?.trim())?;
    let module = id.module_name().context("a module")?;
    let resource = format!("{HUB}/devices/{}/modules/{module}", id.device_name());
    let resource = utf8_percent_encode(&resource, NON_ALPHANUMERIC).to_string();
    let expiry = (SystemTime::now().duration_since(UNIX_EPOCH)? + DAY).as_secs();
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
    let signature = STANDARD.encode(hmac::sign(&key, format!("{resource}\n{expiry}").as_bytes()));
    let signature = utf8_percent_encode(&signature, NON_ALPHANUMERIC);
    Ok(format!("SharedAccessSignature sr={resource}&sig={signature}&se={expiry}"))
}

/// A connection, of which only messages and acknowledgements are told.
pub(crate) struct Wire {
    pub(crate) client: AsyncClient,
    events: EventLoop,
}

pub(crate) enum Told {
    Message,
    Acknowledged,
}

impl Wire {
    /// Connected, and subscribed to `filter` if there is one.
    pub(crate) async fn connect(options: MqttOptions, filter: Option<&str>) -> Result<Self> {
        let (client, events) = AsyncClient::new(options, 4096);
        let mut wire = Self { client, events };
        within(async {
            loop {
                match wire.events.poll().await? {
                    Event::Incoming(Packet::ConnAck(_)) => match filter {
                        Some(filter) => wire.client.try_subscribe(filter, QoS::AtLeastOnce)?,
                        None => return Ok(()),
                    },
                    Event::Incoming(Packet::SubAck(_)) => return Ok(()),
                    _ => {}
                }
            }
        })
        .await?;
        Ok(wire)
    }

    pub(crate) fn send(&self, topic: &str, payload: &[u8]) -> Result<()> {
        Ok(self.client.try_publish(topic, QoS::AtLeastOnce, false, payload)?)
    }

    pub(crate) async fn next(&mut self) -> Result<Told> {
        loop {
            match self.events.poll().await? {
                Event::Incoming(Packet::Publish(_)) => return Ok(Told::Message),
                Event::Incoming(Packet::PubAck(_)) => return Ok(Told::Acknowledged),
                _ => {}
            }
        }
    }
}

/// The release of a model that doubles its input, in `folder`; with the request that it answers.
pub(crate) fn release(workspace: &Workspace, folder: &Path) -> Result<Digest> {
    let model = fs_err::read(workspace.root().join("crates/testkit/fixtures/double.onnx"))?;
    let name: Name = "double".parse()?;
    let file =
        FileEntry { path: "model.onnx".to_owned(), size: model.len() as u64, sha256: Digest::of(&model) };
    let release = Release {
        format: Release::FORMAT,
        name: name.clone(),
        model: Some(ReleaseModel {
            name,
            version: "1".to_owned(),
            model_type: ModelType::Onnx,
            files: vec![file],
        }),
        code: None,
        environment: None,
        environment_variables: BTreeMap::new(),
        request_settings: RequestSettings::default(),
        engine: EngineSettings::default(),
        batching: None,
        image: None,
        collection: None,
    };
    fs_err::create_dir_all(folder.join(Release::MODEL_DIR))?;
    fs_err::write(folder.join(Release::MODEL_DIR).join("model.onnx"), &model)?;
    fs_err::write(folder.join(Release::FILE), release.to_json())?;
    Ok(release.digest())
}

/// mosquitto, which keeps sessions and what waits in them on disk, as it does: all of it, every second. It ends with the value.
pub(crate) struct Mosquitto {
    child: Child,
    pub(crate) port: u16,
    /// By which its clients know it, where it speaks TLS.
    tls: Option<Arc<ClientConfig>>,
}

impl Mosquitto {
    /// `None` where there is none.
    pub(crate) async fn start(folder: &Path, with_tls: bool) -> Result<Option<Self>> {
        let found = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto", "/usr/bin/mosquitto"];
        let Some(program) = found.iter().map(Path::new).find(|path| path.exists()) else { return Ok(None) };
        let (authority, files) = certificates(folder)?;
        let (port, config) = (free_port()?, folder.join("mosquitto.conf"));
        let mut text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages 256\n\
             set_tcp_nodelay true\npersistence true\npersistence_location {}/\nautosave_interval 1\nuser root\n",
            folder.display()
        );
        if with_tls {
            let (certificate, key) = (files.certificates.display(), files.key.display());
            text = format!("{text}certfile {certificate}\nkeyfile {key}\n");
        }
        fs_err::write(&config, text)?;
        let mut command = std::process::Command::new(program);
        command.arg("-c").arg(config).stdout(Stdio::null()).stderr(Stdio::null());
        let tls = if with_tls { Some(tls(authority.certificate(), None)?) } else { None };
        let running = Self { child: command.spawn()?, port, tls };
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        until(|| std::net::TcpStream::connect(address).ok()).await?;
        Ok(Some(running))
    }

    /// How a client connects that keeps its session.
    pub(crate) fn options(&self, id: &str) -> MqttOptions {
        let mut options = options(id, self.port, self.tls.clone());
        options.set_clean_session(false);
        options
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
