//! Whether what a deployment answered keeps the bounds of its rollout.

use std::{fmt, time::Duration};

use moorline_gateway::Answers;
use serde::{Deserialize, Serialize};

use super::{
    bounds::{ErrorRate, Latency},
    span,
};

/// The bounds, and how many requests a judgement takes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Judge {
    pub(crate) max_error_rate: ErrorRate,
    #[serde(default)]
    pub(crate) max_p99: Option<Latency>,
    pub(crate) min_requests: u64,
}

/// What a deployment answered, in numbers that people read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Measured {
    pub(crate) requests: u64,
    failed: u64,
    p99: Option<f64>,
}

/// A bound that was broken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Breach {
    ErrorRate {
        measured: Measured,
        bound: ErrorRate,
    },
    P99 {
        measured: Measured,
        bound: Latency,
    },
    /// No replica takes requests any more.
    NoReplica,
    /// The deployment is gone.
    Gone,
}

impl Judge {
    /// The bound that these answers break, if they break one.
    ///
    /// With fewer requests than a judgement takes, those that are missing count as good and fast ones: a bound is broken
    /// early only where nothing that can still come would mend it.
    pub(crate) fn breach(&self, answers: &Answers) -> Option<Breach> {
        let missing = self.min_requests.saturating_sub(answers.requests);
        let requests = answers.requests + missing;
        let measured = Measured::of(answers);
        if answers.failed as f64 * 100.0 > self.max_error_rate.percent() * requests as f64 {
            return Some(Breach::ErrorRate { measured, bound: self.max_error_rate });
        }
        let bound = self.max_p99?;
        let filled: Vec<_> = answers.within.iter().map(|(upper, count)| (*upper, count + missing)).collect();
        let slow = quantile(0.99, requests, &filled).is_some_and(|p99| p99 > bound.seconds());
        slow.then_some(Breach::P99 { measured, bound })
    }

    /// Whether there are as many requests as a judgement takes.
    pub(crate) fn is_enough(&self, measured: &Measured) -> bool {
        measured.requests >= self.min_requests
    }
}

impl Measured {
    pub(crate) fn of(answers: &Answers) -> Self {
        let Answers { requests, failed, within } = answers;
        Self { requests: *requests, failed: *failed, p99: quantile(0.99, *requests, within) }
    }

    fn error_percent(&self) -> f64 {
        self.failed as f64 * 100.0 / self.requests.max(1) as f64
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.requests {
            0 => return f.write_str("no requests"),
            1 => f.write_str("1 request")?,
            count => write!(f, "{count} requests")?,
        }
        write!(f, ", {:.1} % failed", self.error_percent())?;
        match self.p99 {
            Some(p99) => write!(f, ", p99 {}", seconds(p99)),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ErrorRate { measured, bound } => write!(
                f,
                "error rate {:.1} % is above {bound}: {} of {} requests failed",
                measured.error_percent(),
                measured.failed,
                measured.requests
            ),
            Self::P99 { measured, bound } => {
                let p99 = measured.p99.map_or_else(|| "?".to_owned(), seconds);
                write!(f, "p99 {p99} is above {bound} over {} requests", measured.requests)
            }
            Self::NoReplica => f.write_str("no replica is ready"),
            Self::Gone => f.write_str("the deployment is gone"),
        }
    }
}

