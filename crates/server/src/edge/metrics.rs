//! Devices and their modules as metrics of the server: made when somebody asks, of what is known then.

use std::sync::Arc;

use moorline_edge::{fleet::Fleet, hub::Hub};
use prometheus::{
    GaugeVec, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::seen::Seen;

/// Of the devices that have an agent.
pub(super) struct DeviceMetrics {
    hub: Hub,
    fleet: Fleet,
    seen: Arc<Seen>,
    connected: GaugeVec,
    last_seen: GaugeVec,
}

impl DeviceMetrics {
    pub(super) fn new(hub: Hub, fleet: Fleet, seen: Arc<Seen>) -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str| GaugeVec::new(Opts::new(name, help), &["workspace", "device"]);
        Ok(Self {
            hub,
            fleet,
            seen,
            connected: gauge("moorline_edge_device_connected", "Whether the agent of a device is connected: 0 or 1")?,
            last_seen: gauge(
                "moorline_edge_device_last_seen_timestamp_seconds",
                "When a device was connected last; now, if it is",
            )?,
        })
    }
}

impl Collector for DeviceMetrics {
    fn desc(&self) -> Vec<&Desc> {
        [self.connected.desc(), self.last_seen.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let devices = self.fleet.devices();
        let names: Vec<&str> = devices.iter().map(|device| device.name.as_str()).collect();
        let last = self.seen.last(&self.hub, &names);
        // Those that are gone are not told of.
        self.connected.reset();
        self.last_seen.reset();
        for device in &devices {
            let labels = [device.workspace.as_str(), device.name.as_str()];
            self.connected.with_label_values(&labels).set(f64::from(u8::from(device.connected)));
            if let Some(time) = last.get(&device.name) {
                self.last_seen.with_label_values(&labels).set(*time as f64);
            }
        }
        [self.connected.collect(), self.last_seen.collect()].concat()
    }
}
