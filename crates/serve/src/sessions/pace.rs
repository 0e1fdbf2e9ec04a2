//! How long runs take of late, and with it whether the next one may stay on the thread that read the request.
//!
//! Handing a request to another thread and its answer back costs two wake-ups, which for a tiny model is several times
//! the run itself. A run that is shorter than that blocks nobody. What is not known to be short goes to a thread.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use moorline_core::{Tensors, Value, with_elements};

/// A larger request may take longer than those that were measured.
const MOST_ELEMENTS: usize = 4096;
/// One long run counts as this many limits at the most: then a dozen short ones make up for it.
const LONGEST: u64 = 4;

/// A moving bound on the run time, quick to rise and slow to fall.
#[derive(Debug)]
pub(super) struct Pace {
    limit: u64,
    recent: AtomicU64,
}

impl Pace {
    /// Runs below `limit` are short; zero: none is.
    pub(super) fn new(limit: Duration) -> Self {
        let limit = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX / LONGEST).min(u64::MAX / LONGEST);
        Self { limit, recent: AtomicU64::new(limit * LONGEST) }
    }

    pub(super) fn record(&self, run_time: Duration) {
        let run = u64::try_from(run_time.as_nanos()).unwrap_or(u64::MAX).min(self.limit * LONGEST);
        let recent = self.recent.load(Ordering::Relaxed);
        // Two threads may overwrite each other's word; the next run says it again.
        let next = if run >= recent { run } else { recent - (recent - run).div_ceil(8) };
        self.recent.store(next, Ordering::Relaxed);
    }

    /// Whether a run with these inputs will be short, as far as one can tell.
    pub(super) fn is_short(&self, inputs: &Tensors) -> bool {
        self.recent.load(Ordering::Relaxed) < self.limit
            && inputs.iter().all(|(_, value)| match value {
                Value::Tensor(tensor) => {
                    with_elements!(tensor.data(), elements => elements.len() <= MOST_ELEMENTS)
                }
                Value::Sequence(_) | Value::Maps(_) => false,
            })
    }
}

#[cfg(test)]
mod tests {
    use moorline_testkit::{named, numbers};

    use super::*;

    #[test]
    fn short_runs_earn_trust_and_a_long_one_loses_it() {
        let small = named([("x", numbers(&[1, 2], vec![0.0; 2]))]);
        let pace = Pace::new(Duration::from_micros(50));
        assert!(!pace.is_short(&small), "nothing is known yet");
        (0..20).for_each(|_| pace.record(Duration::from_micros(5)));
        assert!(pace.is_short(&small));
        let large = named([("x", numbers(&[1, MOST_ELEMENTS + 1], vec![0.0; MOST_ELEMENTS + 1]))]);
        assert!(!pace.is_short(&large));
        pace.record(Duration::from_secs(5));
        assert!(!pace.is_short(&small));
        (0..20).for_each(|_| pace.record(Duration::from_micros(5)));
        assert!(pace.is_short(&small));
    }

    #[test]
    fn a_limit_of_zero_trusts_nobody() {
        let pace = Pace::new(Duration::ZERO);
        (0..100).for_each(|_| pace.record(Duration::ZERO));
        assert!(!pace.is_short(&Tensors::new()));
    }
}
