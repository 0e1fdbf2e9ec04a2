//! Devices and their modules as metrics of the server: made when somebody asks, of what is known then. What a device
//! measures comes over MQTT; the last that each sent is shown, for as long as it is fresh, and is what the monitor knows of
//! deployments to devices.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use moorline_edge::{
    fleet::{Fleet, FleetDevice},
    hub::{Hub, UpstreamMessage},
    metrics::{DEVICE, MODULE, Measure, ModuleNumbers, Snapshot},
};
use moorline_monitor::{BOUNDS, Readings};
use prometheus::{
    core::{Collector, Desc},
    proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType},
};

use super::seen::Seen;

/// Numbers that are older are of no use: a device that is away has none, and so is seen to be away.
const FRESH: Duration = Duration::from_mins(5);

/// What devices measured last.
#[derive(Debug, Default)]
pub(crate) struct Measured(Mutex<HashMap<String, Heard>>);

/// What came of a device.
#[derive(Debug)]
struct Heard {
    at: Instant,
    /// When the message before that one came.
    earlier: Option<Instant>,
    snapshot: Snapshot,
    /// By module, at the message before and at this one.
    counted: HashMap<String, [Counted; 2]>,
}

/// What a module has counted since this server hears of it: it only grows.
#[derive(Clone, Debug, Default)]
struct Counted {
    cpu_seconds: f64,
    requests: f64,
    failed: f64,
    /// Requests that kept each of the monitor's bounds.
    within: [f64; BOUNDS.len()],
}

impl Counted {
    /// After what a module counted between two messages.
    fn and(&self, before: &ModuleNumbers, now: &ModuleNumbers) -> Self {
        // What has become smaller began anew.
        let since = |number: usize| match (before[number], now[number]) {
            (Some(before), Some(now)) => {
                if now < before {
                    now
                } else {
                    now - before
                }
            }
            _ => 0.0,
        };
        let requests = since(2);
        let mut sum = Self {
            cpu_seconds: self.cpu_seconds + since(8),
            requests: self.requests + requests,
            failed: self.failed + since(3),
            within: self.within,
        };
        // Two numbers are all that is told of durations.
        let (half, most) = (now[5].unwrap_or(f64::INFINITY), now[6].unwrap_or(f64::INFINITY));
        for (bound, count) in BOUNDS.iter().zip(&mut sum.within) {
            *count += match bound {
                bound if *bound >= most => requests,
                bound if *bound >= half => requests / 2.0,
                _ => 0.0,
            };
        }
        sum
    }
}

impl Measured {
    /// Takes a message in if it is a measurement; whether it was one.
    pub(super) fn take(&self, message: &UpstreamMessage) -> bool {
        let Some(read) = Snapshot::of(message) else { return false };
        match read {
            Ok(snapshot) => {
                let device = message.sender.device_name().to_owned();
                self.hear(device, snapshot, Instant::now());
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(client = %message.sender, error, "what a device measured is left out");
            }
        }
        true
    }

    fn hear(&self, device: String, snapshot: Snapshot, at: Instant) {
        let mut all = self.all();
        let before = all.remove(&device);
        let counted = snapshot.modules.iter().map(|(name, now)| {
            let known = before.as_ref().and_then(|heard| {
                let counted = heard.counted.get(name)?[1].clone();
                let sum = counted.and(heard.snapshot.modules.get(name)?, now);
                Some([counted, sum])
            });
            // What had been counted before came at a time that nobody knows.
            (name.clone(), known.unwrap_or_default())
        });
        let counted = counted.collect();
        all.insert(device, Heard { at, earlier: before.map(|heard| heard.at), snapshot, counted });
    }

    /// What a module of a device counted, as if it were asked all the time: what came with its last message is spread over
    /// the time until the next one is due, so that a look in between sees its part.
    fn readings(&self, device: &str, module: &str, now: Instant) -> Option<(Instant, Readings)> {
        let all = self.all();
        let heard = all.get(device)?;
        let numbers = heard.snapshot.modules.get(module)?;
        let [before, after] = heard.counted.get(module)?;
        let share = heard.earlier.map_or(1.0, |earlier| {
            let period = heard.at.saturating_duration_since(earlier).as_secs_f64();
            let passed = now.saturating_duration_since(heard.at).as_secs_f64();
            if passed < period { passed / period } else { 1.0 }
        });
        let between = |before: f64, after: f64| before + (after - before) * share;
        // Whole requests: parts of one would be rounded away.
        let whole = |before: f64, after: f64| between(before, after).floor();
        let durations = BOUNDS.iter().zip(before.within.iter().zip(&after.within));
        let readings = Readings {
            cpu_seconds: numbers[8].map(|_| between(before.cpu_seconds, after.cpu_seconds)),
            memory: numbers[9],
            in_flight: numbers[7],
            requests: whole(before.requests, after.requests),
            failed: whole(before.failed, after.failed),
            durations: durations.map(|(bound, (before, after))| (*bound, whole(*before, *after))).collect(),
            ..Readings::default()
        };
        Some((now, readings))
    }

