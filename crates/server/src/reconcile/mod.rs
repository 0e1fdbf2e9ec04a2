//! The reconciler: makes what is true agree with what is desired, again and again, whatever happened in between.

use moorline_core::{DeploymentId, Name};

/// Where work is asked for. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reconciler;

impl Reconciler {
    /// Something about this deployment changed: look at it soon.
    pub fn nudge(&self, id: DeploymentId) {
        unimplemented!("{id}")
    }

    /// Something about this endpoint changed: look at it soon.
    pub fn nudge_endpoint(&self, workspace: Name, endpoint: Name) {
        unimplemented!("{workspace} {endpoint}")
    }

    /// Makes the gateway's route of this endpoint what the store says, before it returns.
    pub async fn sync_endpoint(&self, workspace: &Name, endpoint: &Name) {
        unimplemented!("{workspace} {endpoint}")
    }
}
