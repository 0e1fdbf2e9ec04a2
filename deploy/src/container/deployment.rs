//! One deployment on an Engine: what was applied last, what the Engine has of it, and the task that brings the one to the
//! other. Every round looks at what is there, so that nothing that was missed stays unseen.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bollard::{
    models::{ContainerSummary, NetworkCreateRequest},
    query_parameters::{CreateContainerOptions, RemoveContainerOptions, StopContainerOptions},
};
use futures_util::future::join_all;
use moorline_core::{Backoff, DeploymentId, ErrorClass, Failure, Observation, Placement, Probe};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::{
    EngineError,
    document::{self, Identity, ImageFacts},
    logs,
    state::{Replica, State, Verdict},
    target::{Context, image_of},
};
use crate::{
    Progress, probe,
    reason::{self, Ended},
    routes::Routes,
};

/// So long must a drained container have had no request: what was sent to it before all who send knew arrives meanwhile.
const SETTLE: Duration = Duration::from_millis(200);
/// The same for one that cannot say how many requests it has.
const SETTLE_UNASKED: Duration = Duration::from_secs(1);
const DRAIN_POLL: Duration = Duration::from_millis(20);
/// The longest time until an Engine that was out of order is asked again.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The log lines that go with a failure.
const FAILURE_LINES: usize = 50;
/// The lines that its reason is looked for in: below it a scorer lists what it has.
const LINES_LOOKED_AT: usize = 500;

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
        state.attempts.asked(same);
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
                    sleep(backoff.next_pause().min(LONGEST_PAUSE)).await;
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
                    if error.was_heard() {
                        let own = !matches!(error.class(), ErrorClass::Unavailable | ErrorClass::Timeout);
                        state.not_started(&placement.revision(), failure, own);
                    } else {
                        state.attempts.pause();
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
        let ended = Ended {
            code: ended.exit_code.and_then(|code| i32::try_from(code).ok()),
            error: ended.error,
            out_of_memory: ended.oom_killed == Some(true),
        };
        let mut log = logs::last_lines(&self.context, container, LINES_LOOKED_AT).await;
        let reason = reason::of_end(&ended, identity.routes.scorer, &log);
        log.drain(..log.len().saturating_sub(FAILURE_LINES));
        let mut state = self.state();
        let known = state.replicas.remove(&identity.replica);
        if known.as_ref().is_some_and(Replica::stopping) {
            return;
        }
        if known.is_some_and(|known| known.was_ready) {
            tracing::warn!(deployment = %self.id, replica = identity.replica, reason, "a container ended");
            state.restarts += 1;
            state.attempts.pause();
        } else {
            tracing::warn!(deployment = %self.id, replica = identity.replica, reason, "a container did not start");
            state.not_started(&identity.revision, Failure { reason, log }, true);
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
            let ask = async |(port, path): &(u16, String), probe: Probe| {
                let address = replica.ports.get(port)?;
                probe::status(*address, path, Duration::from_secs(probe.timeout.into())).await
            };
            let answer = ask(&replica.routes.ready, readiness).await;
            let ready = answer == Some(200);
            // Who is ready is alive.
            let alive = ready || ask(&replica.routes.live, liveness).await == Some(200);
            Verdict { replica: id, ready, alive, answer }
        });
        for verdict in join_all(asked).await {
            let late = self.state().hear(&verdict);
            if let Some((revision, container, failure)) = late {
                let log = logs::last_lines(&self.context, &container, FAILURE_LINES).await;
                let mut state = self.state();
                state.not_started(&revision, Failure { log, ..failure }, true);
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
            return Err(EngineError::of_start(error));
        }
        let replica = Replica::new(created.id, &identity, Replica::JUST_MADE);
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
            let settled = state.removing || (state.attempts.failure().is_none() && state.ready() > 0);
            let kept = found
                .iter()
                .filter(|(identity, _)| Some(identity.revision) == revision)
                .find_map(|(_, container)| container.id.as_ref().filter(|id| state.ended.contains(*id)));
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
