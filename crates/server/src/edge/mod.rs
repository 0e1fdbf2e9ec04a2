//! The server's hub: where devices connect, who they are, and what they send.

mod fleet;
mod identities;
mod messages;
mod metrics;
mod record;
mod seen;

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use fs_err::os::unix::fs::OpenOptionsExt as _;
use moorline_core::DeploymentId;
use moorline_deploy::local::OnChange;
use moorline_edge::{
    authority::{Authority, AuthorityError},
    desired::{Signer, SignerError},
    fleet::{Files, Fleet},
    hub::{Hub, HubConfig, HubError, TlsFiles},
};
use moorline_monitor::Readings;
use moorline_store::Store;
use prometheus::Registry;
use thiserror::Error;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use self::{
    fleet::{new_token, settings, target},
    messages::Messages,
    record::{Authentication, DeviceBody, Keys, ModuleBody, client, keys_of, secret_name},
};
use self::{identities::StoreIdentities, messages::MessageLimits, metrics::DeviceMetrics, seen::Seen};
use crate::problem::chain;

/// How long the authority is good, which every device knows.
const AUTHORITY_LIFETIME: Duration = Duration::from_hours(20 * 365 * 24);
/// How long the hub's own certificate is good, and when it gets the next one.
const CERTIFICATE_LIFETIME: Duration = Duration::from_hours(90 * 24);
const RENEWED_AFTER: Duration = Duration::from_hours(60 * 24);
/// How often its age is looked at.
const CHORES: Duration = Duration::from_hours(1);
const CERTIFICATE: &str = "certificate.pem";

/// Where a server's hub listens.
#[derive(Clone, Debug)]
pub struct HubSettings {
    /// MQTT over TLS.
    pub mqtt: SocketAddr,
    /// Methods over HTTPS; not offered where it is left out.
    pub https: Option<SocketAddr>,
    /// The name by which devices know it, in certificates and connection strings.
    pub name: String,
}

