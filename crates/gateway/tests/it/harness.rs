//! A gateway behind a door, replicas that answer with a function, and a client that asks once.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::{body::Incoming, client::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use moorline_core::{DeploymentId, Digest, Name};
use moorline_gateway::{
    Auth, DeploymentRoute, EndpointRoute, Gateway, GatewayConfig, Hooks, Observation, ReplicaRoute,
};
use moorline_listen::{Door, ListenConfig};
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};

/// No wait of a test is longer.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

fn listen() -> ListenConfig {
    ListenConfig {
        max_connections: 1024,
        max_header_bytes: 65536,
        header_timeout: LIMIT,
        write_timeout: LIMIT,
    }
}

/// Serves `answer` until it is drained or dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    drain: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start<F, A>(answer: F) -> Self
    where
        F: Fn(Request<Body>) -> A + Clone + Send + 'static,
        A: Future<Output = Response<Body>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (drain, told) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let door = Door::new(&listen());
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = answer(request.map(Body::new));
                async { Ok::<_, Infallible>(answer.await) }
            });
            tokio::select! {
                () = door.accept(&listener, service) => {}
                _ = told => {}
            }
            drop(listener);
            door.drain().await;
        });
        Self { address, drain: Some(drain), task }
    }

    /// Lets requests in flight finish and ends.
    pub(crate) async fn drain(mut self) {
        let _ = self.drain.take().unwrap().send(());
        tokio::time::timeout(LIMIT, &mut self.task).await.unwrap().unwrap();
    }
}

/// A gateway, the front before it, and what it told.
pub(crate) struct Front {
    pub(crate) gateway: Gateway,
    pub(crate) server: Server,
    pub(crate) woken: Arc<AtomicUsize>,
    registry: Registry,
}

impl Front {
    pub(crate) async fn new() -> Self {
        Self::with(GatewayConfig::default()).await
    }

    pub(crate) async fn with(config: GatewayConfig) -> Self {
        Self::observed(config, Observation::default()).await
    }

    pub(crate) async fn observed(config: GatewayConfig, observation: Observation) -> Self {
        let woken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&woken);
        let hooks = Hooks {
            wake: Arc::new(move |_| {
                count.fetch_add(1, Ordering::Relaxed);
            }),
            verify: Arc::new(|token, _| {
                let verdict = token == "mrl_1_good";
                Box::pin(async move { verdict })
            }),
        };
        let registry = Registry::new();
        let gateway = Gateway::new(config, hooks, observation, &registry).unwrap();
        let handler = gateway.clone();
        let server = Server::start(move |request: Request<Body>| {
            let gateway = handler.clone();
            async move {
                let target = request.uri().path_and_query().unwrap().as_str().to_owned();
                match target.strip_prefix("/endpoints/").and_then(|rest| rest.split_once('/')) {
                    Some((endpoint, rest)) => gateway.handle(endpoint, &format!("/{rest}"), request).await,
                    None => gateway.handle_grpc(request).await,
                }
            }
        })
        .await;
        Self { gateway, server, woken, registry }
    }

    pub(crate) fn metrics(&self) -> String {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    /// A request to this front.
    pub(crate) async fn ask(&self, request: Request<Body>) -> Answer {
        ask(self.server.address, request).await
    }

    pub(crate) async fn score(&self) -> Answer {
        self.ask(post("/endpoints/iris/score", "x")).await
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

pub(crate) fn post(path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post(path).header("host", "front").body(body.into()).unwrap()
}

/// A connection to `address`, moved on by a task.
pub(crate) async fn connect(address: SocketAddr) -> http1::SendRequest<Body> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// One request over a connection of its own, with its whole answer.
pub(crate) async fn ask(address: SocketAddr, request: Request<Body>) -> Answer {
    let exchange = async {
        let mut sender = connect(address).await;
        let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: parts.status, headers: parts.headers, body }
    };
    tokio::time::timeout(LIMIT, exchange).await.expect("an answer comes in time")
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(crate) fn id(deployment: &str) -> DeploymentId {
    DeploymentId { workspace: name("default"), endpoint: name("iris"), deployment: name(deployment) }
}

/// A deployment of `iris` with a replica at each of these addresses, called after it.
pub(crate) fn deployment(named: &str, addresses: &[SocketAddr]) -> DeploymentRoute {
    DeploymentRoute {
        id: id(named),
        replicas: addresses
            .iter()
            .map(|address| ReplicaRoute { id: address.to_string(), address: *address })
            .collect(),
        request_timeout: LIMIT,
        max_concurrent_per_replica: NonZeroU32::MIN.saturating_add(99),
        max_queue_wait: LIMIT,
        can_scale_from_zero: false,
        scoring_path: None,
    }
}

/// `iris`, open to all, whose first deployment has all of the traffic.
pub(crate) fn endpoint(deployments: Vec<DeploymentRoute>) -> EndpointRoute {
    EndpointRoute {
        workspace: name("default"),
        name: name("iris"),
        auth: Auth::Open,
        traffic: deployments.first().map(|first| (first.id.deployment.clone(), 100)).into_iter().collect(),
        mirror: None,
        deployments: deployments
            .into_iter()
            .map(|deployment| (deployment.id.deployment.clone(), deployment))
            .collect::<BTreeMap<_, _>>(),
    }
}

pub(crate) fn keys() -> Auth {
    Auth::Key { hashes: [Digest::of(b"primary"), Digest::of(b"secondary")] }
}

/// A replica that counts its requests and answers each with `text`.
pub(crate) async fn counting(text: &'static str) -> (Server, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    let server = Server::start(move |_| {
        seen.fetch_add(1, Ordering::Relaxed);
        async move { Response::new(Body::from(text)) }
    })
    .await;
    (server, count)
}

/// An address that nobody listens on.
pub(crate) async fn nowhere() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
