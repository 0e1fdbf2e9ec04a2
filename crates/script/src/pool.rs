//! The pool as its users see it: start, score, shut down; and the state that its tasks share.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use moorline_core::{Script, ScriptCall, ScriptError, ScriptInfo, ScriptReply, ScriptRoute, ScriptStyle};
use tokio::{
    sync::{Notify, oneshot, watch},
    task::JoinSet,
    time::timeout_at,
};

use crate::{
    config::ScriptConfig,
    dispatch::{Dispatcher, Measure, Refused, Rules, Sequence},
    error::StartError,
    frame::Request,
    link::Link,
    process::{self, Running},
    supervisor::{keep_time, supervise},
    worker_files::WorkerFiles,
};

/// How long `run` may go on after it was interrupted, before its process is killed.
const GRACE: Duration = Duration::from_secs(2);
/// Beside its body a reply has headers.
const LONGEST_HEADERS: usize = 1 << 20;

/// A request on its way, and who waits for its answer.
#[derive(Debug)]
pub(crate) struct Job {
    request: Request,
    answer: oneshot::Sender<Result<ScriptReply, ScriptError>>,
}

impl AsRef<Request> for Job {
    fn as_ref(&self) -> &Request {
        &self.request
    }
}

impl Job {
    /// Answers with an error; nobody may be waiting any more.
    pub(crate) fn fail(self, error: ScriptError) {
        self.finish(Err(error));
    }

    fn finish(self, answer: Result<ScriptReply, ScriptError>) {
        // The receiver is gone where the caller was, which is its right.
        drop(self.answer.send(answer));
    }
}

/// What is true of a pool at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolStats {
    /// Workers that are ready or busy.
    pub alive: usize,
    /// Requests that wait for a worker.
    pub waiting: usize,
    /// Whether every request that was taken has its answer.
    pub idle: bool,
}

#[derive(Debug)]
struct State {
    dispatcher: Dispatcher<Job>,
    links: Vec<Option<Link>>,
    /// Why the last worker that died, or could not be started, did so.
    reason: String,
}

/// What the pool's tasks share.
#[derive(Debug)]
pub(crate) struct Shared {
    config: ScriptConfig,
    files: WorkerFiles,
    state: Mutex<State>,
    restarts: AtomicU64,
    closing: watch::Sender<bool>,
    batch_began: Notify,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    pub(crate) async fn batch_began(&self) {
        self.batch_began.notified().await;
    }

    pub(crate) const fn longest_frame(&self) -> usize {
        self.config.max_reply_bytes as usize + LONGEST_HEADERS
    }

