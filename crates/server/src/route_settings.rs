//! What a document's request settings and traffic mean to the gateway, defaults included.

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use moorline_core::{Name, RequestSettings};

/// Azure ML's default of `request_timeout_ms`.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Requests that one replica is sent at one time where the document does not say. Azure ML's 1 would leave an ONNX
/// model idle most of the time; the scorer has a bound of its own, which is this.
const CONCURRENT: NonZeroU32 = NonZeroU32::new(256).expect("it is not zero");

/// The bounds on requests to one deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RouteSettings {
    pub(crate) request_timeout: Duration,
    pub(crate) max_concurrent_per_replica: NonZeroU32,
    pub(crate) max_queue_wait: Duration,
}

pub(crate) fn of(settings: &RequestSettings) -> RouteSettings {
    let request_timeout = settings.request_timeout_ms.map_or(REQUEST_TIMEOUT, Duration::from_millis);
    RouteSettings {
        request_timeout,
        max_concurrent_per_replica: settings
            .max_concurrent_requests_per_instance
            .map_or(CONCURRENT, |n| n.try_into().unwrap_or(NonZeroU32::MAX)),
        max_queue_wait: settings.max_queue_wait_ms.map_or(request_timeout, Duration::from_millis),
    }
}

/// The shares of `traffic` (a JSON object of percentages) that fall to deployments which have a route.
pub(crate) fn shares<T>(traffic: &serde_json::Value, routes: &BTreeMap<Name, T>) -> Vec<(Name, u8)> {
    let share = |(name, percent): (&String, &serde_json::Value)| {
        let name: Name = name.parse().ok()?;
        let percent = u8::try_from(percent.as_u64()?).ok().filter(|percent| *percent > 0)?;
        routes.contains_key(&name).then_some((name, percent))
    };
    traffic.as_object().into_iter().flatten().filter_map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_deployments_that_are_there() {
        let routes = BTreeMap::from([("blue".parse::<Name>().unwrap(), 1), ("green".parse().unwrap(), 2)]);
        let traffic = serde_json::json!({"blue": 90, "green": 0, "gone": 10});
        assert_eq!(shares(&traffic, &routes), [("blue".parse().unwrap(), 90)]);
        assert!(shares(&serde_json::Value::Null, &routes).is_empty());
    }
}
