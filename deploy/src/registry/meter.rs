//! How far one blob is: counted as its bytes pass, told to whoever waits, not too often.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use moorline_core::Digest;

use crate::{Direction, Progress};

/// The least time between two reports of one blob.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Meter {
    progress: Progress,
    direction: Direction,
    blob: String,
    total: u64,
    /// All bytes that passed, those that pass again included: what stands still is seen by it.
    passed: AtomicU64,
    told: Mutex<Told>,
}

#[derive(Debug)]
struct Told {
    done: u64,
    at: Option<Instant>,
}

impl Meter {
    pub(super) fn new(progress: &Progress, direction: Direction, blob: &Digest, total: u64) -> Self {
        Self {
            progress: progress.clone(),
            direction,
            blob: blob.to_string(),
            total,
            passed: AtomicU64::new(0),
            told: Mutex::new(Told { done: 0, at: None }),
        }
    }

    /// For what is too small to be told of.
    pub(super) fn unseen() -> Self {
        Self::new(&Progress::none(), Direction::Push, &Digest::of(b""), 0)
    }

    /// `bytes` more passed, after which the blob is there up to `done`.
    pub(super) fn passed(&self, bytes: usize, done: u64) {
        self.passed.fetch_add(bytes as u64, Ordering::Relaxed);
        self.tell(done, false);
    }

    pub(super) fn all_passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }

    /// All of it is where it should be.
    pub(super) fn finish(&self) {
        self.tell(self.total, true);
    }

    /// A blob that begins again is told of only once it is further than it was.
    fn tell(&self, done: u64, last: bool) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let soon = told.at.is_some_and(|at| at.elapsed() < PAUSE);
        // Whether the last byte is right is known afterwards.
        if !last && (soon || done <= told.done || done >= self.total) {
            return;
        }
        *told = Told { done, at: Some(Instant::now()) };
        self.progress.transfer(self.direction, &self.blob, done, self.total);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Step;

    #[test]
    fn reports_grow_are_few_and_end_with_all_of_it() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let progress = Progress::new({
            let seen = Arc::clone(&seen);
            move |step| {
                if let Step::Transfer { done, total, .. } = step {
                    seen.lock().unwrap().push((done, total));
                }
            }
        });
        let meter = Meter::new(&progress, Direction::Pull, &Digest::of(b""), 1000);
        for round in 0..2 {
            for done in 1..=1000 {
                meter.passed(1, done);
            }
            assert_eq!(meter.all_passed(), 1000 * (round + 1));
        }
        meter.finish();
        let seen = seen.lock().unwrap();
        assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "{seen:?}");
        assert!(seen.len() < 100, "{seen:?}");
        assert_eq!(seen.last(), Some(&(1000, 1000)));
    }
}
