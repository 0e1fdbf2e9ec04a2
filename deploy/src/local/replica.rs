//! One replica from its first start to its end: started or adopted, waited for, watched, started again, drained.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use moorline_core::{Backoff, Digest, Failure, Placement, Probe, ReplicaAddress, ReplicaState};
use serde::Deserialize;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::probe;

use super::{
    Context,
    command::ReplicaCommand,
    failure,
    layout::ReplicaFolder,
    limits::{Group, Limits},
    process::{Ended, Identity, Process},
};

/// So long must a drained replica have had no request: what was sent to it before all who send knew arrives meanwhile.
const SETTLE: Duration = Duration::from_millis(200);
const DRAIN_POLL: Duration = Duration::from_millis(20);
/// Native libraries write to the standard error without bound; it is emptied beyond this.
const LONGEST_STDERR: u64 = 1 << 20;

/// A replica as its deployment holds it. Dropping it leaves the process alone.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) id: String,
    pub(crate) revision: Digest,
    told: watch::Sender<Told>,
    view: Arc<Mutex<View>>,
    task: JoinHandle<()>,
}

/// What a replica has been told.
#[derive(Clone, Debug)]
struct Told {
    /// None for one that was adopted and whose placement is not known yet: it cannot be started again.
    placement: Option<Arc<Placement>>,
    stop: bool,
}

/// What is seen of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) state: ReplicaState,
    pub(crate) address: Option<ReplicaAddress>,
    pub(crate) restarts: u32,
}

/// What a deployment hears from its replicas.
#[derive(Debug)]
pub(crate) enum Event {
    Changed,
    Ended { replica: String, outcome: Outcome },
}

/// How a replica's life ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// As it was told to.
    Stopped,
    /// It was adopted, ended, and nothing is known to start it again with.
    Lost,
    /// It never was ready.
    NotStarted(Failure),
}

impl Replica {
    /// Starts a process, or goes on with the one that was found.
    pub(crate) fn begin(
        context: Arc<Context>,
        identity: Identity,
        placement: Option<Arc<Placement>>,
        adopted: Option<Process>,
        events: mpsc::UnboundedSender<Event>,
    ) -> Self {
        let (told, hears) = watch::channel(Told { placement, stop: false });
        let view = View { state: ReplicaState::Starting, address: None, restarts: 0 };
        let view = Arc::new(Mutex::new(view));
        let folder = context.layout.replica(&identity.deployment, &identity.replica);
        let (id, revision) = (identity.replica.clone(), identity.revision);
        let life = Life {
            group: adopted.as_ref().and_then(|process| Limits::of_adopted(&id, process.id())),
            context,
            identity,
            folder,
            told: hears,
            view: Arc::clone(&view),
            events: events.clone(),
            backoff: Backoff::default(),
            was_ready: false,
            stderr_from: 0,
        };
        let replica = id.clone();
        let task = tokio::spawn(async move {
            let outcome = life.run(adopted).await;
            // Nobody listens any more where the target was closed.
            let _ = events.send(Event::Ended { replica, outcome });
        });
        Self { id, revision, told, view, task }
    }

