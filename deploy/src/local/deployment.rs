//! One deployment: what was applied last, its replicas, and the task that brings the one to the other.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use moorline_core::{
    DeploymentId, Digest, ErrorClass, Failure, Observation, Phase, Placement, ReplicaState, TargetError,
};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use crate::{
    attempts::Attempts,
    plan::{Plan, Seen, plan},
};

use super::{
    Context,
    layout::{Record, new_replica_id},
    process::{Identity, Process},
    replica::{Event, Outcome, Replica},
};

/// A deployment as the target holds it.
#[derive(Debug)]
pub(crate) struct Deployment {
    context: Arc<Context>,
    id: DeploymentId,
    state: Mutex<State>,
    wake: Notify,
    events: mpsc::UnboundedSender<Event>,
    gone: watch::Sender<bool>,
    task: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct State {
    /// None for one that was adopted and was not applied since.
    placement: Option<Arc<Placement>>,
    /// What was applied last, if only by a server before us.
    record: Option<Record>,
    attempts: Attempts,
    end: Option<End>,
    replicas: Vec<Replica>,
    published: Option<Observation>,
}

/// Why everything is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Remove,
    /// What is remembered stays.
    Stop,
}

impl Deployment {
    pub(crate) fn open(context: Arc<Context>, id: DeploymentId, record: Option<Record>) -> Arc<Self> {
        let (events, hears) = mpsc::unbounded_channel();
        let state = State {
            placement: None,
            record,
            attempts: Attempts::default(),
            end: None,
            replicas: Vec::new(),
            published: None,
        };
        let own = Arc::new(Self {
            context,
            id,
            state: Mutex::new(state),
            wake: Notify::new(),
            events,
            gone: watch::Sender::new(false),
            task: Mutex::new(None),
        });
        let task = tokio::spawn(Arc::clone(&own).run(hears));
        *own.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        own
    }

    pub(crate) fn adopt(&self, identity: Identity, process: Process) {
        let mut state = self.state();
        tracing::info!(replica = %identity, pid = process.id(), "adopted a running replica");
        let replica =
            Replica::begin(Arc::clone(&self.context), identity, None, Some(process), self.events.clone());
        state.replicas.push(replica);
        state.replicas.sort_by(|one, other| one.id.cmp(&other.id));
    }

    pub(crate) fn apply(&self, placement: &Placement) -> Result<(), TargetError> {
        let placement = Arc::new(placement.clone());
        let revision = placement.revision();
        let record = Record { revision, replicas: placement.replicas };
        let mut state = self.state();
        if state.record.as_ref() != Some(&record) {
            self.context.layout.remember(&self.id, &record).map_err(|error| {
                TargetError::caused(
                    ErrorClass::Unavailable,
                    format!("could not remember what deployment `{}` is", self.id),
                    error,
                )
            })?;
        }
        let same = state.placement.as_ref().is_some_and(|known| known.revision() == revision);
        state.attempts.asked(same);
        for replica in state.replicas.iter().filter(|replica| replica.revision == revision) {
            replica.place(&placement);
        }
        state.record = Some(record);
        state.placement = Some(placement);
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    pub(crate) fn observe(&self) -> Observation {
        self.state().observation()
    }

    /// Stops every replica; the deployment is gone some time later.
    pub(crate) fn remove(&self) {
        self.end(End::Remove);
    }

    /// The same, and what is remembered stays.
    pub(crate) fn stop(&self) {
        self.end(End::Stop);
    }

    fn end(&self, end: End) {
        let mut state = self.state();
        // What is being removed is removed, whatever else is asked for.
        state.end = state.end.filter(|known| *known == End::Remove).or(Some(end));
        drop(state);
        self.wake.notify_one();
    }

    /// Lets go of the replicas, which run on.
    pub(crate) async fn leave(&self) {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            task.abort();
            // It ends by being aborted, or ended before.
            let _ = task.await;
        }
        let replicas = std::mem::take(&mut self.state().replicas);
        for replica in replicas {
            replica.leave().await;
        }
    }

    /// Lets go without waiting.
    pub(crate) fn abandon(&self) {
        if let Some(task) = self.task.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
        self.state().replicas.clear();
    }

    /// Every replica has ended, after [`Self::remove`] or [`Self::stop`].
    pub(crate) fn is_gone(&self) -> bool {
        *self.gone.borrow()
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.state().end.is_some()
    }

