//! Container hosts: the target of every compute of `type: container`, opened when it is first needed and opened anew
//! when its settings change.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use moorline_core::{DeploymentId, ErrorClass, Name, Target, TargetError};
use moorline_deploy::{
    container::{ContainerConfig, ContainerTarget, Engine, EngineHost, TlsFiles},
    image::Images,
    local::OnChange,
    registry::Registries,
};
use moorline_spec::{Compute, ContainerHost, from_json};
use moorline_store::{RecordKind, Store};

use crate::problem::chain;

/// So long a host that could not be opened is not tried again.
const FAILED_FOR: Duration = Duration::from_secs(5);

/// A host's target, and what its compute says.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) settings: ContainerHost,
    pub(crate) target: Arc<ContainerTarget>,
}

/// The container hosts of a server. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Hosts(Arc<Inner>);

struct Inner {
    store: Store,
    images: Images,
    registries: Registries,
    environment: BTreeMap<String, String>,
    /// By which containers know whose they are.
    owner: String,
    on_change: OnChange,
    open: Mutex<HashMap<Key, Arc<Host>>>,
    /// Held while a host is opened, so that it is opened once.
    opening: tokio::sync::Mutex<()>,
    /// Hosts that could not be opened, when, and why.
    failed: Mutex<HashMap<Key, Failed>>,
}

type Key = (Name, Name);

/// Why a host could not be opened, when, and with which settings.
struct Failed {
    when: Instant,
    settings: ContainerHost,
    class: ErrorClass,
    reason: String,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hosts").field("owner", &self.owner).finish_non_exhaustive()
    }
}

impl Hosts {
    pub(crate) fn new(
        store: Store,
        images: Images,
        registries: Registries,
        environment: BTreeMap<String, String>,
        owner: String,
        on_change: OnChange,
    ) -> Self {
        Self(Arc::new(Inner {
            store,
            images,
            registries,
            environment,
            owner,
            on_change,
            open: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            failed: Mutex::default(),
        }))
    }

    /// The host of a compute, as its settings are now.
    pub(crate) async fn host(&self, workspace: &Name, compute: &Name) -> Result<Arc<Host>, TargetError> {
        let settings = self.settings(workspace, compute).await?;
        let key = (lower(workspace), lower(compute));
        if let Some(host) = self.known(&key, &settings) {
            return Ok(host);
        }
        let _turn = self.0.opening.lock().await;
        if let Some(host) = self.known(&key, &settings) {
            return Ok(host);
        }
        if let Some((class, reason)) = self.failed_lately(&key, &settings) {
            return Err(TargetError::new(class, reason));
        }
        // What it began goes on, and is adopted by the one that takes its place.
        let before = self.open().remove(&key);
        if let Some(before) = before {
            before.target.shutdown(true).await;
        }
        let engine = engine_host(&settings, &self.0.environment)?;
        let config = ContainerConfig {
            publish: settings.publish,
            ..ContainerConfig::new(
                format!("{}/{workspace}/{compute}", self.0.owner),
                engine,
                self.0.images.clone(),
                self.0.registries.clone(),
            )
        };
        let target =
            ContainerTarget::open(config, Arc::clone(&self.0.on_change)).await.inspect_err(|error| {
                self.failed().insert(
                    key.clone(),
                    Failed {
                        when: Instant::now(),
                        settings: settings.clone(),
                        class: error.class,
                        reason: chain(error),
                    },
                );
            })?;
        let host = Arc::new(Host { settings, target });
        self.open().insert(key, Arc::clone(&host));
        Ok(host)
    }

    /// The Engine that Docker's own tools would use here, if there is one.
    pub(crate) async fn usual_engine(&self) -> Result<Option<Engine>, TargetError> {
        let Some(host) = EngineHost::discover(&self.0.environment).map_err(invalid_host)? else {
            return Ok(None);
        };
        let engine = Engine::connect(&host).await;
        engine
            .map(Some)
            .map_err(|error| TargetError::caused(error.class(), "the Engine cannot be used", error))
    }