    pub(crate) fn view(&self) -> View {
        *self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives it what a restart and its probes go by.
    pub(crate) fn place(&self, placement: &Arc<Placement>) {
        self.told.send_modify(|told| told.placement = Some(Arc::clone(placement)));
    }

    /// Drains and ends it.
    pub(crate) fn stop(&self) {
        self.told.send_if_modified(|told| !std::mem::replace(&mut told.stop, true));
    }

    /// It was told to end, by us or by a server before us.
    pub(crate) fn stopping(&self) -> bool {
        self.told.borrow().stop || self.view().state == ReplicaState::Draining
    }

    /// Leaves the process alone, and is done once nothing of this replica goes on here.
    pub(crate) async fn leave(mut self) {
        self.task.abort();
        // It ends by being aborted, or ended before.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a scorer writes once its sockets are bound.
#[derive(Deserialize)]
struct Bound {
    data: SocketAddr,
    admin: SocketAddr,
    pid: u32,
}

struct Life {
    context: Arc<Context>,
    identity: Identity,
    folder: ReplicaFolder,
    told: watch::Receiver<Told>,
    view: Arc<Mutex<View>>,
    events: mpsc::UnboundedSender<Event>,
    backoff: Backoff,
    group: Option<Group>,
    was_ready: bool,
    /// Where in the file of its standard error the output of the process begins.
    stderr_from: u64,
}

enum Start {
    Ready(ReplicaAddress),
    Told,
    Failed(Failure),
}

enum Service {
    Told,
    Ended(String),
}

impl Life {
    async fn run(mut self, mut adopted: Option<Process>) -> Outcome {
        if adopted.is_some() && self.folder.draining().exists() {
            // The server before us was about to end it.
            let address = adopted.as_ref().and_then(|process| bound(&self.folder, process.id()));
            if let Some(process) = adopted.take() {
                self.end(process, address).await;
            }
            return Outcome::Stopped;
        }
        loop {
            if adopted.is_none() && self.told.borrow().stop {
                return Outcome::Stopped;
            }
            let began = Instant::now();
            let ended = match adopted.take().map_or_else(|| self.spawn(), Ok) {
                Ok(process) => self.live(process, began).await,
                Err(failure) => Err(failure),
            };
            let why = match ended {
                Ok(Service::Told) => return Outcome::Stopped,
                Ok(Service::Ended(why)) => why,
                Err(failure) if self.was_ready => failure.reason,
                Err(failure) => return Outcome::NotStarted(failure),
            };
            if self.told.borrow().placement.is_none() {
                tracing::warn!(replica = %self.identity, why, "a replica ended before its deployment was applied again");
                return Outcome::Lost;
            }
            // A long life is no link of a chain of crashes.
            if began.elapsed() > Backoff::LONGEST {
                self.backoff.forget();
            }
            let pause = self.backoff.next_pause();
            tracing::warn!(replica = %self.identity, why, millis = pause.as_millis() as u64, "a replica is started again");
            self.publish(|view| {
                *view = View {
                    state: ReplicaState::BackingOff,
                    address: None,
                    restarts: view.restarts.saturating_add(1),
                };
            });
            tokio::select! {
                () = sleep(pause) => {}
                () = stop_told(&mut self.told) => return Outcome::Stopped,
            }
            self.publish(|view| view.state = ReplicaState::Starting);
        }
    }

    /// From the start of a process to its end.
    async fn live(&mut self, mut process: Process, began: Instant) -> Result<Service, Failure> {
        match self.until_ready(&mut process, began).await {
            Start::Ready(address) => {
                self.was_ready = true;
                self.publish(|view| {
                    view.address = Some(address);
                    view.state = ReplicaState::Ready;
                });
                let service = self.serve(&mut process, address, began).await;
                match service {
                    Service::Told => self.end(process, Some(address)).await,
                    Service::Ended(_) => self.clear(process).await,
                }
                Ok(service)
            }
            Start::Told => {
                self.end(process, None).await;
                Ok(Service::Told)
            }
            Start::Failed(failure) => {
                self.clear(process).await;
                Err(failure)
            }
        }
    }

    fn spawn(&mut self) -> Result<Process, Failure> {
        let failed = |reason: String| Failure { reason, log: Vec::new() };
        let placement = self.told.borrow().placement.clone();
        let placement = placement.ok_or_else(|| failed("nothing is known to start it with".to_owned()))?;
        let command =
            ReplicaCommand::of(&self.context.config, &placement, &self.identity, self.folder.clone())
                .map_err(|error| failed(error.to_string()))?;
        let process = self.prepare().and_then(|()| command.spawn()).map_err(|error| {
            failed(format!("could not start `{}`: {error}", self.context.config.scorer.display()))
        })?;
        self.group = self.context.limits.confine(&self.identity.replica, process.id(), &placement.resources);
        Ok(process)
    }

    fn prepare(&mut self) -> io::Result<()> {
        fs_err::create_dir_all(self.folder.path())?;
        match fs_err::remove_file(self.folder.address()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.stderr_from = fs_err::metadata(self.folder.stderr()).map_or(0, |file| file.len());
        Ok(())
    }

    fn probes(&self) -> (Probe, Probe) {
        let told = self.told.borrow();
        told.placement
            .as_ref()
            .map_or_else(Default::default, |placement| (placement.liveness, placement.readiness))
    }

    /// A ready replica is seen within milliseconds; one that takes long is asked less often.
    async fn until_ready(&mut self, process: &mut Process, began: Instant) -> Start {
        let mut address = None;
        loop {
            let (_, readiness) = self.probes();
            let patience =
                seconds(readiness.initial_delay) + seconds(readiness.period) * readiness.failure_threshold;
            let pause = (began.elapsed() / 10).clamp(Duration::from_millis(5), Duration::from_millis(250));
            let folder = &self.folder;
            let id = process.id();
            let ask = async {
                if address.is_none()
                    && let Some(found) = bound(folder, id)
                {
                    address = Some(found);
                }
                if let Some(address) = address
                    && probe::succeeds(address.admin, "/ready", seconds(readiness.timeout)).await
                {
                    return Some(address);
                }
                sleep(pause).await;
                None
            };
            tokio::select! {
                biased;
                ended = process.wait() => return Start::Failed(self.why(ended)),
                () = stop_told(&mut self.told) => return Start::Told,
                ready = ask => if let Some(address) = ready {
                    return Start::Ready(address);
                },
            }
            if began.elapsed() > patience {
                let reason = format!(
                    "it was not ready within {} s (readiness_probe: initial_delay + period × failure_threshold)",
                    patience.as_secs()
                );
                return Start::Failed(Failure { reason, log: failure::last_lines(&self.folder) });
            }
        }
    }

    fn why(&self, ended: Ended) -> Failure {
        failure::of_start(&self.folder, ended, self.stderr_from)
    }

    /// Watches it until it is told to stop or has ended, be it by being killed for its liveness probe.
    async fn serve(&mut self, process: &mut Process, address: ReplicaAddress, began: Instant) -> Service {
        let (mut misses, mut hits, mut dead) = (0, 0, 0);
        let (liveness, readiness) = self.probes();
        let mut next_live = Instant::now() + seconds(liveness.period);
        let mut next_ready = Instant::now() + seconds(readiness.period);
        loop {
            if self.told.borrow().stop {
                return Service::Told;
            }
            let (liveness, readiness) = self.probes();
            // Probes of another placement may be due sooner.
            next_live = next_live.min(Instant::now() + seconds(liveness.period));
            next_ready = next_ready.min(Instant::now() + seconds(readiness.period));
            tokio::select! {
                biased;
                ended = process.wait() => return Service::Ended(self.why(ended).reason),
                () = something_told(&mut self.told) => continue,
                () = sleep_until(next_live.min(next_ready)) => {}
            }
            let now = Instant::now();
            let counts = |probe: Probe| began.elapsed() >= seconds(probe.initial_delay);
            let ask = async {
                let mut answers = (None, None);
                if now >= next_live {
                    answers.0 =
                        Some(probe::succeeds(address.admin, "/live", seconds(liveness.timeout)).await);
                }
                if now >= next_ready {
                    answers.1 =
                        Some(probe::succeeds(address.admin, "/ready", seconds(readiness.timeout)).await);
                }
                answers
            };
            let (live, ready) = tokio::select! {
                biased;
                ended = process.wait() => return Service::Ended(self.why(ended).reason),
                answers = ask => answers,
            };
            if let Some(live) = live {
                next_live = now + seconds(liveness.period);
                dead = if live || !counts(liveness) { 0 } else { dead + 1 };
                if dead >= liveness.failure_threshold {
                    return Service::Ended(format!("its liveness probe failed {dead} times in a row"));
                }
            }
            if let Some(ready) = ready {
                next_ready = now + seconds(readiness.period);
                (hits, misses) =
                    if ready { (hits + 1, 0) } else { (0, misses + u32::from(counts(readiness))) };
                if misses >= readiness.failure_threshold {
                    self.publish(|view| view.state = ReplicaState::Unready);
                } else if hits >= readiness.success_threshold {
                    self.publish(|view| view.state = ReplicaState::Ready);
                }
            }
            self.bound_stderr();
        }
    }

    fn bound_stderr(&mut self) {
        let path = self.folder.stderr();
        let length = fs_err::metadata(&path).map_or(0, |file| file.len());
        if length > LONGEST_STDERR {
            let emptied = fs_err::OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(0));
            match emptied {
                Ok(()) => self.stderr_from = 0,
                Err(error) => tracing::debug!(%error, "a replica's standard error could not be emptied"),
            }
        }
    }

    /// Drained first where it may have requests.
    async fn end(&mut self, mut process: Process, address: Option<ReplicaAddress>) {
        self.publish(|view| view.state = ReplicaState::Draining);
        if let Err(error) = fs_err::write(self.folder.draining(), "") {
            tracing::debug!(%error, "another server would not know that this replica is drained");
        }
        if let Some(address) = address {
            tokio::select! {
                _ = process.wait() => {}
                () = drained(address.admin, self.context.config.drain_timeout) => {}
            }
        }
        process.terminate();
        if timeout(self.context.config.kill_after, process.wait()).await.is_err() {
            tracing::warn!(replica = %self.identity, "a replica did not end in time and is killed");
        }
        self.clear(process).await;
    }

    /// Leaves nothing of a process.
    async fn clear(&mut self, mut process: Process) {
        process.kill();
        process.wait().await;
        if let Some(group) = self.group.take() {
            group.remove();
        }
    }

    fn publish(&self, change: impl FnOnce(&mut View)) {
        let changed = {
            let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
            let before = *view;
            change(&mut view);
            *view != before
        };
        if changed {
            // Nobody listens any more where the target was closed.
            let _ = self.events.send(Event::Changed);
        }
    }
}

/// Done once no request has been in flight for a while, or none may take longer.
async fn drained(admin: SocketAddr, limit: Duration) {
    let deadline = Instant::now() + limit;
    let mut idle_since = None;
    while Instant::now() < deadline {
        match probe::drain(admin, Duration::from_secs(2)).await {
            Ok(0) => {
                let since = *idle_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= SETTLE {
                    return;
                }
            }
            Ok(_) => idle_since = None,
            Err(error) => tracing::debug!(%error, "a replica could not be asked to drain"),
        }
        sleep(DRAIN_POLL).await;
    }
    tracing::warn!(seconds = limit.as_secs(), "requests were in flight at the end of the drain timeout");
}

fn bound(folder: &ReplicaFolder, pid: u32) -> Option<ReplicaAddress> {
    // Not there yet is the usual reason why it cannot be read.
    let text = fs_err::read(folder.address()).ok()?;
    let bound: Bound = serde_json::from_slice(&text).ok()?;
    (bound.pid == pid).then_some(ReplicaAddress { data: bound.data, admin: bound.admin })
}

async fn stop_told(told: &mut watch::Receiver<Told>) {
    if told.wait_for(|told| told.stop).await.is_err() {
        // Whoever held this replica let go of it: the process is to be left alone.
        std::future::pending::<()>().await;
    }
}

async fn something_told(told: &mut watch::Receiver<Told>) {
    if told.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn seconds(count: u32) -> Duration {
    Duration::from_secs(u64::from(count))
}
