//! The seam of targets: somewhere a deployment can run.

use std::{fmt::Debug, pin::Pin};

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;
use thiserror::Error;

use crate::{
    correlation::is_of_request,
    deployment::{DeploymentId, Desired, Observation, Placement},
    error::ErrorClass,
};

/// Somewhere a deployment can run.
///
/// Only the reconciler calls `apply` and `remove`, and never both or twice at one time for one deployment. Every method
/// is idempotent and may be cancelled; what was begun is found by the next `observe`. An unknown name is [`Phase::Absent`], not an error.
///
/// [`Phase::Absent`]: crate::Phase::Absent
#[async_trait]
pub trait Target: Debug + Send + Sync {
    /// Refuses early what it could never host.
    async fn admit(&self, desired: &Desired) -> Result<(), TargetError>;

    /// Exactly what `apply` submits, with secrets by reference. Pure: no clock, no disk, no network.
    fn render(&self, placement: &Placement) -> Result<Manifest, TargetError>;

    /// Makes this the newest placement of its deployment; returns once it is accepted. Replicas of an older revision
    /// are replaced one by one, each only after its successor is ready, and drained before they end.
    async fn apply(&self, placement: &Placement) -> Result<(), TargetError>;

    async fn observe(&self, id: &DeploymentId) -> Result<Observation, TargetError>;

    /// The log of all replicas or of one, oldest first.
    async fn logs(&self, id: &DeploymentId, options: LogOptions) -> Result<LogStream, TargetError>;

    /// Drains and removes every replica; returns once none is left.
    async fn remove(&self, id: &DeploymentId) -> Result<(), TargetError>;
}

/// What a target would be told, as documents of its own kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    pub documents: Vec<serde_json::Value>,
}

/// Which part of a log.
#[derive(Clone, Debug, Default)]
pub struct LogOptions {
    /// The last lines; all that are kept where it is `None`.
    pub tail: Option<usize>,
    /// Goes on with new lines until the reader leaves.
    pub follow: bool,
    /// Only this replica's.
    pub replica: Option<String>,
    /// Only the lines of this request. `tail` and `follow` are then about these.
    pub request_id: Option<String>,
}

impl LogOptions {
    /// Whether a line is among those that are asked for.
    pub fn take(&self, line: &[u8]) -> bool {
        self.request_id.as_deref().is_none_or(|id| is_of_request(&String::from_utf8_lossy(line), id))
    }
}

/// Chunks of whole lines.
pub type LogStream = Pin<Box<dyn Stream<Item = Result<Bytes, TargetError>> + Send>>;

/// What a target could not do.
#[derive(Debug, Error)]
#[error("{message}")]
pub struct TargetError {
    pub class: ErrorClass,
    /// What was wrong, with the name of the thing, and what to do next where that is known.
    pub message: String,
    /// The last lines of the log of what failed, oldest first, where there is one.
    pub log: Vec<String>,
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl TargetError {
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), log: Vec::new(), source: None }
    }

    pub fn caused(
        class: ErrorClass,
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { source: Some(source.into()), ..Self::new(class, message) }
    }

    pub fn with_log(self, log: Vec<String>) -> Self {
        Self { log, ..self }
    }
}
