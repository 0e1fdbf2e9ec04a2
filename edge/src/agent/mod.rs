//! The agent of a device: it keeps a connection to the hub, brings about what the device is to run, and says what came of
//! it. What runs goes on without a hub, and comes up again without one.

mod bridge;
mod gateway;
mod identity;
mod link;
mod measure;
mod methods;
mod reconcile;
mod report;
mod runs;
mod scoring;
mod twins;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use thiserror::Error;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

pub use bridge::{BridgeConfig, BridgeError};
pub use gateway::GatewayConfig;
pub use identity::Identity;
pub use measure::PERIODS;

use self::{reconcile::Reconciler, runs::Runs};
use crate::{
    containers::{Containers, ContainersConfig},
    images::Images,
    modules::{About, ContainerHost, ModuleError, Modules, ModulesConfig},
    releases::{Releases, ReleasesConfig, ReleasesError},
    secrets::Secrets,
};

/// Why an agent does not run.
#[derive(Debug, Error)]
pub enum AgentError {
    #[error("this device is not enrolled: there is no `{}`; run `moorline-edge enrol`", .0.display())]
    NotEnrolled(PathBuf),
    #[error("could not read or write `{}`", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("`{}` cannot be read", path.display())]
    Damaged { path: PathBuf, source: serde_json::Error },
    #[error("another agent runs in `{}`; end it first", .0.display())]
    InUse(PathBuf),
    #[error("the modules could not be taken up")]
    Modules(#[from] ModuleError),
    #[error("the releases could not be taken up")]
    Releases(#[from] ReleasesError),
    #[error("the device's own hub could not be started")]
    Hub(#[source] crate::hub::HubError),
    #[error("a certificate of the device's own could not be made")]
    Certificate(#[source] crate::authority::AuthorityError),
    #[error("a module's workload socket could not be served")]
    Workload(#[source] crate::workload::WorkloadError),
    #[error("the machine gives no random numbers")]
    Random,
    #[error("`{0}` is no address; enrol again")]
    Address(String),
    #[error("the client for HTTPS could not be made")]
    Http(#[source] reqwest::Error),
}

/// How an agent is run.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Of everything that it keeps.
    pub folder: PathBuf,
    pub modules: ModulesConfig,
    /// Modules as containers, where the device has an Engine.
    pub containers: Option<ContainersConfig>,
    /// Bytes that releases may take.
    pub quota: u64,
    /// Bytes in a second that fetching them may take.
    pub bandwidth: Option<u64>,
    /// The device's own hub, if it has one.
    pub gateway: Option<GatewayConfig>,
    /// How often it is looked whether the certificate is to be renewed.
    pub renew_check: Duration,
    /// How often the server is told what the device measures: within [`PERIODS`].
    pub measure_every: Duration,
}

/// Runs until `end`.
pub async fn run(config: AgentConfig, end: CancellationToken) -> Result<(), AgentError> {
    let _lock = lock(&config.folder)?;
    let identity = Identity::open(&config.folder)?;
    let client = https(&identity, None)?;
    let own = https(&identity, Some(&identity.key))?;
    let releases = Arc::new(Releases::open(
        ReleasesConfig {
            folder: config.folder.join("releases"),
            base: address(&identity.enrolled.facts.releases)?,
            quota: config.quota,
            bandwidth: config.bandwidth,
            stall: Duration::from_secs(30),
        },
        own,
    )?);
    let containers = config.containers.clone().map(|containers| Arc::new(Containers::new(containers)));
    let host =
        containers.as_ref().map(|own| Arc::new(ContainerHost::new(Arc::clone(own.engine()), own.owner())));
    let secrets = config.folder.join("secrets");
    let about = About { secrets: secrets.clone(), host };
    let modules = Arc::new(Modules::open(config.modules.clone(), about)?);
    let runs = Runs { modules, containers };
    let status = Arc::new(report::Status::default());
    let gateway = match &config.gateway {
        None => None,
        Some(own) => match gateway::Gateway::start(&config.folder, &identity, own).await {
            Ok(gateway) => Some(gateway),
            // Modules serve without it.
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "the device has no hub of its own");
                None
            }
        },
    };
    if let Some(gateway) = &gateway {
        status.set(|told| told.gateway = Some(gateway.hub().mqtt_address()));
    }
    let (identities, identity) = watch::channel(identity);
    let images =
        runs.containers.as_ref().map(|own| Images::new(Arc::clone(&releases), Arc::clone(own.engine())));
    let bringing = reconcile::Bringing {
        releases: Arc::clone(&releases),
        images,
        secrets: Secrets::new(secrets, Arc::clone(&releases)),
        runs: runs.clone(),
        gateway: gateway.clone(),
        status: Arc::clone(&status),
    };
    let reconciler = Reconciler::open(&config.folder, bringing).await?;
    let (documents, document) = watch::channel(None);
    let renewed = Notify::new();
    let (measuring, measured) = watch::channel(None);
    let looking =
        measure::Measured { runs: runs.clone(), releases, quota: config.quota, gateway: gateway.clone() };
    let link = link::Link {
        documents: &documents,
        runs: &runs,
        gateway: gateway.as_ref(),
        status: &status,
        measured,
    };
    tokio::select! {
        () = reconciler.run(document, identity.clone()) => {}
        () = link::keep(identity.clone(), link, &renewed) => {}
        () = keep_bridge(&config, gateway.as_deref()) => {}
        () = measure::keep(looking, config.measure_every, measuring) => {}
        () = renew(&config, &client, identities, &renewed) => {}
        () = end.cancelled() => {}
    }
    if let Some(gateway) = gateway {
        let hub = gateway.hub().clone();
        // Its readers with it.
        drop(gateway);
        hub.shutdown().await;
    }
    if let Some(containers) = &runs.containers {
        containers.leave().await;
    }
    runs.modules.shutdown().await;
    Ok(())
}

async fn keep_bridge(config: &AgentConfig, gateway: Option<&gateway::Gateway>) {
    let bridge = config.gateway.as_ref().and_then(|gateway| gateway.bridge.as_ref());
    match (bridge, gateway) {
        (Some(bridge), Some(gateway)) => bridge::keep(bridge, gateway).await,
        _ => std::future::pending().await,
    }
}

/// Renews the certificate in good time. What fails is tried again; nothing else waits for it.
async fn renew(
    config: &AgentConfig,
    client: &reqwest::Client,
    identities: watch::Sender<Identity>,
    renewed: &Notify,
) {
    let Ok(server) = address(&identities.borrow().server) else { return std::future::pending().await };
    let mut often = tokio::time::interval(config.renew_check);
    loop {
        often.tick().await;
        let current = identities.borrow().clone();
        match crate::enrol::is_due(&current.enrolled.certificates, std::time::SystemTime::now()) {
            Ok(false) => continue,
            Ok(true) => {}
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "could not read the device's certificate"
                );
                continue;
            }
        }
        let asked = crate::enrol::renew(client, &server, &current.enrolled.certificates, &current.key).await;
        match asked {
            Ok((enrolled, key)) => {
                let new = Identity { enrolled, key, ..current };
                if let Err(error) = new.save(&config.folder) {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "could not keep the new certificate"
                    );
                    continue;
                }
                tracing::info!("renewed the device's certificate");
                identities.send_replace(new);
                renewed.notify_one();
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "could not renew the certificate");
            }
        }
    }
}

