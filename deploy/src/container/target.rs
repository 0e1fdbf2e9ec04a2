//! The target: the deployments of one Engine, found by their labels and told of the Engine's events.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bollard::{
    models::ContainerSummary,
    query_parameters::{EventsOptions, ListContainersOptions},
};
use futures_util::{StreamExt, future::join_all};
use moorline_core::{
    Backoff, DeploymentId, Desired, ErrorClass, LogOptions, LogStream, Manifest, Observation, Placement,
    Source, Target, TargetError, TargetKind,
};
use tokio::task::JoinHandle;

use super::{
    Engine, EngineError, EngineHost,
    deployment::Deployment,
    document::{self, Identity, ImageFacts},
    logs,
};
use crate::{Progress, checks, image::Images, local::OnChange, registry::Registries, routes::Routes};

/// One Engine, and what its containers have in common.
#[derive(Clone)]
pub struct ContainerConfig {
    /// Whose containers they are: unique to a server and a compute, since others may use the same Engine.
    pub owner: String,
    pub host: EngineHost,
    /// The Engine's address that ports are published on: loopback where it is left out.
    pub publish: Option<IpAddr>,
    pub images: Images,
    pub registries: Registries,
    /// How long requests in flight may take once a container is drained.
    pub drain_timeout: Duration,
    /// How long a container may take to end after it was told to.
    pub kill_after: Duration,
    /// The size at which a container's log is turned over.
    pub log_file_bytes: u64,
}

impl ContainerConfig {
    pub fn new(owner: String, host: EngineHost, images: Images, registries: Registries) -> Self {
        Self {
            owner,
            host,
            publish: None,
            images,
            registries,
            drain_timeout: Duration::from_secs(30),
            kill_after: Duration::from_secs(10),
            log_file_bytes: 10 * 1024 * 1024,
        }
    }

    pub(super) fn stop_seconds(&self) -> i64 {
        i64::try_from((self.drain_timeout + self.kill_after).as_secs()).unwrap_or(i64::MAX)
    }
}

impl fmt::Debug for ContainerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContainerConfig")
            .field("owner", &self.owner)
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

/// What deployments share.
pub(super) struct Context {
    pub(super) config: ContainerConfig,
    pub(super) engine: Engine,
    /// Where the Engine publishes ports.
    pub(super) publish: IpAddr,
    /// Where such ports are found from here.
    pub(super) reached_at: IpAddr,
    pub(super) on_change: OnChange,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("owner", &self.config.owner).finish_non_exhaustive()
    }
}

impl Context {
    /// Every container of this owner, or of one of its deployments, whether it runs or not.
    pub(super) async fn containers(
        &self,
        of: Option<&DeploymentId>,
    ) -> Result<Vec<(Identity, ContainerSummary)>, EngineError> {
        let mut labels = vec![document::owner_label(&self.config.owner)];
        if let Some(id) = of {
            let own = document::endpoint_labels(&self.config.owner, id);
            labels.extend(own.iter().map(|(name, value)| format!("{name}={value}")));
            labels.push(format!("io.moorline.deployment={}", id.deployment));
        }
        let options = ListContainersOptions {
            all: true,
            filters: Some([("label".to_owned(), labels)].into()),
            ..ListContainersOptions::default()
        };
        let listed = self.engine.docker().list_containers(Some(options)).await;
        let listed = listed.map_err(|error| EngineError::of("could not list the containers", error))?;
        let known = listed.into_iter().filter_map(|container| {
            let identity = Identity::of(container.labels.as_ref()?)?;
            (identity.owner == self.config.owner).then_some((identity, container))
        });
        Ok(known.collect())
    }
}

/// Scorers, and servers of others, as containers of an Engine.
///
/// Dropping it leaves the containers running, to be found again by the next one that is opened.
#[derive(Debug)]
pub struct ContainerTarget {
    context: Arc<Context>,
    deployments: Deployments,
    closed: AtomicBool,
    events: JoinHandle<()>,
}

