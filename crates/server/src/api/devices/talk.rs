//! What a device is told and asked, and what it says: twins, methods, and messages to and from it.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, StatusCode, header};
use moorline_edge::hub::{ClientId, MethodCall, MethodError, Properties, Twin};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::broadcast::error::RecvError;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{OfModule, known, of_hub};
use crate::{
    api::{
        AtName, InWorkspace, Refusals,
        extract::{Asked, At, Given, Precondition},
    },
    control::Control,
    problem::ApiError,
};

/// The longest wait for a method's answer, and for the device to come.
const LONGEST_METHOD: u64 = 300;
/// The longest that a message waits for its device.
const LONGEST_WAIT: u64 = 30 * 24 * 60 * 60;

pub(super) fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new()
        .routes(routes!(twin, patch_twin))
        .routes(routes!(call))
        .routes(routes!(send))
        .routes(routes!(watch))
}

/// A twin with its tags.
#[derive(Debug, Serialize, ToSchema)]
struct TwinShown {
    #[schema(value_type = Object)]
    tags: Map<String, Value>,
    #[schema(value_type = Object)]
    properties: Value,
}

/// Changes of a twin: what is `null` goes.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
struct TwinPatch {
    #[schema(value_type = Option<Object>)]
    tags: Option<Value>,
    properties: Option<PropertiesPatch>,
}

#[derive(Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
struct PropertiesPatch {
    #[schema(value_type = Option<Object>)]
    desired: Option<Value>,
}

/// A method to call, in the words of Azure IoT Hub.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MethodWish {
    method_name: String,
    #[serde(default)]
    #[schema(value_type = Object)]
    payload: Value,
    /// For the answer: 1 to 300.
    #[serde(default = "response_timeout")]
    response_timeout_in_seconds: u64,
    /// For the device to connect, if it is not: 0 to 300.
    #[serde(default)]
    connect_timeout_in_seconds: u64,
}

fn response_timeout() -> u64 {
    30
}

/// What the device answered.
#[derive(Debug, Serialize, ToSchema)]
struct MethodShown {
    status: u16,
    #[schema(value_type = Object)]
    payload: Value,
}

/// A message to a device. One of the two payloads.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct MessageWish {
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    payload: Option<Value>,
    #[serde(default)]
    payload_base64: Option<String>,
    #[serde(default)]
    message_id: Option<String>,
    #[serde(default)]
    properties: BTreeMap<String, String>,
    /// How long it waits for the device, in seconds; an hour where it is left out.
    #[serde(default)]
    time_to_live: Option<u64>,
}

/// The twin of a device or of one of its modules.
#[utoipa::path(get, path = "/workspaces/{workspace}/devices/{name}/twin", params(AtName, OfModule),
    responses((status = 200, body = TwinShown), Refusals))]
async fn twin(
    State(control): State<Control>,
    At(at): At<AtName>,
    Asked(of): Asked<OfModule>,
) -> Result<Json<TwinShown>, ApiError> {
    let (_, id, _) = known(&control, &at, of.module.as_deref()).await?;
    Ok(Json(show_twin(control.edge()?.hub().twin(&id).map_err(of_hub)?)))
}

/// Changes tags and desired properties; a connected client is told.
#[utoipa::path(patch, path = "/workspaces/{workspace}/devices/{name}/twin", params(AtName, OfModule,
        ("if-match" = Option<String>, Header, description = "The version of the desired properties that was seen.")),
    request_body = TwinPatch, responses((status = 200, body = TwinShown), Refusals))]
async fn patch_twin(
    State(control): State<Control>,
    At(at): At<AtName>,
    Asked(of): Asked<OfModule>,
    precondition: Precondition,
    Given(patch): Given<TwinPatch>,
) -> Result<Json<TwinShown>, ApiError> {
    let (_, id, _) = known(&control, &at, of.module.as_deref()).await?;
    let hub = control.edge()?.hub();
    if let Some(desired) = patch.properties.and_then(|properties| properties.desired) {
        hub.patch_desired(&id, &desired, precondition.generation).await.map_err(of_hub)?;
    }
    if let Some(tags) = patch.tags {
        hub.patch_tags(&id, &tags).await.map_err(of_hub)?;
    }
    Ok(Json(show_twin(hub.twin(&id).map_err(of_hub)?)))
}

/// Calls a method of a device or of one of its modules, and waits for its answer.
#[utoipa::path(post, path = "/workspaces/{workspace}/devices/{name}/methods", params(AtName, OfModule),
    request_body = MethodWish, responses((status = 200, body = MethodShown), Refusals))]
