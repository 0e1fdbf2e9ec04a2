//! Looks after launches, which the thread that waits for the driver cannot: one that is not over within its limit is told
//! to the parent, which ends this process.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use crate::runtime::Launches;

use super::wire::{Channel, Reply};

/// The requests that are under way, in their order.
#[derive(Clone)]
pub(super) struct Watch(Arc<Inner>);

#[derive(Default)]
struct Inner {
    runs: Mutex<Runs>,
    began: Condvar,
}

#[derive(Default)]
struct Runs {
    runs: VecDeque<Run>,
    /// Nobody looks before the next one begins. Whoever looks comes back by itself: it is not woken for every request.
    idle: bool,
}

struct Run {
    launches: Launches,
    limit: Duration,
    over: usize,
    /// When `over` last grew, or this became the first.
    since: Instant,
}

impl Watch {
    /// Starts to look; what is late is told to `answers`.
    pub(super) fn start(answers: Arc<Mutex<Channel>>) -> io::Result<Self> {
        let watch = Self(Arc::default());
        let looking = watch.clone();
        thread::Builder::new().name("watch".to_owned()).spawn(move || looking.look(&answers))?;
        Ok(watch)
    }

    pub(super) fn begin(&self, launches: Launches, limit: Duration) {
        let mut runs = self.lock();
        runs.runs.push_back(Run { launches, limit, over: 0, since: Instant::now() });
        if runs.idle {
            self.0.began.notify_one();
        }
    }

    /// The first one is over.
    pub(super) fn end(&self) {
        let mut runs = self.lock();
        runs.runs.pop_front();
        if let Some(next) = runs.runs.front_mut() {
            next.since = Instant::now();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Runs> {
        self.0.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self, answers: &Mutex<Channel>) {
        let mut guard = self.lock();
        loop {
            let Some(run) = guard.runs.front_mut() else {
                guard.idle = true;
                guard = self.0.began.wait(guard).unwrap_or_else(PoisonError::into_inner);
                guard.idle = false;
                continue;
            };
            let over = run.launches.over(run.over);
            if over > run.over {
                run.over = over;
                run.since = Instant::now();
            } else if over < run.launches.all() && run.since.elapsed() >= run.limit {
                // The lock is kept: the other thread must not answer any more. The parent ends this process.
                let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
                if answers.send(&Reply::Hung { launch: over }, &[]).is_err() {
                    std::process::abort();
                }
                loop {
                    thread::park();
                }
            }
            let pause = (run.limit / 8).max(Duration::from_millis(1));
            guard = self.0.began.wait_timeout(guard, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
