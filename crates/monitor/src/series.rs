//! What is told of a deployment over time: names, units, and how each is computed from a sample.

use crate::sample::{BOUNDS, Sample};

/// A number of a deployment over time.
#[derive(Clone, Copy, Debug)]
pub struct Series {
    pub name: &'static str,
    pub unit: &'static str,
    pub help: &'static str,
    value: fn(&Sample) -> Option<f64>,
}

impl Series {
    /// The value of one step; `None` where it is not known, or where there was nothing to be measured.
    pub fn value(&self, sample: &Sample) -> Option<f64> {
        (self.value)(sample).filter(|value| value.is_finite())
    }
}

/// Every series there is.
pub const ALL: [Series; 18] = [
    Series {
        name: "request_rate",
        unit: "1/s",
        help: "requests answered a second",
        value: |sample| ratio(sample.requests, sample.millis).map(|rate| rate * 1e3),
    },
    Series {
        name: "error_rate",
        unit: "",
        help: "the share of the requests that failed by the deployment's fault, 0 to 1",
        value: |sample| ratio(sample.failed, sample.requests),
    },
    Series {
        name: "latency_p50",
        unit: "s",
        help: "half of the requests were answered within",
        value: |sample| quantile(0.5, sample),
    },
    Series {
        name: "latency_p90",
        unit: "s",
        help: "nine of ten requests were answered within",
        value: |sample| quantile(0.9, sample),
    },
    Series {
        name: "latency_p99",
        unit: "s",
        help: "99 of 100 requests were answered within",
        value: |sample| quantile(0.99, sample),
    },
    Series {
        name: "in_flight",
        unit: "",
        help: "requests that have a place",
        value: |sample| ratio(sample.in_flight, sample.looks),
    },
    Series {
        name: "waiting",
        unit: "",
        help: "requests that wait for a place or for a first replica",
        value: |sample| ratio(sample.waiting, sample.looks),
    },
    Series {
        name: "replicas_ready",
        unit: "",
        help: "replicas that take requests",
        value: |sample| ratio(sample.ready, sample.looks),
    },
    Series {
        name: "replicas",
        unit: "",
        help: "replicas, whatever their state",
        value: |sample| ratio(sample.replicas, sample.looks),
    },
    Series {
        name: "restarts",
        unit: "",
        help: "replicas and workers of scripts that were started again",
        value: |sample| Some(sample.restarts as f64),
    },
    Series {
        name: "cpu",
        unit: "cores",
        help: "processor time of all replicas",
        value: |sample| ratio(sample.cpu_micros, sample.cpu_known_millis).map(|cores| cores / 1e3),
    },
    Series {
        name: "memory",
        unit: "bytes",
        help: "memory of all replicas",
        value: |sample| ratio(sample.memory, sample.memory_looks),
    },
    Series {
        name: "queue_mean",
        unit: "s",
        help: "how long a request waited in its replica",
        value: |sample| ratio(sample.queue_micros, sample.queued).map(|micros| micros / 1e6),
    },
    Series {
        name: "inference_mean",
        unit: "s",
        help: "how long a run of the engine or of the script took",
        value: |sample| ratio(sample.run_micros, sample.runs).map(|micros| micros / 1e6),
    },
    Series {
        name: "inference_rate",
        unit: "1/s",
        help: "runs of the engine or of the script a second",
        value: |sample| ratio(sample.runs, sample.cpu_known_millis).map(|rate| rate * 1e3),
    },
    Series {
        name: "batch_mean",
        unit: "rows",
        help: "rows of a run of the engine",
        value: |sample| ratio(sample.rows, sample.batches),
    },
    Series {
        name: "requests",
        unit: "",
        help: "requests answered in the step",
        value: |sample| Some(sample.requests as f64),
    },
    Series {
        name: "failures",
        unit: "",
        help: "requests that failed by the deployment's fault in the step",
        value: |sample| Some(sample.failed as f64),
    },
];

/// The series of a name.
pub fn find(name: &str) -> Option<&'static Series> {
    ALL.iter().find(|series| series.name == name)
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// The formula of Prometheus' `histogram_quantile()`: what is in a bucket lies evenly between its bounds, and what is
/// above the last bound is taken to be it.
fn quantile(q: f64, sample: &Sample) -> Option<f64> {
    let all: u64 = sample.durations.iter().sum();
    if all == 0 {
        return None;
    }
    let rank = q * all as f64;
    let mut before = 0;
    for (index, upper) in BOUNDS.iter().enumerate() {
        let inside = sample.durations[index];
        if (before + inside) as f64 >= rank && inside > 0 {
            let lower = index.checked_sub(1).map_or(0.0, |index| BOUNDS[index]);
            return Some(lower + (upper - lower) * ((rank - before as f64) / inside as f64));
        }
        before += inside;
    }
    BOUNDS.last().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::spread;

    fn value(name: &str, sample: &Sample) -> Option<f64> {
        find(name).unwrap().value(sample)
    }

    #[test]
    fn rates_are_over_the_time_that_was_seen() {
        let mut sample =
            Sample { millis: 5000, looks: 1, requests: 50, failed: 5, ready: 2, ..Sample::default() };
        sample.add(&Sample {
            millis: 5000,
            looks: 1,
            requests: 150,
            ready: 1,
            in_flight: 3,
            ..Sample::default()
        });
        assert_eq!(value("request_rate", &sample), Some(20.0));
        assert_eq!(value("error_rate", &sample), Some(0.025));
        assert_eq!((value("replicas_ready", &sample), value("in_flight", &sample)), (Some(1.5), Some(1.5)));
        assert_eq!((value("cpu", &sample), value("memory", &sample)), (None, None));
        assert_eq!(value("error_rate", &Sample::default()), None);
        assert_eq!(value("latency_p99", &sample), None);
    }

    #[test]
    fn quantiles_lie_inside_their_bucket() {
        let sample =
            Sample { durations: spread(100, &[(0.1, 50), (0.25, 90), (180.0, 99)]), ..Sample::default() };
        assert_eq!(value("latency_p50", &sample), Some(0.1));
        assert!((value("latency_p90", &sample).unwrap() - 0.25).abs() < 1e-9);
        assert_eq!(value("latency_p99", &sample), Some(180.0));
        let beyond = Sample { durations: spread(1, &[(180.0, 0)]), ..Sample::default() };
        assert_eq!(value("latency_p50", &beyond), Some(180.0));
    }

    #[test]
    fn names_are_there_once() {
        let names: std::collections::BTreeSet<_> = ALL.iter().map(|series| series.name).collect();
        assert_eq!(names.len(), ALL.len());
    }
}
