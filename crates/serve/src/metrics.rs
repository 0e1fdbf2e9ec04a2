//! The scorer's metrics: names, help and buckets in one place, handles resolved once, so that recording a request is
//! a few atomic additions. Labels come from closed sets only.

use std::{collections::HashMap, sync::OnceLock, time::Duration};

use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts,
    Registry, TextEncoder, process_collector::ProcessCollector,
};

#[cfg(target_os = "linux")]
use crate::workers::Workers;

/// The protocols as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Score,
    OipRest,
    OipGrpc,
    Mlflow,
}

impl Protocol {
    const ALL: [Self; 4] = [Self::Score, Self::OipRest, Self::OipGrpc, Self::Mlflow];

    /// The value of the label `protocol`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Score => "score",
            Self::OipRest => "oip_rest",
            Self::OipGrpc => "oip_grpc",
            Self::Mlflow => "mlflow",
        }
    }
}

/// Seconds; from 50 µs, below which a tiny model answers, to 60 s.
const DURATION_BUCKETS: [f64; 19] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0, 60.0,
];
const BATCH_BUCKETS: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];
/// Codes that have a counter of their own ready; any other is looked up.
const STATUS_SLOTS: usize = 500;

/// What is recorded under one protocol.
#[derive(Debug)]
struct ProtocolMetrics {
    duration: Histogram,
    /// By status less 100.
    requests: Vec<OnceLock<IntCounter>>,
}

/// Every metric of one scorer.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    labels: [String; 2],
    requests_total: IntCounterVec,
    protocols: Vec<ProtocolMetrics>,
    queue_duration: Histogram,
    inference_duration: Histogram,
    batch_size: Histogram,
    pub(crate) in_flight: IntGauge,
    pub(crate) request_bytes: IntCounter,
    pub(crate) response_bytes: IntCounter,
    model_load_seconds: Gauge,
    script_restarts: IntCounter,
}

