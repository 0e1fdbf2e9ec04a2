//! How long to wait before a replica that ended is started again.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(30);

/// Doubles with every end in a row; having run for longer than the longest pause forgets them.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    ends: u32,
}

impl Backoff {
    /// The pause before the next start, when the last one ran for `ran`.
    pub(crate) fn next(&mut self, ran: Duration) -> Duration {
        self.ends = if ran > LONGEST { 1 } else { self.ends + 1 };
        let pause = FIRST.saturating_mul(1 << (self.ends - 1).min(16)).min(LONGEST);
        // Replicas that end together should not come back together: between half of the pause and all of it.
        let random = RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64;
        pause.mul_f64(0.5 + random / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound_and_a_long_life_forgets_them() {
        let mut backoff = Backoff::default();
        let mut expected = FIRST;
        for _ in 0..40 {
            let pause = backoff.next(Duration::ZERO);
            assert!(pause >= expected / 2 && pause <= expected, "{pause:?} of {expected:?}");
            expected = (expected * 2).min(LONGEST);
        }
        assert!(backoff.next(LONGEST * 2) <= FIRST);
    }
}
