//! The topics of the contract with Azure's client libraries: what a client may publish and subscribe to, and what it is
//! sent. Everything else is refused.

use thiserror::Error;

use super::{
    identity::ClientId,
    properties::{Properties, PropertiesError},
};
use crate::manifest::is_module_name;

/// The module that speaks for a device.
pub(crate) const AGENT: &str = "$edgeAgent";
/// The longest request id that is repeated to a client.
const LONGEST_RID: usize = 128;

/// A topic that is not one of the caller's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum TopicError {
    #[error("the topic is not one that this client may publish to")]
    Foreign,
    #[error("the topic's properties cannot be read")]
    Properties(#[source] PropertiesError),
    #[error("the topic has no `$rid` of at most {LONGEST_RID} characters")]
    RequestId,
}

/// What a client asks for by publishing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Published<'a> {
    Telemetry(Properties),
    /// Of the module of its device that the agent names, or of the client itself.
    TwinGet {
        rid: &'a str,
        module: Option<&'a str>,
    },
    TwinReported {
        rid: &'a str,
        module: Option<&'a str>,
    },
    MethodResponse {
        status: u16,
        rid: &'a str,
    },
}

/// Reads the topic of a message that `id` published.
pub(crate) fn published<'a>(topic: &'a str, id: &ClientId) -> Result<Published<'a>, TopicError> {
    if let Some(rest) = topic.strip_prefix("$iothub/") {
        if let Some(query) = rest.strip_prefix("twin/GET/") {
            return Ok(Published::TwinGet { rid: rid(query)?, module: module(query, id)? });
        }
        if let Some(query) = rest.strip_prefix("twin/PATCH/properties/reported/") {
            return Ok(Published::TwinReported { rid: rid(query)?, module: module(query, id)? });
        }
        let (status, query) = rest
            .strip_prefix("methods/res/")
            .and_then(|rest| rest.split_once('/'))
            .ok_or(TopicError::Foreign)?;
        let status = status.parse::<u16>().map_err(|_| TopicError::Foreign)?;
        return Ok(Published::MethodResponse { status, rid: rid(query)? });
    }
    let own =
        topic.strip_prefix(id.resource().as_str()).and_then(|rest| rest.strip_prefix("/messages/events"));
    let bag = match own {
        Some("") => "",
        Some(bag) => bag.strip_prefix('/').ok_or(TopicError::Foreign)?,
        None => return Err(TopicError::Foreign),
    };
    if bag.strip_suffix('/').unwrap_or(bag).contains('/') {
        return Err(TopicError::Foreign);
    }
    Properties::parse(bag).map(Published::Telemetry).map_err(TopicError::Properties)
}

fn rid(query: &str) -> Result<&str, TopicError> {
    let query = query.strip_prefix('?').ok_or(TopicError::RequestId)?;
    let rid = query.split('&').find_map(|pair| pair.strip_prefix("$rid=")).ok_or(TopicError::RequestId)?;
    let fits = !rid.is_empty()
        && rid.len() <= LONGEST_RID
        && !rid.contains(|c: char| c.is_control() || matches!(c, '/' | '+' | '#'));
    if fits { Ok(rid) } else { Err(TopicError::RequestId) }
}

/// The module whose twin is meant, where it is not the caller's own: a device's agent asks for those of its modules.
fn module<'a>(query: &'a str, id: &ClientId) -> Result<Option<&'a str>, TopicError> {
    let named = query.trim_start_matches('?').split('&').find_map(|pair| pair.strip_prefix("$module="));
    match named {
        Some(name) if id.module_name() != Some(AGENT) || !is_module_name(name) => Err(TopicError::Foreign),
        named => Ok(named),
    }
}

/// What a client is subscribed to, at which quality of service: at most these five.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Subscriptions([Option<bool>; 5]);

/// One of the five.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Feature {
    TwinResponses,
    DesiredPatches,
    Methods,
    /// Messages from the cloud to a device.
    DeviceBound,
    /// Inputs of a module.
    Inputs,
}

impl Feature {
    /// What `filter` subscribes `id` to.
    pub(crate) fn of(filter: &str, id: &ClientId) -> Option<Self> {
        match filter {
            "$iothub/twin/res/#" => return Some(Self::TwinResponses),
            "$iothub/twin/PATCH/properties/desired/#" => return Some(Self::DesiredPatches),
            "$iothub/methods/POST/#" => return Some(Self::Methods),
            _ => {}
        }
        let rest = filter.strip_prefix(id.resource().as_str())?;
        match (id.module_name(), rest) {
            (None, "/messages/devicebound/#") => Some(Self::DeviceBound),
            (Some(_), "/inputs/#" | "/#") => Some(Self::Inputs),
            _ => None,
        }
    }
}

impl Subscriptions {
    /// Subscribes; `acknowledged` for quality of service 1.
    pub(crate) fn set(&mut self, feature: Feature, acknowledged: Option<bool>) {
        self.0[feature as usize] = acknowledged;
    }

