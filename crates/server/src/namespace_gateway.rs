//! The gateway of a Kubernetes namespace, as a process of its own: what its pods run. It follows the routes that the server
//! publishes and the pods that they lead to, and needs no server while it does.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    convert::Infallible,
    net::SocketAddr,
    num::NonZeroU32,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Json,
    body::Body,
    response::{IntoResponse, Response},
};
use http::{Method, Request, StatusCode};
use hyper::{body::Incoming, service::service_fn};
use moorline_core::{DeploymentId, Name};
use moorline_deploy::kubernetes::{
    ADMIN_PORT, Cluster, ClusterAddress, DATA_PORT, DeploymentReport, Followed, Follower, GatewayReport,
    PublishedDeployment, PublishedEndpoint,
};
use moorline_gateway::{Auth, DeploymentRoute, EndpointRoute, Gateway, GatewayConfig, Hooks, ReplicaRoute};
use prometheus::{Registry, TextEncoder};
use tokio::net::TcpListener;

use crate::{
    config::Bounds,
    front,
    observation::Observation,
    problem::chain,
    server::{StartError, bind, door},
};

/// After a gateway was told to end, requests still come: so long it takes until the cluster sends none any more.
const SETTLE: Duration = Duration::from_secs(5);
/// Requests in flight have so long then. Kubernetes kills the process a little later.
const DRAIN: Duration = Duration::from_secs(105);

/// Which gateway this is.
#[derive(Clone, Debug)]
pub struct NamespaceGatewayConfig {
    pub namespace: String,
    pub name: String,
    /// The host to listen on.
    pub host: std::net::IpAddr,
    /// The variables that `kubectl` would look at: a gateway that is no pod finds its cluster as `kubectl` does.
    pub environment: BTreeMap<String, String>,
    pub observation: Observation,
}

/// What the admin port is asked about.
struct Admin {
    gateway: Gateway,
    metrics: Registry,
    /// It knows its routes.
    knows: AtomicBool,
    /// It was told to end.
    ends: AtomicBool,
    deployments: Mutex<HashSet<DeploymentId>>,
}

/// Serves until `end` is done, and what is in flight then to its end.
pub async fn serve_namespace(
    config: NamespaceGatewayConfig,
    end: impl Future<Output = ()>,
) -> Result<(), StartError> {
    let metrics = Registry::new();
    let part = |part: &'static str| {
        move |source: Box<dyn std::error::Error + Send + Sync>| StartError::Part { part, source }
    };
    let hooks = Hooks {
        // The server asks each gateway what is waited for.
        wake: Arc::new(|_| {}),
        // Tokens are known to the server alone.
        verify: Arc::new(|_, _| Box::pin(async { false })),
    };
    let observation = config.observation.open().map_err(part("what is seen of requests"))?;
    let gateway = Gateway::new(GatewayConfig::default(), hooks, observation, &metrics)
        .map_err(|source| part("the gateway")(source.into()))?;
    #[cfg(target_os = "linux")]
    metrics
        .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
        .map_err(|source| part("the metrics")(source.into()))?;
    let admin = Arc::new(Admin {
        gateway: gateway.clone(),
        metrics,
        knows: AtomicBool::new(false),
        ends: AtomicBool::new(false),
        deployments: Mutex::default(),
    });
    // Before the cluster is asked: whoever looks is told that it lives.
    let questions = bind(SocketAddr::new(config.host, ADMIN_PORT)).await?;
    let requests = bind(SocketAddr::new(config.host, DATA_PORT)).await?;
    let answering = tokio::spawn(answer_questions(Arc::clone(&admin), questions));
    let serving = async {
        let address =
            ClusterAddress { namespace: Some(config.namespace.clone()), ..ClusterAddress::default() };
        let cluster = Cluster::connect(&address, &config.environment).await;
        let cluster = cluster.map_err(|source| part("the cluster")(source.into()))?;
        let follower = Follower::begin(&cluster, &config.name);
        let bounds = Bounds::default();
        let own_door = door(&bounds);
        let service = service_fn({
            let gateway = gateway.clone();
            move |request: Request<Incoming>| {
                let gateway = gateway.clone();
                async move { Ok::<_, Infallible>(answer(&gateway, request.map(Body::new)).await) }
            }
        });
        tracing::info!(namespace = config.namespace, name = config.name, "a gateway begins");
        let end = async {
            end.await;
            admin.ends.store(true, Ordering::Release);
            tracing::info!("told to end: serving until no request comes any more");
            tokio::time::sleep(SETTLE).await;
        };
        tokio::select! {
            () = own_door.accept(&requests, service) => {}
            () = follow(&admin, follower) => {}
            () = end => {}
        }
        if tokio::time::timeout(DRAIN, own_door.drain()).await.is_err() {
            tracing::warn!(seconds = DRAIN.as_secs(), "requests were cut at the end of the drain timeout");
        }
        Ok(())
    };
    let served = serving.await;
    answering.abort();
    if let Err(error) = tokio::task::spawn_blocking(move || gateway.finish_observation()).await {
        tracing::error!(error = chain(&error), "what was seen of requests could not be written");
    }
    served
}

