//! The target: the deployments of one namespace, found by their labels and kept by watches.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::join_all;
use kube::Api;
use moorline_core::{
    DeploymentId, Desired, ErrorClass, LogOptions, LogStream, Manifest, Name, Observation, Placement, Target,
    TargetError, TargetKind,
};
use moorline_spec::InstanceType;
use serde_json::Value;
use tokio::{sync::Notify, task::JoinHandle};

use super::{
    cluster::{Cluster, ClusterAddress},
    deployment::Deployment,
    drift,
    forward::Forwards,
    gateway::{self, DeploymentReport, GatewayHooks, GatewaySettings, NamespaceGateway, PublishedEndpoint},
    logs, names,
    objects::{self, Look},
    served::Kind,
    sizes,
    watch::{self, Cache, OnEvent},
};
use crate::{checks, local::OnChange, routes::Routes};

/// One namespace of a cluster, and what its deployments have in common.
#[derive(Clone, Debug)]
pub struct KubernetesConfig {
    /// Whose objects they are: unique to a server and a compute, since others may use the same namespace.
    pub owner: String,
    pub cluster: ClusterAddress,
    /// Secrets of the namespace with the credentials of a registry.
    pub image_pull_secrets: Vec<String>,
    /// Pods are reached through the API server, and not by their addresses.
    pub forward: bool,
    /// So long must a pod that ends have had no request: what sends to it hears of its end meanwhile.
    pub settle: Duration,
    /// Whether a model that is an image of its own is a volume as it is; `None`: where the cluster can do that.
    pub image_volumes: Option<bool>,
    /// Endpoints are served by a gateway of the namespace too.
    pub gateway: Option<(GatewaySettings, GatewayHooks)>,
}

impl KubernetesConfig {
    pub fn new(owner: String, cluster: ClusterAddress) -> Self {
        Self {
            owner,
            cluster,
            image_pull_secrets: Vec::new(),
            forward: false,
            settle: Duration::from_secs(3),
            image_volumes: None,
            gateway: None,
        }
    }
}

/// What deployments share.
pub(super) struct Context {
    pub(super) look: Look,
    pub(super) cluster: Cluster,
    pub(super) cache: Arc<Cache>,
    pub(super) forwards: Option<Forwards>,
    pub(super) on_change: OnChange,
    writes: AtomicU64,
}

impl Context {
    pub(super) fn count_write(&self) {
        self.writes.fetch_add(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("owner", &self.look.owner).finish_non_exhaustive()
    }
}

/// Scorers, and servers of others, as pods of a cluster.
///
/// Dropping it, or the end of its server, leaves everything in the cluster as it is, to be found by the next one that is
/// opened: who runs on a cluster does not want it empty because the control plane is started anew.
#[derive(Debug)]
pub struct KubernetesTarget {
    context: Arc<Context>,
    deployments: Deployments,
    gateway: Option<Arc<NamespaceGateway>>,
    closed: AtomicBool,
    watches: Vec<JoinHandle<()>>,
}

type Deployments = Arc<Mutex<HashMap<DeploymentId, Arc<Deployment>>>>;

/// One object, and what applying would do to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub kind: &'static str,
    pub name: String,
    pub action: Action,
}

/// What applying would do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Create,
    /// The places that would change: path, what is there, what would be there.
    Change(Vec<(String, Value, Value)>),
    Keep,
    Remove,
}

impl KubernetesTarget {
    /// Connects and finds what is there of this owner. It is left as it is until its deployment is applied.
    pub async fn open(
        config: KubernetesConfig,
        environment: &BTreeMap<String, String>,
        on_change: OnChange,
    ) -> Result<Arc<Self>, TargetError> {
        let cluster = Cluster::connect(&config.cluster, environment).await?;
        Self::on(cluster, config, on_change).await
    }

