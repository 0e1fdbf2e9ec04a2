//! The control plane's parts in one place: what handlers and the reconciler are given.

use std::sync::{Arc, OnceLock};

use moorline_core::DeploymentId;
use moorline_gateway::Gateway;
use moorline_store::Store;
use prometheus::Registry;
use tokio::sync::broadcast;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    api::Findings, auth::Doorkeeper, collection::Collecting, config::ServerConfig, edge::EdgeHub,
    monitor::Monitoring, operations::Operations, reconcile::Reconciler, release::Releases, targets::Targets,
};

/// A running server's parts. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    pub(crate) store: Store,
    pub(crate) gateway: Gateway,
    pub(crate) operations: Operations,
    pub(crate) reconciler: Reconciler,
    /// Where the gateway and the targets, which it holds, find the reconciler again for as long as the server lives.
    pub(crate) _told: Arc<OnceLock<Reconciler>>,
    pub(crate) targets: Targets,
    pub(crate) releases: Releases,
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) doorkeeper: Arc<Doorkeeper>,
    /// Where devices connect, if they do here.
    pub(crate) edge: Option<EdgeHub>,
    pub(crate) metrics: Registry,
    pub(crate) monitor: Monitoring,
    /// Fetches what scorers collect.
    pub(crate) collecting: Collecting,
    /// What was found out of late about this machine.
    pub(crate) findings: Arc<Findings>,
    /// Deployments of which a target saw something change.
    pub(crate) observed: broadcast::Sender<DeploymentId>,
    /// Done when the server ends: streams that would go on for ever end with it.
    pub(crate) stopping: CancellationToken,
    /// Changes that were begun, and are finished whether their caller waits or not.
    pub(crate) changes: TaskTracker,
}
