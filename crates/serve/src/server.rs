//! The two ports: the data port with what answers on it, the admin port, and the order in which they end.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Query, State},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::{Request, StatusCode, header};
use hyper::{body::Incoming, service::service_fn};
use moorline_listen::{Door, ListenConfig};
use serde::Deserialize;
use thiserror::Error;
use tokio::net::TcpListener;
use tower::ServiceExt;

use crate::{
    app::{App, Backend},
    config::ServeConfig,
    routes::{front, router},
};

const ADMIN_CONNECTIONS: usize = 64;
const SETTLE_POLL: Duration = Duration::from_millis(20);
/// Beyond it nobody waits for an answer.
const LONGEST_SETTLE_MS: u64 = 3_600_000;

/// A socket that could not be had.
#[derive(Debug, Error)]
#[error("could not listen on {address} for the {port} port")]
pub struct BindError {
    address: SocketAddr,
    port: &'static str,
    #[source]
    source: io::Error,
}

/// Two bound sockets and the app behind them.
#[derive(Debug)]
pub struct Server {
    app: Arc<App>,
    data: TcpListener,
    admin: TcpListener,
}

impl Server {
    /// Binds both ports at once, so that a port taken is known before anything is loaded.
    pub async fn bind(app: Arc<App>, data: SocketAddr, admin: SocketAddr) -> Result<Self, BindError> {
        let bind = async |address, port| {
            TcpListener::bind(address).await.map_err(|source| BindError { address, port, source })
        };
        Ok(Self { data: bind(data, "data").await?, admin: bind(admin, "admin").await?, app })
    }

    /// The addresses of the data port and of the admin port.
    pub fn addresses(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        Ok((self.data.local_addr()?, self.admin.local_addr()?))
    }

    /// Serves until `shutdown` is done, then drains: no new connection, an end to kept ones, and as long for requests
    /// in flight as the configuration says, or until `cut` is done. The admin port answers to the end.
    pub async fn run(self, shutdown: impl Future<Output = ()>, cut: impl Future<Output = ()>) {
        let Self { app, data, admin } = self;
        let config = app.config().clone();
        let admin_routes = admin_router(Arc::clone(&app));
        let admin_door = Door::new(&listen(ADMIN_CONNECTIONS, &config));
        let admin = tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                admin_routes.clone().oneshot(request.map(Body::new))
            });
            admin_door.accept(&admin, service).await;
        });

        let door = Door::new(&listen(config.max_connections, &config));
        let router = router(Arc::clone(&app));
        let service = {
            let app = Arc::clone(&app);
            service_fn(move |request: Request<Incoming>| {
                front(Arc::clone(&app), router.clone(), request.map(Body::new))
            })
        };
        tokio::select! {
            () = door.accept(&data, service) => {}
            () = shutdown => {}
        }
        app.drain();
        drop(data);
        tracing::info!(connections = door.connections(), "draining");
        tokio::select! {
            () = door.drain() => {}
            () = cut => tracing::warn!("requests in flight were cut"),
            () = tokio::time::sleep(config.drain_timeout) => tracing::warn!(
                seconds = config.drain_timeout.as_secs(),
                "requests were cut at the end of the drain timeout"
            ),
        }
        if let Some(recorder) = app.recorder() {
            Arc::clone(recorder).finish().await;
        }
        admin.abort();
    }
}

fn listen(max_connections: usize, config: &ServeConfig) -> ListenConfig {
    ListenConfig {
        max_connections,
        max_header_bytes: config.max_header_bytes,
        header_timeout: config.header_timeout,
        write_timeout: config.body_timeout,
    }
}

fn admin_router(app: Arc<App>) -> Router {
    Router::new()
        .route("/live", get(async || "live\n"))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/drain", post(drain).get(settle))
        .route("/collected", get(collected))
        .with_state(app)
}

async fn ready(State(app): State<Arc<App>>) -> Response {
    if app.ready() {
        return "ready\n".into_response();
    }
    let reason = match app.served() {
        _ if app.draining() => "draining\n".to_owned(),
        Ok(_) => "no worker of the scoring script is running\n".to_owned(),
        Err(problem) => format!("{}\n", problem.message),
    };
    (StatusCode::SERVICE_UNAVAILABLE, reason).into_response()
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let restarts = match app.served().map(|served| &served.backend) {
        Ok(Backend::Script(script)) => script.restarts(),
        _ => 0,
    };
    match app.metrics().render(restarts) {
        Ok(text) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Takes the scorer out of readiness and says how many requests it still has; whoever asked stops it when none is left.
async fn drain(State(app): State<Arc<App>>) -> Json<serde_json::Value> {
    app.drain();
    Json(serde_json::json!({ "draining": true, "requests_in_flight": app.metrics().in_flight.get() }))
}

/// Which segment was stored, and whether what is being written is to end now.
#[derive(Debug, Deserialize)]
struct Fetch {
    acknowledged: Option<String>,
    #[serde(default)]
    seal: bool,
}

/// The next segment of what was collected: a line of JSON that says what it is, and its JSON Lines; nothing where there is
/// none. It stays until it is acknowledged.
async fn collected(State(app): State<Arc<App>>, Query(fetch): Query<Fetch>) -> Response {
    let Some(recorder) = app.recorder().map(Arc::clone) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let read =
        tokio::task::spawn_blocking(move || recorder.fetch(fetch.acknowledged.as_deref(), fetch.seal)).await;
    match read {
        Ok(Ok(segment)) => segment.into_response(),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// How long [`settle`] waits.
#[derive(Debug, Deserialize)]
struct Settle {
    /// So long there must have been no request.
    #[serde(default)]
    settle_ms: u64,
    /// Whatever there is, it answers then.
    #[serde(default)]
    limit_ms: u64,
}

/// For those who can only GET and wait, as the `preStop` hook of Kubernetes does: drains, and answers once there has been no
/// request for a while. Requests that arrive meanwhile, from who has not heard of it yet, are answered.
async fn settle(State(app): State<Arc<App>>, Query(wanted): Query<Settle>) -> Json<serde_json::Value> {
    app.drain();
    let until = Instant::now() + Duration::from_millis(wanted.limit_ms.min(LONGEST_SETTLE_MS));
    let settle = Duration::from_millis(wanted.settle_ms);
    let mut quiet_since = Instant::now();
    while Instant::now() < until && quiet_since.elapsed() < settle {
        if app.metrics().in_flight.get() > 0 {
            quiet_since = Instant::now();
        }
        tokio::time::sleep(SETTLE_POLL).await;
    }
    drain(State(app)).await
}
