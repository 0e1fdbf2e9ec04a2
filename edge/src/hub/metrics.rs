//! A hub's metrics: names and help in one place. `device` and `module` are names of identities that the hub was told of,
//! never what a client merely says.

use prometheus::{
    IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use std::sync::{Arc, atomic::Ordering};

use super::identity::ClientId;
use crate::disk::Queues;

const CLIENT: [&str; 2] = ["device", "module"];

#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) clients: IntGauge,
    pub(crate) connections: IntGauge,
    logins: IntCounterVec,
    ends: IntCounterVec,
    received: IntCounterVec,
    received_bytes: IntCounterVec,
    sent: IntCounterVec,
    throttled: IntCounterVec,
    unrouted: IntCounter,
    methods: IntCounterVec,
    twin_requests: IntCounterVec,
}

/// Those of one client.
#[derive(Debug)]
pub(crate) struct ClientMetrics {
    pub(crate) received: IntCounter,
    pub(crate) received_bytes: IntCounter,
    pub(crate) sent: IntCounter,
    pub(crate) throttled: IntCounter,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry, queues: Arc<Queues>) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let unrouted =
            IntCounter::new("moorline_hub_unrouted_messages_total", "Messages that no route took")?;
        registry.register(Box::new(unrouted.clone()))?;
        registry.register(Box::new(QueueMetrics::new(queues)?))?;
        Ok(Self {
            clients: gauge("moorline_hub_clients", "Devices and modules that are connected")?,
            connections: gauge("moorline_hub_connections", "Connections that are open, whoever they are of")?,
            logins: counters(
                "moorline_hub_logins_total",
                "Attempts to connect, by what came of them",
                &["outcome"],
            )?,
            ends: counters(
                "moorline_hub_sessions_ended_total",
                "Sessions that ended, by the reason",
                &["reason"],
            )?,
            received: counters(
                "moorline_hub_messages_received_total",
                "Messages that clients sent",
                &CLIENT,
            )?,
            received_bytes: counters(
                "moorline_hub_received_bytes_total",
                "Bytes of payloads that clients sent",
                &CLIENT,
            )?,
            sent: counters(
                "moorline_hub_messages_sent_total",
                "Messages from queues that clients were sent",
                &CLIENT,
            )?,
            throttled: counters(
                "moorline_hub_throttled_total",
                "Times that a client was read more slowly than it sent",
                &CLIENT,
            )?,
            unrouted,
            methods: counters(
                "moorline_hub_methods_total",
                "Methods called, by what came of them",
                &["outcome"],
            )?,
            twin_requests: counters(
                "moorline_hub_twin_requests_total",
                "Requests for twins, by kind and status",
                &["kind", "status"],
            )?,
        })
    }

    pub(crate) fn of_client(&self, id: &ClientId) -> ClientMetrics {
        let labels = [id.device_name(), id.module_name().unwrap_or_default()];
        ClientMetrics {
            received: self.received.with_label_values(&labels),
            received_bytes: self.received_bytes.with_label_values(&labels),
            sent: self.sent.with_label_values(&labels),
            throttled: self.throttled.with_label_values(&labels),
        }
    }

    /// Of an identity that there is no more.
    pub(crate) fn forget(&self, id: &ClientId) {
        let labels = [id.device_name(), id.module_name().unwrap_or_default()];
        for counters in [&self.received, &self.received_bytes, &self.sent, &self.throttled] {
            // There may be none: it never connected.
            let _ = counters.remove_label_values(&labels);
        }
    }

    pub(crate) fn login(&self, outcome: &'static str) {
        self.logins.with_label_values(&[outcome]).inc();
    }

    pub(crate) fn ended(&self, reason: &'static str) {
        self.ends.with_label_values(&[reason]).inc();
    }

    pub(crate) fn method(&self, outcome: &'static str) {
        self.methods.with_label_values(&[outcome]).inc();
    }

    pub(crate) fn twin_request(&self, kind: &'static str, status: u16) {
        let status = match status {
            200 => "200",
            204 => "204",
            400 => "400",
            429 => "429",
            _ => "500",
        };
        self.twin_requests.with_label_values(&[kind, status]).inc();
    }

    pub(crate) fn unrouted_count(&self) -> u64 {
        self.unrouted.get()
    }

    pub(crate) fn unrouted(&self) {
        self.unrouted.inc();
    }
}

/// Read from the queues whenever somebody looks.
#[derive(Debug)]
struct QueueMetrics {
    queues: Arc<Queues>,
    messages: IntGaugeVec,
    bytes: IntGaugeVec,
    lost: IntGaugeVec,
}

impl QueueMetrics {
    fn new(queues: Arc<Queues>) -> Result<Self, prometheus::Error> {
        let gauges =
            |name: &str, help: &str, labels: &[&str]| IntGaugeVec::new(Opts::new(name, help), labels);
        Ok(Self {
            queues,
            messages: gauges("moorline_hub_queue_messages", "Messages that wait in a queue", &["queue"])?,
            bytes: gauges("moorline_hub_queue_bytes", "Bytes of a queue on disk", &["queue"])?,
            lost: gauges(
                "moorline_hub_queue_lost_messages",
                "Messages of a queue that were not delivered since the hub started, by the reason",
                &["queue", "reason"],
            )?,
        })
    }
}

impl Collector for QueueMetrics {
    fn desc(&self) -> Vec<&Desc> {
        [&self.messages, &self.bytes, &self.lost].into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for gauges in [&self.messages, &self.bytes, &self.lost] {
            gauges.reset();
        }
        for (name, queue) in self.queues.all() {
            let name = name.as_str();
            let (messages, bytes) = queue.depth();
            self.messages.with_label_values(&[name]).set(messages as i64);
            self.bytes.with_label_values(&[name]).set(bytes as i64);
            let counts = &queue.counts;
            for (reason, count) in
                [("full", &counts.dropped), ("expired", &counts.expired), ("damaged", &counts.damaged)]
            {
                self.lost.with_label_values(&[name, reason]).set(count.load(Ordering::Relaxed) as i64);
            }
        }
        [&self.messages, &self.bytes, &self.lost].into_iter().flat_map(Collector::collect).collect()
    }
}
