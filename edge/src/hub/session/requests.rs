//! What a client sends, and what is done about it.

use std::time::Instant;

use bytes::Bytes;
use futures_util::FutureExt as _;
use moorline_core::ErrorClass;
use rumqttc::mqttbytes::{
    QoS,
    v4::{Packet, PubAck, Publish, SubAck, Subscribe, SubscribeReasonCode, UnsubAck, Unsubscribe},
};
use serde_json::Value;

use super::{Ended, Reply, SESSION_PREFIX, Session};
use crate::hub::{
    Inner,
    error::HubError,
    identity::ClientId,
    routing,
    topic::{self, Feature, Published, TopicError},
    twins::Side,
};

fn no_such_module() -> (u16, Option<u64>, Bytes) {
    (404, None, Bytes::from_static(b"{\"message\":\"the device is to run no such module\"}"))
}

/// Filters of one packet; there are five that mean anything.
const FILTERS: usize = 16;

impl Session<'_> {
    pub(super) async fn take_in(&mut self, packet: Packet) -> Result<(), Ended> {
        match packet {
            Packet::Publish(publish) => self.published(publish).await,
            Packet::PubAck(ack) => {
                self.acknowledged.extend(self.in_flight.remove(&ack.pkid));
                Ok(())
            }
            Packet::Subscribe(subscribe) => self.subscribe(subscribe).await,
            Packet::Unsubscribe(unsubscribe) => self.unsubscribe(unsubscribe).await,
            Packet::PingReq => {
                crate::hub::packets::write(&Packet::PingResp, &mut self.out);
                Ok(())
            }
            Packet::Disconnect => Err(Ended::Disconnect),
            _ => Err(Ended::Protocol),
        }
    }

    async fn published(&mut self, publish: Publish) -> Result<(), Ended> {
        let ack = match publish.qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce => Some(publish.pkid),
            QoS::ExactlyOnce => return Err(Ended::Protocol),
        };
        if publish.topic.len() > self.hub.config.limits.topic {
            return Err(Ended::Protocol);
        }
        let published = topic::published(&publish.topic, &self.id).map_err(|error| match error {
            TopicError::Foreign => Ended::ForeignTopic,
            TopicError::Properties(_) | TopicError::RequestId => Ended::Protocol,
        })?;
        match published {
            Published::Telemetry(mut properties) => {
                self.metrics.received.inc();
                self.metrics.received_bytes.inc_by(publish.payload.len() as u64);
                if publish.retain {
                    // Nothing is retained; whoever reads the message may want to know.
                    properties.set_own("mqtt-retain", "true");
                }
                let sender = topic::sender(&self.id, &properties);
                let storing = self.hub.route(&sender, properties, publish.payload).await?;
                let Some(id) = ack else { return Ok(()) };
                self.doing.push_back(
                    async move {
                        match routing::all_stored(storing).await {
                            Ok(()) => Reply::Packet(Packet::PubAck(PubAck::new(id))),
                            Err(error) => Reply::End(error.into()),
                        }
                    }
                    .boxed(),
                );
            }
            Published::MethodResponse { status, rid } => {
                self.methods.answer(rid, status, &publish.payload);
                self.answer_in_turn(ack);
            }
            Published::TwinGet { rid, module } => {
                let (rid, whose) = (rid.to_owned(), self.whose(module));
                self.twin_request("get", rid, ack, |hub| async move {
                    let Some(id) = whose else { return Ok(no_such_module()) };
                    let twin = hub.twins.read(&id).await?;
                    Ok((200, None, twin.document().to_string().into()))
                });
            }
            Published::TwinReported { rid, module } => {
                let (rid, payload, whose) = (rid.to_owned(), publish.payload, self.whose(module));
                self.twin_request("reported", rid, ack, |hub| async move {
                    let Some(id) = whose else { return Ok(no_such_module()) };
                    let Ok(patch) = serde_json::from_slice::<Value>(&payload) else {
                        return Ok((
                            400,
                            None,
                            Bytes::from_static(b"{\"message\":\"the patch is no JSON\"}"),
                        ));
                    };
                    let version = hub.twins.patch(&id, Side::Reported, &patch, None).await?;
                    hub.clients.reported(&id);
                    Ok((204, Some(version), Bytes::new()))
                });
            }
        }
        Ok(())
    }

    /// Whose twin is meant: an agent's modules are those of its own desired state, so that it makes no twins at will.
    fn whose(&self, module: Option<&str>) -> Option<ClientId> {
        let Some(module) = module else { return Some(self.id.clone()) };
        let own = self.hub.twins.get(&self.id).ok()?.desired.properties;
        own.get("modules")?.get(module)?;
        ClientId::module(self.id.device_name(), module).ok()
    }

    /// Acknowledges after what came before.
    fn answer_in_turn(&mut self, ack: Option<u16>) {
        match ack {
            Some(id) if !self.doing.is_empty() => {
                let reply = Reply::Packet(Packet::PubAck(PubAck::new(id)));
                self.doing.push_back(std::future::ready(reply).boxed());
            }
            ack => self.acknowledge(ack),
        }
    }

    /// Does what was asked of the twin, unless the client asks too often.
    fn twin_request<F>(
        &mut self,
        kind: &'static str,
        rid: String,
        ack: Option<u16>,
        request: impl FnOnce(std::sync::Arc<Inner>) -> F,
    ) where
        F: Future<Output = Result<(u16, Option<u64>, Bytes), HubError>> + Send + 'static,
    {
        let hub = std::sync::Arc::clone(self.hub);
        let allowed = self.twin_requests.take(Instant::now());
        let request = allowed.then(|| request(std::sync::Arc::clone(self.hub)));
        self.doing.push_back(
            async move {
                let done = match request {
                    None => Ok((429, None, Bytes::from_static(b"{\"message\":\"too many requests\"}"))),
                    Some(request) => request.await,
                };
                let (status, version, payload) = done.unwrap_or_else(|error| refusal(&error));
                hub.metrics.twin_request(kind, status);
                Reply::Answer { topic: topic::twin_response(status, &rid, version), payload, ack }
            }
            .boxed(),
        );
    }

    async fn subscribe(&mut self, subscribe: Subscribe) -> Result<(), Ended> {
        if subscribe.filters.len() > FILTERS {
            return Err(Ended::Protocol);
        }
        let mut codes = Vec::with_capacity(subscribe.filters.len());
        for filter in &subscribe.filters {
            codes.push(match Feature::of(&filter.path, &self.id) {
                Some(feature) => {
                    let acknowledged = filter.qos != QoS::AtMostOnce;
                    self.subscriptions.set(feature, Some(acknowledged));
                    SubscribeReasonCode::Success(if acknowledged {
                        QoS::AtLeastOnce
                    } else {
                        QoS::AtMostOnce
                    })
                }
                None => SubscribeReasonCode::Failure,
            });
        }
        self.follow_queue().await?;
        self.remember(Packet::SubAck(SubAck::new(subscribe.pkid, codes)));
        self.hub.clients.arrived();
        Ok(())
    }

    async fn unsubscribe(&mut self, unsubscribe: Unsubscribe) -> Result<(), Ended> {
        if unsubscribe.topics.len() > FILTERS {
            return Err(Ended::Protocol);
        }
        for filter in &unsubscribe.topics {
            if let Some(feature) = Feature::of(filter, &self.id) {
                self.subscriptions.set(feature, None);
            }
        }
        self.follow_queue().await?;
        self.remember(Packet::UnsubAck(UnsubAck::new(unsubscribe.pkid)));
        Ok(())
    }

    /// Answers once the subscriptions would survive the end of the hub.
    fn remember(&mut self, answer: Packet) {
        let (hub, clean) = (std::sync::Arc::clone(self.hub), self.clean);
        let key = format!("{SESSION_PREFIX}{}", self.id);
        let digits = self.subscriptions.encode();
        self.doing.push_back(
            async move {
                if !clean
                    && hub.documents.get(&key).as_deref() != Some(&digits)
                    && let Err(error) = hub.documents.put(&key, Some(digits)).await
                {
                    return Reply::End(error.into());
                }
                Reply::Packet(answer)
            }
            .boxed(),
        );
    }
}

fn refusal(error: &HubError) -> (u16, Option<u64>, Bytes) {
    let status = match error.class() {
        ErrorClass::InvalidInput | ErrorClass::TooLarge => 400,
        ErrorClass::Conflict => 412,
        _ => 500,
    };
    let message = match error {
        HubError::Twin { source, .. } => source.to_string(),
        error => error.to_string(),
    };
    if status == 500 {
        tracing::warn!(error = error as &dyn std::error::Error, "could not serve a twin");
    }
    (status, None, serde_json::json!({ "message": message }).to_string().into())
}