    pub(super) async fn on(
        cluster: Cluster,
        config: KubernetesConfig,
        on_change: OnChange,
    ) -> Result<Arc<Self>, TargetError> {
        let look = Look {
            owner: config.owner,
            namespace: cluster.namespace.clone(),
            image_pull_secrets: config.image_pull_secrets,
            settle_ms: u64::try_from(config.settle.as_millis()).unwrap_or(u64::MAX),
            image_volumes: config.image_volumes.unwrap_or(cluster.served.image_volumes),
            served: cluster.served.clone(),
        };
        let forwards = config
            .forward
            .then(|| Forwards::new(Api::namespaced(cluster.client.clone(), &cluster.namespace)));
        let cache = Arc::new(Cache::default());
        let deployments = Deployments::default();
        let wake = Arc::new(Notify::new());
        let gateway_name = config.gateway.as_ref().map(|(settings, _)| settings.name.clone());
        let on_event = waker(&deployments, gateway_name.clone(), Arc::clone(&wake));
        let ways_in = Kind::WAYS_IN.into_iter().filter(|_| gateway_name.is_some());
        let kinds = Kind::OF_DEPLOYMENTS.into_iter().chain(ways_in);
        let watches = watch::watch(&cluster, &look.owner, kinds, &cache, &on_event).await?;
        let context =
            Arc::new(Context { look, cluster, cache, forwards, on_change, writes: AtomicU64::new(0) });
        for id in context.cache.deployments() {
            let found = Deployment::open(Arc::clone(&context), id.clone());
            lock(&deployments).insert(id, found);
        }
        gateway::remove_others(&context, gateway_name.as_deref()).await;
        let gateway = match config.gateway {
            Some((settings, hooks)) => {
                Some(NamespaceGateway::open(Arc::clone(&context), settings, hooks, wake).await?)
            }
            None => None,
        };
        Ok(Arc::new(Self { context, deployments, gateway, closed: AtomicBool::new(false), watches }))
    }

    pub fn cluster(&self) -> &Cluster {
        &self.context.cluster
    }

    /// Says what the route of an endpoint is now, to the gateway of the namespace if there is one.
    pub fn publish(&self, route: PublishedEndpoint) {
        if let Some(gateway) = &self.gateway {
            gateway.publish(route);
        }
    }

    /// Says that an endpoint has nothing here, or not any more.
    pub fn withdraw(&self, workspace: &Name, endpoint: &Name) {
        if let Some(gateway) = &self.gateway {
            gateway.withdraw(workspace, endpoint);
        }
    }

    /// Whether endpoints are served by a gateway of the namespace too.
    pub fn has_gateway(&self) -> bool {
        self.gateway.is_some()
    }

    /// What the gateway of the namespace has counted of a deployment.
    pub fn gateway_report(&self, id: &DeploymentId) -> DeploymentReport {
        self.gateway.as_ref().map(|gateway| gateway.report(id)).unwrap_or_default()
    }

    /// What the cluster itself says that an instance type is: where Azure ML's extension was, they are objects of it.
    pub async fn instance_type(&self, name: &str) -> Result<Option<InstanceType>, TargetError> {
        Ok(sizes::instance_type(&self.context.cluster, name).await?)
    }

    /// What the gateway finds the pods of a deployment by: their label, and the port that takes requests.
    pub fn pods_of(&self, desired: &Desired) -> (String, u16) {
        let own_server =
            desired.environment.as_ref().and_then(|environment| environment.inference_config.as_ref());
        (names::object_name(&self.context.look.owner, &desired.id), Routes::of(own_server).data_port)
    }

    /// How many requests that change something the cluster has accepted, dry runs among them.
    pub fn writes(&self) -> u64 {
        self.context.writes.load(Ordering::Relaxed)
    }

    /// Says which deployments there were when this was opened: what was found of others is drained and removed. What
    /// was applied since is left alone.
    pub async fn settle(&self, known: &[DeploymentId]) {
        let others: Vec<_> = lock(&self.deployments)
            .iter()
            .filter(|(id, deployment)| !known.contains(id) && !deployment.was_applied())
            .map(|(_, deployment)| Arc::clone(deployment))
            .collect();
        for deployment in &others {
            deployment.remove();
        }
        join_all(others.iter().map(|deployment| deployment.gone())).await;
        lock(&self.deployments).retain(|_, deployment| !deployment.is_gone());
        if let Some(gateway) = &self.gateway {
            gateway.settle(known);
        }
    }

    /// Ends. Everything in the cluster goes on.
    pub fn shutdown(&self) {
        self.closed.store(true, Ordering::SeqCst);
        if let Some(gateway) = &self.gateway {
            gateway.leave();
        }
        for deployment in lock(&self.deployments).values() {
            deployment.leave();
        }
        self.watches.iter().for_each(JoinHandle::abort);
    }