async fn call(
    State(control): State<Control>,
    At(at): At<AtName>,
    Asked(of): Asked<OfModule>,
    Given(wish): Given<MethodWish>,
) -> Result<Json<MethodShown>, ApiError> {
    if !(1..=LONGEST_METHOD).contains(&wish.response_timeout_in_seconds)
        || wish.connect_timeout_in_seconds > LONGEST_METHOD
    {
        return Err(ApiError::invalid(format!("a timeout is at most {LONGEST_METHOD} seconds")));
    }
    let (_, id, _) = known(&control, &at, of.module.as_deref()).await?;
    let call = MethodCall {
        name: wish.method_name,
        payload: wish.payload,
        timeout: Duration::from_secs(wish.response_timeout_in_seconds),
        connect_timeout: Duration::from_secs(wish.connect_timeout_in_seconds),
    };
    let answer = control.edge()?.hub().call(&id, call).await.map_err(|error| of_method(&id, error))?;
    Ok(Json(MethodShown { status: answer.status, payload: answer.payload }))
}

/// Leaves a message for a device, which gets it when it is connected.
#[utoipa::path(post, path = "/workspaces/{workspace}/devices/{name}/messages", params(AtName),
    request_body = MessageWish, responses((status = 202, description = "Kept for the device."), Refusals))]
async fn send(
    State(control): State<Control>,
    At(at): At<AtName>,
    Given(wish): Given<MessageWish>,
) -> Result<StatusCode, ApiError> {
    let (_, id, _) = known(&control, &at, None).await?;
    let payload = match (wish.payload, wish.payload_base64) {
        (Some(payload), None) => Bytes::from(payload.to_string()),
        (None, Some(text)) => STANDARD
            .decode(text)
            .map_err(|error| ApiError::invalid("`payload_base64` is not base64").caused_by(error))?
            .into(),
        _ => return Err(ApiError::invalid("a message has either a `payload` or a `payload_base64`")),
    };
    let seconds = wish.time_to_live.unwrap_or(3600);
    if !(1..=LONGEST_WAIT).contains(&seconds) {
        return Err(ApiError::invalid(format!("`time_to_live` is 1 to {LONGEST_WAIT} seconds")));
    }
    let mut properties = Properties::default();
    properties.set_system("mid", wish.message_id.as_deref());
    for (name, value) in &wish.properties {
        properties.set_own(name, value);
    }
    let hub = control.edge()?.hub();
    let sent = hub.send_to_device(&id, &properties, payload, Some(Duration::from_secs(seconds))).await;
    sent.map_err(of_hub)?;
    Ok(StatusCode::ACCEPTED)
}

/// What the workspace's devices send, from now on, a JSON object a line.
#[utoipa::path(get, path = "/workspaces/{workspace}/device-messages", params(InWorkspace),
    responses((status = 200, description = "Messages as they come.", body = String,
        content_type = "application/x-ndjson"), Refusals))]
async fn watch(State(control): State<Control>, At(at): At<InWorkspace>) -> Result<Response, ApiError> {
    let watched = control.edge()?.messages().watch();
    control.store.workspace(&at.workspace).await?;
    let stopping = control.stopping.clone();
    let lines = stream::unfold((watched, control, at.workspace), |(mut watched, control, workspace)| async {
        loop {
            let message = match watched.recv().await {
                Ok(message) => message,
                Err(RecvError::Lagged(missed)) => {
                    let line = format!("{}\n", json!({ "missed": missed }));
                    let line = Ok::<_, std::convert::Infallible>(Bytes::from(line));
                    return Some((line, (watched, control, workspace)));
                }
                Err(RecvError::Closed) => return None,
            };
            let of = control.store.find_device(&message.device).await;
            if of.is_ok_and(|record| record.is_some_and(|record| record.workspace == workspace)) {
                return Some((Ok(message.line), (watched, control, workspace)));
            }
        }
    });
    let lines = futures_util::StreamExt::take_until(lines, stopping.cancelled_owned());
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((headers, Body::from_stream(lines)).into_response())
}

fn show_twin(twin: Twin) -> TwinShown {
    TwinShown { properties: twin.document(), tags: twin.tags }
}

fn of_method(id: &ClientId, error: MethodError) -> ApiError {
    ApiError::new(error.class(), format!("`{id}`: {error}"))
}
