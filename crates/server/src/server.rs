//! A server's life: what it needs before it begins, serving, and its end.

use std::{
    error::Error,
    future::pending,
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use axum::{Router, body::Body};
use futures_util::future::BoxFuture;
use http::Request;
use hyper::{body::Incoming, service::service_fn};
use moorline_deploy::{
    environment::{EnvironmentConfig, Environments},
    image::{ImageConfig, Images},
    kubernetes::{ClusterError, HeldLease},
    local::{LocalConfig, LocalTarget, OnChange},
    registry::Registries,
};
use moorline_edge::fleet::Files;
use moorline_gateway::{Gateway, GatewayConfig, Hooks, Verify};
use moorline_listen::{Door, ListenConfig};
use moorline_store::{NewWorkspace, Store, StoreError};
use prometheus::Registry;
#[cfg(target_os = "linux")]
use prometheus::process_collector::ProcessCollector;
use serde_json::json;
use thiserror::Error;
use tokio::{net::TcpListener, sync::broadcast, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    api,
    auth::{Access, Doorkeeper},
    clusters::{Clusters, Gateways},
    collection::Collecting,
    config::{Bounds, ServerConfig},
    control::Control,
    edge::EdgeHub,
    fpgas::Fpgas,
    front,
    home::{Announcement, HomeLock, LockFailure},
    hosts::Hosts,
    images::ImageMaker,
    leader::{self, Leadership},
    monitor::{self, Monitoring},
    operations::Operations,
    problem::chain,
    reconcile::{Parts, Reconciler},
    registries,
    release::Releases,
    targets::{Places, Targets},
};

/// Why a server did not start. Nothing is left of one that did not.
#[derive(Debug, Error)]
pub enum StartError {
    #[error("another server{} has the home folder `{}`", by(*pid), home.display())]
    AlreadyRunning { home: PathBuf, pid: Option<u32>, address: Option<SocketAddr> },
    #[error("port {} of {} is in use by another program", address.port(), address.ip())]
    PortTaken { address: SocketAddr },
    #[error("could not listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("{address} can be reached from other machines, and nobody has a token for this server")]
    NoTokens { address: SocketAddr },
    #[error("could not use the home folder `{}`", home.display())]
    Home { home: PathBuf, source: io::Error },
    #[error("could not open the workspace's store")]
    Store { source: StoreError },
    #[error("could not take part in the election of a leader")]
    Election { source: ClusterError },
    #[error("could not begin {part}")]
    Part { part: &'static str, source: Box<dyn Error + Send + Sync> },
}

fn by(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

impl StartError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::AlreadyRunning { address: Some(address), .. } => {
                Some(format!("it answers at http://{address}: use it, or stop it first"))
            }
            Self::AlreadyRunning { .. } => Some("stop it first, or choose another MOORLINE_HOME".to_owned()),
            Self::PortTaken { address } => Some(format!(
                "choose another address, or see with `ss -ltnp 'sport = :{}'` who has it",
                address.port()
            )),
            Self::NoTokens { .. } => {
                Some("make one with `moorline token create`, or listen on 127.0.0.1".to_owned())
            }
            Self::Listen { .. }
            | Self::Home { .. }
            | Self::Store { .. }
            | Self::Election { .. }
            | Self::Part { .. } => None,
        }
    }
}

/// Changes that targets saw, which somebody who watches may be behind.
const OBSERVED: usize = 1024;

/// The server of one home.
#[derive(Debug)]
pub struct Server;