    pub(crate) async fn gone(&self) {
        // The sender lives as long as this.
        let _ = self.gone.subscribe().wait_for(|gone| *gone).await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(self: Arc<Self>, mut events: mpsc::UnboundedReceiver<Event>) {
        loop {
            let not_before = self.state().attempts.not_before();
            tokio::select! {
                () = self.wake.notified() => {}
                event = events.recv() => if let Some(event) = event {
                    self.hear(event);
                },
                () = until(not_before) => {}
            }
            while let Ok(event) = events.try_recv() {
                self.hear(event);
            }
            let (changed, ended) = self.step();
            if ended {
                self.gone.send_replace(true);
            }
            if changed {
                (self.context.on_change)(self.id.clone());
            }
            if ended {
                return;
            }
        }
    }

    fn hear(&self, event: Event) {
        let Event::Ended { replica, outcome } = event else { return };
        let mut state = self.state();
        let Some(index) = state.replicas.iter().position(|own| own.id == replica) else { return };
        let revision = state.replicas.remove(index).revision;
        let running: Vec<String> = state.replicas.iter().map(|own| own.id.clone()).collect();
        match outcome {
            Outcome::Stopped | Outcome::Lost => {}
            Outcome::NotStarted(failure) => {
                tracing::warn!(deployment = %self.id, replica, reason = failure.reason, "a replica did not start");
                state.not_started(&revision, failure);
            }
        }
        drop(state);
        self.context.layout.prune(&self.id, &running);
    }

    /// Does what is to be done next. Says whether anything is seen to have changed, and whether this was the end.
    fn step(&self) -> (bool, bool) {
        let mut state = self.state();
        state.judge();
        let may_start = state.attempts.may_start();
        let (placement, Plan { start, stop }) = match (state.end, state.placement.clone()) {
            (Some(_), placement) => (placement, state.stop_all()),
            // Until it is applied again, it is not known what to do with what was adopted.
            (None, None) => (None, Plan::default()),
            (None, Some(placement)) => {
                let plan = state.plan(&placement);
                (Some(placement), plan)
            }
        };
        let live: Vec<usize> =
            (0..state.replicas.len()).filter(|index| !state.replicas[*index].stopping()).collect();
        for index in stop {
            state.replicas[live[index]].stop();
        }
        if let Some(placement) = placement
            && may_start
        {
            for _ in 0..start {
                let replica = self.begin(&placement);
                state.replicas.push(replica);
            }
        }
        let ended = state.end.is_some() && state.replicas.is_empty();
        if ended && state.end == Some(End::Remove) {
            if let Err(error) = self.context.layout.forget(&self.id) {
                tracing::warn!(deployment = %self.id, %error, "could not remove what was kept of a deployment");
            }
            state.record = None;
        }
        let observation = state.observation();
        let changed = state.published.as_ref() != Some(&observation);
        state.published = Some(observation);
        (changed, ended)
    }

    fn begin(&self, placement: &Arc<Placement>) -> Replica {
        let identity = Identity {
            home: self.context.layout.id.clone(),
            deployment: self.id.clone(),
            revision: placement.revision(),
            replica: new_replica_id(),
        };
        let placement = Some(Arc::clone(placement));
        Replica::begin(Arc::clone(&self.context), identity, placement, None, self.events.clone())
    }
}

impl State {
    fn revision(&self) -> Option<Digest> {
        self.record.as_ref().map(|record| record.revision)
    }

    fn ready(&self) -> usize {
        let revision = self.revision();
        let ready = |replica: &&Replica| {
            Some(replica.revision) == revision
                && !replica.stopping()
                && replica.view().state == ReplicaState::Ready
        };
        self.replicas.iter().filter(ready).count()
    }

    fn wanted(&self) -> usize {
        self.record.as_ref().map_or(0, |record| record.replicas as usize)
    }

    fn not_started(&mut self, revision: &Digest, failure: Failure) {
        if Some(*revision) == self.revision() && self.end.is_none() && self.placement.is_some() {
            let proven = self.ready() > 0;
            self.attempts.failed(failure, proven);
        }
    }

    /// Whether what is asked for has been reached, at this moment or at some time.
    fn judge(&mut self) {
        if self.placement.is_some() && self.attempts.failure().is_none() && self.ready() >= self.wanted() {
            self.attempts.reached();
        }
    }

    fn plan(&self, placement: &Placement) -> Plan {
        let revision = placement.revision();
        let seen: Vec<Seen> = self
            .replicas
            .iter()
            .filter(|replica| !replica.stopping())
            .map(|replica| Seen { current: replica.revision == revision, state: replica.view().state })
            .collect();
        plan(placement.replicas as usize, self.attempts.failure().is_some(), &seen)
    }

    fn stop_all(&self) -> Plan {
        let live = self.replicas.iter().filter(|replica| !replica.stopping()).count();
        Plan { start: 0, stop: (0..live).collect() }
    }

    fn observation(&self) -> Observation {
        let replicas: Vec<_> = self
            .replicas
            .iter()
            .map(|replica| {
                let view = replica.view();
                let state = if replica.stopping() { ReplicaState::Draining } else { view.state };
                moorline_core::Replica {
                    id: replica.id.clone(),
                    revision: replica.revision,
                    state,
                    address: view.address,
                    restarts: view.restarts,
                }
            })
            .collect();
        let wanted = self.wanted();
        let phase = if self.record.is_none() && replicas.is_empty() {
            Phase::Absent
        } else if self.attempts.failure().is_some() {
            Phase::Failed
        } else if self.end.is_none() && self.ready() == wanted && replicas.len() == wanted {
            Phase::Ready
        } else {
            Phase::Progressing
        };
        Observation {
            phase,
            revision: self.revision(),
            replicas,
            notes: Vec::new(),
            failure: self.attempts.failure().cloned(),
        }
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