    pub(crate) fn has(self, feature: Feature) -> bool {
        self.0[feature as usize].is_some()
    }

    pub(crate) fn acknowledged(self, feature: Feature) -> bool {
        self.0[feature as usize] == Some(true)
    }

    /// One digit for each of the five.
    pub(crate) fn encode(self) -> Vec<u8> {
        self.0.iter().map(|one| b'0' + one.map_or(0, |acknowledged| 1 + u8::from(acknowledged))).collect()
    }

    pub(crate) fn decode(digits: &[u8]) -> Self {
        let mut subscriptions = Self::default();
        for (place, digit) in subscriptions.0.iter_mut().zip(digits) {
            *place = match digit {
                b'1' => Some(false),
                b'2' => Some(true),
                _ => None,
            };
        }
        subscriptions
    }
}

/// The answer to a twin request.
pub(crate) fn twin_response(status: u16, rid: &str, version: Option<u64>) -> String {
    match version {
        Some(version) => format!("$iothub/twin/res/{status}/?$rid={rid}&$version={version}"),
        None => format!("$iothub/twin/res/{status}/?$rid={rid}"),
    }
}

pub(crate) fn desired_patch(version: u64) -> String {
    format!("$iothub/twin/PATCH/properties/desired/?$version={version}")
}

/// The same of a module, as its device's agent is told it.
pub(crate) fn desired_patch_of(module: &str, version: u64) -> String {
    format!("{}&$module={module}", desired_patch(version))
}

pub(crate) fn method_request(name: &str, rid: &str) -> String {
    format!("$iothub/methods/POST/{name}/?$rid={rid}")
}

/// Where a module finds what is sent to one of its inputs.
pub(crate) fn input(id: &ClientId, input: &str, properties: &Properties) -> String {
    format!("{}/inputs/{input}/{}", id.resource(), properties.encode())
}

/// Where a device finds what the cloud sends to it.
pub(crate) fn device_bound(id: &ClientId, properties: &Properties) -> String {
    format!("{}/messages/devicebound/{}", id.resource(), properties.encode())
}

/// Where telemetry came in.
pub(crate) fn events(id: &ClientId, properties: &Properties) -> String {
    format!("{}/messages/events/{}", id.resource(), properties.encode())
}

/// Reads the topic of telemetry back, whoever sent it.
pub(crate) fn parse_events(topic: &str) -> Option<(ClientId, Properties)> {
    let (resource, bag) = topic.split_once("/messages/events/")?;
    let id = match resource.strip_prefix("devices/")?.split_once("/modules/") {
        None => ClientId::device(resource.strip_prefix("devices/")?).ok()?,
        Some((device, module)) => ClientId::module(device, module).ok()?,
    };
    Some((id, Properties::parse(bag).ok()?))
}

/// Reads the topic of a message for an input of `id` back.
pub(crate) fn parse_input(topic: &str, id: &ClientId) -> Option<(String, Properties)> {
    let rest = topic.strip_prefix(id.resource().as_str())?.strip_prefix("/inputs/")?;
    let (input, bag) = rest.split_once('/')?;
    Some((input.to_owned(), Properties::parse(bag).ok()?))
}

