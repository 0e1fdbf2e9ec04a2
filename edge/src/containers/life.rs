//! The life of one module's container. Every round looks at what there is, so that nothing that was missed stays unseen.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use bollard::models::{ContainerCreateBody, ContainerInspectResponse, HealthStatusEnum};
use moorline_core::Backoff;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Duration, Instant},
};

use super::{
    ContainerView, ContainersConfig, Restart, Spec, Wish,
    engine::{Engine, EngineError, Found},
    options,
};
use crate::{
    chain,
    manifest::{ImagePullPolicy, RestartPolicy, Status},
    modules::{OrderError, RuntimeStatus},
};

/// So many crashes before it has proved itself, and a container gives way to the one before it.
const CRASHES: usize = 3;
/// Lines and bytes of a log that are told with a crash.
const LAST_LINES: usize = 20;
const LAST_BYTES: usize = 2000;

pub(super) struct Life {
    name: String,
    config: Arc<ContainersConfig>,
    engine: Arc<Engine>,
    view: Arc<Mutex<ContainerView>>,
    changed: Arc<Notify>,
    /// What is to run, as the Engine is told.
    described: Option<Described>,
    /// A description that crashed again and again, and is not tried again.
    refused: Option<String>,
    /// Starts of what ends by itself.
    starts: Backoff,
    next_start: Option<Instant>,
    crashes: VecDeque<Instant>,
    /// The last end that was counted: the container and when.
    counted: Option<(String, String)>,
    /// What an Engine or a registry does not do is asked again.
    failures: Backoff,
    /// Why a new container was not made, or gave way.
    trouble: Option<String>,
}

struct Described {
    spec: Arc<Spec>,
    revision: String,
    body: Result<ContainerCreateBody, String>,
}

impl Life {
    pub(super) fn new(
        name: String,
        config: Arc<ContainersConfig>,
        engine: Arc<Engine>,
        view: Arc<Mutex<ContainerView>>,
        changed: Arc<Notify>,
    ) -> Self {
        Self {
            name,
            config,
            engine,
            view,
            changed,
            described: None,
            refused: None,
            starts: Backoff::default(),
            next_start: None,
            crashes: VecDeque::new(),
            counted: None,
            failures: Backoff::default(),
            trouble: None,
        }
    }

