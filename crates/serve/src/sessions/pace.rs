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
/// A run counts as this many limits at the most, so that one that the scheduler interrupted does not outweigh many.
const MOST_LIMITS: u64 = 4;
/// No interruption explains a run of this many limits: the model itself takes long.
const TOO_MANY_LIMITS: u64 = 400;
/// The weight of one run in the average is one in this many.
const WEIGHT: u64 = 16;

/// A moving average of the run time, in nanoseconds.
#[derive(Debug)]
pub(super) struct Pace {
    limit: u64,
    average: AtomicU64,
}

impl Pace {
    /// An average below `limit` is short; zero: none is.
    pub(super) fn new(limit: Duration) -> Self {
        let limit = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX).min(u64::MAX / TOO_MANY_LIMITS);
        Self { limit, average: AtomicU64::new(limit * MOST_LIMITS) }
    }

    pub(super) fn record(&self, run_time: Duration) {
        let run = u64::try_from(run_time.as_nanos()).unwrap_or(u64::MAX);
        let most = self.limit * MOST_LIMITS;
        let average = self.average.load(Ordering::Relaxed);
        let next = if run >= self.limit * TOO_MANY_LIMITS {
            most
        } else {
            let run = run.min(most);
            if run >= average {
                average + (run - average) / WEIGHT
            } else {
                average - (average - run).div_ceil(WEIGHT)
            }
        };
        // Two threads may overwrite each other's word; the next run says it again.
        self.average.store(next, Ordering::Relaxed);
    }

    /// Whether a run with these inputs will be short, as far as one can tell.
    pub(super) fn is_short(&self, inputs: &Tensors) -> bool {
        self.average.load(Ordering::Relaxed) < self.limit
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
    fn short_runs_earn_trust_and_long_ones_lose_it() {
        let small = named([("x", numbers(&[1, 2], vec![0.0; 2]))]);
        let (short, long) = (Duration::from_micros(5), Duration::from_micros(300));
        let pace = Pace::new(Duration::from_micros(50));
        assert!(!pace.is_short(&small), "nothing is known yet");
        (0..40).for_each(|_| pace.record(short));
        assert!(pace.is_short(&small));
        let large = named([("x", numbers(&[1, MOST_ELEMENTS + 1], vec![0.0; MOST_ELEMENTS + 1]))]);
        assert!(!pace.is_short(&large));
        pace.record(long);
        assert!(pace.is_short(&small), "one may have been interrupted");
        (0..6).for_each(|_| pace.record(long));
        assert!(!pace.is_short(&small));
        (0..40).for_each(|_| pace.record(short));
        assert!(pace.is_short(&small));
        pace.record(Duration::from_secs(1));
        assert!(!pace.is_short(&small));
    }

    #[test]
    fn a_limit_of_zero_trusts_nobody() {
        let pace = Pace::new(Duration::ZERO);
        (0..100).for_each(|_| pace.record(Duration::ZERO));
        assert!(!pace.is_short(&Tensors::new()));
    }
}
