//! Container hosts: the targets of the computes of `type: container`.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::future::join_all;
use moorline_core::{DeploymentId, ErrorClass, Name, Target, TargetError};
use moorline_deploy::{
    container::{ContainerConfig, ContainerTarget, Engine, EngineHost, TlsFiles},
    image::Images,
    local::OnChange,
    registry::Registries,
};
use moorline_spec::ContainerHost;
use moorline_store::Store;

use crate::{
    opened::{self, Opened, Place, same},
    problem::chain,
};

/// A host's target, and what its compute says.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) settings: ContainerHost,
    pub(crate) target: Arc<ContainerTarget>,
}

impl Place for Host {
    type Settings = ContainerHost;

    fn settings(&self) -> &ContainerHost {
        &self.settings
    }
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
    opened: Opened<Host>,
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
            opened: Opened::default(),
        }))
    }

    /// The host of a compute, as its settings are now.
    pub(crate) async fn host(&self, workspace: &Name, compute: &Name) -> Result<Arc<Host>, TargetError> {
        let settings = opened::compute(&self.0.store, workspace, compute).await?.container();
        // What the former one began goes on, and is adopted by the one that takes its place.
        let close = |before: Arc<Host>| async move { before.target.shutdown(true).await };
        let open = || async {
            let config = ContainerConfig {
                publish: settings.publish,
                ..ContainerConfig::new(
                    format!("{}/{workspace}/{compute}", self.0.owner),
                    engine_host(&settings, &self.0.environment)?,
                    self.0.images.clone(),
                    self.0.registries.clone(),
                )
            };
            let target = ContainerTarget::open(config, Arc::clone(&self.0.on_change)).await?;
            Ok(Host { settings: settings.clone(), target })
        };
        self.0.opened.get(workspace, compute, &settings, close, open).await
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
        for (workspace, compute) in opened::computes(&self.0.store, "container").await {
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
        for host in self.0.opened.of_workspace(&id.workspace) {
            host.target.remove(id).await?;
        }
        Ok(())
    }

    pub(crate) async fn shutdown(&self, keep: bool) {
        let hosts = self.0.opened.all();
        join_all(hosts.iter().map(|host| host.target.shutdown(keep))).await;
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
