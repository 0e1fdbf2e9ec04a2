//! Which target a compute means: one exhaustive match, and nothing else.

use moorline_core::{Desired, DeploymentId, LogOptions, LogStream, Manifest, Observation, TargetError};

/// The targets of this server.
#[derive(Clone, Debug)]
pub struct Targets;

impl Targets {
    pub async fn admit(&self, desired: &Desired) -> Result<(), TargetError> {
        unimplemented!("{desired:?}")
    }

    /// What would be applied, with secrets by reference.
    pub fn render(&self, desired: &Desired) -> Result<Manifest, TargetError> {
        unimplemented!("{desired:?}")
    }

    pub async fn observe(&self, desired: &Desired) -> Result<Observation, TargetError> {
        unimplemented!("{desired:?}")
    }

    pub async fn logs(&self, desired: &Desired, options: LogOptions) -> Result<LogStream, TargetError> {
        unimplemented!("{desired:?} {options:?}")
    }

    pub async fn remove(&self, id: &DeploymentId) -> Result<(), TargetError> {
        unimplemented!("{id:?}")
    }
}