/// Makes the gateway's routes what is followed, until there is nothing to follow any more.
async fn follow(admin: &Admin, mut follower: Follower) {
    let mut known: HashMap<(Name, Name), EndpointRoute> = HashMap::new();
    while let Some(followed) = follower.next().await {
        let mut there = HashSet::new();
        let mut deployments = HashSet::new();
        for endpoint in &followed.endpoints {
            let key = (endpoint.workspace.clone(), endpoint.name.clone());
            let route = route(endpoint, &followed);
            deployments.extend(route.deployments.values().map(|deployment| deployment.id.clone()));
            if known.get(&key) != Some(&route) {
                admin.gateway.set(route.clone());
                known.insert(key.clone(), route);
            }
            there.insert(key);
        }
        known.retain(|key, _| {
            let stays = there.contains(key);
            if !stays {
                admin.gateway.remove(&key.0, &key.1);
            }
            stays
        });
        *admin.deployments.lock().unwrap_or_else(PoisonError::into_inner) = deployments;
        if !admin.knows.swap(true, Ordering::AcqRel) {
            tracing::info!(endpoints = known.len(), "the routes are known");
        }
    }
}

fn route(endpoint: &PublishedEndpoint, followed: &Followed) -> EndpointRoute {
    let deployment = |(name, deployment): (&Name, &PublishedDeployment)| {
        let pods = followed.pods(&deployment.objects, deployment.port);
        let route = DeploymentRoute {
            id: DeploymentId {
                workspace: endpoint.workspace.clone(),
                endpoint: endpoint.name.clone(),
                deployment: name.clone(),
            },
            replicas: pods.into_iter().map(|(id, address)| ReplicaRoute { id, address }).collect(),
            request_timeout: Duration::from_millis(deployment.request_timeout_ms),
            max_concurrent_per_replica: NonZeroU32::new(deployment.max_concurrent_per_replica)
                .unwrap_or(NonZeroU32::MIN),
            max_queue_wait: Duration::from_millis(deployment.max_queue_wait_ms),
            can_scale_from_zero: deployment.can_scale_from_zero,
            scoring_path: deployment.scoring_path.clone(),
        };
        (name.clone(), route)
    };
    EndpointRoute {
        workspace: endpoint.workspace.clone(),
        name: endpoint.name.clone(),
        auth: endpoint.keys.map_or(Auth::Token, |hashes| Auth::Key { hashes }),
        traffic: endpoint.traffic.clone(),
        mirror: endpoint.mirror.clone(),
        deployments: endpoint.deployments.iter().map(deployment).collect(),
    }
}

async fn answer(gateway: &Gateway, request: Request<Body>) -> Response {
    if let Some((endpoint, target)) = front::endpoint_of(&request) {
        return gateway.handle(&endpoint, &target, request).await;
    }
    if front::is_grpc(request.headers()) {
        return gateway.handle_grpc(request).await;
    }
    (StatusCode::NOT_FOUND, "a gateway has endpoints: /endpoints/ENDPOINT/score\n").into_response()
}

async fn answer_questions(admin: Arc<Admin>, listener: TcpListener) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = admin.answer(request.method(), request.uri().path());
        async move { Ok::<_, Infallible>(answer) }
    });
    door(&Bounds::default()).accept(&listener, service).await;
}

impl Admin {
    fn answer(&self, method: &Method, path: &str) -> Response {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return StatusCode::METHOD_NOT_ALLOWED.into_response();
        }
        match path {
            "/live" => "live\n".into_response(),
            "/ready" if self.is_ready() => "ready\n".into_response(),
            "/ready" => (StatusCode::SERVICE_UNAVAILABLE, "not yet, or not any more\n").into_response(),
            "/metrics" => match TextEncoder::new().encode_to_string(&self.metrics.gather()) {
                Ok(text) => text.into_response(),
                Err(error) => {
                    tracing::error!(error = chain(&error), "the metrics cannot be written");
                    StatusCode::INTERNAL_SERVER_ERROR.into_response()
                }
            },
            "/report" => Json(self.report()).into_response(),
            _ => StatusCode::NOT_FOUND.into_response(),
        }
    }

    fn is_ready(&self) -> bool {
        self.knows.load(Ordering::Acquire) && !self.ends.load(Ordering::Acquire)
    }

    fn report(&self) -> GatewayReport {
        let known = self.deployments.lock().unwrap_or_else(PoisonError::into_inner);
        let report = |id: &DeploymentId| {
            let (load, answers) = (self.gateway.load(id), self.gateway.answers(id));
            let report = DeploymentReport {
                in_flight: load.in_flight as u64,
                waiting: load.waiting as u64,
                requests: answers.requests,
                failed: answers.failed,
                within: answers.within,
            };
            (id.clone(), report)
        };
        GatewayReport { deployments: known.iter().map(report).collect() }
    }
}
