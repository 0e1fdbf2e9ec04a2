//! What is counted of devices: names, help and buckets in one place. It is registered where the process has its metrics;
//! every metric says whether its device is hardware or emulation.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use crate::{bitstream::DeviceClass, program::Program, runtime::Profile, worker::Reason};

/// Of so many requests one is asked when its kernels ran, which costs what a transfer of a few kilobytes does.
const SAMPLED: u64 = 16;

/// Seconds; a launch of the least work takes some microseconds.
const KERNEL_BUCKETS: [f64; 15] = [
    0.000_005, 0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025,
    0.05, 0.1, 1.0,
];

/// The metrics of the devices of one process.
#[derive(Debug)]
pub struct Metrics {
    kernels: HistogramVec,
    transfers: IntCounterVec,
    busy: BusyRatio,
    restarts: IntCounterVec,
    coverage: GaugeVec,
    requests: AtomicU64,
}

impl Metrics {
    /// Registers everything, each with `labels` on top of its own.
    pub fn register(
        registry: &Registry,
        labels: &HashMap<String, String>,
    ) -> Result<Self, prometheus::Error> {
        let own = |name: &str, help: &str| Opts::new(name, help).const_labels(labels.clone());
        let kernels = HistogramOpts {
            common_opts: own(
                "moorline_fpga_kernel_seconds",
                "One launch of a kernel on a device, in seconds, of one request in 16",
            ),
            buckets: KERNEL_BUCKETS.to_vec(),
        };
        let transfers = own(
            "moorline_fpga_transfer_bytes_total",
            "Bytes of tensors and constants that went to a device, or came from it",
        );
        let busy = own(
            "moorline_fpga_device_busy_ratio",
            "The part of the last minute in which kernels ran on a device",
        );
        let restarts = own(
            "moorline_fpga_worker_restarts_total",
            "Workers of devices that were started in place of one that ended, by how it ended",
        );
        let coverage = own(
            "moorline_fpga_coverage_ratio",
            "The part of a model's multiplications and additions that runs on a device",
        );
        let metrics = Self {
            kernels: HistogramVec::new(kernels, &["device_class", "kernel"])?,
            transfers: IntCounterVec::new(transfers, &["device_class", "direction"])?,
            busy: BusyRatio::new(busy)?,
            restarts: IntCounterVec::new(restarts, &["device_class", "reason"])?,
            coverage: GaugeVec::new(coverage, &["device_class", "model"])?,
            requests: AtomicU64::new(0),
        };
        registry.register(Box::new(metrics.kernels.clone()))?;
        registry.register(Box::new(metrics.transfers.clone()))?;
        registry.register(Box::new(metrics.busy.clone()))?;
        registry.register(Box::new(metrics.restarts.clone()))?;
        registry.register(Box::new(metrics.coverage.clone()))?;
        Ok(metrics)
    }

    /// Whether this request is one that is asked when its kernels ran.
    pub(crate) fn samples(&self) -> bool {
        self.requests.fetch_add(1, Ordering::Relaxed).is_multiple_of(SAMPLED)
    }

    /// Records when the launches of a request ran.
    pub(crate) fn record_kernels(&self, class: DeviceClass, program: &Program, profile: &Profile) {
        for (launch, span) in program.launches.iter().zip(&profile.launches) {
            let seconds = Duration::from_nanos(span.end.saturating_sub(span.start)).as_secs_f64();
            self.kernels.with_label_values(&[class.as_str(), &launch.kernel]).observe(seconds);
        }
    }

    /// Records how long a request kept a device busy.
    pub(crate) fn record_busy(&self, class: DeviceClass, busy: Duration) {
        self.busy.record(class, busy);
    }

    /// Records bytes that went to a device, and that came from it.
    pub(crate) fn record_transfers(&self, class: DeviceClass, to_device: u64, from_device: u64) {
        for (direction, bytes) in [("to_device", to_device), ("from_device", from_device)] {
            self.transfers.with_label_values(&[class.as_str(), direction]).inc_by(bytes);
        }
    }

    /// Records that a worker was started in place of one that ended.
    pub(crate) fn record_restart(&self, class: DeviceClass, reason: Reason) {
        self.restarts.with_label_values(&[class.as_str(), reason.as_str()]).inc();
    }

    /// Records which part of a model is on a device.
    pub(crate) fn set_coverage(&self, class: DeviceClass, model: &str, ratio: f64) {
        self.coverage.with_label_values(&[class.as_str(), model]).set(ratio);
    }
}

