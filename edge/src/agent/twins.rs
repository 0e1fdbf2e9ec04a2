//! The twins of the device's modules, which its own hub has and the server's as well: what is desired comes down, what is
//! reported goes up. Asked for over the agent's own connection, since modules are not connected to the server.
//!
//! One request is open at a time. What is missed is found again, as both sides are read whole after each connection.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::Value;

use super::{gateway::Gateway, report};
use crate::hub::{ClientId, HubError, HubEvent};

/// What begins the ids of these requests: others have numbers.
const PREFIX: &str = "m";

/// A request to the server's hub.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) topic: String,
    pub(super) payload: String,
}

#[derive(Debug)]
enum Open {
    Read(String),
    /// With what the server knows once it has taken it.
    Report(String, Value),
}

/// The exchange of one connection.
#[derive(Debug)]
pub(super) struct Twins {
    gateway: Option<Arc<Gateway>>,
    device: String,
    names: BTreeSet<String>,
    /// To be read from the server.
    unread: BTreeSet<String>,
    /// To be told to it.
    untold: BTreeSet<String>,
    /// What the server knows of what was reported.
    known: BTreeMap<String, Value>,
    open: Option<(String, Open)>,
    count: u64,
}

impl Twins {
    pub(super) fn new(gateway: Option<Arc<Gateway>>, device: &str) -> Self {
        Self {
            gateway,
            device: device.to_owned(),
            names: BTreeSet::new(),
            unread: BTreeSet::new(),
            untold: BTreeSet::new(),
            known: BTreeMap::new(),
            open: None,
            count: 0,
        }
    }

    /// These are the device's modules now.
    pub(super) fn follow(&mut self, names: impl Iterator<Item = String>) {
        if self.gateway.is_none() {
            return;
        }
        let names: BTreeSet<String> = names.collect();
        self.unread.extend(names.difference(&self.names).cloned());
        self.unread.retain(|name| names.contains(name));
        self.untold.retain(|name| names.contains(name));
        self.known.retain(|name, _| names.contains(name));
        self.names = names;
    }

    /// The server says that what is desired of a module has changed.
    pub(super) fn changed(&mut self, name: &str) {
        if self.names.contains(name) {
            self.unread.insert(name.to_owned());
        }
    }

    /// Something happened at the device's own hub; `None` if it cannot be said what.
    pub(super) fn happened(&mut self, event: Option<&HubEvent>) {
        match event {
            Some(HubEvent::Reported(id)) => {
                let name = id.module_name().filter(|name| self.names.contains(*name));
                self.untold.extend(name.map(str::to_owned));
            }
            Some(_) => {}
            None => self.untold.extend(self.names.iter().cloned()),
        }
    }

    /// Whether the server has to answer before anything else is asked.
    pub(super) fn waits(&self) -> bool {
        self.open.is_some()
    }

    /// What is to be asked next.
    pub(super) fn next(&mut self) -> Result<Option<Request>, HubError> {
        if self.open.is_some() {
            return Ok(None);
        }
        if let Some(name) = self.unread.pop_first() {
            let id = self.id();
            let topic = format!("$iothub/twin/GET/?$rid={id}&$module={name}");
            self.open = Some((id, Open::Read(name)));
            return Ok(Some(Request { topic, payload: " ".to_owned() }));
        }
        while let Some(name) = self.untold.pop_first() {
            let (Some(known), Some(gateway)) = (self.known.get(&name), &self.gateway) else { continue };
            let Ok(id) = ClientId::module(&self.device, &name) else { continue };
            let now = Value::Object(gateway.hub().twin(&id)?.reported.properties);
            let Some(patch) = report::patch(known, &now) else { continue };
            let id = self.id();
            let topic = format!("$iothub/twin/PATCH/properties/reported/?$rid={id}&$module={name}");
            self.open = Some((id, Open::Report(name, now)));
            return Ok(Some(Request { topic, payload: patch.to_string() }));
        }
        Ok(None)
    }

    fn id(&mut self) -> String {
        self.count += 1;
        format!("{PREFIX}{}", self.count)
    }

    /// Whether an answer is to one of these requests.
    pub(super) fn is_ours(rid: &str) -> bool {
        rid.starts_with(PREFIX)
    }

    /// The server has answered; `twin` is what it was asked for.
    pub(super) async fn heard(&mut self, rid: &str, status: u16, twin: &Value) -> Result<(), HubError> {
        let Some((_, open)) = self.open.take_if(|(id, _)| id == rid) else { return Ok(()) };
        let (name, now) = match open {
            Open::Read(name) => (name, None),
            Open::Report(name, now) => (name, Some(now)),
        };
        if !self.names.contains(&name) {
            return Ok(());
        }
        if !(200..300).contains(&status) {
            tracing::warn!(module = name, status, "the server's hub refused something of a module's twin");
            // What it knows is read again with the next change; asked at once, it would refuse for ever.
            self.known.remove(&name);
            return Ok(());
        }
        if let Some(now) = now {
            self.known.insert(name, now);
            return Ok(());
        }
        if let (Some(gateway), Ok(id)) = (&self.gateway, ClientId::module(&self.device, &name)) {
            let mut desired = twin["desired"].clone();
            let version = desired
                .as_object_mut()
                .and_then(|object| object.shift_remove("$version"))
                .and_then(|version| version.as_u64())
                .unwrap_or(1);
            let here = gateway.hub().twin(&id)?.desired;
            if here.version != version || Value::Object(here.properties) != desired {
                gateway.hub().replace_desired(&id, &desired, version).await?;
            }
        }
        self.known.insert(name.clone(), twin["reported"].clone());
        self.untold.insert(name);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_modules_that_there_are_are_asked_for() {
        let mut twins = Twins::new(None, "d");
        // Without a hub on the device there is nothing to bring together.
        twins.follow(["m".to_owned()].into_iter());
        assert!(twins.next().unwrap().is_none());
        twins.changed("m");
        assert!(twins.next().unwrap().is_none() && !twins.waits());
        assert!(Twins::is_ours("m1") && !Twins::is_ours("1"));
    }
}
