//! One deployment in a cluster: what was applied last, and the task that keeps the cluster's objects like it. It acts when
//! a watch says that something changed, and writes only what differs.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use moorline_core::{
    Backoff, DeploymentId, Failure, Observation, Placement, ReplicaAddress, ReplicaState, TargetError,
};
use serde_json::Value;
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::sleep,
};

use super::{
    error::ClusterError,
    logs, names, objects,
    pods::SeenPod,
    served::Kind,
    state::{Facts, State, Verdict},
    target::Context,
    write::{Writer, identity},
};
use crate::{reason, routes::Routes};

/// Between two looks at what no watch spoke of.
const RESYNC: Duration = Duration::from_mins(5);
/// The longest time until a cluster that refused is asked again.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The log lines that go with a failure.
const FAILURE_LINES: usize = 50;
/// The lines that its reason is looked for in: below it a scorer lists what it has.
const LINES_LOOKED_AT: usize = 500;

/// A deployment as the target holds it.
#[derive(Debug)]
pub(super) struct Deployment {
    context: Arc<Context>,
    id: DeploymentId,
    /// The name of its objects.
    name: String,
    state: Mutex<State>,
    /// Held by who writes to the cluster.
    writing: tokio::sync::Mutex<()>,
    wake: Notify,
    gone: watch::Sender<bool>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Deployment {
    pub(super) fn open(context: Arc<Context>, id: DeploymentId) -> Arc<Self> {
        let own = Arc::new(Self {
            name: names::object_name(&context.look.owner, &id),
            context,
            id,
            state: Mutex::default(),
            writing: tokio::sync::Mutex::default(),
            wake: Notify::new(),
            gone: watch::Sender::new(false),
            task: Mutex::new(None),
        });
        let task = tokio::spawn(Arc::clone(&own).run());
        *own.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        own
    }

    /// Makes this the placement, once the cluster has accepted all of it.
    pub(super) async fn apply(&self, placement: &Placement) -> Result<(), TargetError> {
        let _turn = self.writing.lock().await;
        let before = self.with_facts(|state, facts| {
            let before = state.clone();
            state.ask(Arc::new(placement.clone()), facts);
            before
        });
        let written = self.write().await;
        if written.is_err() {
            // What is there goes on.
            *self.state() = before;
        }
        self.wake();
        Ok(written?)
    }

    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Drains and removes every pod and object; the deployment is gone some time later.
    pub(super) fn remove(&self) {
        self.state().removing = true;
        self.wake();
    }

    /// Lets go of what is in the cluster, which stays.
    pub(super) fn leave(&self) {
        if let Some(task) = self.task.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is_gone(&self) -> bool {
        *self.gone.borrow()
    }

    pub(super) fn was_applied(&self) -> bool {
        self.state().placement.is_some()
    }

    pub(super) fn is_ending(&self) -> bool {
        self.state().removing
    }

    pub(super) async fn gone(&self) {
        // The sender lives as long as this.
        let _ = self.gone.subscribe().wait_for(|gone| *gone).await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// With the deployment's pods and its object as the watches tell them.
    fn with_facts<T>(&self, then: impl FnOnce(&mut State, &Facts<'_>) -> T) -> T {
        let cache = &self.context.cache;
        let pods = cache.pods(&self.name);
        let deployment = cache.object(&self.name, Kind::Deployment, &self.name);
        let facts = Facts { served: &self.context.look.served, pods: &pods, deployment: deployment.as_ref() };
        then(&mut self.state(), &facts)
    }

    pub(super) fn observe(&self) -> Observation {
        self.with_facts(|state, facts| {
            let routes =
                Routes::of(state.placement.as_ref().and_then(|placement| placement.own_server.as_ref()));
            if let Some(forwards) = &self.context.forwards {
                let there: HashSet<&str> = facts.pods.iter().map(|pod| pod.name.as_str()).collect();
                forwards.keep(|pod| pod.starts_with(&self.name), &there);
            }
            state.observation(facts, |pod| self.address(pod, &routes))
        })
    }

    fn address(&self, pod: &SeenPod, routes: &Routes) -> Option<ReplicaAddress> {
        if pod.state() != ReplicaState::Ready {
            return None;
        }
        Some(match &self.context.forwards {
            Some(forwards) => ReplicaAddress {
                data: forwards.address(&pod.name, routes.data_port)?,
                admin: forwards.address(&pod.name, routes.ready.0)?,
            },
            None => ReplicaAddress {
                data: (pod.ip?, routes.data_port).into(),
                admin: (pod.ip?, routes.ready.0).into(),
            },
        })
    }

    async fn run(self: Arc<Self>) {
        let mut backoff = Backoff::default();
        loop {
            let pause = match Box::pin(self.round()).await {
                Ok(true) => {
                    self.gone.send_replace(true);
                    (self.context.on_change)(self.id.clone());
                    return;
                }
                Ok(false) => {
                    backoff.forget();
                    RESYNC
                }
                Err(error) => {
                    tracing::warn!(deployment = %self.id, %error, "could not look after a deployment; it is tried again");
                    backoff.next_pause().min(LONGEST_PAUSE)
                }
            };
            self.publish();
            tokio::select! {
                () = self.wake.notified() => {}
                () = sleep(pause) => {}
            }
        }
    }

    fn publish(&self) {
        let observation = self.observe();
        let mut state = self.state();
        let changed = state.published.as_ref() != Some(&observation);
        state.published = Some(observation);
        drop(state);
        if changed {
            (self.context.on_change)(self.id.clone());
        }
    }

    fn writer(&self) -> Writer<'_> {
        Writer { context: &self.context, name: &self.name }
    }

    /// Looks at what there is and does what is to be done next. Says whether the deployment is gone.
    async fn round(&self) -> Result<bool, ClusterError> {
        let _turn = self.writing.lock().await;
        if self.state().removing {
            return self.vanish().await;
        }
        if self.was_applied() {
            self.write().await?;
        }
        let Some(verdict) = self.with_facts(State::judge) else { return Ok(false) };
        let failure = match verdict {
            Verdict::Failed(reason) => Failure { reason, log: Vec::new() },
            Verdict::Ended(pod) => self.failure_of(&pod).await,
        };
        tracing::warn!(deployment = %self.id, reason = failure.reason, "a rollout failed");
        let halt = self.with_facts(|state, facts| {
            state.failure = Some(failure);
            state.halted = !state.proven && !state.others_serve(facts);
            state.halted
        });
        if halt {
            self.write().await?;
        }
        Ok(false)
    }

    async fn failure_of(&self, pod: &SeenPod) -> Failure {
        let placement = self.state().placement.clone();
        let routes = Routes::of(placement.as_ref().and_then(|placement| placement.own_server.as_ref()));
        let read = logs::last_lines(&self.context, pod, LINES_LOOKED_AT).await;
        let (mut log, unread) = match read {
            Ok(log) => (log, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        let ended = pod.ended.clone().unwrap_or_default();
        // The kubelet ends one whose startup probe fails, by a signal that a scorer obeys.
        let obeyed = matches!(ended.code, Some(0 | 137 | 143)) && !ended.out_of_memory;
        let reason = match placement {
            Some(placement) if obeyed => {
                let limit = Duration::from_secs(objects::startup_seconds(&placement));
                reason::of_lateness(limit, &routes.ready, None)
            }
            _ => reason::of_end(&ended, routes.scorer, &log),
        };
        log.drain(..log.len().saturating_sub(FAILURE_LINES));
        match unread {
            None => Failure { reason, log },
            Some(error) => Failure { reason: format!("{reason}; {error}"), log },
        }
    }

    /// Makes the cluster's objects what they should be. Nothing is left of a first try that was refused.
    async fn write(&self) -> Result<(), ClusterError> {
        let (placement, halted) = {
            let state = self.state();
            let Some(placement) = state.placement.clone() else { return Ok(()) };
            (placement, state.halted)
        };
        let look = &self.context.look;
        let mut wanted = objects::objects(look, &placement, true);
        if halted {
            let halt = |object: &mut Value| {
                object["spec"]["replicas"] = 0.into();
                // It was not rolled out, whatever the cluster thinks of one without pods.
                object["metadata"]["annotations"][names::REVISION] = "halted".into();
            };
            wanted.iter_mut().filter(|object| Kind::of(object) == Some(Kind::Deployment)).for_each(halt);
        }
        self.writer().write(&wanted).await?;
        self.prune(&wanted, &placement).await
    }

    /// Removes what is ours and not wanted any more. The variables of pods that run are kept.
    async fn prune(&self, wanted: &[Value], placement: &Placement) -> Result<(), ClusterError> {
        let wanted: HashSet<(Kind, String)> = wanted.iter().filter_map(identity).collect();
        let revision = placement.revision();
        let others = self.context.cache.pods(&self.name).iter().any(|pod| pod.revision != Some(revision));
        for (kind, name) in self.context.cache.names(&self.name) {
            let in_use = kind == Kind::Secret && others;
            if !in_use && !wanted.contains(&(kind, name.clone())) {
                self.writer().delete(kind, &name).await?;
            }
        }
        Ok(())
    }

    /// Removes one kind after the other: first what makes pods, and when they are gone, what they used.
    async fn vanish(&self) -> Result<bool, ClusterError> {
        let cache = &self.context.cache;
        let first = [Kind::HorizontalPodAutoscaler, Kind::Deployment];
        for kind in first {
            for (_, name) in cache.names(&self.name).iter().filter(|(own, _)| *own == kind) {
                let live = cache.object(&self.name, kind, name);
                let ending = live.is_some_and(|live| !live["metadata"]["deletionTimestamp"].is_null());
                if !ending {
                    self.writer().delete(kind, name).await?;
                }
            }
        }
        let left = cache.names(&self.name);
        if left.iter().any(|(kind, _)| first.contains(kind)) || !cache.pods(&self.name).is_empty() {
            return Ok(false);
        }
        for (kind, name) in left.iter().rev() {
            self.writer().delete(*kind, name).await?;
        }
        Ok(true)
    }
}
