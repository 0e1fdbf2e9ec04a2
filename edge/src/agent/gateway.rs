//! The hub of the device itself: its modules talk to it whether or not there is a network, and what routes lead upstream
//! waits here, on disk, until the device's server has it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio_util::task::AbortOnDropHandle;

use super::{
    AgentError,
    bridge::BridgeConfig,
    identity::{Identity, replace},
    scoring::Scoring,
};
use crate::{
    authority::Authority,
    containers::Spec,
    desired::{Desired, Messaging},
    disk::{QueueLimits, file_name},
    hub::{
        ClientId, Hub, HubConfig, Identity as HubIdentity, Listed, Proof, Properties, SharedKey, TlsFiles,
    },
    modules::Modules,
    workload::{Workload, WorkloadConfig},
};

/// Of the device's own authority; its modules' certificates live shorter.
const AUTHORITY_LIFETIME: Duration = Duration::from_hours(20 * 365 * 24);
/// Of the hub's certificate. Made anew at each start.
const CERTIFICATE_LIFETIME: Duration = Duration::from_hours(365 * 24);

/// How the device's own hub is run.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    pub mqtt: SocketAddr,
    pub https: Option<SocketAddr>,
    /// The name by which modules reach it.
    pub host_name: String,
    /// Of what waits for the server.
    pub upstream: QueueLimits,
    /// To another broker, if there is one.
    pub bridge: Option<BridgeConfig>,
}

#[derive(Debug)]
pub(super) struct Gateway {
    hub: Hub,
    identities: Arc<Listed>,
    authority: Arc<Authority>,
    folder: PathBuf,
    device: String,
    hub_name: String,
    host_name: String,
    modules: Mutex<BTreeMap<String, Served>>,
}

/// By what a module in a container finds the hub.
#[derive(Debug, Default)]
pub(super) struct Inside {
    pub(super) environment: BTreeMap<String, String>,
    /// The folder of its socket.
    pub(super) sockets: Option<PathBuf>,
    /// The hub's name, where it is not the container's own.
    pub(super) hub_name: Option<String>,
}

/// What the hub does for one module.
#[derive(Debug)]
struct Served {
    key: SharedKey,
    workload: Workload,
    scoring: Option<(Messaging, AbortOnDropHandle<()>)>,
}

impl Gateway {
    pub(super) async fn start(
        folder: &Path,
        identity: &Identity,
        config: &GatewayConfig,
    ) -> Result<Arc<Self>, AgentError> {
        let folder = folder.join("gateway");
        let authority = Arc::new(own_authority(&folder)?);
        let issued = authority
            .issue_server(&[&config.host_name, "localhost", "127.0.0.1"], CERTIFICATE_LIFETIME)
            .map_err(AgentError::Certificate)?;
        let tls = TlsFiles {
            certificates: folder.join("hub.pem"),
            key: folder.join("hub.key"),
            client_authorities: Some(folder.join("authority.pem")),
        };
        replace(&tls.key, issued.key.as_bytes())?;
        replace(&tls.certificates, issued.certificates.as_bytes())?;
        let hub_name = identity.enrolled.facts.hub.clone();
        let device = identity.id.device_name().to_owned();
        let mut hub = HubConfig::new(folder.join("hub"), hub_name.clone(), config.mqtt, tls);
        (hub.https, hub.device, hub.upstream) = (config.https, Some(device.clone()), config.upstream);
        hub.bridged = config.bridge.as_ref().map(BridgeConfig::taken).unwrap_or_default();
        // Nothing is led anywhere before the desired state says so.
        hub.routes = Vec::new();
        let identities = Arc::new(Listed::default());
        let hub = Hub::start(hub, Arc::clone(&identities) as _, &prometheus::Registry::new()).await;
        let hub = hub.map_err(AgentError::Hub)?;
        tracing::info!(mqtt = %hub.mqtt_address(), "the device's own hub listens");
        Ok(Arc::new(Self {
            hub,
            identities,
            authority,
            folder,
            device,
            hub_name,
            host_name: config.host_name.clone(),
            modules: Mutex::new(BTreeMap::new()),
        }))
    }

    pub(super) fn device(&self) -> &str {
        &self.device
    }

    pub(super) fn hub(&self) -> &Hub {
        &self.hub
    }

