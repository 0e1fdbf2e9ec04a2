//! How long to wait before a worker that died is started again.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(30);

/// Grows with every failure in a row; one that had worked before it died starts again at once.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Whether the next start is soon enough for requests to wait for it.
    pub(crate) const fn hopeful(&self) -> bool {
        self.failures < 3
    }

    /// The pause before the next start. `worked` says that the worker finished `init()` and answered something.
    pub(crate) fn next(&mut self, worked: bool) -> Duration {
        self.failures = if worked { 0 } else { self.failures + 1 };
        if self.failures == 0 {
            return Duration::ZERO;
        }
        let pause = FIRST.saturating_mul(1 << (self.failures - 1).min(16)).min(LONGEST);
        // Workers that fail together should not come back together: between half of the pause and all of it.
        let random = RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64;
        pause.mul_f64(0.5 + random / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound_and_success_forgets_them() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next(true), Duration::ZERO);
        let mut expected = FIRST;
        for _ in 0..40 {
            let pause = backoff.next(false);
            assert!(pause >= expected / 2 && pause <= expected, "{pause:?} of {expected:?}");
            expected = (expected * 2).min(LONGEST);
        }
        assert_eq!(backoff.next(true), Duration::ZERO);
        assert!(backoff.next(false) <= FIRST);
    }
}
