//! Messages of devices and modules on their way into queues.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{
    Inner, condition::Facts, config::NamedRoute, identity::ClientId, properties::Properties, route::Sink,
    topic,
};
use crate::disk::{DiskError, Stored};

/// A message that is being stored.
pub(super) type Storing = oneshot::Receiver<Result<Stored, DiskError>>;

/// The routes of a hub.
#[derive(Debug)]
pub(super) struct Routing(RwLock<Arc<[NamedRoute]>>);

impl Routing {
    pub(super) fn new(routes: Vec<NamedRoute>) -> Self {
        Self(RwLock::new(routes.into()))
    }

    pub(super) fn set(&self, routes: Vec<NamedRoute>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = routes.into();
    }

    fn sinks(
        &self,
        sender: &ClientId,
        properties: &Properties,
        payload: &[u8],
    ) -> Vec<(Sink, Option<Duration>)> {
        let routes = Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner));
        let facts = Facts::new(sender, properties, payload);
        let output = properties.system("on");
        let mut sinks: Vec<(Sink, Option<Duration>)> = Vec::new();
        for named in routes.iter().filter(|named| named.route.takes(sender, output, &facts)) {
            // Once to each place, however many routes lead there.
            if !sinks.iter().any(|(sink, _)| sink == named.route.sink()) {
                sinks.push((named.route.sink().clone(), named.time_to_live));
            }
        }
        sinks
    }
}

impl Inner {
    /// Hands a message to the queues that routes lead to; what comes back is done when it is stored in all of them.
    pub(super) async fn route(
        &self,
        sender: &ClientId,
        mut properties: Properties,
        payload: Bytes,
    ) -> Result<Vec<Storing>, DiskError> {
        let sinks = self.routing.sinks(sender, &properties, &payload);
        let bridge = self.bridge.as_ref().filter(|_| self.is_bridged(sender, &properties));
        if sinks.is_empty() && bridge.is_none() {
            self.metrics.unrouted();
        }
        let mut storing = Vec::with_capacity(sinks.len() + 1);
        if let Some(bridge) = bridge {
            storing.push(bridge.append(topic::events(sender, &properties), payload.clone(), None).await?);
        }
        for (sink, time_to_live) in sinks {
            let ttl = time_to_live.map(|ttl| ttl.as_millis() as u64);
            // Who sent it is what the hub knows, whatever the sender claims.
            properties.set_system("cdid", None);
            properties.set_system("cmid", None);
            let (queue, topic) = match sink {
                Sink::Upstream => (Arc::clone(&self.upstream), topic::events(sender, &properties)),
                Sink::Input { module, input } => {
                    let device = self.config.device.as_deref().unwrap_or(sender.device_name());
                    // A route's names were checked when it was read.
                    let Ok(target) = ClientId::module(device, &module) else { continue };
                    let mut own = properties.clone();
                    own.set_system("on", None);
                    own.set_system("cdid", Some(sender.device_name()));
                    own.set_system("cmid", sender.module_name());
                    (self.inbox(&target).await?, topic::input(&target, &input, &own))
                }
            };
            storing.push(queue.append(topic, payload.clone(), ttl).await?);
        }
        Ok(storing)
    }
}

impl Inner {
    fn is_bridged(&self, sender: &ClientId, properties: &Properties) -> bool {
        let (module, output) = (sender.module_name(), properties.system("on"));
        let outputs = &self.config.bridged;
        outputs.iter().any(|(own, named)| module == Some(own.as_str()) && output == Some(named.as_str()))
    }
}

/// Waits for all. A full queue has done with the message what its policy says: that is no failure of the sender's.
pub(super) async fn all_stored(storing: Vec<Storing>) -> Result<(), DiskError> {
    for one in storing {
        one.await.map_err(|_| DiskError::Closed)??;
    }
    Ok(())
}
