//! What bounds a gateway, and what it asks of whoever wires it.

use std::{fmt, io::Write, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use moorline_core::DeploymentId;
use moorline_observe::Tracing;

/// Bounds of one gateway.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// Bytes of one request's body; then 413.
    pub max_body_bytes: u64,
    /// A body up to this long is read before a replica is chosen: a slow sender holds no place, and the body can be
    /// copied to a mirror. A longer one is passed on as it comes.
    pub buffer_bytes: usize,
    /// Bytes of all bodies held that way; beyond it, bodies are passed on as they come.
    pub max_buffered_bytes: usize,
    /// Between two parts of a body, from a client or from a replica.
    pub body_timeout: Duration,
    /// For a connection to a replica.
    pub connect_timeout: Duration,
    /// Connections to one replica that are kept for the next request.
    pub max_idle_connections: usize,
    /// How long one is kept; shorter than the replica's own patience, so that none is used while it is being closed.
    pub idle_timeout: Duration,
    /// Requests of one deployment that wait for a place; then 429.
    pub max_queue_length: usize,
    /// Requests of one deployment that wait for a start from zero; then 429.
    pub max_cold_waiters: usize,
    /// How long they wait; then 503.
    pub cold_start_timeout: Duration,
    /// Copies for mirrors under way at one time; further ones are dropped.
    pub max_mirrored_requests: usize,
    /// How long the answer of [`Verify`] to a token holds. A token that is revoked works this long.
    pub verdict_lifetime: Duration,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            max_body_bytes: 100 << 20,
            buffer_bytes: 256 << 10,
            max_buffered_bytes: 256 << 20,
            body_timeout: Duration::from_mins(1),
            connect_timeout: Duration::from_secs(2),
            max_idle_connections: 256,
            idle_timeout: Duration::from_secs(30),
            max_queue_length: 1024,
            max_cold_waiters: 1024,
            cold_start_timeout: Duration::from_mins(2),
            max_mirrored_requests: 64,
            verdict_lifetime: Duration::from_secs(5),
        }
    }
}

/// Told of a deployment that has no replica and a request; again and again while requests wait. Returns at once.
pub type Wake = Arc<dyn Fn(&DeploymentId) + Send + Sync>;

/// Whether this token may score at this endpoint.
pub type Verify = Arc<dyn Fn(&str, &str) -> BoxFuture<'static, bool> + Send + Sync>;

/// What a gateway asks of whoever wires it.
#[derive(Clone)]
pub struct Hooks {
    pub wake: Wake,
    pub verify: Verify,
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks").finish_non_exhaustive()
    }
}

/// Where what is seen of requests goes; nowhere by default.
#[derive(Default)]
pub struct Observation {
    pub tracing: Option<Tracing>,
    /// A line of JSON for each request. Every write is of whole lines, and may block.
    pub access_log: Option<Box<dyn Write + Send>>,
}

impl fmt::Debug for Observation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observation").field("tracing", &self.tracing).finish_non_exhaustive()
    }
}
