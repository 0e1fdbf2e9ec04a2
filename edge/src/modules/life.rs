//! The life of one module: what is wished for, what runs, and what is done when they differ.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use moorline_core::Backoff;
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::{Duration, Instant},
};

use super::{
    About, ModuleError, ModuleView, ModulesConfig, OrderError, RuntimeStatus, Version, front::Front,
    process::Process, state::State,
};
use crate::{
    chain,
    manifest::{RestartPolicy, Status},
};

/// So many crashes before it has proved itself, and a version gives way.
const CRASHES: usize = 3;
/// Between the last connection that a process was led and its end.
const SETTLE: Duration = Duration::from_millis(200);

/// Where the module is seen.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) view: Arc<Mutex<ModuleView>>,
    pub(super) changed: Arc<Notify>,
}

impl Shown {
    fn change(&self, change: impl FnOnce(&mut ModuleView)) {
        change(&mut self.view.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_one();
    }

    fn description(&self) -> String {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).description.clone()
    }
}

#[derive(Debug)]
pub(super) struct Life {
    name: String,
    config: Arc<ModulesConfig>,
    about: Arc<About>,
    state: State,
    front: Front,
    shown: Shown,
    client: reqwest::Client,
    running: Option<Running>,
    /// What is tried again in a while.
    retry: Option<(Version, VecDeque<Instant>)>,
    backoff: Backoff,
}

#[derive(Debug)]
struct Running {
    version: Version,
    process: Process,
    since: Instant,
    crashes: VecDeque<Instant>,
    proved: bool,
}

/// To be started again, once; is told what came of it.
pub(super) type Restart = oneshot::Sender<Result<(), OrderError>>;

/// What happened to a module.
enum Event {
    Wish,
    Restart(Restart),
    Ended(String, Option<i32>),
    Proved,
    /// It is time to try again.
    Retry,
    Gone,
}

impl Life {
    pub(super) fn new(
        name: String,
        client: reqwest::Client,
        (config, about): (Arc<ModulesConfig>, Arc<About>),
        mut state: State,
        front: Front,
        shown: Shown,
    ) -> Result<Self, ModuleError> {
        if state.port != front.address().port() {
            state.port = front.address().port();
            state.save()?;
        }
        let backoff = Backoff::default();
        Ok(Self { name, config, about, state, front, shown, client, running: None, retry: None, backoff })
    }

    /// Until nobody wishes any more.
    pub(super) async fn run(
        mut self,
        mut wishes: watch::Receiver<Option<Version>>,
        mut restarts: mpsc::Receiver<Restart>,
    ) {
        // Whatever comes later: what worked last works first, with no network and no hub.
        if let Some(good) = self.state.good.clone()
            && good.module.status == Status::Running
        {
            self.start_again(good, VecDeque::new()).await;
        }
        loop {
            match self.next_event(&mut wishes, &mut restarts).await {
                Event::Wish => {
                    let wish = wishes.borrow_and_update().clone();
                    if let Some(wish) = wish {
                        self.reconcile(wish).await;
                    }
                }
                Event::Restart(told) => {
                    // Who asked may have gone.
                    let _ = told.send(self.restart().await);
                }
                Event::Proved => {
                    if let Some(running) = &mut self.running {
                        running.proved = true;
                        self.backoff.forget();
                    }
                }
                Event::Ended(how, code) => self.crashed(&how, code).await,
                Event::Retry => {
                    if let Some((version, crashes)) = self.retry.take() {
                        self.shown.change(|view| view.restarts += 1);
                        self.start_again(version, crashes).await;
                    }
                }
                Event::Gone => break,
            }
        }
        self.stop("the agent ends").await;
    }