    /// Stops what runs on a host and is not among `known`: the computes and deployments that there are. It goes on
    /// after this returns, since an Engine may take its time. A host that cannot be reached is left as it is.
    pub(crate) async fn settle(&self, known: &[(Name, DeploymentId)]) {
        let computes = match self.0.store.records(RecordKind::Compute, None).await {
            Ok(computes) => computes,
            Err(error) => {
                return tracing::warn!(%error, "the container hosts could not be read, and none is looked at");
            }
        };
        let hosts = computes.iter().filter_map(|record| {
            let name: Name = record.name.parse().ok()?;
            (record.body["type"] == "container").then_some((record.workspace.clone(), name))
        });
        for (workspace, compute) in hosts {
            let own: Vec<DeploymentId> = known
                .iter()
                .filter(|(on, id)| same(on, &compute) && same(&id.workspace, &workspace))
                .map(|(_, id)| id.clone())
                .collect();
            let hosts = self.clone();
            tokio::spawn(async move {
                match hosts.host(&workspace, &compute).await {
                    Ok(host) => host.target.settle(&own).await,
                    Err(error) => {
                        tracing::warn!(%compute, error = chain(&error), "a container host cannot be used now");
                    }
                }
            });
        }
    }

    /// Removes a deployment from every host that is open.
    pub(crate) async fn remove(&self, id: &DeploymentId) -> Result<(), TargetError> {
        let hosts: Vec<Arc<Host>> = self
            .open()
            .iter()
            .filter(|((workspace, _), _)| same(workspace, &id.workspace))
            .map(|(_, host)| Arc::clone(host))
            .collect();
        for host in hosts {
            host.target.remove(id).await?;
        }
        Ok(())
    }

    pub(crate) async fn shutdown(&self, keep: bool) {
        let hosts: Vec<Arc<Host>> = self.open().values().map(Arc::clone).collect();
        join_all(hosts.iter().map(|host| host.target.shutdown(keep))).await;
    }

    async fn settings(&self, workspace: &Name, compute: &Name) -> Result<ContainerHost, TargetError> {
        let record = self.0.store.record(workspace, RecordKind::Compute, compute.as_str()).await;
        let record = record.map_err(|error| {
            TargetError::caused(error.class(), format!("compute `{compute}` cannot be used"), error)
        })?;
        let mut body = record.body;
        body["name"] = record.name.into();
        let read = from_json::<Compute>(&body).map_err(|error| {
            TargetError::caused(ErrorClass::Internal, format!("compute `{compute}` cannot be read"), error)
        })?;
        Ok(read.document.container())
    }

    fn known(&self, key: &Key, settings: &ContainerHost) -> Option<Arc<Host>> {
        self.open().get(key).filter(|host| host.settings == *settings).map(Arc::clone)
    }

    /// Why the host could not be opened a moment ago: an Engine that does not answer makes every asker wait only once.
    fn failed_lately(&self, key: &Key, settings: &ContainerHost) -> Option<(ErrorClass, String)> {
        let mut failed = self.failed();
        failed.retain(|_, failed| failed.when.elapsed() < FAILED_FOR);
        let failed = failed.get(key).filter(|failed| failed.settings == *settings)?;
        Some((failed.class, failed.reason.clone()))
    }

    fn failed(&self) -> MutexGuard<'_, HashMap<Key, Failed>> {
        self.0.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Key, Arc<Host>>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the Engine of a compute listens.
fn engine_host(
    settings: &ContainerHost,
    environment: &BTreeMap<String, String>,
) -> Result<EngineHost, TargetError> {
    let host = match &settings.host {
        Some(text) => text.parse::<EngineHost>().map_err(invalid_host)?,
        None => EngineHost::discover(environment).map_err(invalid_host)?.ok_or_else(|| {
            TargetError::new(
                ErrorClass::Unavailable,
                "no Engine was found on the server's machine: start Docker or Podman, or give the compute a `host`",
            )
        })?,
    };
    Ok(match &settings.tls {
        Some(tls) => {
            host.with_tls(TlsFiles { ca: tls.ca.clone(), cert: tls.cert.clone(), key: tls.key.clone() })
        }
        None => host,
    })
}

fn invalid_host(error: moorline_deploy::container::HostError) -> TargetError {
    TargetError::caused(ErrorClass::InvalidInput, "the Engine's address cannot be used", error)
}

/// Names are the same whatever their case.
fn same(one: &Name, other: &Name) -> bool {
    one.as_str().eq_ignore_ascii_case(other.as_str())
}

fn lower(name: &Name) -> Name {
    name.as_str().to_ascii_lowercase().parse().unwrap_or_else(|_| name.clone())
}
