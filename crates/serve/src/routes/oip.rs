//! The Open Inference Protocol, version 2, over REST.

use std::sync::Arc;

use axum::{
    extract::{Path, Request, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use moorline_core::{ErrorClass, Signature};
use serde::Deserialize;

use super::{Answer, Exchange, read_body};
use crate::{
    app::{App, Backend, Served},
    codec::oip,
    metrics::Protocol,
    problem::{Dialect, Problem},
};

/// The length of the JSON before the binary tensors.
const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

#[derive(Debug, Deserialize)]
pub(crate) struct ModelPath {
    model: String,
    version: Option<String>,
}

pub(crate) async fn server() -> Response {
    json(oip::server_metadata(env!("CARGO_PKG_VERSION")))
}

pub(crate) async fn live() -> StatusCode {
    StatusCode::OK
}

pub(crate) async fn ready(State(app): State<Arc<App>>) -> StatusCode {
    if app.ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

pub(crate) async fn model_ready(State(app): State<Arc<App>>, Path(path): Path<ModelPath>) -> Response {
    match app.served().and_then(|served| named(served, &path.model, path.version.as_deref())) {
        Ok(_) => ready(State(app)).await.into_response(),
        Err(problem) => problem.response(Dialect::Oip),
    }
}

pub(crate) async fn model(State(app): State<Arc<App>>, Path(path): Path<ModelPath>) -> Response {
    match app.served().and_then(|served| named(served, &path.model, path.version.as_deref())) {
        Ok(served) => {
            let none = Signature::default();
            let signature = match &served.backend {
                Backend::Model(sessions) => sessions.signature(),
                // A script's inputs are its own affair.
                Backend::Script(_) => &none,
            };
            json(oip::model_metadata(served.identity(), &served.name.platform, signature))
        }
        Err(problem) => problem.response(Dialect::Oip),
    }
}

pub(crate) async fn infer(
    State(app): State<Arc<App>>,
    Path(path): Path<ModelPath>,
    request: Request,
) -> Response {
    let exchange = Exchange::begin(&app, Protocol::OipRest, request.headers(), request.extensions());
    let result = infer_model(&app, &exchange, &path, request).await;
    exchange.finish(result, Dialect::Oip).await
}

async fn infer_model(
    app: &App,
    exchange: &Exchange,
    path: &ModelPath,
    request: Request,
) -> Result<Answer, Problem> {
    let served = named(app.served()?, &path.model, path.version.as_deref())?;
    let Backend::Model(sessions) = &served.backend else { return Err(scripted(served)) };
    let (parts, body) = request.into_parts();
    let (body, share) = read_body(app, &parts.headers, body).await?;
    exchange.received(&parts.method, &parts.uri, &parts.headers, &body);
    let decoded = oip::decode(&body, header_length(&parts.headers)?, sessions.signature(), app.limits())?;
    drop((body, share));
    let scored = exchange.run(sessions, decoded.inputs).await?;
    let encoded = oip::encode(served.identity(), decoded.id.as_deref(), &decoded.outputs, &scored.outputs)?;
    let mut answer = Answer::json(encoded.body);
    if let Some(length) = encoded.header_length {
        answer.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        answer.headers.insert(HEADER_LENGTH, HeaderValue::from(length));
    }
    Ok(answer)
}

fn header_length(headers: &HeaderMap) -> Result<Option<usize>, Problem> {
    let Some(value) = headers.get(HEADER_LENGTH) else { return Ok(None) };
    let length = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    length.map(Some).ok_or_else(|| {
        Problem::new(ErrorClass::InvalidInput, "Inference-Header-Content-Length is not a number of bytes")
    })
}

/// The served model, if that is the one asked for.
pub(crate) fn named<'a>(
    served: &'a Served,
    model: &str,
    version: Option<&str>,
) -> Result<&'a Served, Problem> {
    let own = &served.name;
    if model != own.name {
        let message = format!("model `{model}` is not served here; this server serves `{}`", own.name);
        return Err(Problem::new(ErrorClass::NotFound, message));
    }
    match version {
        Some(version) if !version.is_empty() && version != own.version => Err(Problem::new(
            ErrorClass::NotFound,
            format!(
                "version `{version}` of model `{model}` is not served here; this server serves version `{}`",
                own.version
            ),
        )),
        _ => Ok(served),
    }
}

/// Why a scripted release takes no tensors.
pub(crate) fn scripted(served: &Served) -> Problem {
    Problem::new(
        ErrorClass::Unsupported,
        format!("model `{}` is served by a scoring script, which answers at /score", served.name.name),
    )
}

fn json(body: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}
