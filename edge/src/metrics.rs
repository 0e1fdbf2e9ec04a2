//! What a device measures of itself and its modules, as it is sent over MQTT: a message of its `$edgeAgent` every now and
//! then, of numbers in a fixed order. Names, help and kinds are here, so that whoever reads it shows the same.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    hub::{AGENT, Properties, UpstreamMessage},
    manifest::is_module_name,
};

/// The property by which such a message is known; its value is the form's version.
pub const PROPERTY: &str = "moorline-metrics";
const VERSION: &str = "1";
/// The output that such a message is of.
pub(crate) const OUTPUT: &str = "metrics";
/// Bytes of one message.
const LONGEST: usize = 64 * 1024;
const MOST_MODULES: usize = 128;
/// Numbers of one list: more than any version knows.
const MOST_NUMBERS: usize = 64;

/// What one number of a list is.
#[derive(Clone, Copy, Debug)]
pub struct Measure {
    pub name: &'static str,
    pub help: &'static str,
    /// It only grows, and begins anew when what is counted starts again.
    pub counter: bool,
}

const fn counter(name: &'static str, help: &'static str) -> Measure {
    Measure { name, help, counter: true }
}

const fn gauge(name: &'static str, help: &'static str) -> Measure {
    Measure { name, help, counter: false }
}

/// Of the device, in the order of their numbers. New ones come last: a reader skips what it does not know.
pub const DEVICE: [Measure; 13] = [
    gauge("moorline_device_agent_uptime_seconds", "Since the agent started"),
    counter("moorline_device_agent_cpu_seconds_total", "CPU time of the agent"),
    gauge("moorline_device_agent_resident_bytes", "Memory of the agent"),
    gauge("moorline_device_memory_bytes", "Memory of the device"),
    gauge("moorline_device_memory_available_bytes", "Memory of the device that could be had"),
    gauge("moorline_device_load", "Processes that ran or wanted to, on average over a minute"),
    gauge("moorline_device_queue_messages", "Messages on the device that wait for the server"),
    gauge("moorline_device_queue_bytes", "Disk that all messages on the device take"),
    counter(
        "moorline_device_lost_messages_total",
        "Messages that were not delivered: no space, too old, or damaged",
    ),
    gauge("moorline_device_releases_bytes", "Disk that releases take"),
    gauge("moorline_device_releases_quota_bytes", "Disk that releases may take"),
    gauge("moorline_device_processors", "Processors of the device"),
    counter("moorline_device_unrouted_messages_total", "Messages on the device that no route took"),
];

/// Of a module, in the order of their numbers.
pub const MODULE: [Measure; 10] = [
    gauge("moorline_module_up", "1 if the module runs"),
    counter("moorline_module_restarts_total", "Times that it was started again"),
    counter("moorline_module_requests_total", "Requests that it answered"),
    counter("moorline_module_errors_total", "Of those, the ones that it failed: status 500 and above"),
    counter("moorline_module_request_seconds_total", "Time that its requests took together"),
    gauge("moorline_module_request_p50_seconds", "Half of the requests since the message before were faster"),
    gauge("moorline_module_request_p99_seconds", "99 % of the requests since the message before were faster"),
    gauge("moorline_module_requests_in_flight", "Requests that are not answered yet"),
    counter("moorline_module_cpu_seconds_total", "CPU time of its processes"),
    gauge("moorline_module_resident_bytes", "Memory of its processes"),
];

/// In the order of [`DEVICE`]; `None` is not known.
pub type DeviceNumbers = [Option<f64>; DEVICE.len()];
/// In the order of [`MODULE`]; `None` is not known.
pub type ModuleNumbers = [Option<f64>; MODULE.len()];

/// One device at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Milliseconds since 1970, by the device's clock.
    pub at: u64,
    pub device: DeviceNumbers,
    pub modules: BTreeMap<String, ModuleNumbers>,
}

/// A message that claims to be a snapshot, and is none.
#[derive(Debug, Error)]
pub enum SnapshotError {
    #[error("metrics have the form `{0}`; {VERSION} is known")]
    Version(String),
    #[error("metrics take {0} bytes; {LONGEST} is the most")]
    TooLong(usize),
    #[error("metrics cannot be read")]
    Json(#[source] serde_json::Error),
    #[error("metrics of {0} modules; {MOST_MODULES} is the most")]
    TooMany(usize),
    #[error("metrics are of `{0}`, which is no name of a module")]
    Name(String),
    #[error("metrics hold a number that is none: {0}")]
    Number(f64),
}

#[derive(Serialize, Deserialize)]
struct Written {
    at: u64,
    d: Vec<Option<f64>>,
    #[serde(default)]
    m: BTreeMap<String, Vec<Option<f64>>>,
}

impl Snapshot {
    /// The properties of a message that holds one.
    pub fn properties() -> Properties {
        let mut properties = Properties::default();
        properties.set_system("on", Some(OUTPUT));
        properties.set_system("ct", Some("application/json"));
        properties.set_system("ce", Some("utf-8"));
        properties.set_own(PROPERTY, VERSION);
        properties
    }

    /// The snapshot of a message; `None` if it is another message. Only a device's own agent sends them.
    pub fn of(message: &UpstreamMessage) -> Option<Result<Self, SnapshotError>> {
        let version = message.properties.own(PROPERTY)?;
        if message.sender.module_name() != Some(AGENT) {
            return None;
        }
        Some(match version {
            VERSION => Self::decode(&message.payload),
            other => Err(SnapshotError::Version(other.chars().take(20).collect())),
        })
    }

