//! One replica: how many requests it has, and the connections to it.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;

use crate::{
    body::RequestBody,
    config::GatewayConfig,
    http1::{BoxError, Http1, SendError},
    http2::Http2,
    route::ReplicaRoute,
};

/// For how long others are asked first after a replica could not be reached.
const SHUNNED: Duration = Duration::from_millis(500);

/// A replica that takes requests, or did when its last request was begun.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) route: ReplicaRoute,
    /// Its address, for requests that name no host: those that came over HTTP/2.
    host: HeaderValue,
    in_flight: AtomicUsize,
    /// The longest unused first.
    idle: Mutex<VecDeque<(Box<Http1>, Instant)>>,
    http2: Mutex<Option<Http2>>,
    shunned: Mutex<Option<Instant>>,
    is_shunned: AtomicBool,
    retired: AtomicBool,
}

/// One request of a replica, counted for as long as this lives.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) replica: Arc<Replica>,
}

impl InFlight {
    pub(crate) fn begin(replica: Arc<Replica>) -> Self {
        replica.in_flight.fetch_add(1, Ordering::Relaxed);
        Self { replica }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.replica.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The head of an answer and what its body comes over: nothing of ours in HTTP/2.
pub(crate) type Begun = (Response<Incoming>, Option<Box<Http1>>);

impl Replica {
    pub(crate) fn new(route: ReplicaRoute) -> Arc<Self> {
        let host = HeaderValue::from_str(&route.address.to_string());
        Arc::new(Self {
            host: host.unwrap_or_else(|_| HeaderValue::from_static("replica")),
            route,
            in_flight: AtomicUsize::new(0),
            idle: Mutex::default(),
            http2: Mutex::default(),
            shunned: Mutex::default(),
            is_shunned: AtomicBool::new(false),
            retired: AtomicBool::new(false),
        })
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether others should be asked first.
    pub(crate) fn is_shunned(&self) -> bool {
        if !self.is_shunned.load(Ordering::Relaxed) {
            return false;
        }
        let shunned = lock(&self.shunned).is_some_and(|since| since.elapsed() < SHUNNED);
        self.is_shunned.store(shunned, Ordering::Relaxed);
        shunned
    }

    /// Gives up the connections that are not in use; those that are end with their requests.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
        lock(&self.idle).clear();
        *lock(&self.http2) = None;
    }

    /// Sends a request over HTTP/1.1: over a kept connection that still stands, else over a new one.
    pub(crate) async fn send(
        &self,
        mut request: Request<RequestBody>,
        config: &GatewayConfig,
    ) -> Result<Begun, SendError> {
        if !request.headers().contains_key(header::HOST) {
            request.headers_mut().insert(header::HOST, self.host.clone());
        }
        let mut connection = match self.take_idle(config) {
            Some(connection) => connection,
            None => match Box::pin(self.connect(Http1::connect(self.route.address), config)).await {
                Some(connection) => connection,
                None => return Err(SendError::NotSent(Box::new(request))),
            },
        };
        let response = connection.send(request).await?;
        Ok((response, Some(connection)))
    }

    /// Sends a call over the HTTP/2 connection.
    pub(crate) async fn call(
        &self,
        request: Request<RequestBody>,
        config: &GatewayConfig,
    ) -> Result<Begun, SendError> {
        let shared = lock(&self.http2).clone().filter(Http2::is_usable);
        let mut connection = match shared {
            Some(connection) => connection,
            None => match Box::pin(self.connect(Http2::connect(self.route.address), config)).await {
                Some(connection) => {
                    if !self.retired.load(Ordering::Relaxed) {
                        // Of two that were made at one time the later one stays; the other ends with its calls.
                        *lock(&self.http2) = Some(connection.clone());
                    }
                    connection
                }
                None => return Err(SendError::NotSent(Box::new(request))),
            },
        };
        Ok((connection.send(request).await?, None))
    }

    /// Keeps a connection for the next request, if there can be one.
    pub(crate) fn keep(&self, mut connection: Box<Http1>, config: &GatewayConfig) {
        if self.retired.load(Ordering::Relaxed) || !connection.is_usable() {
            return;
        }
        let mut idle = lock(&self.idle);
        while idle.len() >= config.max_idle_connections.max(1)
            || idle.front().is_some_and(|(_, since)| since.elapsed() >= config.idle_timeout)
        {
            idle.pop_front();
        }
        idle.push_back((connection, Instant::now()));
    }

    /// The connection that was used last, so that those too many grow old.
    fn take_idle(&self, config: &GatewayConfig) -> Option<Box<Http1>> {
        loop {
            let (mut connection, since) = lock(&self.idle).pop_back()?;
            if since.elapsed() < config.idle_timeout && connection.is_usable() {
                return Some(connection);
            }
        }
    }

    async fn connect<C>(
        &self,
        connecting: impl Future<Output = Result<C, BoxError>>,
        config: &GatewayConfig,
    ) -> Option<C> {
        let failure = match tokio::time::timeout(config.connect_timeout, connecting).await {
            Ok(Ok(connection)) => return Some(connection),
            Ok(Err(error)) => error,
            Err(elapsed) => elapsed.into(),
        };
        tracing::debug!(error = %failure, replica = self.route.id, address = %self.route.address, "a replica cannot be reached");
        *lock(&self.shunned) = Some(Instant::now());
        self.is_shunned.store(true, Ordering::Relaxed);
        None
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
