//! One deployment on an Engine: what was applied last, what the Engine has of it, and the task that brings the one to the
//! other. Every round looks at what is there, so that nothing that was missed stays unseen.

use std::{
    collections::{BTreeMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bollard::{
    models::{ContainerState, ContainerSummary, ContainerSummaryStateEnum, NetworkCreateRequest},
    query_parameters::{CreateContainerOptions, RemoveContainerOptions, StopContainerOptions},
};
use futures_util::future::join_all;
use moorline_core::{
    Backoff, DeploymentId, Digest, ErrorClass, Failure, Observation, Phase, Placement, Probe, ReplicaAddress,
    ReplicaState,
};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::{
    EngineError,
    document::{self, Identity, ImageFacts, Routes},
    logs,
    target::{Context, image_of},
};
use crate::{
    Progress, failure,
    plan::{Plan, Seen, plan},
    probe,
};

/// Starts in a row that failed and make a revision a failed one: a second try tells an accident from a defect.
const TRIES: u32 = 2;
/// The same for a revision of which some container was ready: that it can start is known.
const TRIES_OF_PROVEN: u32 = 6;
/// Between two looks at a container that is starting.
const STARTING_POLL: Duration = Duration::from_millis(100);
/// Between two looks at what rests; the Engine's events come sooner.
const RESYNC: Duration = Duration::from_secs(30);
/// So long must a drained container have had no request: what was sent to it before all who send knew arrives meanwhile.
const SETTLE: Duration = Duration::from_millis(200);
/// The same for one that cannot say how many requests it has.
const SETTLE_UNASKED: Duration = Duration::from_secs(1);
const DRAIN_POLL: Duration = Duration::from_millis(20);
/// The log lines that go with a failure.
const FAILURE_LINES: usize = 50;
const OUT_OF_MEMORY: &str = "ended: it used more memory than its limit";

/// A deployment as the target holds it.
#[derive(Debug)]
pub(super) struct Deployment {
    context: Arc<Context>,
    id: DeploymentId,
    state: Mutex<State>,
    wake: Notify,
    gone: watch::Sender<bool>,
    task: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct State {
    /// None for what was found running and was not applied since.
    placement: Option<Arc<Placement>>,
    failure: Option<Failure>,
    failed_starts: u32,
    backoff: Backoff,
    not_before: Option<Instant>,
    /// As many as were asked for have been ready at one time: what fails now is started again and again.
    completed: bool,
    removing: bool,
    replicas: BTreeMap<String, Replica>,
    /// Containers that ended and were taken account of; they are kept for their logs until another one is ready.
    ended: HashSet<String>,
    restarts: u32,
    published: Option<Observation>,
}

/// A container that runs.
#[derive(Clone, Debug)]
struct Replica {
    container: String,
    revision: Digest,
    routes: Routes,
    created: i64,
    state: ReplicaState,
    was_ready: bool,
    began: Instant,
    next_probe: Instant,
    /// In a row.
    not_ready: u32,
    ready: u32,
    not_alive: u32,
    ports: BTreeMap<u16, SocketAddr>,
}

impl Replica {
    fn address(&self) -> Option<ReplicaAddress> {
        Some(ReplicaAddress {
            data: *self.ports.get(&self.routes.data_port)?,
            admin: *self.ports.get(&self.routes.ready.0)?,
        })
    }

    fn stopping(&self) -> bool {
        self.state == ReplicaState::Draining
    }
}

/// What probes said of one container.
struct Verdict {
    replica: String,
    ready: bool,
    alive: bool,
}

impl Deployment {
    pub(super) fn open(context: Arc<Context>, id: DeploymentId) -> Arc<Self> {
        let own = Arc::new(Self {
            context,
            id,
            state: Mutex::default(),
            wake: Notify::new(),
            gone: watch::Sender::new(false),
            task: Mutex::new(None),
        });
        let task = tokio::spawn(Arc::clone(&own).run());
        *own.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        own
    }

    pub(super) fn apply(&self, placement: &Placement) {
        let mut state = self.state();
        let revision = placement.revision();
        let same = state.placement.as_ref().is_some_and(|known| known.revision() == revision);
        if !same {
            state.failed_starts = 0;
            state.backoff = Backoff::default();
            state.not_before = None;
            state.completed = false;
        }
        // Whoever asks again for what failed wants it tried again: once, and not before its pause is over.
        state.failure = None;
        state.placement = Some(Arc::new(placement.clone()));
        drop(state);
        self.wake();
    }

    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    pub(super) fn observe(&self) -> Observation {
        self.state().observation()
    }

    /// Drains and removes every container; the deployment is gone some time later.
    pub(super) fn remove(&self) {
        self.state().removing = true;
        self.wake();
    }

    /// Lets go of the containers, which run on.
    pub(super) fn leave(&self) {
        if let Some(task) = self.task.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }

    pub(super) fn is_gone(&self) -> bool {
        *self.gone.borrow()
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

    async fn run(self: Arc<Self>) {
        let mut backoff = Backoff::default();
        loop {
            let ended = match Box::pin(self.round()).await {
                Ok(ended) => {
                    backoff.forget();
                    ended
                }
                Err(error) => {
                    tracing::warn!(deployment = %self.id, error = &error as &dyn std::error::Error, "could not look after a deployment; it is tried again");
                    sleep(backoff.next_pause()).await;
                    false
                }
            };
            self.publish();
            if ended {
                self.gone.send_replace(true);
                (self.context.on_change)(self.id.clone());
                return;
            }
            let pause = self.state().pause();
            tokio::select! {
                () = self.wake.notified() => {}
                () = sleep(pause) => {}
            }
        }
    }

    fn publish(&self) {
        let mut state = self.state();
        let observation = state.observation();
        let changed = state.published.as_ref() != Some(&observation);
        state.published = Some(observation);
        drop(state);
        if changed {
            (self.context.on_change)(self.id.clone());
        }
    }

    /// Looks at what there is and does what is to be done next. Says whether the deployment is gone.
    async fn round(self: &Arc<Self>) -> Result<bool, EngineError> {
        let found = self.context.containers(Some(&self.id)).await?;
        let over = self.state().take_in(&found, self.context.reached_at);
        for (identity, container) in over {
            self.bury(&identity, &container).await;
        }
        self.probe().await;
        let (placement, start, stop) = self.state().decide();
        for replica in stop {
            self.stop(&replica);
        }
        if let Some(placement) = placement {
            for _ in 0..start {
                if let Err(error) = self.start(&placement).await {
                    let failure = Failure { reason: crate::chain(&error), log: error.log().to_vec() };
                    tracing::warn!(deployment = %self.id, reason = failure.reason, "a container did not start");
                    let mut state = self.state();
                    // An Engine that cannot be reached is no fault of the revision.
                    if !matches!(error.class(), ErrorClass::Unavailable | ErrorClass::Timeout) {
                        state.not_started(&placement.revision(), failure);
                    } else {
                        state.not_before = Some(Instant::now() + state.backoff.next_pause());
                    }
                    break;
                }
            }
        }
        self.clear_away(&found).await;
        let over = {
            let state = self.state();
            state.removing && state.replicas.is_empty()
        };
        if over {
            return self.vanish().await.map(|()| true);
        }
        Ok(false)
    }

    /// Takes account of a container that ended by itself.
    async fn bury(&self, identity: &Identity, container: &str) {
        let inspected = self.context.engine.docker().inspect_container(container, None).await;
        let ended = inspected.ok().and_then(|inspected| inspected.state).unwrap_or_default();
        let log = logs::last_lines(&self.context, container, FAILURE_LINES).await;
        let reason = reason(&ended, &log);
        let mut state = self.state();
        let known = state.replicas.remove(&identity.replica);
        if known.as_ref().is_some_and(Replica::stopping) {
            return;
        }
        if known.is_some_and(|known| known.was_ready) {
            tracing::warn!(deployment = %self.id, replica = identity.replica, reason, "a container ended");
            state.restarts += 1;
            state.not_before = Some(Instant::now() + state.backoff.next_pause());
        } else {
            tracing::warn!(deployment = %self.id, replica = identity.replica, reason, "a container did not start");
            state.not_started(&identity.revision, Failure { reason, log });
        }
    }

    /// Asks those whose time has come.
    async fn probe(&self) {
        let now = Instant::now();
        let (probes, due): (_, Vec<_>) = {
            let state = self.state();
            let due =
                state.replicas.iter().filter(|(_, replica)| !replica.stopping() && replica.next_probe <= now);
            (state.probes(), due.map(|(id, replica)| (id.clone(), replica.clone())).collect())
        };
        let (readiness, liveness) = probes;
        let asked = due.into_iter().map(|(id, replica)| async move {
            let ask = async |(port, path): &(u16, String), probe: Probe| match replica.ports.get(port) {
                Some(address) => {
                    probe::succeeds(*address, path, Duration::from_secs(probe.timeout.into())).await
                }
                None => false,
            };
            let ready = ask(&replica.routes.ready, readiness).await;
            // Who is ready is alive.
            let alive = ready || ask(&replica.routes.live, liveness).await;
            Verdict { replica: id, ready, alive }
        });
        for verdict in join_all(asked).await {
            let late = self.state().hear(&verdict);
            if let Some((revision, container, failure)) = late {
                let log = logs::last_lines(&self.context, &container, FAILURE_LINES).await;
                let mut state = self.state();
                state.not_started(&revision, Failure { log, ..failure });
            }
        }
        self.publish();
    }

    async fn start(&self, placement: &Arc<Placement>) -> Result<(), EngineError> {
        let context = &self.context;
        let docker = context.engine.docker();
        let image = self.image(placement).await?;
        self.network().await?;
        let identity = Identity {
            owner: context.config.owner.clone(),
            deployment: self.id.clone(),
            revision: placement.revision(),
            replica: uuid::Uuid::new_v4().simple().to_string()[..12].to_owned(),
            routes: Routes::of(placement.own_server.as_ref()),
        };
        let body = document::create(&context.config, context.publish, placement, &identity, &image, true);
        let options = CreateContainerOptions {
            name: Some(identity.container_name()),
            ..CreateContainerOptions::default()
        };
        let created = docker.create_container(Some(options), body).await;
        let created =
            created.map_err(|error| EngineError::of("the Engine could not make the container", error))?;
        if let Err(error) = docker.start_container(&created.id, None).await {
            self.discard(&created.id).await;
            return Err(EngineError::of("the Engine could not start the container", error));
        }
        let replica = Replica {
            container: created.id,
            revision: identity.revision,
            routes: identity.routes,
            created: i64::MAX,
            state: ReplicaState::Starting,
            was_ready: false,
            began: Instant::now(),
            next_probe: Instant::now(),
            not_ready: 0,
            ready: 0,
            not_alive: 0,
            ports: BTreeMap::new(),
        };
        self.state().replicas.insert(identity.replica, replica);
        Ok(())
    }

    /// Makes sure that the image is there, and says what of it matters.
    async fn image(&self, placement: &Placement) -> Result<ImageFacts, EngineError> {
        let (context, reference) = (&self.context, image_of(placement));
        let config = &context.config;
        let id =
            context.engine.supply(reference, &config.images, &config.registries, &Progress::none()).await?;
        let inspected = context.engine.docker().inspect_image(&id).await;
        let inspected = inspected
            .map_err(|error| EngineError::of(&format!("could not look at the image `{reference}`"), error))?;
        let entrypoint = inspected.config.and_then(|config| config.entrypoint).unwrap_or_default();
        Ok(ImageFacts { id, entrypoint })
    }

    async fn network(&self) -> Result<(), EngineError> {
        let docker = self.context.engine.docker();
        let name = document::network_name(&self.context.config.owner, &self.id);
        if docker.inspect_network(&name, None).await.is_ok() {
            return Ok(());
        }
        let request = NetworkCreateRequest {
            name: name.clone(),
            driver: Some("bridge".to_owned()),
            labels: Some(document::endpoint_labels(&self.context.config.owner, &self.id)),
            ..NetworkCreateRequest::default()
        };
        match docker.create_network(request).await {
            Ok(_) => Ok(()),
            // Another deployment of the endpoint was first.
            Err(_) if docker.inspect_network(&name, None).await.is_ok() => Ok(()),
            Err(error) => Err(EngineError::of("the Engine could not make the endpoint's network", error)),
        }
    }

    /// Drains a container and removes it, while rounds go on.
    fn stop(self: &Arc<Self>, id: &str) {
        let Some(replica) = self.state().replicas.get(id).cloned() else { return };
        let (own, id) = (Arc::clone(self), id.to_owned());
        tokio::spawn(async move {
            own.drain(&replica).await;
            let seconds = i32::try_from(own.context.config.kill_after.as_secs()).unwrap_or(i32::MAX);
            let options = StopContainerOptions { t: Some(seconds), signal: None };
            // One that is gone already is as good as stopped; one that is not is found by the next round.
            let stopped = own.context.engine.docker().stop_container(&replica.container, Some(options)).await;
            if let Err(error) = stopped {
                tracing::debug!(container = replica.container, %error, "a container could not be stopped");
            }
            own.discard(&replica.container).await;
            own.state().replicas.remove(&id);
            own.wake();
        });
    }

    /// Returns when a container has had no request for a while.
    async fn drain(&self, replica: &Replica) {
        let drained = async {
            let (Some(admin), true) = (replica.ports.get(&replica.routes.ready.0), replica.routes.scorer)
            else {
                sleep(SETTLE_UNASKED).await;
                return;
            };
            let mut quiet_since = Instant::now();
            loop {
                match probe::drain(*admin, Duration::from_secs(2)).await {
                    Ok(0) if quiet_since.elapsed() >= SETTLE => return,
                    Ok(0) => {}
                    Ok(_) => quiet_since = Instant::now(),
                    // It does not answer: there is nothing to wait for.
                    Err(_) => return,
                }
                sleep(DRAIN_POLL).await;
            }
        };
        if timeout(self.context.config.drain_timeout, drained).await.is_err() {
            tracing::warn!(deployment = %self.id, "requests of a container were cut at the end of the drain timeout");
        }
    }

    /// Removes containers that ended and whose logs nobody needs any more.
    async fn clear_away(&self, found: &[(Identity, ContainerSummary)]) {
        let gone: Vec<String> = {
            let state = self.state();
            let revision = state.revision();
            let settled = state.removing || (state.failure.is_none() && state.ready() > 0);
            let kept = found
                .iter()
                .filter(|(identity, _)| Some(identity.revision) == revision)
                .filter_map(|(_, container)| container.id.as_ref().filter(|id| state.ended.contains(*id)))
                .next();
            state.ended.iter().filter(|id| settled || Some(*id) != kept).cloned().collect()
        };
        for container in gone {
            self.discard(&container).await;
            self.state().ended.remove(&container);
        }
    }

    async fn discard(&self, container: &str) {
        let options = RemoveContainerOptions { force: true, v: true, link: false };
        if let Err(error) = self.context.engine.docker().remove_container(container, Some(options)).await {
            // It is gone, or the next round finds it again.
            tracing::debug!(container, %error, "a container could not be removed");
        }
    }

    /// Removes what is left when the last container is gone.
    async fn vanish(&self) -> Result<(), EngineError> {
        for (_, container) in self.context.containers(Some(&self.id)).await? {
            if let Some(id) = container.id {
                self.discard(&id).await;
            }
        }
        // Refused while another deployment of the endpoint is in it.
        let name = document::network_name(&self.context.config.owner, &self.id);
        if let Err(error) = self.context.engine.docker().remove_network(&name).await {
            tracing::debug!(network = name, %error, "the endpoint's network stays");
        }
        Ok(())
    }
}

impl State {
    fn revision(&self) -> Option<Digest> {
        match &self.placement {
            Some(placement) => Some(placement.revision()),
            None => {
                self.replicas.values().max_by_key(|replica| replica.created).map(|newest| newest.revision)
            }
        }
    }

    fn wanted(&self) -> usize {
        self.placement.as_ref().map_or(self.replicas.len(), |placement| placement.replicas as usize)
    }

    fn ready(&self) -> usize {
        let revision = self.revision();
        let ready =
            |replica: &&Replica| Some(replica.revision) == revision && replica.state == ReplicaState::Ready;
        self.replicas.values().filter(ready).count()
    }

    /// Of readiness and of liveness.
    fn probes(&self) -> (Probe, Probe) {
        let placement = self.placement.as_ref();
        placement.map_or_else(Default::default, |placement| (placement.readiness, placement.liveness))
    }

    /// Until the next round, if nothing happens before.
    fn pause(&self) -> Duration {
        let now = Instant::now();
        let busy = self.replicas.values().any(|replica| replica.state == ReplicaState::Starting);
        if busy {
            return STARTING_POLL;
        }
        let probes = self.replicas.values().filter(|replica| !replica.stopping()).map(|own| own.next_probe);
        let next = probes.chain(self.not_before).min();
        next.map_or(RESYNC, |next| next.saturating_duration_since(now)).clamp(DRAIN_POLL, RESYNC)
    }

    /// Compares what was known with what the Engine has. Gives the containers that ended by themselves.
    fn take_in(
        &mut self,
        found: &[(Identity, ContainerSummary)],
        reached_at: std::net::IpAddr,
    ) -> Vec<(Identity, String)> {
        let mut over = Vec::new();
        let mut seen = HashSet::new();
        let now = Instant::now();
        for (identity, container) in found {
            let Some(id) = container.id.clone() else { continue };
            seen.insert(identity.replica.clone());
            match container.state {
                Some(
                    ContainerSummaryStateEnum::RUNNING
                    | ContainerSummaryStateEnum::PAUSED
                    | ContainerSummaryStateEnum::RESTARTING,
                ) => {
                    let ports = ports(container, reached_at);
                    let created = container.created.unwrap_or_default();
                    let replica = self.replicas.entry(identity.replica.clone()).or_insert_with(|| {
                        tracing::info!(container = id, "found a container that runs");
                        Replica {
                            container: id.clone(),
                            revision: identity.revision,
                            routes: identity.routes.clone(),
                            created,
                            state: ReplicaState::Starting,
                            was_ready: false,
                            began: now,
                            next_probe: now,
                            not_ready: 0,
                            ready: 0,
                            not_alive: 0,
                            ports: BTreeMap::new(),
                        }
                    });
                    replica.created = created;
                    replica.ports = ports;
                }
                // Made and not started yet: by us just now, or by a server that ended in between.
                Some(ContainerSummaryStateEnum::CREATED) if self.replicas.contains_key(&identity.replica) => {
                }
                Some(ContainerSummaryStateEnum::REMOVING) => {
                    self.replicas.remove(&identity.replica);
                }
                _ => {
                    if self.ended.insert(id.clone()) && self.replicas.contains_key(&identity.replica) {
                        over.push((identity.clone(), id));
                    }
                }
            }
        }
        // Removed by somebody's hand.
        let before = self.replicas.len();
        self.replicas
            .retain(|id, replica| seen.contains(id) || replica.stopping() || replica.created == i64::MAX);
        self.restarts += (before - self.replicas.len()) as u32;
        self.ended.retain(|id| found.iter().any(|(_, container)| container.id.as_ref() == Some(id)));
        over
    }

    /// Takes what the probes of one container said. Gives the failure of one that is not ready in time, which is stopped.
    fn hear(&mut self, verdict: &Verdict) -> Option<(Digest, String, Failure)> {
        let (readiness, liveness) = self.probes();
        let replica = self.replicas.get_mut(&verdict.replica)?;
        let now = Instant::now();
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        let starting = replica.state == ReplicaState::Starting;
        let period = if liveness.period < readiness.period { liveness.period } else { readiness.period };
        replica.next_probe = now + if starting && !verdict.ready { STARTING_POLL } else { seconds(period) };
        if verdict.ready {
            replica.not_ready = 0;
            replica.not_alive = 0;
            replica.ready += 1;
            if starting || replica.ready >= readiness.success_threshold {
                replica.state = ReplicaState::Ready;
                replica.was_ready = true;
            }
            return None;
        }
        replica.ready = 0;
        replica.not_ready += 1;
        if starting {
            let limit =
                seconds(readiness.initial_delay) + seconds(readiness.period) * readiness.failure_threshold;
            if replica.began.elapsed() < limit {
                return None;
            }
            replica.state = ReplicaState::Unready;
            let reason = format!(
                "it was not ready within {} s (readiness_probe: initial_delay + period × failure_threshold)",
                limit.as_secs()
            );
            return Some((replica.revision, replica.container.clone(), Failure { reason, log: Vec::new() }));
        }
        if replica.not_ready >= readiness.failure_threshold {
            replica.state = ReplicaState::Unready;
        }
        if verdict.alive {
            replica.not_alive = 0;
        } else {
            replica.not_alive += 1;
        }
        None
    }

    fn not_started(&mut self, revision: &Digest, failure: Failure) {
        if Some(*revision) != self.revision() || self.removing || self.placement.is_none() {
            return;
        }
        self.failed_starts += 1;
        self.not_before = Some(Instant::now() + self.backoff.next_pause());
        let tries = if self.ready() > 0 { TRIES_OF_PROVEN } else { TRIES };
        if self.failed_starts >= tries && !self.completed {
            self.failure = Some(failure);
        }
    }

    /// What to start, of which placement, and whom to stop; those are marked.
    fn decide(&mut self) -> (Option<Arc<Placement>>, usize, Vec<String>) {
        if self.placement.is_some() && self.failure.is_none() && self.ready() >= self.wanted() {
            self.completed = true;
            self.failed_starts = 0;
            self.backoff = Backoff::default();
        }
        let (_, liveness) = self.probes();
        let dead = |replica: &Replica| {
            replica.not_alive >= liveness.failure_threshold
                && replica.began.elapsed() >= Duration::from_secs(liveness.initial_delay.into())
        };
        let late = |replica: &Replica| !replica.was_ready && replica.state == ReplicaState::Unready;
        let mut stop: Vec<String> = self
            .replicas
            .iter()
            .filter(|(_, replica)| !replica.stopping() && (dead(replica) || late(replica)))
            .map(|(id, _)| id.clone())
            .collect();
        let mut start = 0;
        let mut live: Vec<(&String, &Replica)> =
            self.replicas.iter().filter(|(id, replica)| !replica.stopping() && !stop.contains(id)).collect();
        live.sort_by_key(|(_, replica)| replica.created);
        if self.removing {
            stop.extend(live.iter().map(|(id, _)| (*id).clone()));
        } else if let Some(placement) = &self.placement {
            let revision = placement.revision();
            let seen: Vec<Seen> = live
                .iter()
                .map(|(_, replica)| Seen { current: replica.revision == revision, state: replica.state })
                .collect();
            let decided: Plan = plan(placement.replicas as usize, self.failure.is_some(), &seen);
            stop.extend(decided.stop.iter().map(|index| live[*index].0.clone()));
            start = decided.start;
        }
        // Until its pause is over, nothing is started.
        match self.not_before {
            Some(until) if until > Instant::now() => start = 0,
            _ => self.not_before = None,
        }
        for id in &stop {
            if let Some(replica) = self.replicas.get_mut(id) {
                replica.state = ReplicaState::Draining;
            }
        }
        (self.placement.clone().filter(|_| !self.removing), start, stop)
    }

    fn observation(&self) -> Observation {
        let replicas: Vec<_> = self
            .replicas
            .iter()
            .map(|(id, replica)| moorline_core::Replica {
                id: id.clone(),
                revision: replica.revision,
                state: replica.state,
                address: replica.address(),
                restarts: self.restarts,
            })
            .collect();
        let wanted = self.wanted();
        let phase = if self.placement.is_none() && replicas.is_empty() {
            Phase::Absent
        } else if self.failure.is_some() {
            Phase::Failed
        } else if self.placement.is_some()
            && !self.removing
            && self.ready() == wanted
            && replicas.len() == wanted
        {
            Phase::Ready
        } else {
            Phase::Progressing
        };
        Observation { phase, revision: self.revision(), replicas, failure: self.failure.clone() }
    }
}

/// The container's ports and where they are found from here.
fn ports(container: &ContainerSummary, reached_at: std::net::IpAddr) -> BTreeMap<u16, SocketAddr> {
    let published = container.ports.iter().flatten();
    let found = published
        .filter_map(|port| Some((port.private_port, SocketAddr::new(reached_at, port.public_port?))));
    found.collect()
}

/// Why a container ended, from what the Engine says and the log.
fn reason(ended: &ContainerState, log: &[String]) -> String {
    let code = ended.exit_code.and_then(|code| i32::try_from(code).ok());
    let how = match (ended.oom_killed, code) {
        (Some(true), _) => OUT_OF_MEMORY.to_owned(),
        (_, Some(137)) => "was killed, as by `docker kill` or for want of memory".to_owned(),
        (_, Some(code)) => format!("exited with code {code}"),
        (_, None) => "ended, and how is not known".to_owned(),
    };
    let said = ended.error.as_deref().filter(|error| !error.is_empty());
    match said {
        Some(error) => format!("the Engine could not run it: {error}"),
        None => failure::reason(&how, code, &log.join("\n")),
    }
}