impl Server {
    /// Opens the home, takes up what the last server left, and serves. Where a leader is elected, it follows until it
    /// leads.
    pub fn start(config: ServerConfig) -> BoxFuture<'static, Result<Running, StartError>> {
        Box::pin(async {
            let leadership = Self::campaign(&config).await?;
            Self::lead(config, leadership).await
        })
    }

    /// Follows until this server may open the store; `None` where no leader is elected. Whoever has enough of waiting may
    /// drop it.
    pub async fn campaign(config: &ServerConfig) -> Result<Option<Leadership>, StartError> {
        let Some(election) = &config.leader_election else { return Ok(None) };
        let listener = bind(config.listen).await?;
        let leadership = leader::campaign(election, &config.environment, listener, door(&config.bounds));
        leadership.await.map(Some).map_err(|source| StartError::Election { source })
    }

    /// The second half of [`start`](Self::start), with what the first one gave.
    pub fn lead(
        config: ServerConfig,
        leadership: Option<Leadership>,
    ) -> BoxFuture<'static, Result<Running, StartError>> {
        // Large enough that whoever waits for it should not have to hold it.
        Box::pin(Self::begin(config, leadership))
    }

    async fn begin(config: ServerConfig, leadership: Option<Leadership>) -> Result<Running, StartError> {
        let (lock, control, listener) = match Self::open(config, leadership.as_ref()).await {
            Ok(opened) => opened,
            Err(error) => {
                // Another server may have what this one lacks.
                if let Some(leadership) = leadership {
                    leadership.resign().await;
                }
                return Err(error);
            }
        };
        let home = || control.config.home.clone();
        let address = listener
            .local_addr()
            .map_err(|source| StartError::Listen { address: control.config.listen, source })?;
        let lease = match leadership {
            Some(leadership) => {
                Some(leadership.begin().await.map_err(|source| StartError::Election { source })?)
            }
            None => None,
        };
        let announcement =
            Announcement { address, pid: std::process::id(), version: env!("CARGO_PKG_VERSION").to_owned() };
        lock.announce(&announcement).map_err(|source| StartError::Home { home: home(), source })?;
        tracing::info!(%address, home = %home().display(), "serving");
        let door = tokio::spawn(serve(control.clone(), listener));
        Ok(Running { address, control, door, lock, lease })
    }

    /// Everything that has to be there before requests are answered.
    async fn open(
        config: ServerConfig,
        leadership: Option<&Leadership>,
    ) -> Result<(HomeLock, Control, Arc<TcpListener>), StartError> {
        let lock = take_lock(&config)?;
        let store_error = |source| StartError::Store { source };
        let store = Store::open(config.store.clone()).await.map_err(store_error)?;
        ensure_default_workspace(&store, &config).await?;
        let access = if config.listen.ip().is_loopback() {
            Access::Loopback
        } else if config.owner_token.is_none() && store.tokens().await.map_err(store_error)?.is_empty() {
            return Err(StartError::NoTokens { address: config.listen });
        } else {
            Access::Tokens
        };
        let listener = match leadership {
            Some(leadership) => Arc::clone(&leadership.listener),
            None => Arc::new(bind(config.listen).await?),
        };
        let mut id = lock.id().map_err(|source| StartError::Home { home: config.home.clone(), source })?;
        if leadership.is_some() {
            // What another leader began is this one's, whatever home either has.
            id = store.server_id(&id).await.map_err(store_error)?;
        }
        let control = wire(store, access, config, id).await?;
        Ok((lock, control, listener))
    }
}

/// A server that serves. One that is dropped goes on until the runtime ends; [`Running::stop`] ends it in order.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    control: Control,
    door: JoinHandle<Door>,
    lock: HomeLock,
    lease: Option<HeldLease>,
}

impl Running {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Done when this server may not serve any more, because another one may: the process must end at once. Never where
    /// no leader is elected.
    pub fn lost(&self) -> impl Future<Output = String> + Send + 'static {
        let lost = self.lease.as_ref().map(HeldLease::lost);
        async move {
            match lost {
                Some(lost) => lost.await.to_string(),
                None => pending().await,
            }
        }
    }

    /// No new connection, an end to streams and kept connections, and as long for requests in flight as the
    /// configuration says, or until `cut` is done. With `keep`, what was deployed on this machine runs on and is taken
    /// up by the next server; without, it ends too.
    pub async fn stop(self, keep: bool, cut: impl Future<Output = ()>) {
        let Self { control, door, lock, lease, .. } = self;
        control.stopping.cancel();
        let limit = control.config.bounds.drain_timeout;
        let finish = async {
            match door.await {
                Ok(door) => {
                    tracing::info!(connections = door.connections(), "draining");
                    door.drain().await;
                }
                Err(error) => tracing::error!(error = chain(&error), "the accept loop had ended"),
            }
            control.changes.close();
            control.changes.wait().await;
        };
        tokio::select! {
            () = finish => {}
            () = cut => tracing::warn!("requests in flight were cut"),
            () = tokio::time::sleep(limit) => {
                tracing::warn!(seconds = limit.as_secs(), "requests were cut at the end of the drain timeout");
            }
        }
        let gateway = control.gateway.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || gateway.finish_observation()).await {
            tracing::error!(error = chain(&error), "what was seen of requests could not be written");
        }
        control.collecting.shutdown().await;
        control.monitor.shutdown().await;
        control.reconciler.shutdown().await;
        control.targets.shutdown(keep).await;
        if let Some(edge) = &control.edge {
            edge.shutdown().await;
        }
        // With it go the locks of the parts, which the next server of this home takes.
        drop(control);
        if let Err(error) = lock.withdraw() {
            tracing::warn!(error = chain(&error), "could not remove server.json");
        }
        drop(lock);
        // Last: the next leader begins now.
        if let Some(lease) = lease {
            lease.release().await;
        }
    }
}