    pub fn encode(&self) -> Vec<u8> {
        let list = |numbers: &[Option<f64>]| {
            let known = numbers.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
            numbers[..known]
                .iter()
                .map(|number| number.filter(|number| number.is_finite()).map(short))
                .collect()
        };
        let modules = self.modules.iter().map(|(name, numbers)| (name.clone(), list(numbers)));
        let written = Written { at: self.at, d: list(&self.device), m: modules.collect() };
        // Lists of numbers always have a form in JSON.
        serde_json::to_vec(&written).unwrap_or_default()
    }

    pub fn decode(payload: &[u8]) -> Result<Self, SnapshotError> {
        if payload.len() > LONGEST {
            return Err(SnapshotError::TooLong(payload.len()));
        }
        let written: Written = serde_json::from_slice(payload).map_err(SnapshotError::Json)?;
        if written.m.len() > MOST_MODULES {
            return Err(SnapshotError::TooMany(written.m.len()));
        }
        let mut modules = BTreeMap::new();
        for (name, numbers) in written.m {
            if !is_module_name(&name) {
                return Err(SnapshotError::Name(name.chars().take(100).collect()));
            }
            modules.insert(name, read(&numbers)?);
        }
        Ok(Self { at: written.at, device: read(&written.d)?, modules })
    }
}

fn read<const N: usize>(numbers: &[Option<f64>]) -> Result<[Option<f64>; N], SnapshotError> {
    let mut known = [None; N];
    for (place, number) in known.iter_mut().zip(&numbers[..numbers.len().min(MOST_NUMBERS)]) {
        if let Some(number) = number.filter(|number| !number.is_finite() || *number < 0.0) {
            return Err(SnapshotError::Number(number));
        }
        *place = *number;
    }
    Ok(known)
}

/// Six digits behind the point are a microsecond.
fn short(number: f64) -> f64 {
    if number.abs() < 1e9 { (number * 1e6).round() / 1e6 } else { number }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;

    fn snapshot() -> Snapshot {
        let mut snapshot = Snapshot { at: 1_700_000_000_000, ..Snapshot::default() };
        (snapshot.device[0], snapshot.device[2]) = (Some(3.25), Some(18_000_000.0));
        let mut numbers = ModuleNumbers::default();
        (numbers[0], numbers[4]) = (Some(1.0), Some(0.123_456));
        snapshot.modules.insert("detector".to_owned(), numbers);
        snapshot
    }

    fn message(sender: &str, bag: &str, payload: Vec<u8>) -> UpstreamMessage {
        UpstreamMessage {
            sequence: 1,
            sender: sender.parse().unwrap(),
            properties: Properties::parse(bag).unwrap(),
            payload: Bytes::from(payload),
        }
    }

    #[test]
    fn what_is_sent_is_read_and_short() {
        let sent = snapshot().encode();
        assert_eq!(
            String::from_utf8_lossy(&sent),
            r#"{"at":1700000000000,"d":[3.25,null,18000000.0],"m":{"detector":[1.0,null,null,null,0.123456]}}"#
        );
        let bag = Snapshot::properties().encode();
        assert_eq!(Snapshot::of(&message("d/$edgeAgent", &bag, sent.clone())).unwrap().unwrap(), snapshot());
        // Whoever else says so.
        assert!(Snapshot::of(&message("d/m", &bag, sent.clone())).is_none());
        assert!(Snapshot::of(&message("d/$edgeAgent", "a=b", sent.clone())).is_none());
        let newer = Snapshot::of(&message("d/$edgeAgent", "moorline-metrics=2", sent));
        assert!(matches!(newer, Some(Err(SnapshotError::Version(_)))));
        // As many modules as a device may have, with numbers as long as they get.
        let modules =
            (0..64).map(|n| (format!("a-module-with-a-long-name-{n}"), [Some(123_456_789.123_456); 10]));
        let full = Snapshot { at: 1, device: [Some(1e15); 13], modules: modules.collect() };
        assert!(full.encode().len() < 16 * 1024, "{}", full.encode().len());
        assert_eq!(Snapshot::decode(&full.encode()).unwrap(), full);
    }

    #[test]
    fn nonsense_is_refused_and_more_than_is_known_is_skipped() {
        let decode = |value: serde_json::Value| Snapshot::decode(value.to_string().as_bytes());
        let long: Vec<u32> = (0..100).collect();
        assert_eq!(decode(json!({"at": 1, "d": long, "x": 1})).unwrap().device[12], Some(12.0));
        assert!(matches!(decode(json!({"at": 1, "d": [-1]})), Err(SnapshotError::Number(_))));
        assert!(matches!(decode(json!({"at": 1, "d": ["1"]})), Err(SnapshotError::Json(_))));
        assert!(matches!(decode(json!({"at": 1, "d": [], "m": {"a/b": []}})), Err(SnapshotError::Name(_))));
        let many: BTreeMap<String, Vec<f64>> = (0..129).map(|n| (format!("m{n}"), Vec::new())).collect();
        assert!(matches!(decode(json!({"at": 1, "d": [], "m": many})), Err(SnapshotError::TooMany(129))));
        assert!(matches!(Snapshot::decode(&vec![b' '; LONGEST + 1]), Err(SnapshotError::TooLong(_))));
    }

    #[test]
    fn names_are_told_apart() {
        let names: std::collections::BTreeSet<&str> =
            DEVICE.iter().chain(&MODULE).map(|measure| measure.name).collect();
        assert_eq!(names.len(), DEVICE.len() + MODULE.len());
    }
}
