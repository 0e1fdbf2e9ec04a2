//! The reconciler: makes what is true agree with what is desired, again and again, whatever happened in between.
//!
//! It is level-triggered: a nudge says only that something may have changed, and the store says what. Each deployment
//! that has work has one task, so that nothing is ever done twice at one time; an endpoint's route is made from the
//! store and the targets each time. After a crash the same code continues where the store stands.

mod deployment;
mod endpoint;
mod housekeeping;
mod queue;
mod rollout;
mod scale;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use moorline_core::{DeploymentId, Name, TargetKind};
use moorline_gateway::Gateway;
use moorline_store::{RecordKind, Store, StoreError};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use self::rollout::tell_outcome;
use self::{queue::Queue, scale::Scalers};
use crate::{
    operations::Operations,
    release::Releases,
    status::{DeploymentState, split_record_name},
    targets::Targets,
};

/// How long a piece of work that failed for a reason of ours waits before it is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// Routes that are made at one time when the server starts.
const ROUTES: usize = 16;

/// Where work is asked for. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Reconciler(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    gateway: Gateway,
    targets: Targets,
    releases: Releases,
    operations: Operations,
    deployments: Queue<DeploymentId>,
    endpoints: Queue<(Name, Name)>,
    rollouts: Queue<(Name, Name)>,
    scalers: Scalers,
    /// One at a time makes an endpoint's route.
    turns: Mutex<HashMap<(Name, Name), Turn>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Held by whoever makes a route.
type Turn = Arc<tokio::sync::Mutex<()>>;

/// What the reconciler works with.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) store: Store,
    pub(crate) gateway: Gateway,
    pub(crate) targets: Targets,
    pub(crate) releases: Releases,
    pub(crate) operations: Operations,
}

/// What is left to do for a subject after a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Nothing, until the next nudge.
    Rest,
    /// Another round at once.
    Again,
    /// Another round after [`RETRY`], or at the next nudge.
    Retry,
}

impl Reconciler {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { store, gateway, targets, releases, operations } = parts;
        Self(Arc::new(Inner {
            store,
            gateway,
            targets,
            releases,
            operations,
            deployments: Queue::default(),
            endpoints: Queue::default(),
            rollouts: Queue::default(),
            scalers: Scalers::default(),
            turns: Mutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }))
    }

    /// Takes up everything that the store knows, and tells the targets what nobody asks for any more.
    pub(crate) async fn start(&self) -> Result<(), StoreError> {
        let mut known = Vec::new();
        for record in self.0.store.records(RecordKind::Deployment, None).await? {
            if let Some((endpoint, deployment)) = split_record_name(&record.name) {
                let places = places(&record);
                known.push((DeploymentId { workspace: record.workspace, endpoint, deployment }, places));
            }
        }
        self.0.targets.settle(&known).await;
        // Before the first request is let in: an endpoint that is there must not be answered as one that is not.
        let endpoints = self.0.store.records(RecordKind::Endpoint, None).await?;
        stream::iter(endpoints)
            .for_each_concurrent(ROUTES, async |record| {
                if let Ok(endpoint) = record.name.parse() {
                    self.sync_endpoint(&record.workspace, &endpoint).await;
                    self.nudge_rollout(record.workspace, endpoint);
                }
            })
            .await;
        for (id, _) in known {
            self.nudge(id);
        }
        let scaling = self.clone();
        self.0.tasks.spawn(async move { scaling.scale().await });
        let house = self.clone();
        self.0.tasks.spawn(Box::pin(async move { house.keep_house().await }));
        Ok(())
    }

    /// Something about this deployment changed: look at it soon.
    pub(crate) fn nudge(&self, id: DeploymentId) {
        if self.0.deployments.put(&id) {
            let this = self.clone();
            self.0.tasks.spawn(Box::pin(this.work_on_deployment(id)));
        }
    }

    /// A target saw something of this deployment change: its endpoint's route may be another, and a rollout that is
    /// under way may have come further.
    pub(crate) fn observed(&self, id: &DeploymentId) {
        self.nudge_endpoint(id.workspace.clone(), id.endpoint.clone());
        self.0.deployments.wake(id);
    }

    /// Something about this endpoint changed: look at it soon.
    pub(crate) fn nudge_endpoint(&self, workspace: Name, endpoint: Name) {
        let key = (workspace, endpoint);
        if self.0.endpoints.put(&key) {
            let this = self.clone();
            self.0.tasks.spawn(Box::pin(this.work_on_endpoint(key)));
        }
    }

    /// Stops beginning work and waits for what is under way to reach a point where it can be left.
    pub(crate) async fn shutdown(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    async fn work_on_deployment(self, id: DeploymentId) {
        let inner = &self.0;
        let signal = inner.deployments.signal(&id);
        loop {
            let next = tokio::select! {
                next = self.reconcile_deployment(&id, &signal) => next,
                () = inner.stop.cancelled() => return,
            };
            if !inner.deployments.rest(&id, next, &inner.stop).await {
                return;
            }
        }
    }

    async fn work_on_endpoint(self, key: (Name, Name)) {
        let inner = &self.0;
        loop {
            let next = tokio::select! {
                next = self.reconcile_endpoint(&key.0, &key.1) => next,
                () = inner.stop.cancelled() => return,
            };
            if !inner.endpoints.rest(&key, next, &inner.stop).await {
                return;
            }
        }
    }

    /// The deployment as the store has it; `None` where it has none.
    async fn state(&self, id: &DeploymentId) -> Result<Option<DeploymentState>, StoreError> {
        let name = crate::status::deployment_record_name(&id.endpoint, &id.deployment);
        match self.0.store.record(&id.workspace, RecordKind::Deployment, &name).await {
            Ok(record) => match DeploymentState::read(&record) {
                Ok(state) => Ok(Some(state)),
                Err(error) => {
                    tracing::error!(deployment = %id, %error, "the record of a deployment cannot be read");
                    Ok(None)
                }
            },
            Err(error) if error.class() == moorline_core::ErrorClass::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Where a deployment is or was meant to run.
fn places(record: &moorline_store::Record) -> Vec<(TargetKind, Name)> {
    let Ok(state) = DeploymentState::read(record) else { return Vec::new() };
    let desired = std::iter::once(&state.body.desired).chain(&state.status.active);
    desired.map(moorline_core::Desired::runs_on).map(|(compute, kind)| (kind, compute)).collect()
}
