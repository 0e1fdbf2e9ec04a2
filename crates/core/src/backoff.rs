//! How long to wait before what ended by itself is started again: workers, replicas.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

/// Doubling pauses with jitter, from 100 ms to [`Backoff::LONGEST`].
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    ends: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    pub const LONGEST: Duration = Duration::from_secs(30);

    /// Ends in a row so far.
    pub const fn ends(&self) -> u32 {
        self.ends
    }

    /// It worked: the next end is the first in a row.
    pub fn forget(&mut self) {
        self.ends = 0;
    }

    /// Counts an end, and gives the pause before the next start.
    pub fn next_pause(&mut self) -> Duration {
        let pause = Self::FIRST.saturating_mul(1 << self.ends.min(16)).min(Self::LONGEST);
        self.ends = self.ends.saturating_add(1);
        // What ends together should not come back together: between half of the pause and all of it.
        let random = RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64;
        pause.mul_f64(0.5 + random / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound_and_are_forgotten() {
        let mut backoff = Backoff::default();
        let mut expected = Backoff::FIRST;
        for ends in 0..40 {
            assert_eq!(backoff.ends(), ends);
            let pause = backoff.next_pause();
            assert!(pause >= expected / 2 && pause <= expected, "{pause:?} of {expected:?}");
            expected = (expected * 2).min(Backoff::LONGEST);
        }
        backoff.forget();
        assert!(backoff.next_pause() <= Backoff::FIRST);
    }
}
