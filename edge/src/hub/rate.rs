//! How often a client may do something.

use std::time::{Duration, Instant};

/// Tokens that come back at a rate; as many as come in one second can be saved.
#[derive(Debug)]
pub(crate) struct Rate {
    per_second: f64,
    tokens: f64,
    looked: Instant,
}

impl Rate {
    pub(crate) fn new(per_second: u32, now: Instant) -> Self {
        let per_second = f64::from(per_second.max(1));
        Self { per_second, tokens: per_second, looked: now }
    }

    /// Takes a token if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let came = now.saturating_duration_since(self.looked).as_secs_f64() * self.per_second;
        (self.tokens, self.looked) = ((self.tokens + came).min(self.per_second), now);
        let there = self.tokens >= 1.0;
        if there {
            self.tokens -= 1.0;
        }
        there
    }

    /// How long until a fair number of tokens is there again.
    pub(crate) fn pause(&self) -> Duration {
        Duration::from_secs_f64((1.0 / self.per_second).max(0.01))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_can_be_saved_and_no_more() {
        let start = Instant::now();
        let mut rate = Rate::new(10, start);
        let taken = |rate: &mut Rate, now| (0..100).take_while(|_| rate.take(now)).count();
        assert_eq!(taken(&mut rate, start), 10);
        assert_eq!(taken(&mut rate, start + Duration::from_millis(550)), 5);
        assert_eq!(taken(&mut rate, start + Duration::from_mins(1)), 10);
    }
}
