//! What a device says of itself: the reported properties of its `$edgeAgent`, in the words of Azure's.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
};

use serde_json::{Map, Value, json};
use tokio::sync::Notify;

use crate::{
    containers::ContainerView,
    desired::Desired,
    manifest::Module,
    modules::{ModuleView, RuntimeStatus},
};

const SCHEMA: &str = "1.1";
/// Characters of a description: a text of a twin has a bound.
const LONGEST: usize = 2000;

/// What became of the last document.
#[derive(Debug, Default)]
pub(super) struct Status {
    now: Mutex<Told>,
    pub(super) changed: Notify,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Told {
    /// The `$version` of the twin that the document came with.
    pub(super) version: Option<u64>,
    pub(super) serial: u64,
    pub(super) code: u16,
    pub(super) description: String,
    /// Why a module's version is not on the device.
    pub(super) failures: BTreeMap<String, Unmet>,
    pub(super) desired: Option<Desired>,
    /// Where the device's own hub listens.
    pub(super) gateway: Option<SocketAddr>,
}

/// Why something wished for is not there.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Unmet {
    pub(super) why: String,
    /// Whether trying again can help.
    pub(super) lasting: bool,
}

impl Status {
    pub(super) fn set(&self, change: impl FnOnce(&mut Told)) {
        change(&mut self.now.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_one();
    }

    pub(super) fn get(&self) -> Told {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The reported properties.
pub(super) fn reported(
    told: &Told,
    views: &BTreeMap<String, ModuleView>,
    containers: &BTreeMap<String, ContainerView>,
) -> Value {
    let mut modules = Map::new();
    let desired = told.desired.as_ref().map(|desired| &desired.modules);
    let names = views.keys().chain(desired.into_iter().flatten().map(|(name, _)| name));
    for name in names {
        let view = views.get(name).cloned().unwrap_or_default();
        let wished = desired.and_then(|desired| desired.get(name));
        let unmet = told.failures.get(name);
        let description = unmet.map_or(&view.description, |unmet| &unmet.why);
        let failed = unmet.is_some_and(|unmet| unmet.lasting) && view.running.is_none();
        let status = if failed { RuntimeStatus::Failed } else { view.status };
        let mut module = json!({
            "type": "release",
            "runtimeStatus": status.as_str(),
            "statusDescription": description.chars().take(LONGEST).collect::<String>(),
            "exitCode": view.exit_code.unwrap_or(0),
            "restartCount": view.restarts,
            "lastStartTimeUtc": view.last_start.map(|time| time.to_string()),
            "lastExitTimeUtc": view.last_exit.map(|time| time.to_string()),
            "address": view.address.map(|address| address.to_string()),
        });
        if let Some(wished) = wished {
            module["status"] = json!(wished.status);
            module["restartPolicy"] = json!(wished.restart_policy);
            module["desiredRelease"] = json!(wished.settings.release);
            module["desiredVersion"] = json!(wished.version);
        }
        module["release"] = json!(view.running.as_ref().map(|running| running.settings.release));
        module["version"] = json!(view.running.as_ref().and_then(|running| running.version.as_ref()));
        module["refusedVersion"] = json!(view.refused.as_ref().and_then(|refused| refused.version.as_ref()));
        modules.insert(name.clone(), module);
    }
    let wished = told.desired.as_ref().map(|desired| &desired.containers);
    for name in containers.keys().chain(wished.into_iter().flatten().map(|(name, _)| name)) {
        let view = containers.get(name).cloned().unwrap_or_default();
        let wish = wished.and_then(|wished| wished.get(name));
        let failure = told.failures.get(name).map(|unmet| &unmet.why);
        modules.insert(name.clone(), container(&view, wish, failure));
    }
    json!({
        "schemaVersion": SCHEMA,
        "version": { "version": env!("CARGO_PKG_VERSION") },
        "runtime": { "type": "process", "platform": {
            "os": std::env::consts::OS, "architecture": std::env::consts::ARCH,
        }},
        "lastDesiredVersion": told.version,
        "lastDesiredSerial": told.serial,
        "lastDesiredStatus": { "code": told.code, "description": told.description.chars().take(LONGEST).collect::<String>() },
        "gateway": told.gateway.map(|address| address.to_string()),
        "modules": modules,
    })
}

/// A container, as Azure's agent reports one.
fn container(view: &ContainerView, wished: Option<&Module>, failure: Option<&String>) -> Value {
    let status = if failure.is_some() { RuntimeStatus::Failed } else { view.status };
    let description = failure.unwrap_or(&view.description);
    // Options may be long, and hold what is not to be told twice.
    let settings = json!({ "image": view.image, "imageHash": view.image_hash });
    let mut container = json!({
        "type": "docker",
        "runtimeStatus": status.as_str(),
        "statusDescription": description.chars().take(LONGEST).collect::<String>(),
        "exitCode": view.exit_code.unwrap_or(0),
        "restartCount": view.restarts,
        "lastStartTimeUtc": view.last_start,
        "lastExitTimeUtc": view.last_exit,
        "settings": settings,
    });
    if let Some(wished) = wished {
        container["status"] = json!(wished.status);
        container["restartPolicy"] = json!(wished.restart_policy);
        container["version"] = json!(wished.version);
        container["desiredImage"] = json!(wished.image);
    }
    container
}

/// The patch that makes what the hub knows what is so now; `None` if it is.
pub(super) fn patch(known: &Value, now: &Value) -> Option<Value> {
    let patch = difference(known, now)?;
    Some(patch)
}

fn difference(known: &Value, now: &Value) -> Option<Value> {
    match (known, now) {
        (Value::Object(known), Value::Object(now)) => {
            let mut patch = Map::new();
            for (name, value) in now {
                match known.get(name) {
                    // What is null is not there.
                    None if value.is_null() => {}
                    None => {
                        patch.insert(name.clone(), without_nulls(value));
                    }
                    Some(before) => {
                        patch.extend(difference(before, value).map(|inner| (name.clone(), inner)));
                    }
                }
            }
            for name in known.keys().filter(|name| !now.contains_key(*name) && !name.starts_with('$')) {
                patch.insert(name.clone(), Value::Null);
            }
            (!patch.is_empty()).then_some(Value::Object(patch))
        }
        (known, now) if known == now => None,
        (_, now) => Some(without_nulls(now)),
    }
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let kept = object.iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(name, value)| (name.clone(), without_nulls(value))).collect())
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_is_said() {
        let known = json!({"$version": 4, "a": 1, "m": {"x": {"s": "running", "t": "1"}, "y": {}}});
        let now =
            json!({"a": 1, "m": {"x": {"s": "failed", "t": null, "u": null}, "z": {"s": 1, "n": null}}});
        assert_eq!(
            patch(&known, &now),
            Some(json!({"m": {"x": {"s": "failed", "t": null}, "y": null, "z": {"s": 1}}}))
        );
        assert_eq!(patch(&json!({"a": {"b": 1}}), &json!({"a": {"b": 1, "c": null}})), None);
    }
}