    pub(crate) fn count_restart(&self) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) async fn start_worker(self: &Arc<Self>, index: usize) -> Result<Running, StartError> {
        let shared = Arc::downgrade(self);
        let current = move || {
            let shared = shared.upgrade()?;
            let state = shared.state();
            state.dispatcher.current(index).map(|job| job.request.id.clone())
        };
        process::start(&self.config, &self.files, index, current).await
    }

    /// Sends everything that can be sent now.
    fn send(&self, state: &mut State, now: Instant) {
        while let Some((worker, group)) = state.dispatcher.assign(now) {
            if let Some(link) = state.links.get_mut(worker).and_then(Option::as_mut) {
                link.send(group);
            }
        }
        if self.config.batching.is_some() && state.dispatcher.wake_at().is_some() {
            self.batch_began.notify_one();
        }
    }

    fn submit(&self, job: Job, batchable: bool, deadline: Instant) -> Result<Sequence, ScriptError> {
        let now = Instant::now();
        let mut state = self.state();
        let sequence =
            state.dispatcher.submit(job, batchable, now, deadline).map_err(|refused| match refused {
                Refused::Full(_) => ScriptError::Overloaded,
                Refused::NobodyThere(_) => ScriptError::Unavailable { reason: state.reason.clone() },
            })?;
        self.send(&mut state, now);
        match state.dispatcher.overflow() {
            Some(_) => Err(ScriptError::Overloaded),
            None => Ok(sequence),
        }
    }

    pub(crate) fn joined(&self, index: usize, link: Link) {
        let mut state = self.state();
        state.links[index] = Some(link);
        state.dispatcher.joined(index);
        self.send(&mut state, Instant::now());
    }

    pub(crate) fn replied(&self, index: usize, sequence: Sequence, reply: ScriptReply) {
        let mut state = self.state();
        let job = state.dispatcher.reply(index, sequence, reply.run_time);
        self.send(&mut state, Instant::now());
        drop(state);
        if let Some(job) = job {
            job.finish(Ok(reply));
        } else {
            tracing::debug!(worker = index, "an answer that nobody asked for");
        }
    }

    pub(crate) fn skipped(&self, index: usize, sequence: Sequence) {
        let mut state = self.state();
        state.dispatcher.skipped(index, sequence);
        self.send(&mut state, Instant::now());
    }

    pub(crate) fn hang_up(&self, index: usize) {
        if let Some(link) = &self.state().links[index] {
            link.hang_up();
        }
    }

    /// Ends a worker and all that it started. Once its process was waited for, its number may be another's.
    pub(crate) fn kill(&self, index: usize, waited_for: bool) {
        if let Some(link) = &mut self.state().links[index] {
            if waited_for {
                link.release();
            } else {
                link.kill();
            }
        }
    }

    /// A worker is gone. Given back are the jobs that went with it.
    pub(crate) fn died(&self, index: usize, comes_back: bool, reason: &str) -> Vec<Job> {
        let now = Instant::now();
        let mut state = self.state();
        let started = state.links[index].take().map_or(0, |link| link.started());
        let lost = state.dispatcher.died(index, started, now);
        reason.clone_into(&mut state.reason);
        let given_up = state.dispatcher.expect(index, comes_back);
        self.send(&mut state, now);
        drop(state);
        give_up(given_up, reason);
        lost
    }

    /// A worker could not be started again. Unless it is soon tried once more and `comes_back`, nobody should wait for
    /// it if it was the last hope.
    pub(crate) fn not_started(&self, index: usize, comes_back: bool, reason: String) {
        let mut state = self.state();
        state.reason.clone_from(&reason);
        let given_up = state.dispatcher.expect(index, comes_back);
        drop(state);
        give_up(given_up, &reason);
    }

    /// What time brings about. The returned moment is when a batch has waited long enough.
    pub(crate) fn tick(&self, now: Instant) -> Option<Instant> {
        let mut state = self.state();
        for measure in state.dispatcher.overdue(now, GRACE) {
            match measure {
                Measure::Interrupt { worker, sequence } => {
                    if let Some(link) = &state.links[worker] {
                        link.interrupt(sequence);
                    }
                }
                Measure::Kill { worker } => {
                    if let Some(link) = &mut state.links[worker] {
                        tracing::warn!(worker, "a request is beyond its time and cannot be interrupted");
                        link.kill();
                    }
                }
            }
        }
        let State { dispatcher, links, .. } = &mut *state;
        let started = |worker: usize| links[worker].as_ref().map_or(0, Link::started);
        for (worker, sequences) in dispatcher.recall(started) {
            if let Some(link) = &links[worker] {
                link.recall(&sequences);
            }
        }
        self.send(&mut state, now);
        state.dispatcher.wake_at()
    }
}

fn give_up(jobs: Vec<Job>, reason: &str) {
    for job in jobs {
        job.fail(ScriptError::Unavailable { reason: reason.to_owned() });
    }
}

/// Scoring scripts in worker processes. Dropping it ends them.
#[derive(Debug)]
pub struct ScriptPool {
    shared: Arc<Shared>,
    info: ScriptInfo,
    tasks: Mutex<JoinSet<()>>,
}