fn seconds(seconds: f64) -> String {
    span::shown(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

/// The `q`-quantile of observations in a histogram: `within` has the number of those up to each bound, which rise.
///
/// It is the formula of `histogram_quantile()` in the documentation of Prometheus ("Query functions"): the observations
/// of a bucket are taken to lie evenly between its bounds, the first bucket begins at 0, and what is beyond the last
/// bound is taken to be that bound. So it is as exact as the buckets are narrow, and the same number that a dashboard
/// over the gateway's metric shows. Nothing where there are no observations.
fn quantile(q: f64, observations: u64, within: &[(f64, u64)]) -> Option<f64> {
    if observations == 0 {
        return None;
    }
    let rank = q * observations as f64;
    let Some(index) = within.iter().position(|(_, count)| *count as f64 >= rank) else {
        return within.last().map(|(upper, _)| *upper);
    };
    let (upper, count) = within[index];
    let (lower, before) = index.checked_sub(1).map_or((0.0, 0), |index| within[index]);
    let inside = count.saturating_sub(before);
    if inside == 0 {
        return Some(upper);
    }
    Some(lower + (upper - lower) * ((rank - before as f64) / inside as f64))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Requests in the buckets up to 0.1, 0.2 and 0.5 seconds, and beyond.
    fn answers(counts: [u64; 4], failed: u64) -> Answers {
        let [a, b, c, d] = counts;
        Answers { requests: a + b + c + d, failed, within: vec![(0.1, a), (0.2, a + b), (0.5, a + b + c)] }
    }

    fn judge(error_rate: &str, p99: Option<&str>, min_requests: u64) -> Judge {
        let max_p99 = p99.map(|p99| p99.parse().unwrap());
        Judge { max_error_rate: error_rate.parse().unwrap(), max_p99, min_requests }
    }

    #[test]
    fn quantiles_are_those_of_prometheus() {
        let of = |q, counts| {
            let answers = answers(counts, 0);
            quantile(q, answers.requests, &answers.within)
        };
        let is = |found: Option<f64>, wanted: f64| {
            assert!((found.unwrap() - wanted).abs() < 1e-9, "{found:?} is not {wanted}");
        };
        is(of(0.5, [10, 0, 0, 0]), 0.05);
        is(of(0.99, [100, 0, 0, 0]), 0.099);
        is(of(0.99, [90, 10, 0, 0]), 0.19);
        is(of(0.9, [50, 0, 50, 0]), 0.2 + 0.3 * 0.8);
        is(of(0.99, [10, 0, 0, 10]), 0.5);
        is(of(0.0, [10, 0, 0, 0]), 0.0);
        assert_eq!(of(0.99, [0; 4]), None);
        assert_eq!(quantile(0.99, 5, &[]), None);
    }

    #[test]
    fn more_failures_than_the_bound_break_it() {
        let judge = judge("1%", None, 100);
        assert_eq!(judge.breach(&answers([200, 0, 0, 0], 2)), None);
        let breach = judge.breach(&answers([200, 0, 0, 0], 3)).unwrap();
        assert_eq!(breach.to_string(), "error rate 1.5 % is above 1%: 3 of 200 requests failed");
    }

    #[test]
    fn few_requests_conclude_only_what_cannot_be_mended() {
        let judge = judge("1%", Some("200ms"), 100);
        assert_eq!(judge.breach(&answers([1, 0, 0, 0], 1)), None);
        assert_eq!(judge.breach(&answers([0; 4], 0)), None);
        let breach = judge.breach(&answers([2, 0, 0, 0], 2)).unwrap();
        assert_eq!(breach.to_string(), "error rate 100.0 % is above 1%: 2 of 2 requests failed");
        assert_eq!(judge.breach(&answers([0, 0, 1, 0], 0)), None);
        let breach = judge.breach(&answers([0, 0, 3, 0], 0)).unwrap();
        assert_eq!(breach.to_string(), "p99 497ms is above 200ms over 3 requests");
    }

    #[test]
    fn bounds_at_their_ends() {
        assert!(judge("0%", None, 1).breach(&answers([1000, 0, 0, 0], 1)).is_some());
        assert_eq!(judge("100%", None, 1).breach(&answers([0, 0, 0, 50], 50)), None);
        assert_eq!(judge("100%", Some("500ms"), 1).breach(&answers([0, 0, 0, 50], 0)), None);
        assert!(judge("100%", Some("499ms"), 1).breach(&answers([0, 0, 0, 50], 0)).is_some());
    }

    #[test]
    fn measurements_are_read_by_people() {
        let shown = |answers: &Answers| Measured::of(answers).to_string();
        assert_eq!(shown(&answers([0; 4], 0)), "no requests");
        assert_eq!(shown(&answers([1, 0, 0, 0], 0)), "1 request, 0.0 % failed, p99 99ms");
        assert_eq!(shown(&answers([90, 10, 0, 0], 5)), "100 requests, 5.0 % failed, p99 190ms");
    }

    proptest! {
        #[test]
        fn a_quantile_lies_in_the_bucket_that_has_it(counts in prop::array::uniform4(0_u64..50), q in 0.01_f64..1.0) {
            let answers = answers(counts, 0);
            prop_assume!(answers.requests > 0);
            let found = quantile(q, answers.requests, &answers.within).unwrap();
            let rank = q * answers.requests as f64;
            let below = |bound: f64| {
                let up_to = answers.within.iter().filter(|(upper, _)| *upper < bound - 1e-9);
                up_to.map(|(_, count)| *count).max().unwrap_or(0) as f64
            };
            prop_assert!((0.0..=0.5).contains(&found));
            prop_assert!(below(found) <= rank + 1e-9, "{found} has {} of {rank} below it", below(found));
        }

        /// An early verdict is the one that a full count comes to, whatever good requests still come.
        #[test]
        fn an_early_verdict_holds(counts in prop::array::uniform4(0_u64..20), failed in 0_u64..20) {
            let early = answers(counts, failed.min(counts.iter().sum()));
            let judge = judge("5%", Some("150ms"), 100);
            if judge.breach(&early).is_some() {
                let [a, b, c, d] = counts;
                let missing = 100_u64.saturating_sub(early.requests);
                prop_assert!(judge.breach(&answers([a + missing, b, c, d], early.failed)).is_some());
            }
        }
    }
}
