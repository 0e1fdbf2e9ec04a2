//! How often a revision may fail to start before it is a failed one, and how long to wait between its starts.

use moorline_core::{Backoff, Failure};
use tokio::time::Instant;

/// Starts in a row that failed and make a revision a failed one: a second try tells an accident from a defect.
const TRIES: u32 = 2;
/// The same where it need not be the revision's fault: of some replica that was ready it is known that it can start,
/// and a host may have been out of order.
const TRIES_OF_PROVEN: u32 = 6;

/// What came of the starts of one revision.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    failure: Option<Failure>,
    failed: u32,
    backoff: Backoff,
    not_before: Option<Instant>,
    /// As many as were asked for have been ready at one time: what fails now is started again and again.
    completed: bool,
}

impl Attempts {
    /// The revision is asked for: another one than before, or the same again. Whoever asks again for what failed wants
    /// it tried again: once, and not before its pause is over.
    pub(crate) fn asked(&mut self, same: bool) {
        if same {
            self.failure = None;
        } else {
            *self = Self::default();
        }
    }

    /// A start failed, of a revision that is `proven` or not.
    pub(crate) fn failed(&mut self, failure: Failure, proven: bool) {
        self.failed += 1;
        self.pause();
        let tries = if proven { TRIES_OF_PROVEN } else { TRIES };
        if self.failed >= tries && !self.completed {
            self.failure = Some(failure);
        }
    }

    /// Nothing is started for a while, the longer the more often this is said in a row.
    pub(crate) fn pause(&mut self) {
        self.not_before = Some(Instant::now() + self.backoff.next_pause());
    }

    /// As many are ready as were asked for.
    pub(crate) fn reached(&mut self) {
        self.completed = true;
        self.failed = 0;
        self.backoff.forget();
    }

    /// Whether the pause is over.
    pub(crate) fn may_start(&mut self) -> bool {
        self.not_before = self.not_before.filter(|until| *until > Instant::now());
        self.not_before.is_none()
    }

    /// When the pause is over, where there is one.
    pub(crate) fn not_before(&self) -> Option<Instant> {
        self.not_before
    }

    pub(crate) fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> Failure {
        Failure { reason: "it has no teeth".to_owned(), log: Vec::new() }
    }

    #[test]
    fn a_second_failure_in_a_row_is_one_and_a_sixth_of_what_is_proven() {
        for (proven, tries) in [(false, TRIES), (true, TRIES_OF_PROVEN)] {
            let mut attempts = Attempts::default();
            for _ in 1..tries {
                attempts.failed(failure(), proven);
                assert_eq!(attempts.failure(), None);
                assert!(!attempts.may_start(), "there is a pause");
            }
            attempts.failed(failure(), proven);
            assert_eq!(attempts.failure(), Some(&failure()));
            attempts.asked(true);
            assert_eq!(attempts.failure(), None);
            attempts.failed(failure(), proven);
            assert!(attempts.failure().is_some(), "it was tried once more");
            attempts.asked(false);
            assert!(attempts.may_start() && attempts.failure().is_none());
        }
    }

    #[test]
    fn what_was_reached_once_is_started_again_and_again() {
        let mut attempts = Attempts::default();
        attempts.reached();
        for _ in 0..20 {
            attempts.failed(failure(), false);
        }
        assert_eq!(attempts.failure(), None);
    }
}