impl ScriptPool {
    /// Starts the workers and waits until `init()` is through in every one of them.
    pub async fn start(config: ScriptConfig) -> Result<Arc<Self>, StartError> {
        let files = WorkerFiles::write().map_err(|source| StartError::Folder { source })?;
        let workers = config.workers.get();
        let rules = Rules { workers, max_queue: config.max_queue, batching: config.batching.clone() };
        let state = State {
            dispatcher: Dispatcher::new(rules),
            links: (0..workers).map(|_| None).collect(),
            reason: "it has not started yet".to_owned(),
        };
        let shared = Arc::new(Shared {
            config,
            files,
            state: Mutex::new(state),
            restarts: AtomicU64::new(0),
            closing: watch::Sender::new(false),
            batch_began: Notify::new(),
        });
        // Dropping the set, as every early return does, ends the tasks and with them the processes.
        let mut tasks = JoinSet::new();
        let mut outcomes = Vec::with_capacity(workers);
        for index in 0..workers {
            let (first, outcome) = oneshot::channel();
            tasks.spawn(supervise(Arc::clone(&shared), index, first));
            outcomes.push(outcome);
        }
        let mut info = None;
        for outcome in outcomes {
            info = Some(outcome.await.unwrap_or(Err(StartError::ShuttingDown))?);
        }
        tasks.spawn(keep_time(Arc::clone(&shared)));
        let info = info.ok_or(StartError::ShuttingDown)?;
        Ok(Arc::new(Self { shared, info, tasks: Mutex::new(tasks) }))
    }

    /// What is true now.
    pub fn stats(&self) -> PoolStats {
        let state = self.shared.state();
        PoolStats {
            alive: state.dispatcher.alive(),
            waiting: state.dispatcher.waiting(),
            idle: state.dispatcher.is_idle(),
        }
    }

    /// The process ids of the workers that live, by worker number.
    pub fn worker_pids(&self) -> Vec<(usize, i32)> {
        let state = self.shared.state();
        let pid = |link: &Option<Link>| link.as_ref().map(|link| link.pid().as_raw_pid());
        state.links.iter().enumerate().filter_map(|(index, link)| Some((index, pid(link)?))).collect()
    }

    /// Ends the workers: each may finish what it runs and its exit handlers within five seconds. Requests that wait
    /// still are answered with [`ScriptError::Unavailable`].
    pub async fn shutdown(&self) {
        self.shared.closing.send_replace(true);
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a task of the script pool failed");
            }
        }
        for index in 0..self.shared.config.workers.get() {
            self.shared.not_started(index, false, StartError::ShuttingDown.summary());
        }
    }

    /// Whether a call may be gathered into a batch, or be sent as text alone.
    fn wants_text_only(&self, call: &ScriptCall) -> bool {
        self.info.style == ScriptStyle::Plain
            && !self.info.needs_headers
            && call.route == ScriptRoute::Score
            && call.method != "GET"
    }
}

#[async_trait]
impl Script for ScriptPool {
    fn info(&self) -> &ScriptInfo {
        &self.info
    }

    fn ready(&self) -> bool {
        self.shared.state().dispatcher.alive() > 0
    }

    fn restarts(&self) -> u64 {
        self.shared.restarts.load(Ordering::Relaxed)
    }

    async fn score(&self, call: ScriptCall) -> Result<ScriptReply, ScriptError> {
        let now = Instant::now();
        let bound = now + self.shared.config.scoring_timeout;
        // A caller that applies the same bound has taken its deadline a little earlier; that is the bound all the same.
        let limit = if call.deadline + Duration::from_millis(50) >= bound {
            self.shared.config.scoring_timeout
        } else {
            Duration::from_millis(
                (call.deadline.saturating_duration_since(now).as_secs_f64() * 1e3).round() as u64
            )
        };
        let deadline = call.deadline.min(bound);
        let text_only = self.wants_text_only(&call);
        let batchable = text_only && self.shared.config.batching.is_some();
        let request = if text_only { Request::text(call) } else { Request::described(call) };
        if request.is_too_long() {
            return Err(ScriptError::Overloaded);
        }
        let (answer, answered) = oneshot::channel();
        let sequence = self.shared.submit(Job { request, answer }, batchable, deadline)?;
        let waiter = Waiter { shared: &self.shared, sequence };
        match timeout_at(deadline.into(), answered).await {
            Ok(answer) => {
                std::mem::forget(waiter);
                answer.unwrap_or_else(|_| {
                    Err(ScriptError::Unavailable { reason: StartError::ShuttingDown.summary() })
                })
            }
            Err(_) => Err(ScriptError::Timeout { limit }),
        }
    }
}

/// Takes its request out of the queue when nobody waits for the answer any more.
struct Waiter<'a> {
    shared: &'a Shared,
    sequence: Sequence,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let abandoned = self.shared.state().dispatcher.cancel(self.sequence);
        drop(abandoned);
    }
}
