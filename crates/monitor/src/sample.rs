//! One look at a deployment, and the sum of several.

use crate::readings::{Readings, Summary};

/// Seconds, upper bounds of the buckets of durations: those of the gateway's metric. What is above the last one has a
/// bucket of its own.
pub const BOUNDS: [f64; 19] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0, 60.0, 180.0,
];
pub const BUCKETS: usize = BOUNDS.len() + 1;

/// What a deployment did in some time. Everything is a count or a sum, so that samples can be added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// The time that counts are of.
    pub millis: u64,
    /// The looks that sums of what was true at each are of.
    pub looks: u64,
    pub requests: u64,
    /// Of those, the ones that the deployment is to blame for.
    pub failed: u64,
    /// Requests by how long they took, each in the first bucket whose bound it keeps.
    pub durations: [u64; BUCKETS],
    pub in_flight: u64,
    pub waiting: u64,
    /// Replicas that take requests.
    pub ready: u64,
    pub replicas: u64,
    /// Times that a replica was started again.
    pub restarts: u64,
    /// The time that processor time is known of, and the looks at which memory was.
    pub cpu_known_millis: u64,
    pub memory_looks: u64,
    /// Of one core.
    pub cpu_micros: u64,
    pub memory: u64,
    /// Requests that waited in a replica, and how long together.
    pub queued: u64,
    pub queue_micros: u64,
    pub runs: u64,
    pub run_micros: u64,
    pub batches: u64,
    pub rows: u64,
}

impl Sample {
    /// Makes this the sum of both.
    pub fn add(&mut self, other: &Self) {
        let mut other = other.clone();
        for (own, theirs) in self.numbers().zip(other.numbers()) {
            *own = own.saturating_add(*theirs);
        }
    }

    /// Adds what a replica counted of its own work between two looks at it, `millis` apart.
    pub fn add_work(&mut self, earlier: &Readings, now: &Readings, millis: u64) {
        if let (Some(before), Some(after)) = (earlier.cpu_seconds, now.cpu_seconds) {
            self.cpu_known_millis = self.cpu_known_millis.max(millis);
            add(&mut self.cpu_micros, since(after, before) * 1e6);
        }
        let more = |before: Summary, after: Summary| {
            // Where the count began anew, so did the sum.
            let began = after.count < before.count;
            let before = if began { Summary::default() } else { before };
            (after.count - before.count, since(after.sum, before.sum))
        };
        let (queued, queue) = more(earlier.queue, now.queue);
        add(&mut self.queued, queued);
        add(&mut self.queue_micros, queue * 1e6);
        let (runs, run) = more(earlier.run, now.run);
        add(&mut self.runs, runs);
        add(&mut self.run_micros, run * 1e6);
        let (batches, rows) = more(earlier.batch, now.batch);
        add(&mut self.batches, batches);
        add(&mut self.rows, rows);
        add(&mut self.restarts, since(now.script_restarts, earlier.script_restarts));
    }

    /// Adds the requests that a replica counted between two looks at it: where no gateway of ours is in front of it.
    pub fn add_requests(&mut self, earlier: &Readings, now: &Readings) {
        let began = now.requests < earlier.requests;
        let before = |count: f64| if began { 0.0 } else { count };
        add(&mut self.requests, now.requests - before(earlier.requests));
        add(&mut self.failed, since(now.failed, before(earlier.failed)));
        let within = now.durations.iter().map(|(bound, count)| {
            let earlier = earlier.durations.iter().find(|(own, _)| own == bound).map_or(0.0, |(_, own)| *own);
            (*bound, since(*count, before(earlier)) as u64)
        });
        let within: Vec<(f64, u64)> = within.collect();
        let all = (now.requests - before(earlier.requests)) as u64;
        for (own, more) in self.durations.iter_mut().zip(spread(all, &within)) {
            *own = own.saturating_add(more);
        }
    }

    /// All numbers, in the order in which they are written down. A new one comes last.
    pub(crate) fn numbers(&mut self) -> impl Iterator<Item = &mut u64> {
        let rest = [
            &mut self.millis,
            &mut self.looks,
            &mut self.requests,
            &mut self.failed,
            &mut self.in_flight,
            &mut self.waiting,
            &mut self.ready,
            &mut self.replicas,
            &mut self.restarts,
            &mut self.cpu_known_millis,
            &mut self.memory_looks,
            &mut self.cpu_micros,
            &mut self.memory,
            &mut self.queued,
            &mut self.queue_micros,
            &mut self.runs,
            &mut self.run_micros,
            &mut self.batches,
            &mut self.rows,
        ];
        rest.into_iter().chain(&mut self.durations)
    }
}

/// Requests by bucket, from how many kept each of some rising bounds. A bucket between bounds that are not ours counts
/// for the one that its upper bound is in.
pub fn spread(requests: u64, within: &[(f64, u64)]) -> [u64; BUCKETS] {
    let mut buckets = [0; BUCKETS];
    let mut before = 0;
    for &(bound, count) in within {
        // Counts that fall are a lie, or were read while they grew.
        let count = count.clamp(before, requests.max(before));
        let bucket = BOUNDS.iter().position(|own| bound <= *own).unwrap_or(BOUNDS.len());
        buckets[bucket] += count - before;
        before = count;
    }
    buckets[BOUNDS.len()] += requests.saturating_sub(before);
    buckets
}

/// What a count grew by; one that has become smaller began at nothing.
fn since(now: f64, earlier: f64) -> f64 {
    if now < earlier { now } else { now - earlier }
}

fn add(own: &mut u64, more: f64) {
    // Saturates, and takes what is no number as nothing.
    *own = own.saturating_add(more.round() as u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_spread_over_our_buckets() {
        let spread = spread(10, &[(0.000_05, 1), (0.000_1, 2), (0.7, 5), (60.0, 8), (1000.0, 9)]);
        let at = |bound: f64| spread[BOUNDS.iter().position(|own| *own == bound).unwrap()];
        assert_eq!([at(0.000_1), at(1.0), at(60.0), spread[BOUNDS.len()]], [2, 3, 3, 2]);
        assert_eq!(spread.iter().sum::<u64>(), 10);
    }

    #[test]
    fn counts_that_lie_give_no_more_than_was_said() {
        let spread = spread(5, &[(0.1, 4), (0.25, 1), (0.5, u64::MAX)]);
        assert_eq!(spread.iter().sum::<u64>(), 5);
    }

    #[test]
    fn what_began_anew_counts_from_nothing() {
        let readings = |cpu: f64, count: f64, sum: f64| Readings {
            cpu_seconds: Some(cpu),
            run: Summary { count, sum },
            requests: count,
            durations: vec![(0.1, count)],
            ..Readings::default()
        };
        let mut sample = Sample::default();
        sample.add_work(&readings(10.0, 100.0, 5.0), &readings(12.5, 110.0, 5.5), 5000);
        assert_eq!((sample.cpu_micros, sample.runs, sample.run_micros), (2_500_000, 10, 500_000));
        let mut sample = Sample::default();
        let (before, after) = (readings(10.0, 100.0, 5.0), readings(0.5, 3.0, 9.0));
        sample.add_work(&before, &after, 5000);
        sample.add_requests(&before, &after);
        assert_eq!((sample.cpu_micros, sample.runs, sample.run_micros), (500_000, 3, 9_000_000));
        assert_eq!((sample.requests, sample.durations.iter().sum::<u64>()), (3, 3));
    }
}
