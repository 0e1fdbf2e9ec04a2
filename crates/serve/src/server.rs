//! The sockets: the data port with its bounds on connections, heads and slow clients, the admin port, and draining.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::{Request, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tower::{ServiceExt, service_fn};

use crate::{
    app::{App, Backend},
    routes::{front, router},
};

/// hyper refuses less.
const MIN_HEADER_BYTES: usize = 8192;
const MAX_HEADERS: usize = 200;
const MAX_STREAMS: u32 = 256;
const ADMIN_CONNECTIONS: usize = 64;

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
        let admin_door = Door::new(ADMIN_CONNECTIONS, &config);
        let admin = tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                admin_routes.clone().oneshot(request.map(Body::new))
            });
            admin_door.accept(&admin, service).await;
        });

        let door = Door::new(config.max_connections, &config);
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
        tracing::info!(connections = door.graceful.count(), "draining");
        tokio::select! {
            () = door.graceful.shutdown() => {}
            () = cut => tracing::warn!("requests in flight were cut"),
            () = tokio::time::sleep(config.drain_timeout) => tracing::warn!(
                seconds = config.drain_timeout.as_secs(),
                "requests were cut at the end of the drain timeout"
            ),
        }
        admin.abort();
    }
}

/// How connections are let in and what bounds them.
struct Door {
    builder: auto::Builder<TokioExecutor>,
    graceful: GracefulShutdown,
    connections: Arc<Semaphore>,
    write_timeout: Duration,
    header_timeout: Duration,
}

impl Door {
    fn new(connections: usize, config: &crate::config::ServeConfig) -> Self {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(config.header_timeout)
            .max_headers(MAX_HEADERS)
            .max_buf_size(config.max_header_bytes.max(MIN_HEADER_BYTES));
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(u32::try_from(config.max_header_bytes).unwrap_or(u32::MAX))
            .keep_alive_interval(config.body_timeout)
            .keep_alive_timeout(config.header_timeout);
        Self {
            builder,
            graceful: GracefulShutdown::new(),
            connections: Arc::new(Semaphore::new(connections.min(Semaphore::MAX_PERMITS))),
            write_timeout: config.body_timeout,
            header_timeout: config.header_timeout,
        }
    }

    /// Accepts for ever. A connection over the bound waits in the kernel's queue.
    async fn accept<S, F>(&self, listener: &TcpListener, service: S)
    where
        S: tower::Service<
                Request<Incoming>,
                Response = Response,
                Error = std::convert::Infallible,
                Future = F,
            > + Clone
            + Send
            + 'static,
        F: Future<Output = Result<Response, std::convert::Infallible>> + Send + 'static,
    {
        loop {
            let Ok(permit) = Arc::clone(&self.connections).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => self.serve(stream, service.clone(), permit),
                Err(error) => {
                    // Out of file descriptors, most likely: those in use must end before another can begin.
                    tracing::warn!(%error, "could not accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    fn serve<S, F>(&self, stream: TcpStream, service: S, permit: OwnedSemaphorePermit)
    where
        S: tower::Service<
                Request<Incoming>,
                Response = Response,
                Error = std::convert::Infallible,
                Future = F,
            > + Clone
            + Send
            + 'static,
        F: Future<Output = Result<Response, std::convert::Infallible>> + Send + 'static,
    {
        if let Err(error) = bound_slow_reader(&stream, self.write_timeout) {
            tracing::debug!(%error, "could not set the options of a connection");
        }
        let builder = self.builder.clone();
        let watcher = self.graceful.watcher();
        let first_bytes = self.header_timeout;
        tokio::spawn(async move {
            // hyper has no bound of its own on a client that connects and says nothing.
            let builder = match tokio::time::timeout(first_bytes, speaks_http2(&stream)).await {
                Ok(Ok(true)) => builder.http2_only(),
                Ok(Ok(false)) => builder.http1_only(),
                Ok(Err(_)) | Err(_) => return,
            };
            let connection = builder
                .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
                .into_owned();
            if let Err(error) = watcher.watch(connection).await {
                tracing::debug!(%error, "a connection ended early");
            }
            drop(permit);
        });
    }
}

/// Looks at a connection's first bytes, without taking them, until it is certain whether they are HTTP/2's preface.
async fn speaks_http2(stream: &TcpStream) -> io::Result<bool> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut first = [0; PREFACE.len()];
    let mut seen = 0;
    loop {
        let count = stream.peek(&mut first).await?;
        if first[..count] != PREFACE[..count] {
            return Ok(false);
        }
        match count {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ if count == PREFACE.len() => return Ok(true),
            // A part of the preface is there already, so that the socket stays readable: look again a little later.
            _ if count == seen => tokio::time::sleep(Duration::from_millis(5)).await,
            _ => seen = count,
        }
    }
}

/// Small answers leave at once, and the kernel ends a connection whose peer takes nothing in for `timeout`.
fn bound_slow_reader(stream: &TcpStream, timeout: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let millis = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    rustix::net::sockopt::set_tcp_user_timeout(stream, millis)?;
    Ok(())
}

fn admin_router(app: Arc<App>) -> Router {
    Router::new()
        .route("/live", get(async || "live\n"))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/drain", post(drain))
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