type Deployments = Arc<Mutex<HashMap<DeploymentId, Arc<Deployment>>>>;

impl ContainerTarget {
    /// Connects to the Engine and finds what runs there of this owner. It serves on as it is, and is not started
    /// again, until its deployment is applied.
    pub async fn open(config: ContainerConfig, on_change: OnChange) -> Result<Arc<Self>, TargetError> {
        let engine = Engine::connect(&config.host).await?;
        let (publish, reached_at) = addresses(&config).await?;
        let context = Arc::new(Context { config, engine, publish, reached_at, on_change });
        let deployments = Deployments::default();
        for (identity, _) in context.containers(None).await? {
            let id = identity.deployment;
            let mut known = lock(&deployments);
            known.entry(id.clone()).or_insert_with(|| Deployment::open(Arc::clone(&context), id));
        }
        let events = tokio::spawn(listen(Arc::clone(&context), Arc::clone(&deployments)));
        Ok(Arc::new(Self { context, deployments, closed: AtomicBool::new(false), events }))
    }

    pub fn engine(&self) -> &Engine {
        &self.context.engine
    }

    /// Makes sure that the Engine has an image: what [`Target::apply`] does too, where nobody is told of it.
    pub async fn supply(&self, reference: &str, progress: &Progress) -> Result<(), TargetError> {
        let ContainerConfig { images, registries, .. } = &self.context.config;
        self.context.engine.supply(reference, images, registries, progress).await?;
        Ok(())
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
    }

    /// Ends: with `keep` the containers run on, and are found by the next [`ContainerTarget::open`]; else they are
    /// drained and removed. Nothing is started afterwards.
    pub async fn shutdown(&self, keep: bool) {
        self.closed.store(true, Ordering::SeqCst);
        self.events.abort();
        let all: Vec<_> = lock(&self.deployments).values().map(Arc::clone).collect();
        if keep {
            for deployment in &all {
                deployment.leave();
            }
        } else {
            for deployment in &all {
                deployment.remove();
            }
            join_all(all.iter().map(|deployment| deployment.gone())).await;
        }
    }

    fn known(&self, id: &DeploymentId) -> Option<Arc<Deployment>> {
        lock(&self.deployments).get(id).filter(|deployment| !deployment.is_gone()).map(Arc::clone)
    }

    fn check_open(&self) -> Result<(), TargetError> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(TargetError::new(ErrorClass::Unavailable, "the container target is shutting down"));
        }
        Ok(())
    }
}

impl Drop for ContainerTarget {
    fn drop(&mut self) {
        self.events.abort();
        for deployment in lock(&self.deployments).values() {
            deployment.leave();
        }
    }
}

fn lock(
    deployments: &Mutex<HashMap<DeploymentId, Arc<Deployment>>>,
) -> MutexGuard<'_, HashMap<DeploymentId, Arc<Deployment>>> {
    deployments.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where ports are published, and where they are found from here.
async fn addresses(config: &ContainerConfig) -> Result<(IpAddr, IpAddr), TargetError> {
    let Some(host) = config.host.remote_host() else {
        let publish = config.publish.unwrap_or(Ipv4Addr::LOCALHOST.into());
        return Ok((
            publish,
            match publish {
                IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
                _ => publish,
            },
        ));
    };
    let publish = config.publish.ok_or_else(|| {
        TargetError::new(
            ErrorClass::InvalidInput,
            format!(
                "the Engine at {} is another machine, and its containers can be reached only where they are published: give the compute a `publish` address of it",
                config.host
            ),
        )
    })?;
    if !publish.is_unspecified() {
        return Ok((publish, publish));
    }
    let found = tokio::net::lookup_host((host, 0)).await.map_err(|error| {
        TargetError::caused(ErrorClass::Unavailable, format!("the name `{host}` cannot be looked up"), error)
    })?;
    // Every address of one family is not every address.
    let mut found = found.map(|address| address.ip()).filter(|found| found.is_ipv4() == publish.is_ipv4());
    let found = found.next().ok_or_else(|| {
        TargetError::new(
            ErrorClass::Unavailable,
            format!("the name `{host}` has no address of the kind of `publish`, which is {publish}"),
        )
    })?;
    Ok((publish, found))
}