    async fn next_event(
        &mut self,
        wishes: &mut watch::Receiver<Option<Version>>,
        restarts: &mut mpsc::Receiver<Restart>,
    ) -> Event {
        let proof = self.config.proof;
        let Some(running) = &mut self.running else {
            let pause = self.retry.as_ref().map(|_| self.backoff.next_pause());
            return tokio::select! {
                changed = wishes.changed() => if changed.is_ok() { Event::Wish } else { Event::Gone },
                Some(told) = restarts.recv() => Event::Restart(told),
                () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => Event::Retry,
            };
        };
        tokio::select! {
            changed = wishes.changed() => if changed.is_ok() { Event::Wish } else { Event::Gone },
            Some(told) = restarts.recv() => Event::Restart(told),
            (how, code) = running.process.wait() => Event::Ended(how, code),
            () = tokio::time::sleep_until(running.since + proof), if !running.proved => Event::Proved,
        }
    }

    /// Brings the wish about, or says why not.
    async fn reconcile(&mut self, wish: Version) {
        if wish.module.status == Status::Stopped {
            self.stop("it is to be stopped").await;
            self.remember(|state| state.good = Some(wish));
            return;
        }
        if self.running.as_ref().is_some_and(|running| running.version == wish) {
            return;
        }
        if self.state.refused.as_ref() == Some(&wish.module) {
            return;
        }
        // It worked before: that it does not now may pass.
        if self.state.good.as_ref() == Some(&wish) {
            return self.start_again(wish, VecDeque::new()).await;
        }
        match self.start(&wish).await {
            Ok(process) => self.switch(wish, process).await,
            Err(error) => self.refuse(&wish, &chain(&error)).await,
        }
    }

    async fn start(&self, version: &Version) -> Result<Process, ModuleError> {
        let folder = self.state.folder().to_owned();
        let mut process = Process::start(&self.name, version, (&self.config, &self.about), &folder).await?;
        process.prove(version, &self.config, &self.client).await?;
        Ok(process)
    }

    /// New connections go to the new version; the old one finishes what it has.
    async fn switch(&mut self, version: Version, process: Process) {
        let previous = self.running.as_ref().filter(|old| old.proved && old.version != version);
        let previous = previous.map(|old| old.version.clone()).or(self.state.previous.take());
        let good = version.clone();
        // Written down first: after a loss of power the new version is the one that worked last.
        self.remember(|state| {
            state.previous = previous.filter(|previous| *previous != good);
            state.good = Some(good);
            state.refused = None;
        });
        let old = self.install(version, process, VecDeque::new());
        if let Some(old) = old {
            self.retire(old).await;
        }
    }

    /// Starts what runs anew, beside itself, so that nobody is without an answer.
    async fn restart(&mut self) -> Result<(), OrderError> {
        let Some(running) = &self.running else { return Err(OrderError::NotRunning(self.name.clone())) };
        let (version, crashes) = (running.version.clone(), running.crashes.clone());
        let process = self.start(&version).await.map_err(|error| OrderError::Failed(chain(&error)))?;
        let description = self.shown.description();
        let old = self.install(version, process, crashes);
        self.shown.change(|view| {
            view.restarts += 1;
            view.description = description;
        });
        if let Some(old) = old {
            self.retire(old).await;
        }
        Ok(())
    }

    /// Ends a process that takes no new connections any more.
    async fn retire(&self, old: Running) {
        // Those that were on their way to it when the front was turned have arrived by then.
        tokio::time::sleep(SETTLE).await;
        old.process.end(self.config.drain_timeout).await;
    }

    fn install(&mut self, version: Version, process: Process, crashes: VecDeque<Instant>) -> Option<Running> {
        let (scorer, admin) = process.addresses().unzip();
        self.front.lead_to(scorer);
        let (shown, id, container) = (version.module.clone(), process.id(), process.container());
        self.shown.change(|view| {
            view.status = RuntimeStatus::Running;
            view.description.clear();
            view.running = Some(shown);
            view.last_start = Some(jiff::Timestamp::now());
            (view.process, view.scorer, view.admin) = (id, scorer, admin);
            view.container = container;
        });
        self.retry = None;
        let running = Running { version, process, since: Instant::now(), crashes, proved: false };
        self.running.replace(running)
    }

