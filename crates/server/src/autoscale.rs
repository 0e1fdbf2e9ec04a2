//! How many replicas the load asks for: the rule of `target_utilization`, as a pure state machine.
//!
//! Utilization is requests in flight over the requests that the replicas take at one time. More replicas are asked for
//! at once; fewer only when fewer were enough for a whole delay, so that a pause between two bursts costs nothing.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// The rule's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) min: u32,
    pub(crate) max: u32,
    /// Of what a replica takes at one time, in percent.
    pub(crate) target_percentage: u32,
    /// Requests that one replica takes at one time.
    pub(crate) concurrency: u32,
    pub(crate) polling_interval: Duration,
    pub(crate) scale_down_delay: Duration,
}

impl Rule {
    /// Replicas for so many requests at one time, within the bounds.
    pub(crate) fn replicas_for(&self, requests: u64) -> u32 {
        let each = u64::from(self.concurrency.max(1)) * u64::from(self.target_percentage.clamp(1, 100));
        let wanted = (requests * 100).div_ceil(each.max(1));
        u32::try_from(wanted).unwrap_or(u32::MAX).clamp(self.min, self.max.max(self.min))
    }
}

/// What the rule remembers: what was needed of late, newest last.
#[derive(Clone, Debug)]
pub(crate) struct Scaler {
    rule: Rule,
    current: u32,
    needed: VecDeque<(Instant, u32)>,
}

impl Scaler {
    /// Begins with `current` replicas, as if they had been needed until now.
    pub(crate) fn new(rule: Rule, current: u32, now: Instant) -> Self {
        let current = current.clamp(rule.min, rule.max.max(rule.min));
        Self { rule, current, needed: VecDeque::from([(now, current)]) }
    }

    pub(crate) fn current(&self) -> u32 {
        self.current
    }

    pub(crate) fn rule(&self) -> &Rule {
        &self.rule
    }

    /// Takes a measurement of the requests at one time and gives the replicas that there should be.
    pub(crate) fn next(&mut self, requests: u64, now: Instant) -> u32 {
        let wanted = self.rule.replicas_for(requests);
        // A need that is no larger than a later one decides nothing any more.
        while self.needed.back().is_some_and(|(_, needed)| *needed <= wanted) {
            self.needed.pop_back();
        }
        self.needed.push_back((now, wanted));
        while self.needed.len() > 1
            && self
                .needed
                .front()
                .is_some_and(|(at, _)| now.duration_since(*at) >= self.rule.scale_down_delay)
        {
            self.needed.pop_front();
        }
        self.current = self.needed.front().map_or(wanted, |(_, needed)| *needed);
        self.current
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(min: u32, max: u32) -> Rule {
        Rule {
            min,
            max,
            target_percentage: 70,
            concurrency: 2,
            polling_interval: Duration::from_secs(1),
            scale_down_delay: Duration::from_secs(10),
        }
    }

    #[test]
    fn more_come_at_once_and_go_after_the_delay() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut scaler = Scaler::new(rule(0, 5), 1, start);
        assert_eq!(scaler.next(4, at(1)), 3); // 4 / (2 × 0.7) = 2.9
        assert_eq!(scaler.next(0, at(2)), 3);
        assert_eq!(scaler.next(2, at(5)), 3);
        assert_eq!(scaler.next(0, at(12)), 2);
        assert_eq!(scaler.next(0, at(15)), 0);
        assert_eq!(scaler.next(100, at(16)), 5);
    }

    proptest! {
        #[test]
        fn the_bounds_hold_and_enough_is_always_there(
            min in 0_u32..4, more in 0_u32..8, steps in prop::collection::vec((0_u64..40, 0_u64..6), 1..60)
        ) {
            let rule = rule(min, min + more);
            let start = Instant::now();
            let mut scaler = Scaler::new(rule, min, start);
            let mut now = start;
            for (requests, seconds) in steps {
                now += Duration::from_secs(seconds);
                let replicas = scaler.next(requests, now);
                prop_assert!((rule.min..=rule.max).contains(&replicas));
                prop_assert!(replicas >= rule.replicas_for(requests));
            }
        }
    }
}
