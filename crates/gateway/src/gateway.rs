//! The gateway as its owner sees it, and the way of a request through it.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header, uri::PathAndQuery};
use moorline_core::{DeploymentId, Name};
use prometheus::Registry;
use thiserror::Error;

use crate::{
    answers::{self, Answers},
    auth::Verdicts,
    body::{self, Buffers},
    config::{GatewayConfig, Hooks, Observation},
    deployment::Deployment,
    forward::{self, Failed, Outgoing, bad_body},
    headers,
    metrics::Metrics,
    mirror::Mirrors,
    problem::{Dialect, Problem},
    route::EndpointRoute,
    table::{Endpoint, Table, unknown},
    watch::{Observer, Watch},
};

/// What is asked of a deployment now, for whoever decides how many replicas it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests that have a place.
    pub in_flight: usize,
    /// Requests that wait for a place or for a first replica.
    pub waiting: usize,
    /// When the last request came or was answered.
    pub last_request: Option<Instant>,
    /// Replicas that take requests.
    pub replicas: usize,
}

/// Why there is no gateway.
#[derive(Debug, Error)]
pub enum GatewayError {
    #[error("the metrics could not be registered")]
    Metrics(#[from] prometheus::Error),
    #[error("the access log could not be begun")]
    AccessLog(#[from] io::Error),
}

/// The front of all endpoints of a server. Clones are the same gateway.
#[derive(Clone, Debug)]
pub struct Gateway {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Arc<GatewayConfig>,
    hooks: Hooks,
    metrics: Metrics,
    table: Table,
    verdicts: Verdicts,
    buffers: Arc<Buffers>,
    mirrors: Mirrors,
    observer: Arc<Observer>,
}

/// Counts a request of a deployment from its choice to its answer; a caller that leaves before is counted as such.
#[derive(Debug)]
struct Visit {
    deployment: Arc<Deployment>,
    arrived: Instant,
    status: StatusCode,
    /// By the deployment's fault.
    failed: bool,
}

impl Visit {
    fn begin(deployment: Arc<Deployment>, arrived: Instant) -> Self {
        deployment.touch();
        deployment.metrics.in_flight.inc();
        // What proxies log for a caller that left; nobody reads it.
        let status = StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST);
        Self { deployment, arrived, status, failed: false }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.deployment.metrics.in_flight.dec();
        self.deployment.metrics.record(self.status.as_u16(), self.failed, self.arrived.elapsed());
    }
}

impl Gateway {
    /// A gateway without endpoints. Its metrics go into `registry`. Needs a tokio runtime around it once it is used.
    pub fn new(
        config: GatewayConfig,
        hooks: Hooks,
        observation: Observation,
        registry: &Registry,
    ) -> Result<Self, GatewayError> {
        let metrics = Metrics::register(registry)?;
        Ok(Self {
            inner: Arc::new(Inner {
                observer: Observer::new(observation, &metrics)?,
                metrics,
                table: Table::default(),
                verdicts: Verdicts::new(config.verdict_lifetime),
                buffers: Buffers::new(config.max_buffered_bytes),
                mirrors: Mirrors::new(&config),
                config: Arc::new(config),
                hooks,
            }),
        })
    }

    /// Replaces an endpoint. Requests under way stay where they are; none that is sent later goes to a replica that is
    /// not in `route` any more. Takes effect before it returns.
    pub fn set(&self, route: EndpointRoute) {
        self.inner.table.set(route, &self.inner.metrics);
    }

    /// Forgets an endpoint: 404 from now on.
    pub fn remove(&self, workspace: &Name, endpoint: &Name) {
        self.inner.table.remove(workspace, endpoint, &self.inner.metrics);
    }

    /// What is asked of a deployment now; nothing of one that is not known.
    pub fn load(&self, id: &DeploymentId) -> Load {
        self.inner.table.deployment(id).map(|deployment| deployment.load()).unwrap_or_default()
    }

    /// What a deployment has answered since it is known here; nothing of one that is not.
    pub fn answers(&self, id: &DeploymentId) -> Answers {
        self.inner.table.deployment(id).map(|deployment| deployment.metrics.answers()).unwrap_or_default()
    }

    /// Requests that the replica with this id has, for whoever waits to stop it after it was taken out of the route.
    pub fn in_flight(&self, id: &DeploymentId, replica: &str) -> usize {
        self.inner.table.deployment(id).map_or(0, |deployment| deployment.in_flight(replica))
    }

