//! Devices and their modules as metrics of the server: made when somebody asks, of what is known then. What a device
//! measures comes over MQTT; the last that each sent is shown, for as long as it is fresh.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use moorline_edge::{
    fleet::{Fleet, FleetDevice},
    hub::{Hub, UpstreamMessage},
    metrics::{DEVICE, MODULE, Measure, Snapshot},
};
use prometheus::{
    core::{Collector, Desc},
    proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType},
};

use super::seen::Seen;

/// Numbers that are older are of no use: a device that is away has none, and so is seen to be away.
const FRESH: Duration = Duration::from_mins(5);

/// What devices measured last.
#[derive(Debug, Default)]
pub(crate) struct Measured(Mutex<HashMap<String, (Instant, Snapshot)>>);

impl Measured {
    /// Takes a message in if it is a measurement; whether it was one.
    pub(super) fn take(&self, message: &UpstreamMessage) -> bool {
        let Some(read) = Snapshot::of(message) else { return false };
        match read {
            Ok(snapshot) => {
                let device = message.sender.device_name().to_owned();
                self.all().insert(device, (Instant::now(), snapshot));
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(client = %message.sender, error, "what a device measured is left out");
            }
        }
        true
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, (Instant, Snapshot)>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, (at, _)| at.elapsed() < FRESH);
        all
    }

    fn add_to(&self, families: &mut Families, devices: &[FleetDevice]) {
        let all = self.all();
        for device in devices {
            let Some((_, snapshot)) = all.get(&device.name) else { continue };
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