impl Metrics {
    /// Registers everything under the labels `endpoint` and `deployment`.
    pub fn new(endpoint: &str, deployment: &str) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let own = |name: &str, help: &str| {
            Opts::new(name, help).const_label("endpoint", endpoint).const_label("deployment", deployment)
        };
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            let opts = HistogramOpts { common_opts: own(name, help), buckets: buckets.to_vec() };
            let histogram = Histogram::with_opts(opts)?;
            registry.register(Box::new(histogram.clone()))?;
            Ok::<_, prometheus::Error>(histogram)
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::with_opts(own(name, help))?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };

        let requests_total = IntCounterVec::new(
            Opts::new(
                "moorline_requests_total",
                "Scoring requests answered, by HTTP status (gRPC: its equivalent)",
            ),
            &["endpoint", "deployment", "protocol", "code"],
        )?;
        registry.register(Box::new(requests_total.clone()))?;
        let durations = HistogramVec::new(
            HistogramOpts {
                common_opts: own(
                    "moorline_request_duration_seconds",
                    "From a scoring request's head to its answer, in seconds",
                ),
                buckets: DURATION_BUCKETS.to_vec(),
            },
            &["protocol"],
        )?;
        registry.register(Box::new(durations.clone()))?;
        let in_flight = IntGauge::with_opts(own(
            "moorline_requests_in_flight",
            "Scoring requests that have arrived and are not answered",
        ))?;
        registry.register(Box::new(in_flight.clone()))?;
        let model_load_seconds = Gauge::with_opts(own(
            "moorline_model_load_seconds",
            "Loading and warming the model, in seconds",
        ))?;
        registry.register(Box::new(model_load_seconds.clone()))?;
        registry.register(Box::new(ProcessCollector::for_self()))?;
        #[cfg(target_os = "linux")]
        registry.register(Box::new(Workers::new(own)?))?;

        Ok(Self {
            labels: [endpoint.to_owned(), deployment.to_owned()],
            requests_total,
            protocols: Protocol::ALL
                .iter()
                .map(|protocol| ProtocolMetrics {
                    duration: durations.with_label_values(&[protocol.as_str()]),
                    requests: (0..STATUS_SLOTS).map(|_| OnceLock::new()).collect(),
                })
                .collect(),
            queue_duration: histogram(
                "moorline_queue_duration_seconds",
                "From admission to the start of inference, in seconds",
                &DURATION_BUCKETS,
            )?,
            inference_duration: histogram(
                "moorline_inference_duration_seconds",
                "One run of the engine or of the scoring script, in seconds",
                &DURATION_BUCKETS,
            )?,
            batch_size: histogram(
                "moorline_batch_size",
                "Rows (ONNX) of one run of the engine",
                &BATCH_BUCKETS,
            )?,
            in_flight,
            request_bytes: counter(
                "moorline_request_bytes_total",
                "Bytes of scoring requests' bodies as received",
            )?,
            response_bytes: counter(
                "moorline_response_bytes_total",
                "Bytes of scoring answers' bodies as sent",
            )?,
            model_load_seconds,
            script_restarts: counter(
                "moorline_script_restarts_total",
                "Worker processes of the scoring script that were started again",
            )?,
            registry,
        })
    }

    /// Where parts of the process that are not known here register their own metrics, with these labels on each.
    pub fn registry(&self) -> (&Registry, HashMap<String, String>) {
        let [endpoint, deployment] = &self.labels;
        let label = |name: &str, value: &String| (name.to_owned(), value.clone());
        (&self.registry, HashMap::from([label("endpoint", endpoint), label("deployment", deployment)]))
    }

    /// Records how long a request waited between admission and its run.
    pub fn record_wait(&self, waited: Duration) {
        self.queue_duration.observe(waited.as_secs_f64());
    }

    /// Records one run of the engine or of the script.
    pub fn record_run(&self, run_time: Duration) {
        self.inference_duration.observe(run_time.as_secs_f64());
    }

    /// Records the rows of one run of the engine.
    pub fn record_batch(&self, rows: usize) {
        self.batch_size.observe(rows as f64);
    }

    /// Records one answered request.
    pub fn record_request(&self, protocol: Protocol, status: u16, duration: Duration) {
        let own = &self.protocols[protocol as usize];
        own.duration.observe(duration.as_secs_f64());
        let resolve = || {
            let [endpoint, deployment] = &self.labels;
            let code = status.to_string();
            self.requests_total.with_label_values(&[
                endpoint.as_str(),
                deployment.as_str(),
                protocol.as_str(),
                &code,
            ])
        };
        match own.requests.get(usize::from(status).wrapping_sub(100)) {
            Some(slot) => slot.get_or_init(resolve).inc(),
            None => resolve().inc(),
        }
    }

    /// Records how long the model took to load and warm.
    pub fn set_model_load(&self, duration: Duration) {
        self.model_load_seconds.set(duration.as_secs_f64());
    }

    /// The text of `/metrics`; `script_restarts` is the pool's own count.
    pub(crate) fn render(&self, script_restarts: u64) -> Result<String, prometheus::Error> {
        self.script_restarts.inc_by(script_restarts.saturating_sub(self.script_restarts.get()));
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        String::from_utf8(text).map_err(|error| prometheus::Error::Msg(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_register_is_shown_with_the_same_labels() {
        let metrics = Metrics::new("iris", "blue").unwrap();
        let (registry, labels) = metrics.registry();
        let other =
            IntCounter::with_opts(Opts::new("other_total", "Another one").const_labels(labels)).unwrap();
        registry.register(Box::new(other.clone())).unwrap();
        other.inc();
        let text = metrics.render(0).unwrap();
        assert!(text.contains(r#"other_total{deployment="blue",endpoint="iris"} 1"#), "{text}");
    }

    #[test]
    fn names_and_labels_are_those_of_the_contract() {
        let metrics = Metrics::new("iris", "blue").unwrap();
        metrics.record_request(Protocol::Score, 200, Duration::from_micros(80));
        metrics.record_request(Protocol::Score, 200, Duration::from_micros(80));
        metrics.record_request(Protocol::OipGrpc, 999, Duration::from_micros(80));
        let text = metrics.render(3).unwrap();
        for line in [
            r#"moorline_requests_total{code="200",deployment="blue",endpoint="iris",protocol="score"} 2"#,
            r#"moorline_requests_total{code="999",deployment="blue",endpoint="iris",protocol="oip_grpc"} 1"#,
            r#"moorline_request_duration_seconds_count{deployment="blue",endpoint="iris",protocol="score"} 2"#,
            r#"moorline_script_restarts_total{deployment="blue",endpoint="iris"} 3"#,
            r#"moorline_requests_in_flight{deployment="blue",endpoint="iris"} 0"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        for name in
            ["queue_duration_seconds", "inference_duration_seconds", "batch_size", "model_load_seconds"]
        {
            assert!(text.contains(&format!("# TYPE moorline_{name}")), "{name}");
        }
        assert!(text.contains("process_resident_memory_bytes"));
    }
}