/// Asks the server that the device enrolled with, which it trusts by what it learnt there as well. With its key, the device
/// proves who it is.
fn https(identity: &Identity, key: Option<&str>) -> Result<reqwest::Client, AgentError> {
    let trust = reqwest::Certificate::from_pem_bundle(identity.enrolled.facts.trust.as_bytes())
        .map_err(AgentError::Http)?;
    let mut builder = reqwest::Client::builder();
    for certificate in trust {
        builder = builder.tls_certs_merge([certificate]);
    }
    if let Some(key) = key {
        let pem = format!("{}\n{key}", identity.enrolled.certificates);
        builder = builder.identity(reqwest::Identity::from_pem(pem.as_bytes()).map_err(AgentError::Http)?);
    }
    builder.connect_timeout(Duration::from_secs(20)).build().map_err(AgentError::Http)
}

fn address(text: &str) -> Result<reqwest::Url, AgentError> {
    text.parse().map_err(|_| AgentError::Address(text.to_owned()))
}

fn lock(folder: &std::path::Path) -> Result<std::fs::File, AgentError> {
    let path = folder.join("lock");
    let open = || {
        fs_err::create_dir_all(folder)?;
        fs_err::OpenOptions::new().create(true).truncate(false).write(true).open(&path)
    };
    let file = open().map_err(|source| AgentError::Io { path: path.clone(), source })?.into_file();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| AgentError::InUse(folder.to_owned()))?;
    Ok(file)
}