/// Who a message is from: a device's agent sends those of the device's modules, and says whose they are.
pub(crate) fn sender(id: &ClientId, properties: &Properties) -> ClientId {
    let speaks = id.module_name() == Some(AGENT) && properties.system("cdid") == Some(id.device_name());
    let named = || match properties.system("cmid") {
        Some(module) => ClientId::module(id.device_name(), module),
        None => ClientId::device(id.device_name()),
    };
    speaks.then(|| named().ok()).flatten().unwrap_or_else(|| id.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_publishes_to_its_own_topics_alone() {
        let device: ClientId = "d1".parse().unwrap();
        let module: ClientId = "d1/m1".parse().unwrap();
        let ok = |topic: &'static str, id: &ClientId| published(topic, id).unwrap();
        assert!(matches!(ok("devices/d1/messages/events/", &device), Published::Telemetry(_)));
        assert!(matches!(ok("devices/d1/messages/events", &device), Published::Telemetry(_)));
        assert!(matches!(ok("devices/d1/modules/m1/messages/events/a=b/", &module), Published::Telemetry(_)));
        assert_eq!(ok("$iothub/twin/GET/?$rid=7", &module), Published::TwinGet { rid: "7", module: None });
        let agent: ClientId = "d1/$edgeAgent".parse().unwrap();
        assert_eq!(
            ok("$iothub/twin/GET/?$rid=7&$module=m1", &agent),
            Published::TwinGet { rid: "7", module: Some("m1") }
        );
        assert_eq!(
            ok("$iothub/twin/PATCH/properties/reported/?$version=3&$rid=x-1", &device),
            Published::TwinReported { rid: "x-1", module: None }
        );
        assert_eq!(
            ok("$iothub/methods/res/200/?$rid=1", &device),
            Published::MethodResponse { status: 200, rid: "1" }
        );
        for (topic, id) in [
            ("devices/d1/messages/events/", &module),
            ("devices/d1/modules/m1/messages/events/", &device),
            ("devices/d2/messages/events/", &device),
            ("devices/d1/modules/m2/messages/events/", &module),
            ("devices/d1/messages/eventsX", &device),
            ("devices/d1/messages/events/a=b/c=d", &device),
            ("devices/d1/messages/devicebound/", &device),
            ("$iothub/twin/res/200/?$rid=1", &device),
            ("$iothub/methods/POST/reboot/?$rid=1", &device),
            ("$iothub/methods/res/two/?$rid=1", &device),
            ("$iothub/twin/GET/?$rid=1&$module=m2", &module),
            ("$iothub/twin/PATCH/properties/reported/?$rid=1&$module=m1", &device),
            ("$iothub/twin/GET/?$rid=1&$module=$edgeAgent", &agent),
            ("$SYS/broker", &device),
            ("other", &device),
        ] {
            assert_eq!(published(topic, id), Err(TopicError::Foreign), "{topic}");
        }
        for topic in [
            "$iothub/twin/GET/",
            "$iothub/twin/GET/?$rid=",
            "$iothub/twin/GET/?$rid=a/b",
            "$iothub/twin/GET/?$rid=#",
        ] {
            assert_eq!(published(topic, &device), Err(TopicError::RequestId), "{topic}");
        }
    }

    #[test]
    fn five_filters_and_no_other() {
        let device: ClientId = "d1".parse().unwrap();
        let module: ClientId = "d1/m1".parse().unwrap();
        let mut subscriptions = Subscriptions::default();
        for (filter, id, feature) in [
            ("$iothub/twin/res/#", &device, Feature::TwinResponses),
            ("$iothub/methods/POST/#", &module, Feature::Methods),
            ("devices/d1/messages/devicebound/#", &device, Feature::DeviceBound),
            ("devices/d1/modules/m1/inputs/#", &module, Feature::Inputs),
            ("devices/d1/modules/m1/#", &module, Feature::Inputs),
        ] {
            assert_eq!(Feature::of(filter, id), Some(feature), "{filter}");
            subscriptions.set(feature, Some(feature == Feature::Inputs));
        }
        for filter in ["#", "+/#", "$iothub/#", "devices/#", "devices/d1/#", "devices/d1/modules/m2/inputs/#"]
        {
            assert_eq!(Feature::of(filter, &device), None, "{filter}");
            assert_eq!(Feature::of(filter, &module), None, "{filter}");
        }
        let back = Subscriptions::decode(&subscriptions.encode());
        assert_eq!(back, subscriptions);
        assert!(back.acknowledged(Feature::Inputs) && !back.acknowledged(Feature::Methods));
        assert!(!back.has(Feature::DesiredPatches));
    }

    #[test]
    fn an_agent_speaks_for_its_own_device_alone() {
        let agent: ClientId = "d1/$edgeAgent".parse().unwrap();
        let module: ClientId = "d1/m1".parse().unwrap();
        let whose = |id: &ClientId, bag: &str| sender(id, &Properties::parse(bag).unwrap()).to_string();
        assert_eq!(whose(&agent, "%24.cdid=d1&%24.cmid=m2"), "d1/m2");
        assert_eq!(whose(&agent, "%24.cdid=d1"), "d1");
        assert_eq!(whose(&agent, "%24.cdid=d2&%24.cmid=m2"), "d1/$edgeAgent");
        assert_eq!(whose(&agent, "%24.cdid=d1&%24.cmid=a%2Fb"), "d1/$edgeAgent");
        assert_eq!(whose(&agent, ""), "d1/$edgeAgent");
        assert_eq!(whose(&module, "%24.cdid=d1&%24.cmid=m2"), "d1/m1");
    }

    #[test]
    fn inputs_are_read_back() {
        let id: ClientId = "d1/m1".parse().unwrap();
        let properties = Properties::parse("%24.cmid=cam&x=y").unwrap();
        assert_eq!(parse_input(&input(&id, "in", &properties), &id), Some(("in".to_owned(), properties)));
        assert_eq!(parse_input("devices/d1/modules/m2/inputs/in/", &id), None);
    }

    #[test]
    fn telemetry_is_read_back() {
        for id in ["d1", "d1/m1"] {
            let id: ClientId = id.parse().unwrap();
            let properties = Properties::parse("%24.on=a&x=y").unwrap();
            assert_eq!(parse_events(&events(&id, &properties)), Some((id, properties)));
        }
        assert_eq!(parse_events("devices/d1/messages/devicebound/"), None);
    }
}