    /// The same of each of these devices.
    pub(super) fn of_module<'a>(
        &self,
        devices: impl Iterator<Item = &'a str>,
        module: &str,
    ) -> Vec<Option<(Instant, Readings)>> {
        let now = Instant::now();
        devices.map(|device| self.readings(device, module, now)).collect()
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, Heard>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, heard| heard.at.elapsed() < FRESH);
        all
    }

    fn add_to(&self, families: &mut Families, devices: &[FleetDevice]) {
        let all = self.all();
        for device in devices {
            let Some(Heard { snapshot, .. }) = all.get(&device.name) else { continue };
            let own = labels_of(device);
            for (measure, number) in DEVICE.iter().zip(snapshot.device) {
                families.add(measure, &own, number);
            }
            for (name, numbers) in &snapshot.modules {
                let labels = [own[0], own[1], ("module", name.as_str())];
                for (measure, number) in MODULE.iter().zip(numbers) {
                    families.add(measure, &labels, *number);
                }
            }
        }
    }
}

fn labels_of(device: &FleetDevice) -> [(&'static str, &str); 2] {
    [("workspace", device.workspace.as_str()), ("device", device.name.as_str())]
}

/// Families by their names, as they grow.
#[derive(Default)]
struct Families(BTreeMap<&'static str, MetricFamily>);

impl Families {
    fn add(&mut self, measure: &Measure, labels: &[(&str, &str)], number: Option<f64>) {
        let Some(number) = number else { return };
        let family = self.0.entry(measure.name).or_insert_with(|| {
            let mut family = MetricFamily::default();
            family.set_name(measure.name.to_owned());
            family.set_help(measure.help.to_owned());
            family.set_field_type(if measure.counter { MetricType::COUNTER } else { MetricType::GAUGE });
            family
        });
        let pair = |(name, value): &(&str, &str)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        };
        let mut metric = Metric::default();
        metric.set_label(labels.iter().map(pair).collect());
        if measure.counter {
            let mut counter = Counter::default();
            counter.set_value(number);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(number);
            metric.set_gauge(gauge);
        }
        family.mut_metric().push(metric);
    }
}

const CONNECTED: Measure = Measure {
    name: "moorline_edge_device_connected",
    help: "Whether the agent of a device is connected: 0 or 1",
    counter: false,
};
const LAST_SEEN: Measure = Measure {
    name: "moorline_edge_device_last_seen_timestamp_seconds",
    help: "When a device was connected last; now, if it is",
    counter: false,
};

/// Of the devices that have an agent. It keeps no number itself, so that two who ask at once do not spoil each other's.
pub(super) struct DeviceMetrics {
    hub: Hub,
    fleet: Fleet,
    seen: Arc<Seen>,
    measured: Arc<Measured>,
    /// By which the registry knows it.
    description: Desc,
}

impl DeviceMetrics {
    pub(super) fn new(
        hub: Hub,
        fleet: Fleet,
        seen: Arc<Seen>,
        measured: Arc<Measured>,
    ) -> prometheus::Result<Self> {
        let labels = ["workspace", "device"].map(str::to_owned).to_vec();
        let description =
            Desc::new(CONNECTED.name.to_owned(), CONNECTED.help.to_owned(), labels, HashMap::new())?;
        Ok(Self { hub, fleet, seen, measured, description })
    }
}

impl Collector for DeviceMetrics {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.description]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let devices = self.fleet.devices();
        let names: Vec<&str> = devices.iter().map(|device| device.name.as_str()).collect();
        let last = self.seen.last(&self.hub, &names);
        let mut families = Families::default();
        for device in &devices {
            let labels = labels_of(device);
            families.add(&CONNECTED, &labels, Some(f64::from(u8::from(device.connected))));
            families.add(&LAST_SEEN, &labels, last.get(&device.name).map(|time| *time as f64));
        }
        self.measured.add_to(&mut families, &devices);
        families.0.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device whose module answered so many requests, half of them within 3 ms.
    fn snapshot(requests: f64) -> Snapshot {
        let mut numbers = ModuleNumbers::default();
        (numbers[2], numbers[3], numbers[8]) =
            (Some(requests), Some(requests / 10.0), Some(requests / 100.0));
        (numbers[5], numbers[6], numbers[9]) = (Some(0.003), Some(0.2), Some(7.0));
        Snapshot { modules: [("m".to_owned(), numbers)].into(), ..Snapshot::default() }
    }

    #[test]
    fn what_came_with_a_message_is_spread_until_the_next_one() {
        let measured = Measured::default();
        let begun = Instant::now();
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        let read = |seconds| measured.readings("d", "m", at(seconds)).unwrap().1;
        measured.hear("d".to_owned(), snapshot(5000.0), at(0));
        // What it had counted before is nobody's.
        assert_eq!((read(3).requests, read(3).memory), (0.0, Some(7.0)));
        measured.hear("d".to_owned(), snapshot(5100.0), at(30));
        assert_eq!([30, 45, 60, 90].map(|seconds| read(seconds).requests), [0.0, 50.0, 100.0, 100.0]);
        let all = read(60);
        assert_eq!((all.failed, all.cpu_seconds), (10.0, Some(1.0)));
        let within = |bound: f64| all.durations.iter().find(|(own, _)| *own == bound).unwrap().1;
        assert_eq!([0.0025, 0.005, 0.1, 0.25].map(within), [0.0, 50.0, 50.0, 100.0]);
        // It was started again, and counts from nothing; what was counted stays.
        measured.hear("d".to_owned(), snapshot(20.0), at(60));
        assert_eq!(read(90).requests, 120.0);
        assert!(measured.readings("d", "other", at(90)).is_none());
        assert!(measured.readings("other", "m", at(90)).is_none());
    }
}