/// Wakes deployments when the Engine says that something of theirs changed. A stream that breaks, as it does when the
/// Engine is started anew, is taken up again, and everything is looked at.
async fn listen(context: Arc<Context>, deployments: Deployments) {
    let mut backoff = Backoff::default();
    loop {
        let filters = [
            ("label".to_owned(), vec![document::owner_label(&context.config.owner)]),
            ("type".to_owned(), vec!["container".to_owned()]),
        ];
        let options = EventsOptions { filters: Some(filters.into()), ..EventsOptions::default() };
        let mut events = std::pin::pin!(context.engine.docker().events(Some(options)));
        while let Some(Ok(event)) = events.next().await {
            backoff.forget();
            // A health check that ran changes nothing that is not asked for anyway.
            if event.action.as_deref().is_some_and(|action| action.starts_with("exec_")) {
                continue;
            }
            let labels = event.actor.and_then(|actor| actor.attributes).unwrap_or_default();
            if let Some(identity) = Identity::of(&labels)
                && let Some(deployment) = lock(&deployments).get(&identity.deployment)
            {
                deployment.wake();
            }
        }
        tokio::time::sleep(backoff.next_pause().min(Duration::from_secs(5))).await;
        for deployment in lock(&deployments).values() {
            deployment.wake();
        }
    }
}

#[async_trait]
impl Target for ContainerTarget {
    async fn admit(&self, desired: &Desired) -> Result<(), TargetError> {
        if desired.target != TargetKind::Container {
            return Err(TargetError::new(
                ErrorClass::Unsupported,
                format!(
                    "compute `{}` is of type {}, and not container",
                    desired.compute,
                    desired.target.as_str()
                ),
            ));
        }
        checks::desired(desired)
    }

    fn render(&self, placement: &Placement) -> Result<Manifest, TargetError> {
        document::check(placement)?;
        let identity = Identity {
            owner: self.context.config.owner.clone(),
            deployment: placement.id.clone(),
            revision: placement.revision(),
            replica: "REPLICA".to_owned(),
            routes: Routes::of(placement.own_server.as_ref()),
        };
        let image = ImageFacts::default();
        let Context { config, publish, .. } = &*self.context;
        let body = document::create(config, *publish, placement, &identity, &image, false);
        let mut document = serde_json::to_value(body).map_err(|error| {
            TargetError::caused(ErrorClass::Internal, "the container cannot be described", error)
        })?;
        document["Name"] = identity.container_name().into();
        document["Replicas"] = placement.replicas.into();
        Ok(Manifest { documents: vec![document] })
    }

    async fn apply(&self, placement: &Placement) -> Result<(), TargetError> {
        self.check_open()?;
        document::check(placement)?;
        // A removal that is under way ends first; its deployment is another one.
        if let Some(known) = self.known(&placement.id)
            && known.is_ending()
        {
            known.gone().await;
            self.check_open()?;
        }
        let mut deployments = lock(&self.deployments);
        let deployment = match deployments.get(&placement.id) {
            Some(known) if !known.is_gone() => Arc::clone(known),
            _ => {
                let new = Deployment::open(Arc::clone(&self.context), placement.id.clone());
                deployments.insert(placement.id.clone(), Arc::clone(&new));
                new
            }
        };
        drop(deployments);
        deployment.apply(placement);
        Ok(())
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

/// The image that a placement runs.
pub(super) fn image_of(placement: &Placement) -> &str {
    match &placement.source {
        Source::Image { reference, .. } => reference,
        Source::Folder { .. } => "",
    }
}
