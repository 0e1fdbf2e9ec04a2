//! What a compute of `type: edge` says beyond what every compute says: which devices, and how a deployment reaches them.
//!
//! The condition and the routes are texts here; whoever deploys to devices knows what they mean.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{fields::Fields, reader::Reader, scalars, yaml::Node};

/// Devices of the workspace's hub.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EdgeDevices {
    /// `tags.site = 'lyon' AND tags.gpu = true`
    #[serde(skip_serializing_if = "String::is_empty")]
    pub condition: String,
    /// Of deployments that mean the same module of a device, the one with the highest priority wins. 0 where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// The module's name on devices; that of the endpoint where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// `always`, `on-failure`, `on-unhealthy` or `never`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_policy: Option<String>,
    /// `["1", "10%"]`: numbers of devices or shares of them, one after the other, and then all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<String>,
    /// The share of devices that may fail before no other is told; from 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_failure_rate: Option<f64>,
    /// No other device is told for as long as this is so.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// Messages of an input are scored, and the answers leave by an output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messaging: Option<EdgeMessaging>,
    /// Routes of the device's own hub, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub routes: BTreeMap<String, String>,
}

/// By which input messages come to the module, and by which output the answers leave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EdgeMessaging {
    pub input: String,
    pub output: String,
}

/// The most stages; each is one device more than the last, or more than one.
const MOST_STAGES: usize = 20;
const HIGHEST_PRIORITY: u32 = 1000;

impl EdgeDevices {
    /// Of a compute's settings, which were checked when its document was read.
    pub(super) fn of(settings: &Map<String, Value>) -> Self {
        serde_json::from_value(Value::Object(settings.clone())).unwrap_or_default()
    }

    pub(super) fn read(reader: &mut Reader, fields: &mut Fields<'_>) -> Map<String, Value> {
        let policies = ["always", "on-failure", "on-unhealthy", "never"].map(|policy| (policy, policy));
        let read = Self {
            condition: fields.required(reader, "condition", scalars::filled).unwrap_or_default(),
            priority: fields.optional(reader, "priority", scalars::between(0, HIGHEST_PRIORITY)),
            module: fields.optional(reader, "module", module),
            restart_policy: fields
                .optional(reader, "restart_policy", scalars::choice(&policies))
                .map(str::to_owned),
            stages: fields.optional(reader, "stages", stages).unwrap_or_default(),
            max_failure_rate: fields.optional(reader, "max_failure_rate", scalars::fraction),
            paused: fields.optional(reader, "paused", scalars::boolean).unwrap_or_default(),
            messaging: fields.optional(reader, "messaging", messaging),
            routes: fields
                .optional(reader, "routes", |reader, node| scalars::map(reader, node, scalars::filled))
                .unwrap_or_default(),
        };
        match serde_json::to_value(read) {
            Ok(Value::Object(settings)) => settings,
            _ => unreachable!("a struct is an object"),
        }
    }
}

/// What names of modules, inputs and outputs are made of.
fn module(reader: &mut Reader, node: &Node) -> Option<String> {
    let text = scalars::filled(reader, node)?;
    let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if text.len() <= 128 && text.chars().all(sound) {
        return Some(text);
    }
    reader.mismatch(node, "letters, digits, `-` and `_`, 128 at most");
    None
}

fn stages(reader: &mut Reader, node: &Node) -> Option<Vec<String>> {
    let stages = scalars::list(reader, node, |reader, node| {
        // A number of devices is one, with or without quotes.
        let text = node.scalar_text().unwrap_or_default();
        let sound = match text.strip_suffix('%') {
            Some(percent) => {
                percent.trim().parse::<f64>().is_ok_and(|percent| percent > 0.0 && percent <= 100.0)
            }
            None => text.parse::<u32>().is_ok_and(|devices| devices > 0),
        };
        if !sound {
            reader.mismatch(node, "a number of devices, such as `1`, or a percentage, such as `10%`");
            return None;
        }
        Some(text)
    })?;
    if stages.len() > MOST_STAGES {
        reader.mismatch(node, "at most 20 stages");
        return None;
    }
    Some(stages)
}

fn messaging(reader: &mut Reader, node: &Node) -> Option<EdgeMessaging> {
    let mut fields = Fields::open(reader, node, "messaging")?;
    let input = fields.required(reader, "input", module);
    let output = fields.required(reader, "output", module);
    fields.close(reader);
    Some(EdgeMessaging { input: input?, output: output? })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::{Compute, from_json};

    #[test]
    fn everything_that_is_said_of_devices_is_kept() {
        let document = json!({
            "name": "lyon", "type": "edge", "condition": "tags.site = 'lyon'", "priority": 3, "module": "iris",
            "restart_policy": "on-failure",
            "stages": [1, "10%"], "max_failure_rate": 0.5, "paused": true,
            "messaging": {"input": "a", "output": "b"}, "routes": {"up": "FROM /* INTO $upstream"},
        });
        let read = from_json::<Compute>(&document).unwrap().document;
        let written = serde_json::to_value(&read).unwrap();
        assert_eq!(written["stages"], json!(["1", "10%"]));
        let again = from_json::<Compute>(&written).unwrap().document;
        assert_eq!(again, read);
        let devices = again.edge();
        assert_eq!((devices.stages.len(), devices.paused), (2, true));
        assert_eq!((devices.max_failure_rate, devices.priority), (Some(0.5), Some(3)));
        assert_eq!(devices.messaging.unwrap().output, "b");
    }
}