    /// A version that fails takes no request; what ran goes on.
    async fn refuse(&mut self, wish: &Version, why: &str) {
        let release = wish.module.settings.release;
        tracing::warn!(module = self.name, %release, reason = why, "a version of a module was not taken");
        let refused = wish.module.clone();
        self.remember(|state| state.refused = Some(refused));
        let running = self.running.is_some();
        self.shown.change(|view| {
            view.refused = Some(wish.module.clone());
            view.description = format!("version {}: {why}", version_name(wish));
            view.status = if running { RuntimeStatus::Running } else { RuntimeStatus::Failed };
        });
        if !running && let Some(good) = self.state.good.clone().filter(|good| good != wish) {
            self.start_again(good, VecDeque::new()).await;
        }
    }

    /// Starts a version that worked before, as often as it takes.
    async fn start_again(&mut self, version: Version, crashes: VecDeque<Instant>) {
        match self.start(&version).await {
            Ok(process) => {
                let description = self.shown.description();
                self.install(version, process, crashes);
                // Why it is this version that runs.
                self.shown.change(|view| view.description = description);
            }
            Err(error) => {
                let why = chain(&error);
                tracing::warn!(
                    module = self.name,
                    reason = why,
                    "a version that worked before does not start"
                );
                self.shown.change(|view| {
                    view.status = RuntimeStatus::Backoff;
                    view.description = format!("version {}: {why}", version_name(&version));
                });
                self.retry = Some((version, crashes));
            }
        }
    }

    async fn crashed(&mut self, how: &str, code: Option<i32>) {
        let Some(mut crashed) = self.running.take() else { return };
        self.front.lead_to(None);
        let log = crashed.process.last_words().await;
        let now = Instant::now();
        crashed.crashes.push_back(now);
        let window = self.config.proof * CRASHES as u32;
        while crashed.crashes.front().is_some_and(|crash| *crash + window < now) {
            crashed.crashes.pop_front();
        }
        let why = format!("version {} {how}{log}", version_name(&crashed.version));
        tracing::warn!(module = self.name, reason = why, "a module ended by itself");
        let policy = crashed.version.module.restart_policy;
        let again = match policy {
            RestartPolicy::Never => false,
            RestartPolicy::OnFailure => code != Some(0),
            RestartPolicy::OnUnhealthy | RestartPolicy::Always => true,
        };
        self.shown.change(|view| {
            view.exit_code = code;
            view.last_exit = Some(jiff::Timestamp::now());
            view.nothing_runs();
            view.description.clone_from(&why);
            view.status = if again { RuntimeStatus::Backoff } else { RuntimeStatus::Failed };
        });
        if !again {
            return;
        }
        let looping = !crashed.proved && crashed.crashes.len() >= CRASHES;
        if looping && let Some(previous) = self.state.previous.take() {
            let refused = crashed.version.module;
            let release = refused.settings.release;
            tracing::warn!(module = self.name, %release, "a version that crashes again and again gives way");
            self.shown.change(|view| view.refused = Some(refused.clone()));
            self.remember(|state| {
                state.refused = Some(refused);
                state.good = Some(previous.clone());
            });
            self.start_again(previous, VecDeque::new()).await;
            return;
        }
        self.retry = Some((crashed.version, crashed.crashes));
    }

    async fn stop(&mut self, why: &str) {
        self.front.lead_to(None);
        self.retry = None;
        if let Some(running) = self.running.take() {
            running.process.end(self.config.drain_timeout).await;
        }
        self.shown.change(|view| {
            view.status = RuntimeStatus::Stopped;
            why.clone_into(&mut view.description);
            view.nothing_runs();
            view.last_exit = Some(jiff::Timestamp::now());
        });
    }

    fn remember(&mut self, change: impl FnOnce(&mut State)) {
        change(&mut self.state);
        if let Err(error) = self.state.save() {
            // It goes on with what it has; after a restart it may run the version before.
            tracing::error!(
                module = self.name,
                error = &error as &dyn std::error::Error,
                "could not remember"
            );
        }
    }
}

fn version_name(version: &Version) -> String {
    let digest = version.module.settings.release.hex();
    match &version.module.version {
        Some(version) => format!("{version} ({})", &digest[..12]),
        None => digest[..12].to_owned(),
    }
}