    /// Answers a request to `endpoint`. `target` is the path and query that the replica sees (`/score?a=b`). A gRPC
    /// call (`content-type: application/grpc`) goes over HTTP/2 with its trailers, anything else over HTTP/1.1.
    pub async fn handle(&self, endpoint: &str, target: &str, mut request: Request<Body>) -> Response<Body> {
        // Made here, so that a request is found in logs by the same id whatever becomes of it.
        let id = request.headers_mut().entry(headers::REQUEST_ID).or_insert_with(headers::new_id).clone();
        let grpc = headers::is_grpc(request.headers());
        let mut watch = self.inner.observer.begin(endpoint, target, &request);
        let mut response = match self.inner.answer(endpoint, target, request, grpc, &mut watch).await {
            Ok(response) => response,
            Err((problem, deployment)) => {
                let dialect = if grpc { Dialect::Grpc } else { Dialect::of(target) };
                let mut response = problem.response(dialect);
                if let Some(deployment) = deployment {
                    response.headers_mut().insert(headers::DEPLOYMENT, deployment.header.clone());
                }
                response
            }
        };
        if !response.headers().contains_key(headers::REQUEST_ID) {
            let id = Some(id).filter(|id| id.len() <= headers::MAX_REQUEST_ID);
            response.headers_mut().insert(headers::REQUEST_ID, id.unwrap_or_else(headers::new_id));
        }
        watch.pass(response)
    }

    /// Sends and writes what was seen of requests and is still here; there is nothing to be seen afterwards. Blocks.
    pub fn finish_observation(&self) {
        self.inner.observer.finish();
    }

    /// Answers a gRPC call whose endpoint is in its metadata, `moorline-endpoint`, and whose path is the method's.
    pub async fn handle_grpc(&self, mut request: Request<Body>) -> Response<Body> {
        let named = request.headers_mut().remove(headers::ENDPOINT);
        let target = request.uri().path().to_owned();
        let Some(named) = named else {
            let watch = self.inner.observer.begin("", &target, &request);
            return watch.pass(Problem::EndpointNotNamed.response(Dialect::Grpc));
        };
        self.handle(&String::from_utf8_lossy(named.as_bytes()), &target, request).await
    }
}

/// How often a request that no replica has seen is tried where the last one goes just then.
const ROUNDS: usize = 3;

type Refused = (Problem, Option<Arc<Deployment>>);

impl Inner {
    async fn answer(
        &self,
        endpoint: &str,
        target: &str,
        request: Request<Body>,
        grpc: bool,
        watch: &mut Watch,
    ) -> Result<Response<Body>, Refused> {
        let arrived = Instant::now();
        let refuse = |problem: Problem, endpoint: &str| {
            self.metrics.record_refused(endpoint, problem.status());
            (problem, None)
        };
        let Some(found) = self.table.get(endpoint) else { return Err(refuse(unknown(endpoint), "")) };
        let preflight = is_preflight(&request);
        let checked = self.check(&found, target, request.headers(), preflight).await;
        let target = checked.map_err(|problem| refuse(problem, endpoint))?;
        let (deployment, mirror) =
            found.choose(request.headers()).map_err(|problem| refuse(problem, endpoint))?;
        let mut visit = Visit::begin(Arc::clone(&deployment), arrived);
        watch.chosen(&deployment);
        let guarded = found.auth != crate::route::Auth::Open;
        drop(found);

        let (mut parts, body) = request.into_parts();
        headers::strip_hop_by_hop(&mut parts.headers);
        // hyper has answered it to the client.
        parts.headers.remove(header::EXPECT);
        if guarded {
            // A key of ours is nothing for a script to see.
            parts.headers.remove(header::AUTHORIZATION);
        }
        watch.hand_on(&mut parts.headers);
        if grpc {
            parts.headers.insert(header::TE, http::HeaderValue::from_static("trailers"));
        }
        let unsent = Unsent { parts, target, body, grpc, preflight };
        let result = self.send(&deployment, mirror, unsent, arrived, watch).await;
        (visit.status, visit.failed) = match &result {
            Ok(response) => (response.status(), answers::is_failure(response)),
            Err(problem) => (problem.status(), problem.is_the_deployments()),
        };
        result.map_err(|problem| (problem, Some(deployment)))
    }

    /// Whether a request may come in at all, and where to it goes at the replica.
    async fn check(
        &self,
        endpoint: &Endpoint,
        target: &str,
        headers: &HeaderMap,
        preflight: bool,
    ) -> Result<PathAndQuery, Problem> {
        let verify = &self.hooks.verify;
        // Browsers send no key when they ask whether they may send one.
        if !preflight && !self.verdicts.allow(&endpoint.auth, endpoint.name.as_str(), headers, verify).await {
            return Err(Problem::Unauthenticated);
        }
        if headers.get(headers::REQUEST_ID).is_some_and(|id| id.len() > headers::MAX_REQUEST_ID) {
            return Err(Problem::RequestIdTooLong);
        }
        PathAndQuery::try_from(target)
            .ok()
            .filter(|target| target.path().starts_with('/'))
            .ok_or(Problem::BadTarget)
    }