fn take_lock(config: &ServerConfig) -> Result<HomeLock, StartError> {
    HomeLock::take(&config.home).map_err(|failure| match failure {
        LockFailure::Held { pid } => {
            let announced = Announcement::read(&config.home).ok().flatten();
            let address =
                announced.filter(|announced| Some(announced.pid) == pid).map(|announced| announced.address);
            StartError::AlreadyRunning { home: config.home.clone(), pid, address }
        }
        LockFailure::Io(source) => StartError::Home { home: config.home.clone(), source },
    })
}

pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| {
        if source.kind() == io::ErrorKind::AddrInUse {
            StartError::PortTaken { address }
        } else {
            StartError::Listen { address, source }
        }
    })
}

async fn ensure_default_workspace(store: &Store, config: &ServerConfig) -> Result<(), StartError> {
    let name = config.default_workspace.clone();
    match store.create_workspace(NewWorkspace { name, body: json!({}) }).await {
        Ok(_) | Err(StoreError::Exists { .. }) => Ok(()),
        Err(source) => Err(StartError::Store { source }),
    }
}

/// Makes the parts and puts them together. The gateway and the targets tell the reconciler what they see, and are made
/// before it: what they say until then is lost, and the reconciler looks at everything when it starts.
async fn wire(store: Store, access: Access, config: ServerConfig, id: String) -> Result<Control, StartError> {
    let part =
        |part: &'static str| move |source: Box<dyn Error + Send + Sync>| StartError::Part { part, source };
    let metrics = Registry::new();
    let told: Arc<OnceLock<Reconciler>> = Arc::default();
    let doorkeeper = Arc::new(Doorkeeper::new(store.clone(), access, &config));

    let hooks = Hooks {
        wake: {
            let told = Arc::downgrade(&told);
            Arc::new(move |id| {
                if let Some(reconciler) = told.upgrade().as_deref().and_then(OnceLock::get) {
                    reconciler.wake(id);
                }
            })
        },
        verify: verify(Arc::clone(&doorkeeper)),
    };
    let observation = config.observation.open().map_err(part("what is seen of requests"))?;
    let gateway = Gateway::new(GatewayConfig::default(), hooks, observation, &metrics)
        .map_err(|source| part("the gateway")(source.into()))?;
    #[cfg(target_os = "linux")]
    metrics
        .register(Box::new(ProcessCollector::for_self()))
        .map_err(|source| part("the metrics")(source.into()))?;

    let observed = broadcast::Sender::new(OBSERVED);
    let on_change: OnChange = {
        let (told, observed) = (Arc::downgrade(&told), observed.clone());
        Arc::new(move |id| {
            // Nobody may be watching.
            let _ = observed.send(id.clone());
            if let Some(reconciler) = told.upgrade().as_deref().and_then(OnceLock::get) {
                reconciler.observed(&id);
            }
        })
    };
    let registries = registries::read(&config.home, config.environment.clone())
        .map_err(|source| part("the registries")(source.into()))?;
    let mirrored = registries.hosts.iter().filter(|(_, host)| host.mirror.is_some());
    let mirrored = mirrored.map(|(name, _)| name.clone()).collect();
    let registries = Registries::new(registries).map_err(|source| part("the registries")(source.into()))?;
    let local =
        LocalConfig::new(config.home.join("local"), config.scorer.clone(), config.environment.clone());
    let local = LocalTarget::open(local, Arc::clone(&on_change))
        .await
        .map_err(|source| part("the local target")(source.into()))?;
    let environments = EnvironmentConfig {
        uv: config.uv.clone(),
        ..EnvironmentConfig::new(
            config.home.join("environments"),
            config.home.join("tools"),
            config.environment.clone(),
        )
    };
    let environments =
        Environments::open(environments).map_err(|source| part("the environments")(source.into()))?;
    let releases = Releases::open(config.home.join("releases"), store.blobs().clone())
        .map_err(|source| StartError::Home { home: config.home.clone(), source })?;
    let images = ImageConfig {
        dir: config.home.join("images"),
        scorer: config.scorer.clone(),
        static_scorer: config.static_scorer.clone(),
        onnxruntime: config.onnxruntime.clone(),
        other_platforms: config.other_scorers.clone(),
        registries: registries.clone(),
        mirrored,
        environments: environments.clone(),
    };
    let images = Images::open(images).await.map_err(|source| part("the images")(source.into()))?;
    let hosts = Hosts::new(
        store.clone(),
        images.clone(),
        registries.clone(),
        config.environment.clone(),
        id.clone(),
        Arc::clone(&on_change),
    );
    let edge = match &config.hub {
        Some(settings) => {
            let hub = Box::pin(EdgeHub::start(
                settings,
                &config.home,
                store.clone(),
                Files {
                    releases: releases.folder().to_owned(),
                    blobs: images.layout().dir().join("blobs/sha256"),
                },
                &metrics,
                Arc::clone(&on_change),
            ))
            .await;
            Some(hub.map_err(|source| part("the hub for devices")(source.into()))?)
        }
        None => None,
    };
    let contexts = config.home.join("contexts");
    let images = ImageMaker::new(images, registries, store.clone(), releases.clone(), contexts);
    let waited_for: OnChange = {
        let told = Arc::downgrade(&told);
        Arc::new(move |id| {
            if let Some(reconciler) = told.upgrade().as_deref().and_then(OnceLock::get) {
                reconciler.wake(&id);
            }
        })
    };
    let gateways = Gateways {
        images: images.clone(),
        program: config.program.clone(),
        variables: config.observation.variables_of_gateway(),
        waited_for,
    };
    let clusters = Clusters::new(store.clone(), config.environment.clone(), id, on_change, gateways);
    let fpgas = Fpgas::new(store.clone(), &config.home, &config.environment);
    let fleet = edge.as_ref().map(|edge| edge.fleet().clone());
    let variables = Arc::new(config.observation.variables());
    let places = Places { store: store.clone(), local, hosts, clusters, fpgas, fleet, variables };
    let targets = Targets::new(places, environments, images);
    let operations = Operations::open(store.clone()).await.map_err(|source| StartError::Store { source })?;
    let parts = Parts {
        store: store.clone(),
        gateway: gateway.clone(),
        targets: targets.clone(),
        releases: releases.clone(),
        operations: operations.clone(),
    };
    let reconciler = told.get_or_init(|| Reconciler::new(parts)).clone();
    let parts = monitor::Parts {
        home: &config.home,
        store: store.clone(),
        targets: targets.clone(),
        reconciler: reconciler.clone(),
        edge: edge.clone(),
        metrics: &metrics,
    };
    let monitor = Monitoring::open(parts).await.map_err(|source| part("the monitor")(source.into()))?;
    let control = Control {
        collecting: Collecting::new(store.clone(), monitor.clone()),
        store,
        gateway,
        operations,
        reconciler,
        _told: told,
        targets,
        releases,
        config: Arc::new(config),
        doorkeeper,
        edge,
        metrics,
        monitor,
        findings: Arc::default(),
        observed,
        stopping: CancellationToken::new(),
        changes: TaskTracker::new(),
    };
    api::recover(&control).await.map_err(|source| part("where the last server ended")(source.into()))?;
    control.reconciler.start().await.map_err(|source| StartError::Store { source })?;
    control.monitor.start();
    control.collecting.start();
    Ok(control)
}

