//! The sessions of a model and the threads that run them. A thread takes a batch from the queue and a free session, so
//! that inference does not run on the async runtime; runs that are known to be shorter than the hand-over may stay
//! there ([`pace`]). Dropping the pool stops and joins the threads.

mod pace;

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use moorline_core::{
    BatchSettings, Batcher, EngineError, ErrorClass, Item, Session, Signature, Take, Tensors, Value, split,
    stack,
};
use tokio::sync::oneshot;

use self::pace::Pace;
use crate::{metrics::Metrics, problem::Problem};

/// An answer of the engine and where its time went.
#[derive(Debug)]
pub(crate) struct Scored {
    pub(crate) outputs: Tensors,
    pub(crate) started: Instant,
    pub(crate) run_time: Duration,
}

/// One request in the queue.
struct Job {
    inputs: Tensors,
    rows: usize,
    arrived: Instant,
    deadline: Option<Instant>,
    reply: oneshot::Sender<Result<Scored, Problem>>,
}

impl Item for Job {
    fn rows(&self) -> usize {
        self.rows
    }

    fn arrived(&self) -> Instant {
        self.arrived
    }

    fn compatible(&self, other: &Self) -> bool {
        self.inputs.len() == other.inputs.len()
            && self.inputs.iter().zip(other.inputs.iter()).all(|((name, value), (other_name, other))| match (
                value, other,
            ) {
                (Value::Tensor(tensor), Value::Tensor(other)) => {
                    name == other_name
                        && tensor.data_type() == other.data_type()
                        && tensor.shape().len() == other.shape().len()
                        && tensor.shape().get(1..) == other.shape().get(1..)
                }
                _ => false,
            })
    }
}

struct Queue {
    batcher: Batcher<Job>,
    /// Those that run nothing now.
    sessions: Vec<Box<dyn Session>>,
    /// Threads asleep on the condition; without any, pushing makes no system call.
    idle: usize,
    closed: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    arrived: Condvar,
    metrics: Arc<Metrics>,
    pace: Pace,
    batched: bool,
}

/// The sessions of one loaded model, at work.
pub(crate) struct Sessions {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    signature: Arc<Signature>,
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").field("threads", &self.threads.len()).finish_non_exhaustive()
    }
}