    /// Reads what is read beforehand, waits for a replica and a place, and sends.
    async fn send(
        &self,
        deployment: &Arc<Deployment>,
        mirror: Option<Arc<Deployment>>,
        unsent: Unsent,
        arrived: Instant,
        watch: &mut Watch,
    ) -> Result<Response<Body>, Problem> {
        let config = &self.config;
        let limit = deployment.live().request_timeout;
        let Unsent { parts, target, body, grpc, preflight } = unsent;
        // Where nobody has to wait, which is the rule, one timer does for all of it. Pinned here: a future of this size
        // costs something to be moved.
        let answered = {
            let first = std::pin::pin!(async {
                let received = if grpc {
                    body::pass_on(Bytes::new(), body, config)
                } else {
                    body::receive(body, config, &self.buffers)
                        .await
                        .map_err(|fault| bad_body(fault, config))?
                };
                watch.received(&received);
                let outgoing = Outgoing { parts, target, received, grpc };
                if let Some(mirror) = mirror {
                    self.mirrors.send(mirror, &outgoing, config, watch);
                }
                match deployment.try_place() {
                    Some(place) => {
                        match forward::forward(Arc::clone(deployment), place, outgoing, config, watch).await {
                            Ok(response) => Ok(Ok(response)),
                            Err(Failed::Problem(problem)) => Err(problem),
                            Err(Failed::NoReplica(outgoing)) => Ok(Err(*outgoing)),
                        }
                    }
                    None => Ok(Err(outgoing)),
                }
            });
            within(arrived + limit, limit, first).await?
        };
        match answered {
            Ok(response) => Ok(response),
            Err(outgoing) => Box::pin(self.send_later(deployment, outgoing, arrived, preflight, watch)).await,
        }
    }

    /// Waits for a replica and a place, and sends.
    async fn send_later(
        &self,
        deployment: &Arc<Deployment>,
        outgoing: Outgoing,
        arrived: Instant,
        preflight: bool,
        watch: &mut Watch,
    ) -> Result<Response<Body>, Problem> {
        let config = &self.config;
        let mut begun = arrived;
        let mut outgoing = outgoing;
        for _ in 0..ROUNDS {
            let waits = Instant::now();
            if !deployment.has_replica() {
                if preflight {
                    // Nobody knows who asks: not worth a start.
                    return Err(Problem::NoReplica);
                }
                let started = deployment.wait_for_replica(&self.hooks.wake, config).await;
                watch.waited("cold start", waits);
                started?;
                // The start is not the request's fault.
                begun = Instant::now();
            }
            let live = deployment.live();
            let deadline = begun + live.request_timeout;
            let waits = Instant::now();
            let place = deployment.place(&live, deadline, config.max_queue_length).await;
            watch.waited("queue", waits);
            let place = place.map_err(Problem::NoPlace)?;
            let sending = async {
                match forward::forward(Arc::clone(deployment), place, outgoing, config, watch).await {
                    Ok(response) => Ok(Ok(response)),
                    Err(Failed::Problem(problem)) => Err(problem),
                    Err(Failed::NoReplica(outgoing)) => Ok(Err(outgoing)),
                }
            };
            match within(deadline, live.request_timeout, sending).await? {
                Ok(response) => return Ok(response),
                // The last replica went between the choice and the sending: another one may come.
                Err(unsent) => outgoing = *unsent,
            }
        }
        Err(Problem::NoReplica)
    }
}

/// A request that was let in.
#[derive(Debug)]
struct Unsent {
    parts: http::request::Parts,
    target: PathAndQuery,
    body: Body,
    grpc: bool,
    preflight: bool,
}

/// What `future` gives, or that it took longer than `limit`.
async fn within<T>(
    deadline: Instant,
    limit: Duration,
    future: impl Future<Output = Result<T, Problem>>,
) -> Result<T, Problem> {
    tokio::time::timeout_at(deadline.into(), future)
        .await
        .unwrap_or_else(|_| Err(Problem::Timeout { millis: limit.as_millis() }))
}

/// Whether a browser asks what it may send.
fn is_preflight(request: &Request<Body>) -> bool {
    request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
        && request.headers().contains_key(header::ORIGIN)
}