    fn modules(&self) -> MutexGuard<'_, BTreeMap<String, Served>> {
        self.modules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves the modules of a desired state, and routes as it says.
    pub(super) async fn apply(&self, desired: &Desired, modules: &Arc<Modules>) -> Result<(), AgentError> {
        self.hub.set_routes(desired.named_routes());
        let names = desired.names();
        let gone: Vec<String> =
            self.modules().keys().filter(|name| !names.contains_key(name.as_str())).cloned().collect();
        for name in gone {
            let served = self.modules().remove(&name);
            if let (Some(served), Ok(id)) = (served, ClientId::module(&self.device, &name)) {
                drop(served);
                self.identities.remove(&id);
                self.hub.remove(&id).await.map_err(AgentError::Hub)?;
                // There may be none.
                let _ = fs_err::remove_file(self.key_path(&name));
            }
        }
        for (name, messaging) in names {
            let Ok(id) = ClientId::module(&self.device, name) else { continue };
            if !self.modules().contains_key(name) {
                let key = self.key(name)?;
                let proof = Proof::Sas { primary: key.clone(), secondary: None };
                self.identities.set(id.clone(), HubIdentity { proof, enabled: true });
                let workload = Workload::start(self.workload(&id, &key)).map_err(AgentError::Workload)?;
                self.modules().insert(name.to_owned(), Served { key, workload, scoring: None });
            }
            let wished = messaging.cloned();
            if let Some(served) = self.modules().get_mut(name)
                && served.scoring.as_ref().map(|(messaging, _)| messaging) != wished.as_ref()
            {
                // The old one ends before the new one reads.
                served.scoring = None;
                served.scoring = wished.map(|messaging| {
                    let scoring = Scoring {
                        hub: self.hub.clone(),
                        id,
                        name: name.to_owned(),
                        messaging: messaging.clone(),
                        modules: Arc::clone(modules),
                    };
                    (messaging, AbortOnDropHandle::new(tokio::spawn(scoring.run())))
                });
            }
        }
        Ok(())
    }

    fn workload(&self, id: &ClientId, key: &SharedKey) -> WorkloadConfig {
        let module = id.module_name().unwrap_or_default();
        WorkloadConfig {
            socket: self.folder.join("modules").join(file_name(module)).join("workload.sock"),
            module: id.clone(),
            generation: "1".to_owned(),
            key: key.clone(),
            trust_bundle: self.authority.certificate().to_owned(),
            authority: Arc::clone(&self.authority),
        }
    }

    /// The variables by which a module finds the hub.
    pub(super) fn environment(&self, name: &str) -> BTreeMap<String, String> {
        let modules = self.modules();
        let (Some(served), Ok(id)) = (modules.get(name), ClientId::module(&self.device, name)) else {
            return BTreeMap::new();
        };
        let mut config = self.workload(&id, &served.key);
        served.workload.socket().clone_into(&mut config.socket);
        let variables = config.environment(&self.hub_name, &self.host_name);
        variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// The same for one that is a container.
    pub(super) fn inside(&self, name: &str) -> Inside {
        let mut environment = self.environment(name);
        if environment.is_empty() {
            return Inside::default();
        }
        environment.insert("IOTEDGE_WORKLOADURI".to_owned(), Spec::WORKLOAD.to_owned());
        let modules = self.modules();
        let sockets =
            modules.get(name).and_then(|served| served.workload.socket().parent().map(Path::to_owned));
        // What names this machine itself names the container itself in there.
        let own = self.host_name == "localhost" || self.host_name.parse::<std::net::IpAddr>().is_ok();
        Inside { environment, sockets, hub_name: (!own).then(|| self.host_name.clone()) }
    }

    fn key_path(&self, name: &str) -> PathBuf {
        self.folder.join("keys").join(file_name(name))
    }

    /// A module's key, made when the module is first seen.
    fn key(&self, name: &str) -> Result<SharedKey, AgentError> {
        let path = self.key_path(name);
        if let Ok(text) = fs_err::read_to_string(&path)
            && let Ok(key) = SharedKey::new(text.trim())
        {
            return Ok(key);
        }
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(|_| AgentError::Random)?;
        let text = STANDARD.encode(random);
        replace(&path, text.as_bytes())?;
        SharedKey::new(&text).map_err(|_| AgentError::Random)
    }
}

fn own_authority(folder: &Path) -> Result<Authority, AgentError> {
    let (certificate, key) = (folder.join("authority.pem"), folder.join("authority.key"));
    if let (Ok(certificate), Ok(key)) = (fs_err::read_to_string(&certificate), fs_err::read_to_string(&key)) {
        return Authority::open(&certificate, &key).map_err(AgentError::Certificate);
    }
    let (authority, secret) =
        Authority::create("moorline-edge device", AUTHORITY_LIFETIME).map_err(AgentError::Certificate)?;
    // The key first: a certificate without one would be trusted for nothing.
    replace(&key, secret.as_bytes())?;
    replace(&certificate, authority.certificate().as_bytes())?;
    Ok(authority)
}

/// A property bag for what goes upstream: who sent it, and an id by which it is known when it comes twice.
pub(super) fn forwarded(sender: &ClientId, sequence: u64, mut properties: Properties) -> Properties {
    properties.set_system("cdid", Some(sender.device_name()));
    properties.set_system("cmid", sender.module_name());
    if properties.system("mid").is_none() {
        properties.set_system("mid", Some(&format!("edge-{sequence}")));
    }
    properties
}