impl Sessions {
    /// Starts a thread for each of `sessions`.
    pub(crate) fn start(
        signature: &Signature,
        sessions: Vec<Box<dyn Session>>,
        batching: Option<&BatchSettings>,
        inline_limit: Duration,
        metrics: Arc<Metrics>,
    ) -> Result<Self, EngineError> {
        let count = sessions.len();
        let queue = Queue { batcher: Batcher::new(batching), sessions, idle: 0, closed: false };
        let shared = Arc::new(Shared {
            queue: Mutex::new(queue),
            arrived: Condvar::new(),
            metrics,
            pace: Pace::new(inline_limit),
            batched: batching.is_some(),
        });
        // The pool exists before its threads, so that a failure half-way stops those that run.
        let mut pool =
            Self { shared, threads: Vec::with_capacity(count), signature: Arc::new(signature.clone()) };
        for index in 0..count {
            let shared = Arc::clone(&pool.shared);
            let thread = std::thread::Builder::new()
                .name(format!("session-{index}"))
                .spawn(move || work(&shared))
                .map_err(|error| EngineError::Run { engine: "sessions", reason: error.to_string() })?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    pub(crate) fn signature(&self) -> &Arc<Signature> {
        &self.signature
    }

    /// Runs one request: here, where runs are short, a session is free and nobody waits; else on a session's thread.
    /// Dropping the future takes it out of the queue, or lets its answer go unheard.
    pub(crate) async fn run(&self, inputs: Tensors, deadline: Option<Instant>) -> Result<Scored, Problem> {
        if let Some(mut session) = self.shared.session_for(&inputs) {
            self.shared.metrics.record_wait(Duration::ZERO);
            let result = run(&self.shared, session.as_mut(), inputs, 1);
            self.shared.give_back(session);
            return result;
        }
        let (reply, answer) = oneshot::channel();
        let rows = if self.shared.batched { rows(&inputs)? } else { 1 };
        let job = Job { inputs, rows, arrived: Instant::now(), deadline, reply };
        {
            let mut queue = lock(&self.shared.queue);
            queue.batcher.push(job);
            if queue.idle > 0 {
                self.shared.arrived.notify_one();
            }
        }
        let answer = async { answer.await.unwrap_or_else(|_| Err(stopping())) };
        match deadline {
            Some(deadline) => tokio::time::timeout_at(deadline.into(), answer)
                .await
                .unwrap_or_else(|_| Err(deadline_passed())),
            None => answer.await,
        }
    }
}

impl Shared {
    /// A free session for a short run; none where requests are gathered into batches or wait already.
    fn session_for(&self, inputs: &Tensors) -> Option<Box<dyn Session>> {
        if self.batched || !self.pace.is_short(inputs) {
            return None;
        }
        let mut queue = lock(&self.queue);
        if queue.batcher.is_empty() { queue.sessions.pop() } else { None }
    }

    fn give_back(&self, session: Box<dyn Session>) {
        let mut queue = lock(&self.queue);
        queue.sessions.push(session);
        if !queue.batcher.is_empty() && queue.idle > 0 {
            self.arrived.notify_one();
        }
    }
}

impl Drop for Sessions {
    fn drop(&mut self) {
        lock(&self.shared.queue).closed = true;
        self.shared.arrived.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so; there is nothing more to learn from it.
            let _ = thread.join();
        }
    }
}

fn stopping() -> Problem {
    Problem::new(ErrorClass::Unavailable, "The server is stopping.")
}

fn deadline_passed() -> Problem {
    Problem::new(ErrorClass::Timeout, "The request's deadline passed.")
}

/// A poisoned queue is whole: no code that can panic runs under its lock.
fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The rows of a request that may be batched: the first dimension, which all its inputs share.
fn rows(inputs: &Tensors) -> Result<usize, Problem> {
    let mut rows = None;
    for (name, value) in inputs.iter() {
        let own = match value {
            Value::Tensor(tensor) => tensor.shape().first().copied(),
            Value::Sequence(_) | Value::Maps(_) => None,
        };
        if own.is_none() || rows.is_some_and(|rows| Some(rows) != own) {
            return Err(Problem::new(
                ErrorClass::InvalidInput,
                format!(
                    "input `{name}` must have the same first dimension as the other inputs, since requests are batched along it"
                ),
            ));
        }
        rows = own;
    }
    Ok(rows.unwrap_or(1))
}

/// One thread's life: batches until the queue is closed and empty.
fn work(shared: &Shared) {
    while let Some((mut session, batch)) = next_batch(shared) {
        let now = Instant::now();
        let mut live = Vec::with_capacity(batch.len());
        for job in batch {
            if job.reply.is_closed() {
                continue;
            }
            if job.deadline.is_some_and(|deadline| deadline <= now) {
                let _ = job.reply.send(Err(deadline_passed()));
            } else {
                shared.metrics.record_wait(now - job.arrived);
                live.push(job);
            }
        }
        if live.len() > 1 {
            run_together(shared, session.as_mut(), live);
        } else {
            for job in live {
                run_alone(shared, session.as_mut(), job);
            }
        }
        shared.give_back(session);
    }
}

/// The next batch and a session for it, or `None` once the queue is closed; what then waits is answered by dropping it.
fn next_batch(shared: &Shared) -> Option<(Box<dyn Session>, Vec<Job>)> {
    let mut queue = lock(&shared.queue);
    loop {
        if queue.closed {
            queue.batcher.drain();
            return None;
        }
        let mut wait = None;
        // Whoever gives a session back wakes a thread if something waits.
        if let Some(session) = queue.sessions.pop() {
            match queue.batcher.take(Instant::now()) {
                Take::Batch(batch) => {
                    // A push wakes one thread; what it left behind is passed on to the next.
                    if !queue.batcher.is_empty() && queue.idle > 0 {
                        shared.arrived.notify_one();
                    }
                    return Some((session, batch));
                }
                Take::WaitUntil(until) => wait = Some(until.saturating_duration_since(Instant::now())),
                Take::Empty => {}
            }
            queue.sessions.push(session);
        }
        queue.idle += 1;
        queue = match wait {
            Some(wait) => shared.arrived.wait_timeout(queue, wait).unwrap_or_else(PoisonError::into_inner).0,
            None => shared.arrived.wait(queue).unwrap_or_else(PoisonError::into_inner),
        };
        queue.idle -= 1;
    }
}

/// Runs the session; a panic in an engine is an error of this run, not the end of the thread.
fn guarded(session: &mut dyn Session, inputs: Tensors) -> Result<Tensors, EngineError> {
    catch_unwind(AssertUnwindSafe(|| session.run(inputs))).unwrap_or_else(|_| {
        Err(EngineError::Run { engine: "session", reason: "it panicked; the log has the place".to_owned() })
    })
}

/// One run for one request of `rows` rows.
fn run(shared: &Shared, session: &mut dyn Session, inputs: Tensors, rows: usize) -> Result<Scored, Problem> {
    let started = Instant::now();
    let result = guarded(session, inputs);
    let run_time = started.elapsed();
    shared.pace.record(run_time);
    shared.metrics.record_run(run_time);
    shared.metrics.record_batch(rows);
    Ok(Scored { outputs: result?, started, run_time })
}

fn run_alone(shared: &Shared, session: &mut dyn Session, job: Job) {
    let _ = job.reply.send(run(shared, session, job.inputs, job.rows));
}

/// Runs a batch; where it fails as a whole, each item is run alone, so that a bad one fails alone.
fn run_together(shared: &Shared, session: &mut dyn Session, jobs: Vec<Job>) {
    let rows: Vec<usize> = jobs.iter().map(|job| job.rows).collect();
    let started = Instant::now();
    let outputs = stack(&jobs.iter().map(|job| &job.inputs).collect::<Vec<_>>())
        .map_err(|error| error.to_string())
        .and_then(|inputs| guarded(session, inputs).map_err(|error| error.to_string()))
        .and_then(|outputs| split(outputs, &rows).map_err(|error| error.to_string()));
    let run_time = started.elapsed();
    match outputs {
        Ok(outputs) => {
            shared.metrics.record_run(run_time);
            shared.metrics.record_batch(rows.iter().sum());
            for (job, outputs) in jobs.into_iter().zip(outputs) {
                let _ = job.reply.send(Ok(Scored { outputs, started, run_time }));
            }
        }
        Err(reason) => {
            tracing::debug!(items = jobs.len(), reason, "a batch failed; its items run alone");
            for job in jobs {
                run_alone(shared, session, job);
            }
        }
    }
}

#[cfg(test)]
mod tests;
