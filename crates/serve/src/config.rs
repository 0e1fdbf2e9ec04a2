//! What bounds a scorer: every limit in one place, filled in by the binary from its settings.

use std::{num::NonZeroUsize, time::Duration};

/// Bounds and names of one serving process. There is no default: the binary's settings say all of it.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// Metric label `endpoint`.
    pub endpoint: String,
    /// Metric label `deployment`.
    pub deployment: String,
    /// Bytes of one request's body, before and after decompression.
    pub max_body_bytes: usize,
    /// Bytes of all request bodies held at one time.
    pub max_buffered_bytes: usize,
    /// Bytes of one request's head.
    pub max_header_bytes: usize,
    /// Nesting of a JSON body that we parse.
    pub max_json_depth: usize,
    pub max_connections: usize,
    /// Requests scored at one time; more of them wait.
    pub max_concurrent_requests: NonZeroUsize,
    /// Runs of a model that are shorter than this may stay on the thread that read the request; zero: none may.
    pub inline_limit: Duration,
    /// Requests that wait; more of them are refused.
    pub max_queue_length: usize,
    /// How long a request may wait; `None` waits until its deadline.
    pub max_queue_wait: Option<Duration>,
    /// From the request's arrival to its answer (`request_settings`); answered with 408.
    pub request_timeout: Option<Duration>,
    /// From the script's turn to its answer (`SCORING_TIMEOUT_MS`); answered with 500.
    pub scoring_timeout: Duration,
    /// For the whole head of a request, and for the next one on a kept connection.
    pub header_timeout: Duration,
    /// For the whole body of a request, and for a client to take in what it was sent.
    pub body_timeout: Duration,
    /// After `SIGTERM`, for requests in flight.
    pub drain_timeout: Duration,
    /// Origins for CORS; empty: none.
    pub cors_origins: Vec<String>,
    /// Whether answers carry `x-ms-server-version`.
    pub server_version_header: bool,
}