/// Whether a token lets its holder send requests to an endpoint; one that cannot be looked up does not.
fn verify(doorkeeper: Arc<Doorkeeper>) -> Verify {
    Arc::new(move |token, endpoint| {
        let (doorkeeper, token, endpoint) = (Arc::clone(&doorkeeper), token.to_owned(), endpoint.to_owned());
        Box::pin(async move {
            match doorkeeper.may_score(&token, &endpoint).await {
                Ok(allowed) => allowed,
                Err(error) => {
                    tracing::warn!(endpoint, error = chain(&error), "could not look up a token");
                    false
                }
            }
        })
    })
}

pub(crate) fn door(bounds: &Bounds) -> Door {
    Door::new(&ListenConfig {
        max_connections: bounds.connections,
        max_header_bytes: bounds.header_bytes,
        header_timeout: bounds.header_timeout,
        write_timeout: bounds.body_timeout,
    })
}

/// Accepts until the server stops; the door with its connections.
async fn serve(control: Control, listener: Arc<TcpListener>) -> Door {
    let door = door(&control.config.bounds);
    let router: Router = api::router(control.clone());
    let stopping = control.stopping.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = front::answer(control.clone(), router.clone(), request.map(Body::new));
        async move { Ok::<_, std::convert::Infallible>(answer.await) }
    });
    tokio::select! {
        () = door.accept(&listener, service) => {}
        () = stopping.cancelled() => {}
    }
    door
}
