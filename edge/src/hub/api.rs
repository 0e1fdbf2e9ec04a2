//! Methods over HTTPS, as modules call one another's: `POST /twins/{device}[/modules/{module}]/methods`. A caller proves
//! itself as it does to MQTT, and calls within its own device.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    extract::{DefaultBodyLimit, Path, State, rejection::JsonRejection},
    response::{IntoResponse, Response},
    routing::post,
};
use http::{HeaderMap, StatusCode, header::AUTHORIZATION};
use moorline_core::ErrorClass;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Inner,
    certificate::Presented,
    identity::ClientId,
    login,
    methods::{MAX_PAYLOAD, MethodCall, MethodError},
};

/// Who calls, where it is a module.
const CALLER: &str = "x-ms-edge-moduleid";
/// As Azure has them, in seconds.
const TIMEOUTS: std::ops::RangeInclusive<u64> = 5..=300;
const DEFAULT_TIMEOUT: u64 = 30;
/// The JSON around a payload.
const AROUND: usize = 4096;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Call {
    method_name: String,
    #[serde(default)]
    payload: Value,
    response_timeout_in_seconds: Option<u64>,
    connect_timeout_in_seconds: Option<u64>,
}

pub(super) fn router(hub: Arc<Inner>) -> Router {
    Router::new()
        .route("/twins/{device}/methods", post(of_device))
        .route("/twins/{device}/modules/{module}/methods", post(of_module))
        .layer(DefaultBodyLimit::max(MAX_PAYLOAD + AROUND))
        .with_state(hub)
}

async fn of_device(
    State(hub): State<Arc<Inner>>,
    Extension(presented): Extension<Option<Presented>>,
    Path(device): Path<String>,
    headers: HeaderMap,
    call: Result<Json<Call>, JsonRejection>,
) -> Response {
    answer(&hub, presented, ClientId::device(&device).ok(), &headers, call).await
}

async fn of_module(
    State(hub): State<Arc<Inner>>,
    Extension(presented): Extension<Option<Presented>>,
    Path((device, module)): Path<(String, String)>,
    headers: HeaderMap,
    call: Result<Json<Call>, JsonRejection>,
) -> Response {
    answer(&hub, presented, ClientId::module(&device, &module).ok(), &headers, call).await
}

async fn answer(
    hub: &Inner,
    presented: Option<Presented>,
    target: Option<ClientId>,
    headers: &HeaderMap,
    call: Result<Json<Call>, JsonRejection>,
) -> Response {
    let Some(target) = target else {
        return problem(StatusCode::NOT_FOUND, "the address names no device and no module");
    };
    // Without the header, a device calls its own methods.
    let caller = match headers.get(CALLER) {
        None => ClientId::device(target.device_name()).ok(),
        Some(value) => value.to_str().ok().and_then(|text| text.parse::<ClientId>().ok()),
    };
    let Some(caller) = caller else {
        return problem(StatusCode::UNAUTHORIZED, "`x-ms-edge-moduleId` names no device and no module");
    };
    let token = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let proved =
        login::prove(hub.identities.as_ref(), &hub.config.name, &caller, token, presented.as_ref()).await;
    if let Err(error) = proved {
        tracing::info!(client = %caller, error = &error as &dyn std::error::Error, "refused a call");
        return problem(StatusCode::UNAUTHORIZED, "the caller is not known, or did not prove who it is");
    }
    if caller.device_name() != target.device_name() {
        return problem(StatusCode::FORBIDDEN, "methods are called within one device");
    }
    let call = match call {
        Ok(Json(call)) => call,
        Err(rejection) => return problem(rejection.status(), &rejection.body_text()),
    };
    let timeout = call.response_timeout_in_seconds.unwrap_or(DEFAULT_TIMEOUT);
    let connect_timeout = call.connect_timeout_in_seconds.unwrap_or(0);
    if !TIMEOUTS.contains(&timeout) || connect_timeout > *TIMEOUTS.end() {
        return problem(
            StatusCode::BAD_REQUEST,
            "a method has 5 to 300 seconds to be answered, and up to 300 to connect",
        );
    }
    let call = MethodCall {
        name: call.method_name,
        payload: call.payload,
        timeout: Duration::from_secs(timeout),
        connect_timeout: Duration::from_secs(connect_timeout),
    };
    match hub.call(&target, call).await {
        Ok(answer) => Json(json!({ "status": answer.status, "payload": answer.payload })).into_response(),
        Err(error) => problem(status(error), &error.to_string()),
    }
}

fn status(error: MethodError) -> StatusCode {
    match error.class() {
        ErrorClass::InvalidInput => StatusCode::BAD_REQUEST,
        ErrorClass::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorClass::NotFound => StatusCode::NOT_FOUND,
        ErrorClass::Overloaded => StatusCode::TOO_MANY_REQUESTS,
        ErrorClass::Timeout => StatusCode::GATEWAY_TIMEOUT,
        ErrorClass::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn problem(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({ "message": message }))).into_response()
}