/// Why there is no hub.
#[derive(Debug, Error)]
pub(crate) enum EdgeError {
    #[error("the hub's folder `{}` cannot be used", folder.display())]
    Folder { folder: PathBuf, source: io::Error },
    #[error("the hub's certificate could not be made")]
    Authority(#[from] AuthorityError),
    #[error("the hub could not begin")]
    Hub(#[from] HubError),
    #[error("the metrics of devices could not be registered")]
    Metrics(#[from] prometheus::Error),
    #[error("the key by which devices are told what to run cannot be used")]
    Signer(#[from] SignerError),
}

/// A hub that runs. Clones are the same hub.
#[derive(Clone, Debug)]
pub(crate) struct EdgeHub(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    hub: Hub,
    name: String,
    authority: Arc<Authority>,
    fleet: Fleet,
    seen: Arc<Seen>,
    messages: Messages,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl EdgeHub {
    /// Opens `$MOORLINE_HOME/hub`, and listens.
    pub(crate) async fn start(
        settings: &HubSettings,
        home: &Path,
        store: Store,
        files: Files,
        metrics: &Registry,
        on_change: OnChange,
    ) -> Result<Self, EdgeError> {
        let folder = home.join("hub");
        let failed = |source| EdgeError::Folder { folder: folder.clone(), source };
        fs_err::create_dir_all(&folder).map_err(failed)?;
        let authority = Arc::new(authority(&folder, &settings.name)?);
        certify(&folder, &authority, &settings.name)?;
        let tls = TlsFiles {
            certificates: folder.join(CERTIFICATE),
            key: folder.join("key.pem"),
            client_authorities: Some(folder.join("authority.pem")),
        };
        let mut config = HubConfig::new(folder.join("state"), settings.name.clone(), settings.mqtt, tls);
        config.https = settings.https;
        let hub = Hub::start(config, Arc::new(StoreIdentities::new(store.clone())), metrics).await?;
        let messages = Messages::open(folder.join("messages"), MessageLimits::default()).map_err(failed)?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(messages.clone().take(hub.upstream(), stop.clone()));
        tasks.spawn(renew(folder.clone(), Arc::clone(&authority), settings.name.clone(), stop.clone()));
        tracing::info!(address = %hub.mqtt_address(), name = settings.name, "the hub listens");
        let fleet = fleet::start(&hub, store.clone(), signer(&folder)?, files, on_change);
        let seen = Arc::new(Seen::open(folder.join("seen.json")).map_err(failed)?);
        let own = DeviceMetrics::new(
            hub.clone(),
            fleet.clone(),
            Arc::clone(&seen),
            Arc::clone(messages.measured()),
        )?;
        metrics.register(Box::new(own))?;
        tasks.spawn({
            let (hub, fleet, seen, stop) = (hub.clone(), fleet.clone(), Arc::clone(&seen), stop.clone());
            async move { seen.keep(&hub, &fleet, stop).await }
        });
        let name = settings.name.clone();
        let edge = Self(Arc::new(Inner { hub, name, authority, fleet, seen, messages, stop, tasks }));
        fleet::serve(&edge, store);
        Ok(edge)
    }

    pub(crate) fn hub(&self) -> &Hub {
        &self.0.hub
    }

    /// The name that devices know it by.
    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    /// What devices have to trust, in PEM.
    pub(crate) fn trusted(&self) -> &str {
        self.0.authority.certificate()
    }

    fn authority(&self) -> &Arc<Authority> {
        &self.0.authority
    }

    /// The devices that deployments reach.
    pub(crate) fn fleet(&self) -> &Fleet {
        &self.0.fleet
    }

    /// When devices were here before this server started.
    pub(crate) fn seen(&self) -> &Seen {
        &self.0.seen
    }

    pub(crate) fn messages(&self) -> &Messages {
        &self.0.messages
    }

    /// What the modules of a deployment counted on these devices, by what the devices last told.
    pub(crate) fn readings<'a>(
        &self,
        id: &DeploymentId,
        devices: impl Iterator<Item = &'a str>,
    ) -> Vec<Option<(Instant, Readings)>> {
        match self.0.fleet.module_of(id) {
            Some(module) => self.0.messages.measured().of_module(devices, &module),
            None => Vec::new(),
        }
    }

    pub(crate) async fn shutdown(&self) {
        self.0.fleet.shutdown().await;
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
        self.0.hub.clone().shutdown().await;
    }
}

/// The authority of this home, made at the first start. What devices trust is written last: a start that was cut off
/// begins anew.
fn authority(folder: &Path, name: &str) -> Result<Authority, EdgeError> {
    let failed = |source| EdgeError::Folder { folder: folder.to_owned(), source };
    let (certificate, key) = (folder.join("authority.pem"), folder.join("authority.key.pem"));
    if certificate.exists() {
        let text = fs_err::read_to_string(&certificate).map_err(failed)?;
        let key = fs_err::read_to_string(&key).map_err(failed)?;
        return Ok(Authority::open(&text, &key)?);
    }
    let (authority, text) = Authority::create(&format!("Moorline hub {name}"), AUTHORITY_LIFETIME)?;
    write_private(&key, &text).map_err(failed)?;
    write_private(&certificate, authority.certificate()).map_err(failed)?;
    Ok(authority)
}

/// The key by which this home signs what devices are to run, made at the first start.
fn signer(folder: &Path) -> Result<Signer, EdgeError> {
    let failed = |source| EdgeError::Folder { folder: folder.to_owned(), source };
    let path = folder.join("desired.key");
    if !path.exists() {
        write_private(&path, &STANDARD.encode(Signer::create()?)).map_err(failed)?;
    }
    let text = fs_err::read_to_string(&path).map_err(failed)?;
    let key = STANDARD.decode(text.trim()).map_err(|_| SignerError)?;
    Ok(Signer::open(&key)?)
}

/// Makes the hub's certificate where there is none, or it is of another name or not young any more.
fn certify(folder: &Path, authority: &Authority, name: &str) -> Result<(), EdgeError> {
    let failed = |source| EdgeError::Folder { folder: folder.to_owned(), source };
    let (certificate, named) = (folder.join(CERTIFICATE), folder.join("certificate.name"));
    let age = fs_err::metadata(&certificate).and_then(|metadata| metadata.modified());
    let young = age.is_ok_and(|made| made.elapsed().is_ok_and(|age| age < RENEWED_AFTER));
    let same = fs_err::read_to_string(&named).is_ok_and(|named| named == name);
    if young && same {
        return Ok(());
    }
    let mut names = vec![name];
    names.extend(["localhost", "127.0.0.1"].into_iter().filter(|other| *other != name));
    let issued = authority.issue_server(&names, CERTIFICATE_LIFETIME)?;
    write_private(&folder.join("key.pem"), &issued.key).map_err(failed)?;
    write_private(&certificate, &issued.certificates).map_err(failed)?;
    write_private(&named, name).map_err(failed)
}

/// The hub looks at its files by itself.
async fn renew(folder: PathBuf, authority: Arc<Authority>, name: String, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(CHORES)).await.is_some() {
        if let Err(error) = certify(&folder, &authority, &name) {
            tracing::warn!(error = chain(&error), "the hub's certificate was not renewed; the old one stays");
        }
    }
}

/// Whole or not at all, and for this user alone.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write as _;
    let beside = path.with_extension("part");
    let mut options = fs_err::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs_err::rename(beside, path)
}