    /// What applying would change in the cluster, object by object.
    pub fn diff(&self, placement: &Placement) -> Result<Vec<Change>, TargetError> {
        objects::check(placement)?;
        let Context { look, cache, .. } = &*self.context;
        let name = names::object_name(&look.owner, &placement.id);
        let mut changes = Vec::new();
        let mut wanted = Vec::new();
        for object in objects::objects(look, placement, false) {
            let Some(kind) = Kind::of(&object) else { continue };
            let own = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let action = match cache.object(&name, kind, &own) {
                None => Action::Create,
                Some(_) if kind == Kind::Secret => Action::Keep,
                Some(live) => match drift::all(&object, &live) {
                    places if places.is_empty() => Action::Keep,
                    places => Action::Change(places),
                },
            };
            wanted.push((kind, own.clone()));
            changes.push(Change { kind: kind.as_str(), name: own, action });
        }
        for (kind, own) in cache.names(&name) {
            if !wanted.contains(&(kind, own.clone())) {
                changes.push(Change { kind: kind.as_str(), name: own, action: Action::Remove });
            }
        }
        Ok(changes)
    }

    fn known(&self, id: &DeploymentId) -> Option<Arc<Deployment>> {
        lock(&self.deployments).get(id).filter(|deployment| !deployment.is_gone()).map(Arc::clone)
    }

    fn check_open(&self) -> Result<(), TargetError> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(TargetError::new(ErrorClass::Unavailable, "the cluster's target is shutting down"));
        }
        Ok(())
    }
}

impl Drop for KubernetesTarget {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// Wakes the deployment or the gateway that something was seen of.
fn waker(deployments: &Deployments, gateway: Option<String>, wake: Arc<Notify>) -> OnEvent {
    let deployments = Arc::downgrade(deployments);
    // By the name of its objects, which is what watches speak of.
    let by_name: OnceLock<Mutex<HashMap<String, DeploymentId>>> = OnceLock::new();
    Arc::new(move |name| {
        if gateway.as_deref() == Some(name) {
            return wake.notify_one();
        }
        let Some(deployments) = deployments.upgrade() else { return };
        let all = lock(&deployments);
        let mut known = by_name.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        if known.get(name).is_none_or(|id| !all.contains_key(id)) {
            *known = all.iter().map(|(id, own)| (own.name().to_owned(), id.clone())).collect();
        }
        if let Some(deployment) = known.get(name).and_then(|id| all.get(id)) {
            deployment.wake();
        }
    })
}

fn lock(
    deployments: &Mutex<HashMap<DeploymentId, Arc<Deployment>>>,
) -> MutexGuard<'_, HashMap<DeploymentId, Arc<Deployment>>> {
    deployments.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Target for KubernetesTarget {
    async fn admit(&self, desired: &Desired) -> Result<(), TargetError> {
        if desired.target != TargetKind::Kubernetes {
            return Err(TargetError::new(
                ErrorClass::Unsupported,
                format!(
                    "compute `{}` is of type {}, and not kubernetes",
                    desired.compute,
                    desired.target.as_str()
                ),
            ));
        }
        checks::desired(desired)?;
        desired.release.environment_variables.keys().try_for_each(|name| objects::variable(name))?;
        match &self.gateway {
            Some(gateway) => gateway.admit().await,
            None => Ok(()),
        }
    }

    fn render(&self, placement: &Placement) -> Result<Manifest, TargetError> {
        objects::check(placement)?;
        Ok(Manifest { documents: objects::objects(&self.context.look, placement, false) })
    }

    async fn apply(&self, placement: &Placement) -> Result<(), TargetError> {
        self.check_open()?;
        objects::check(placement)?;
        // A removal that is under way ends first; its deployment is another one.
        if let Some(known) = self.known(&placement.id)
            && known.is_ending()
        {
            known.gone().await;
            self.check_open()?;
        }
        let (deployment, is_new) = {
            let mut deployments = lock(&self.deployments);
            match deployments.get(&placement.id) {
                Some(known) if !known.is_gone() => (Arc::clone(known), false),
                _ => {
                    let new = Deployment::open(Arc::clone(&self.context), placement.id.clone());
                    deployments.insert(placement.id.clone(), Arc::clone(&new));
                    (new, true)
                }
            }
        };
        let applied = deployment.apply(placement).await;
        if applied.is_err() && is_new {
            // Nothing of it is there.
            deployment.leave();
            lock(&self.deployments).remove(&placement.id);
        }
        applied
    }

    async fn observe(&self, id: &DeploymentId) -> Result<Observation, TargetError> {
        Ok(self.known(id).map_or_else(Observation::absent, |deployment| deployment.observe()))
    }

    async fn logs(&self, id: &DeploymentId, options: LogOptions) -> Result<LogStream, TargetError> {
        logs::open(&self.context, id, options).await
    }

    async fn remove(&self, id: &DeploymentId) -> Result<(), TargetError> {
        self.check_open()?;
        if let Some(known) = self.known(id) {
            known.remove();
            known.gone().await;
            lock(&self.deployments).retain(|own, deployment| own != id || !deployment.is_gone());
        }
        Ok(())
    }
}