    /// Until nobody wishes any more, or the module is removed.
    pub(super) async fn run(
        mut self,
        mut wishes: watch::Receiver<Wish>,
        mut restarts: mpsc::Receiver<Restart>,
    ) {
        loop {
            let wish = wishes.borrow_and_update().clone();
            let pause = match Box::pin(self.round(&wish)).await {
                Ok(true) => return,
                Ok(false) => {
                    self.failures.forget();
                    self.config.poll
                }
                Err(error) => {
                    let why = chain(&error);
                    tracing::warn!(
                        module = self.name,
                        reason = why,
                        "could not look after a container; it is tried again"
                    );
                    self.show(|view| view.description = why);
                    self.failures.next_pause().max(self.config.poll)
                }
            };
            tokio::select! {
                changed = wishes.changed() => if changed.is_err() { return },
                Some(told) = restarts.recv() => {
                    // Who asked may have gone.
                    let _ = told.send(self.restart().await);
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn show(&self, change: impl FnOnce(&mut ContainerView)) {
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        let before = view.clone();
        change(&mut view);
        if *view != before {
            self.changed.notify_one();
        }
    }

    /// Does what is to be done next; `true` once the module is gone.
    async fn round(&mut self, wish: &Wish) -> Result<bool, EngineError> {
        let spec = match wish {
            Wish::Unknown => return Ok(false),
            Wish::Remove => {
                for found in self.found().await? {
                    self.engine.stop(&found.id).await?;
                    self.engine.remove(&found.id).await?;
                }
                tracing::info!(module = self.name, "removed a module's container");
                return Ok(true);
            }
            Wish::Run(spec) => spec,
        };
        self.describe(spec);
        let Some(described) = &self.described else { return Ok(false) };
        let (revision, body) = (described.revision.clone(), described.body.clone());
        let mut found = self.found().await?;
        found.sort_by_key(|found| std::cmp::Reverse(found.created));
        if spec.module.status == Status::Stopped {
            return self.stop(&found).await.map(|()| false);
        }
        let refused = self.refused.as_ref() == Some(&revision);
        let body = match body {
            Ok(body) if !refused => body,
            other => {
                if let Err(why) = other {
                    self.trouble = Some(why);
                }
                // What ran goes on.
                if let Some(before) = found.iter().find(|found| found.revision != revision) {
                    self.supervise(before, spec, &[]).await?;
                } else {
                    let why = self.trouble.clone().unwrap_or_default();
                    self.show(|view| (view.status, view.description) = (RuntimeStatus::Failed, why));
                }
                return Ok(false);
            }
        };
        let others: Vec<Found> = found.iter().filter(|found| found.revision != revision).cloned().collect();
        let current = match found.into_iter().find(|found| found.revision == revision) {
            Some(current) => current,
            None => match self.create(spec, &revision, body).await {
                Ok(created) => created,
                Err(error) => {
                    if let Some(before) = others.first() {
                        self.trouble = Some(chain(&error));
                        self.supervise(before, spec, &[]).await?;
                    }
                    return Err(error);
                }
            },
        };
        self.supervise(&current, spec, &others).await.map(|()| false)
    }

    async fn found(&self) -> Result<Vec<Found>, EngineError> {
        self.engine.containers(&self.config.owner, Some(&self.name)).await
    }

    fn describe(&mut self, spec: &Arc<Spec>) {
        if self.described.as_ref().is_some_and(|described| described.spec == *spec) {
            return;
        }
        let made = options::body(spec, &self.config.owner, &self.config.allowed);
        let (body, revision) = match made {
            Ok((body, revision)) => (Ok(body), revision),
            Err(error) => {
                let why = chain(&error);
                tracing::warn!(module = self.name, reason = why, "a container was not taken");
                (Err(why), String::new())
            }
        };
        self.described = Some(Described { spec: Arc::clone(spec), revision, body });
        self.forget_crashes();
        self.trouble = None;
    }

    fn forget_crashes(&mut self) {
        self.starts.forget();
        self.crashes.clear();
        self.next_start = None;
    }

    /// Fetches the image, if it has to be, and makes the container.
    async fn create(
        &self,
        spec: &Spec,
        revision: &str,
        body: ContainerCreateBody,
    ) -> Result<Found, EngineError> {
        let image = &spec.module.image;
        let local = self.engine.has_image(image).await?;
        match spec.module.image_pull_policy {
            ImagePullPolicy::Never if !local => return Err(EngineError::NoImage(image.clone())),
            ImagePullPolicy::Never => {}
            // What is named by its digest cannot have changed.
            ImagePullPolicy::OnCreate if local && image.contains("@sha256:") => {}
            ImagePullPolicy::OnCreate => {
                self.show(|view| {
                    if view.id.is_none() {
                        view.description = format!("fetches the image `{image}`");
                    }
                });
                match self.engine.pull(image, spec.credentials.as_ref()).await {
                    Ok(()) => {}
                    Err(error) if local => {
                        let error = &error as &dyn std::error::Error;
                        tracing::info!(
                            module = self.name,
                            image,
                            error,
                            "takes the image that is on the device"
                        );
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        self.engine.network().await?;
        let name = format!("{}-{}-{}", self.name, &self.config.owner[..6], &revision[..8]);
        let id = self.engine.create(&name, body).await?;
        tracing::info!(module = self.name, image, "made a container");
        Ok(Found { id, module: self.name.clone(), revision: revision.to_owned(), created: i64::MAX })
    }

    /// Sees to it that one container runs as its policy says, and no other.
    async fn supervise(&mut self, own: &Found, spec: &Spec, others: &[Found]) -> Result<(), EngineError> {
        let seen = self.engine.inspect(&own.id).await?;
        let state = seen.state.clone().unwrap_or_default();
        if state.running == Some(true) {
            let unhealthy =
                state.health.and_then(|health| health.status) == Some(HealthStatusEnum::UNHEALTHY);
            let policy = spec.module.restart_policy;
            if unhealthy && matches!(policy, RestartPolicy::OnUnhealthy | RestartPolicy::Always) {
                self.runs(own, &seen, true);
                if self.next_start.is_none_or(|next| next <= Instant::now()) {
                    tracing::warn!(
                        module = self.name,
                        "a module says that it does not work, and starts anew"
                    );
                    self.next_start = Some(Instant::now() + self.starts.next_pause());
                    self.engine.stop(&own.id).await?;
                    self.engine.start(&own.id).await?;
                    self.show(|view| view.restarts += 1);
                }
                return Ok(());
            }
            self.runs(own, &seen, unhealthy);
            let begun = state.started_at.as_deref().and_then(|time| time.parse::<jiff::Timestamp>().ok());
            let ran = begun.and_then(|begun| jiff::Timestamp::now().duration_since(begun).try_into().ok());
            if ran.is_some_and(|ran: Duration| ran >= self.config.proof) {
                self.forget_crashes();
                for other in others {
                    self.engine.remove(&other.id).await?;
                }
            }
            return Ok(());
        }
        let ended = state.finished_at.clone().filter(|time| !time.starts_with("0001-"));
        let Some(ended) = ended else { return self.start(own, others).await };
        let code = state.exit_code.unwrap_or_default();
        let again = match spec.module.restart_policy {
            RestartPolicy::Never => false,
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure | RestartPolicy::OnUnhealthy => code != 0,
        };
        let this = (own.id.clone(), ended.clone());
        if self.counted.as_ref() != Some(&this) {
            self.counted = Some(this);
            let words = self.engine.log(&own.id, LAST_LINES, LAST_BYTES).await.unwrap_or_default();
            let error = state.error.filter(|error| !error.is_empty());
            let why = told(code, state.oom_killed == Some(true), error.as_deref(), words.trim());
            self.ended(&why, code, ended, again);
        }
        if !again {
            return Ok(());
        }
        if self.crashes.len() >= CRASHES
            && let Some(before) = others.first()
        {
            return self.give_way(own, before).await;
        }
        if self.next_start.is_some_and(|next| next > Instant::now()) {
            return Ok(());
        }
        self.start(own, others).await?;
        self.show(|view| view.restarts += 1);
        Ok(())
    }

    fn runs(&self, own: &Found, seen: &ContainerInspectResponse, unhealthy: bool) {
        let state = seen.state.clone().unwrap_or_default();
        let trouble = self.trouble.clone().unwrap_or_default();
        self.show(|view| {
            view.status = if unhealthy { RuntimeStatus::Unhealthy } else { RuntimeStatus::Running };
            view.description = trouble;
            view.image = seen.config.as_ref().and_then(|config| config.image.clone());
            view.image_hash.clone_from(&seen.image);
            view.last_start = state.started_at;
            view.id = Some(own.id.clone());
        });
    }

    fn ended(&mut self, why: &str, code: i64, at: String, again: bool) {
        let now = Instant::now();
        self.crashes.push_back(now);
        // Crashes that lie far apart are no loop.
        let window = self.config.proof * CRASHES as u32;
        while self.crashes.front().is_some_and(|crash| *crash + window < now) {
            self.crashes.pop_front();
        }
        self.next_start = Some(now + self.starts.next_pause());
        tracing::warn!(module = self.name, reason = why, "a module ended by itself");
        self.show(|view| {
            view.exit_code = Some(code);
            view.last_exit = Some(at);
            view.id = None;
            why.clone_into(&mut view.description);
            view.status = match (again, code) {
                (true, _) => RuntimeStatus::Backoff,
                (false, 0) => RuntimeStatus::Stopped,
                (false, _) => RuntimeStatus::Failed,
            };
        });
    }

    /// Starts a container in place of whatever runs: both may want the same port.
    async fn start(&mut self, own: &Found, others: &[Found]) -> Result<(), EngineError> {
        for other in others {
            self.engine.stop(&other.id).await?;
        }
        match self.engine.start(&own.id).await {
            Ok(()) => {
                let seen = self.engine.inspect(&own.id).await?;
                if seen.state.as_ref().and_then(|state| state.running) == Some(true) {
                    self.runs(own, &seen, false);
                }
                Ok(())
            }
            Err(error) => {
                // It will not start by being asked again soon; what ran before does.
                let why = chain(&error);
                self.crashes.push_back(Instant::now());
                self.show(|view| (view.status, view.description) = (RuntimeStatus::Backoff, why.clone()));
                if self.crashes.len() >= CRASHES
                    && let Some(before) = others.first()
                {
                    // There is none before that one: this comes to an end.
                    return Box::pin(self.give_way(own, before)).await;
                }
                Err(error)
            }
        }
    }

    async fn give_way(&mut self, own: &Found, before: &Found) -> Result<(), EngineError> {
        let why = self.view.lock().unwrap_or_else(PoisonError::into_inner).description.clone();
        tracing::warn!(module = self.name, "a container that crashes again and again gives way");
        self.refused = Some(own.revision.clone());
        self.trouble = Some(format!("the new container gave way to the one before it: {why}"));
        self.forget_crashes();
        self.engine.remove(&own.id).await?;
        self.start(before, &[]).await
    }

    async fn stop(&mut self, found: &[Found]) -> Result<(), EngineError> {
        for container in found {
            self.engine.stop(&container.id).await?;
        }
        self.forget_crashes();
        self.show(|view| {
            (view.status, view.id) = (RuntimeStatus::Stopped, None);
            "it is to be stopped".clone_into(&mut view.description);
        });
        Ok(())
    }

    async fn restart(&mut self) -> Result<(), OrderError> {
        let id = self.view.lock().unwrap_or_else(PoisonError::into_inner).id.clone();
        let Some(id) = id else { return Err(OrderError::NotRunning(self.name.clone())) };
        let done = async {
            self.engine.stop(&id).await?;
            self.engine.start(&id).await
        };
        done.await.map_err(|error| OrderError::Failed(chain(&error)))?;
        self.show(|view| view.restarts += 1);
        Ok(())
    }
}

/// How a container ended, with its last words.
fn told(code: i64, memory: bool, error: Option<&str>, words: &str) -> String {
    let mut text = match code {
        _ if memory => "was ended, since it took more memory than it may".to_owned(),
        // As a shell says that a signal ended it.
        129..=192 => format!("was killed by signal {}", code - 128),
        code => format!("exited with code {code}"),
    };
    if let Some(error) = error {
        text = format!("{text} ({error})");
    }
    if words.is_empty() { text } else { format!("{text}; it said:\n{words}") }
}
