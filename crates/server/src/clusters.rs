//! Clusters: the targets of the computes of `type: kubernetes`.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use moorline_core::{DeploymentId, ErrorClass, Name, Target, TargetError};
use moorline_deploy::{
    kubernetes::{
        ClusterAddress, GatewayHooks, GatewayParent, GatewaySettings, ImageSupply, KubernetesConfig,
        KubernetesTarget,
    },
    local::OnChange,
};
use moorline_spec::{KubernetesCluster, ModelVolumeKind, Reach};
use moorline_store::Store;

use crate::{
    images::ImageMaker,
    opened::{self, Opened, Place, same},
    problem::chain,
};

/// A cluster's target, and what its compute says.
#[derive(Debug)]
pub(crate) struct Namespace {
    /// The compute's name.
    pub(crate) compute: Name,
    pub(crate) settings: KubernetesCluster,
    pub(crate) target: Arc<KubernetesTarget>,
}

impl Place for Namespace {
    type Settings = KubernetesCluster;

    fn settings(&self) -> &KubernetesCluster {
        &self.settings
    }
}

/// The namespaces of clusters that a server deploys to. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Clusters(Arc<Inner>);

struct Inner {
    store: Store,
    environment: BTreeMap<String, String>,
    /// By which objects know whose they are.
    owner: String,
    on_change: OnChange,
    gateways: Gateways,
    opened: Opened<Namespace>,
}

/// What it takes to have gateways in clusters.
pub(crate) struct Gateways {
    pub(crate) images: ImageMaker,
    /// The program that a gateway runs: this server's.
    pub(crate) program: PathBuf,
    /// What it is told, beside what its compute says.
    pub(crate) variables: BTreeMap<String, String>,
    /// Told of deployments for which requests wait there.
    pub(crate) waited_for: OnChange,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clusters").field("owner", &self.owner).finish_non_exhaustive()
    }
}

impl Clusters {
    pub(crate) fn new(
        store: Store,
        environment: BTreeMap<String, String>,
        owner: String,
        on_change: OnChange,
        gateways: Gateways,
    ) -> Self {
        Self(Arc::new(Inner { store, environment, owner, on_change, gateways, opened: Opened::default() }))
    }

    /// The namespace of a compute, as its settings are now.
    pub(crate) async fn namespace(
        &self,
        workspace: &Name,
        compute: &Name,
    ) -> Result<Arc<Namespace>, TargetError> {
        let settings = opened::compute(&self.0.store, workspace, compute).await?.kubernetes();
        // What runs there goes on, and is adopted by the one that takes its place.
        let close = |before: Arc<Namespace>| async move { before.target.shutdown() };
        let open = || async {
            let owner = format!("{}/{workspace}/{compute}", self.0.owner);
            let cluster = ClusterAddress {
                kubeconfig: settings.kubeconfig.clone(),
                context: settings.context.clone(),
                namespace: settings.namespace.clone(),
            };
            let config = KubernetesConfig {
                image_pull_secrets: settings.image_pull_secrets.clone(),
                forward: settings.reach == Some(Reach::Forward),
                image_volumes: settings
                    .model_volume
                    .as_ref()
                    .and_then(|volume| volume.by)
                    .map(|by| by == ModelVolumeKind::Image),
                gateway: self.gateway(workspace, compute, &settings)?,
                ..KubernetesConfig::new(owner, cluster)
            };
            let on_change = Arc::clone(&self.0.on_change);
            let target = Box::pin(KubernetesTarget::open(config, &self.0.environment, on_change)).await?;
            Ok(Namespace { compute: compute.clone(), settings: settings.clone(), target })
        };
        self.0.opened.get(workspace, compute, &settings, close, open).await
    }

    /// The gateway of a compute, if it has one.
    fn gateway(
        &self,
        workspace: &Name,
        compute: &Name,
        settings: &KubernetesCluster,
    ) -> Result<Option<(GatewaySettings, GatewayHooks)>, TargetError> {
        let Some(gateway) = settings.gateway.clone() else { return Ok(None) };
        let Some(registry) = settings.registry.clone() else {
            return Err(TargetError::new(
                ErrorClass::InvalidInput,
                format!(
                    "compute `{compute}` has a `gateway` and no `registry`, which its image is pulled from"
                ),
            ));
        };
        let (own, workspace, sign_with) =
            (Arc::clone(&self.0), workspace.clone(), settings.sign_with.clone());
        let image: ImageSupply = Arc::new(move || {
            let (own, workspace) = (Arc::clone(&own), workspace.clone());
            let (registry, sign_with) = (registry.clone(), sign_with.clone());
            Box::pin(async move {
                let Gateways { images, program, .. } = &own.gateways;
                images.gateway(program, &workspace, &registry, sign_with.as_deref()).await
            })
        });
        let parent = |parent: moorline_spec::GatewayParent| GatewayParent {
            name: parent.name,
            namespace: parent.namespace,
            section: parent.section,
        };
        let settings = GatewaySettings {
            name: gateway.name,
            replicas: gateway.replicas,
            host: gateway.host,
            ingress_class: gateway.ingress_class,
            tls_secret: gateway.tls_secret,
            parent: gateway.parent.map(parent),
            variables: self.0.gateways.variables.clone(),
        };
        Ok(Some((settings, GatewayHooks { image, waited_for: Arc::clone(&self.0.gateways.waited_for) })))
    }

    /// Those of a workspace that are open and have a gateway of their own.
    pub(crate) fn with_gateways(&self, workspace: &Name) -> Vec<Arc<Namespace>> {
        let mut open = self.0.opened.of_workspace(workspace);
        open.retain(|namespace| namespace.target.has_gateway());
        open
    }

    /// Removes what is in a cluster and is not among `known`: the computes and deployments that there are. It goes on
    /// after this returns. A cluster that cannot be reached is left as it is.
    pub(crate) async fn settle(&self, known: &[(Name, DeploymentId)]) {
        for (workspace, compute) in opened::computes(&self.0.store, "kubernetes").await {
            let own: Vec<DeploymentId> = known
                .iter()
                .filter(|(on, id)| same(on, &compute) && same(&id.workspace, &workspace))
                .map(|(_, id)| id.clone())
                .collect();
            let clusters = self.clone();
            tokio::spawn(async move {
                match clusters.namespace(&workspace, &compute).await {
                    Ok(namespace) => namespace.target.settle(&own).await,
                    Err(error) => {
                        tracing::warn!(%compute, error = chain(&error), "a cluster cannot be used now");
                    }
                }
            });
        }
    }

    /// Removes a deployment from every cluster that is open.
    pub(crate) async fn remove(&self, id: &DeploymentId) -> Result<(), TargetError> {
        for namespace in self.0.opened.of_workspace(&id.workspace) {
            namespace.target.remove(id).await?;
        }
        Ok(())
    }

    /// Lets go of everything, which goes on.
    pub(crate) fn shutdown(&self) {
        self.0.opened.all().iter().for_each(|namespace| namespace.target.shutdown());
    }
}
