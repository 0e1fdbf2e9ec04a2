//! The scoring script seam: a request goes in as the bytes it came as, an answer comes out as bytes. Nothing here
//! parses a body; the contract of `run` is kept by the workers, next to the user's code.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use thiserror::Error;

use crate::error::ErrorClass;

/// Which of the script's doors a request came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScriptRoute {
    /// `/score`.
    Score,
    /// MLflow's `/invocations`.
    Invocations,
}

/// One request, undecoded. Only what [`ScriptInfo`] says is needed is filled in; the rest may be empty.
#[derive(Clone, Debug)]
pub struct ScriptCall {
    pub route: ScriptRoute,
    /// `GET` or `POST` (or whatever a raw-HTTP script is given).
    pub method: String,
    /// Path and query as sent: `/score?a=1`.
    pub target: String,
    /// In order, repeated names kept.
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
    pub request_id: String,
    /// W3C `traceparent` of the span that the script's work belongs to.
    pub traceparent: Option<String>,
    pub deadline: Instant,
}

/// One answer, already encoded.
#[derive(Clone, Debug, PartialEq)]
pub struct ScriptReply {
    pub status: u16,
    /// Including `content-type`; repeated names are repeated headers.
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
    /// How long `run` took; `None` where it was not reached or failed.
    pub run_time: Option<Duration>,
    /// Whether the user's function failed (`x-ms-run-function-failed`); `None` where it wrote the whole answer itself,
    /// which then goes out without a word on it.
    pub failed: Option<bool>,
}

/// How the script wants to be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScriptStyle {
    /// `run(text)`.
    Plain,
    /// `@input_schema`: named parameters.
    Schema,
    /// `@rawhttp`: the request itself.
    RawHttp,
    /// An MLflow model without a script.
    Mlflow,
}

/// What a started script says of itself; the same for all its workers.
#[derive(Clone, Debug)]
pub struct ScriptInfo {
    pub style: ScriptStyle,
    /// Whether calls must carry `headers` (`request_headers`, raw HTTP, schema, MLflow).
    pub needs_headers: bool,
    /// Swagger documents by version (`2`, `3`, `3.1`), where the script can describe itself.
    pub swagger: BTreeMap<String, String>,
    /// Python's version, for the log and the metadata.
    pub python: String,
}

/// A running scoring script, whatever runs it.
#[async_trait]
pub trait Script: Debug + Send + Sync {
    fn info(&self) -> &ScriptInfo;

    /// Whether at least one worker has finished `init()` and is alive.
    fn ready(&self) -> bool;

    /// How many workers were started again since the first start.
    fn restarts(&self) -> u64;

    /// Scores one request by its deadline. Dropping the future gives the request up; it never harms another one.
    async fn score(&self, call: ScriptCall) -> Result<ScriptReply, ScriptError>;
}

/// Why there is no answer from the script. An exception in the script is not among these: that is a [`ScriptReply`].
#[derive(Clone, Debug, Error)]
pub enum ScriptError {
    #[error("Scoring timeout after {} ms", limit.as_millis())]
    Timeout { limit: Duration },
    /// The worker died with this request in its hands.
    #[error("the scoring script's worker process died while it ran this request: {reason}")]
    WorkerDied { reason: String },
    /// No worker is alive; the last reason is told.
    #[error("no worker of the scoring script is running: {reason}")]
    Unavailable { reason: String },
    #[error("too many requests wait for the scoring script")]
    Overloaded,
}

impl ScriptError {
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::Timeout { .. } => ErrorClass::Timeout,
            Self::WorkerDied { .. } => ErrorClass::Script,
            Self::Unavailable { .. } => ErrorClass::Unavailable,
            Self::Overloaded => ErrorClass::Overloaded,
        }
    }
}
