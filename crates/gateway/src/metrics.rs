//! The gateway's metrics: names and help in one place; handles of a deployment are resolved once, so that recording a
//! request is a few atomic additions.

use std::{sync::OnceLock, time::Duration};

use http::StatusCode;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::Metric,
};

use crate::answers::Answers;

/// Seconds; from 100 µs to three minutes, the longest request timeout there is.
const DURATION_BUCKETS: [f64; 19] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0, 60.0, 180.0,
];
/// From 100: those that have a handle ready; any other is looked up.
const STATUS_SLOTS: u16 = 500;
const LABELS: [&str; 2] = ["endpoint", "deployment"];

/// Every metric of a gateway.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    requests: IntCounterVec,
    failures: IntCounterVec,
    duration: HistogramVec,
    queue: HistogramVec,
    in_flight: IntGaugeVec,
    retries: IntCounterVec,
    mirrored: IntCounterVec,
    pub(crate) access_lines_lost: IntCounter,
}

/// Those of one deployment.
#[derive(Debug)]
pub(crate) struct DeploymentMetrics {
    all: Metrics,
    labels: [String; 2],
    /// By status less 100.
    requests: Box<[OnceLock<IntCounter>]>,
    failures: IntCounter,
    duration: Histogram,
    pub(crate) queue: Histogram,
    pub(crate) in_flight: IntGauge,
    pub(crate) retries: IntCounter,
    mirrored: [IntCounter; Mirrored::ALL.len()],
}

/// What became of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mirrored {
    Answered,
    /// The replica could not be reached, or did not answer in time.
    Failed,
    /// Not sent: too long, too many at one time, or no place.
    Dropped,
}

impl Mirrored {
    const ALL: [Self; 3] = [Self::Answered, Self::Failed, Self::Dropped];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str, more: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), &[&LABELS, more].concat())?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let histogram = |name: &str, help: &str| {
            let opts =
                HistogramOpts { common_opts: Opts::new(name, help), buckets: DURATION_BUCKETS.to_vec() };
            let histogram = HistogramVec::new(opts, &LABELS)?;
            registry.register(Box::new(histogram.clone()))?;
            Ok::<_, prometheus::Error>(histogram)
        };
        let in_flight = IntGaugeVec::new(
            Opts::new(
                "moorline_gateway_requests_in_flight",
                "Requests that have arrived at the gateway and are not answered",
            ),
            &LABELS,
        )?;
        registry.register(Box::new(in_flight.clone()))?;
        let access_lines_lost = IntCounter::new(
            "moorline_gateway_access_lines_lost_total",
            "Lines of the access log that were not written: more than can be, or no room",
        )?;
        registry.register(Box::new(access_lines_lost.clone()))?;
        Ok(Self {
            access_lines_lost,
            requests: counter(
                "moorline_gateway_requests_total",
                "Requests that the gateway answered, by HTTP status; without a deployment if none was chosen",
                &["code"],
            )?,
            failures: counter(
                "moorline_gateway_failures_total",
                "Requests that a deployment owes a good answer: its own errors, no place, no replica, too late",
                &[],
            )?,
            duration: histogram(
                "moorline_gateway_request_duration_seconds",
                "From a request's head to its answer's head at the gateway, in seconds",
            )?,
            queue: histogram(
                "moorline_gateway_queue_duration_seconds",
                "Of requests that found no free place: how long they waited for one, in seconds",
            )?,
            in_flight,
            retries: counter(
                "moorline_gateway_retries_total",
                "Requests sent to another replica, or over another connection, because the first never got them",
                &[],
            )?,
            mirrored: counter(
                "moorline_gateway_mirrored_total",
                "Copies of requests for this mirror deployment, by what became of them",
                &["outcome"],
            )?,
        })
    }

    /// Records a request that was refused before a deployment was chosen. `endpoint` is empty where there is none: a
    /// label must not hold whatever callers make up.
    pub(crate) fn record_refused(&self, endpoint: &str, status: StatusCode) {
        self.requests.with_label_values(&[endpoint, "", status.as_str()]).inc();
    }

    pub(crate) fn of_deployment(&self, endpoint: &str, deployment: &str) -> DeploymentMetrics {
        let own = [endpoint, deployment];
        DeploymentMetrics {
            labels: own.map(str::to_owned),
            requests: (0..STATUS_SLOTS).map(|_| OnceLock::new()).collect(),
            failures: self.failures.with_label_values(&own),
            duration: self.duration.with_label_values(&own),
            queue: self.queue.with_label_values(&own),
            in_flight: self.in_flight.with_label_values(&own),
            retries: self.retries.with_label_values(&own),
            mirrored: Mirrored::ALL
                .map(|outcome| self.mirrored.with_label_values(&[endpoint, deployment, outcome.as_str()])),
            all: self.clone(),
        }
    }

    /// Forgets what was recorded of an endpoint that is gone.
    pub(crate) fn forget_endpoint(&self, endpoint: &str) {
        for status in 0..STATUS_SLOTS {
            // Absent is as good as removed.
            let _ = self.requests.remove_label_values(&[endpoint, "", &(status + 100).to_string()]);
        }
    }
}