/// A gauge that is computed when it is looked at.
#[derive(Clone, Debug)]
struct BusyRatio {
    gauge: GaugeVec,
    began: Instant,
    /// Of emulation and of hardware, once there is such a device.
    minutes: Arc<[Mutex<Option<Minute>>; 2]>,
}

impl BusyRatio {
    fn new(opts: Opts) -> Result<Self, prometheus::Error> {
        let gauge = GaugeVec::new(opts, &["device_class"])?;
        Ok(Self { gauge, began: Instant::now(), minutes: Arc::default() })
    }

    fn minute(&self, class: DeviceClass) -> MutexGuard<'_, Option<Minute>> {
        let at = match class {
            DeviceClass::Emulation => 0,
            DeviceClass::Hardware => 1,
        };
        self.minutes[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, class: DeviceClass, busy: Duration) {
        let now = self.began.elapsed();
        self.minute(class).get_or_insert_with(|| Minute::new(now)).record(now, busy);
    }
}

impl Collector for BusyRatio {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let now = self.began.elapsed();
        for class in [DeviceClass::Emulation, DeviceClass::Hardware] {
            if let Some(minute) = &*self.minute(class) {
                self.gauge.with_label_values(&[class.as_str()]).set(minute.ratio(now));
            }
        }
        self.gauge.collect()
    }
}

/// How busy something was in each of the last seconds.
#[derive(Debug)]
struct Minute {
    began: Duration,
    /// By second: which one it is, and how busy it was.
    seconds: [(u64, Duration); Self::SECONDS as usize],
}

impl Minute {
    const SECONDS: u64 = 60;

    fn new(now: Duration) -> Self {
        Self { began: now, seconds: [(u64::MAX, Duration::ZERO); Self::SECONDS as usize] }
    }

    fn record(&mut self, now: Duration, busy: Duration) {
        let second = now.as_secs();
        let (at, sum) = &mut self.seconds[(second % Self::SECONDS) as usize];
        if *at != second {
            (*at, *sum) = (second, Duration::ZERO);
        }
        *sum += busy;
    }

    fn ratio(&self, now: Duration) -> f64 {
        let oldest = now.as_secs().saturating_sub(Self::SECONDS - 1);
        let of_late = self.seconds.iter().filter(|(at, _)| (oldest..=now.as_secs()).contains(at));
        let busy: Duration = of_late.map(|(_, busy)| *busy).sum();
        // From the oldest of these seconds on, or from the beginning.
        let from = Duration::from_secs(oldest).max(self.began);
        let window = now.saturating_sub(from).max(Duration::from_secs(1));
        (busy.as_secs_f64() / window.as_secs_f64()).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_longer_ago_than_a_minute_is_forgotten() {
        let second = Duration::from_secs;
        let mut minute = Minute::new(second(100));
        for at in 100..110 {
            minute.record(second(at), Duration::from_millis(500));
        }
        assert_eq!(minute.ratio(second(110)), 0.5, "only the time since it began counts");
        assert_eq!(minute.ratio(second(159)), 5.0 / 59.0);
        assert!(minute.ratio(second(165)) < minute.ratio(second(161)), "the first seconds are gone");
        minute.record(second(165), second(6));
        assert_eq!(minute.ratio(second(170)), 6.0 / 59.0);
        assert_eq!(minute.ratio(second(1000)), 0.0);
    }

    #[test]
    fn everything_says_of_which_class_its_device_is() {
        let registry = Registry::new();
        let labels = HashMap::from([("endpoint".to_owned(), "e".to_owned())]);
        let metrics = Metrics::register(&registry, &labels).unwrap();
        assert!(Metrics::register(&registry, &labels).is_err(), "once a registry");
        let class = DeviceClass::Emulation;
        metrics.record_transfers(class, 7, 5);
        metrics.record_busy(class, Duration::from_millis(1));
        metrics.record_restart(class, Reason::Hung);
        metrics.set_coverage(class, "m.onnx", 0.75);
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        for line in [
            r#"moorline_fpga_transfer_bytes_total{device_class="emulation",direction="to_device",endpoint="e"} 7"#,
            r#"moorline_fpga_transfer_bytes_total{device_class="emulation",direction="from_device",endpoint="e"} 5"#,
            r#"moorline_fpga_device_busy_ratio{device_class="emulation",endpoint="e"} 0.001"#,
            r#"moorline_fpga_worker_restarts_total{device_class="emulation",endpoint="e",reason="hung"} 1"#,
            r#"moorline_fpga_coverage_ratio{device_class="emulation",endpoint="e",model="m.onnx"} 0.75"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert_eq!((0..33).filter(|_| metrics.samples()).count(), 3, "the first of every 16");
    }
}