impl DeploymentMetrics {
    /// Records one answer; `failed` where it is the deployment's fault.
    pub(crate) fn record(&self, status: u16, failed: bool, duration: Duration) {
        if failed {
            self.failures.inc();
        }
        self.duration.observe(duration.as_secs_f64());
        let resolve = || {
            let [endpoint, deployment] = &self.labels;
            self.all.requests.with_label_values(&[endpoint.as_str(), deployment, &status.to_string()])
        };
        match self.requests.get(usize::from(status).wrapping_sub(100)) {
            Some(slot) => slot.get_or_init(resolve).inc(),
            None => resolve().inc(),
        }
    }

    /// What was recorded until now.
    pub(crate) fn answers(&self) -> Answers {
        let recorded = self.duration.metric();
        let durations = recorded.get_histogram();
        let buckets = durations.get_bucket().iter();
        Answers {
            requests: durations.get_sample_count(),
            failed: self.failures.get(),
            within: buckets.map(|bucket| (bucket.upper_bound(), bucket.cumulative_count())).collect(),
        }
    }

    pub(crate) fn record_mirrored(&self, outcome: Mirrored) {
        self.mirrored[outcome as usize].inc();
    }

    /// Forgets all of it: the deployment is gone.
    pub(crate) fn forget(&self) {
        let own = self.labels.each_ref().map(String::as_str);
        // Absent is as good as removed.
        let _ = self.all.failures.remove_label_values(&own);
        let _ = self.all.duration.remove_label_values(&own);
        let _ = self.all.queue.remove_label_values(&own);
        let _ = self.all.in_flight.remove_label_values(&own);
        let _ = self.all.retries.remove_label_values(&own);
        for outcome in Mirrored::ALL {
            let _ = self.all.mirrored.remove_label_values(&[own[0], own[1], outcome.as_str()]);
        }
        for (index, slot) in self.requests.iter().enumerate() {
            if slot.get().is_some() {
                let _ = self.all.requests.remove_label_values(&[own[0], own[1], &(index + 100).to_string()]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{Encoder, TextEncoder};

    use super::*;

    fn text(registry: &Registry) -> String {
        let mut text = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn what_is_gone_leaves_no_metric() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        let blue = metrics.of_deployment("iris", "blue");
        blue.record(200, false, Duration::from_micros(80));
        blue.record_mirrored(Mirrored::Dropped);
        metrics.record_refused("iris", StatusCode::UNAUTHORIZED);
        metrics.record_refused("", StatusCode::NOT_FOUND);
        for line in [
            r#"moorline_gateway_requests_total{code="200",deployment="blue",endpoint="iris"} 1"#,
            r#"moorline_gateway_requests_total{code="401",deployment="",endpoint="iris"} 1"#,
            r#"moorline_gateway_requests_total{code="404",deployment="",endpoint=""} 1"#,
            r#"moorline_gateway_failures_total{deployment="blue",endpoint="iris"} 0"#,
            r#"moorline_gateway_request_duration_seconds_count{deployment="blue",endpoint="iris"} 1"#,
            r#"moorline_gateway_mirrored_total{deployment="blue",endpoint="iris",outcome="dropped"} 1"#,
        ] {
            assert!(text(&registry).contains(line), "{line} is not in\n{}", text(&registry));
        }
        blue.forget();
        metrics.forget_endpoint("iris");
        assert!(!text(&registry).contains("iris"), "{}", text(&registry));
    }

    #[test]
    fn answers_are_what_was_recorded() {
        let blue = Metrics::register(&Registry::new()).unwrap().of_deployment("iris", "blue");
        blue.record(200, false, Duration::from_micros(80));
        blue.record(424, true, Duration::from_millis(40));
        blue.record(408, true, Duration::from_mins(5));
        let answers = blue.answers();
        assert_eq!((answers.requests, answers.failed), (3, 2));
        let within = |bound: f64| answers.within.iter().find(|(upper, _)| *upper == bound).unwrap().1;
        assert_eq!([within(0.000_1), within(0.025), within(0.05), within(180.0)], [1, 1, 2, 2]);
    }
}
