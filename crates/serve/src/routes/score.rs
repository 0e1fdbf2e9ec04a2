//! `/score`, as Azure ML's clients know it: a script gets the request as it came, a model without one gets tensors.

use std::{sync::Arc, time::Instant};

use axum::{
    extract::{Request, State},
    response::{Html, IntoResponse, Response},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use moorline_core::{ErrorClass, Script, ScriptCall, ScriptError, ScriptRoute, ScriptStyle};

use super::{Answer, Exchange, method_not_allowed, read_body};
use crate::{
    app::{App, Backend},
    codec::score::{self, Door, Style},
    image::ImagePreparation,
    metrics::Protocol,
    problem::{Dialect, Problem, RUN_FUNCTION_FAILED, run_function_failed},
    sessions::Sessions,
};

pub(crate) async fn score(State(app): State<Arc<App>>, request: Request) -> Response {
    if let Some(response) = before_scoring(&app, request.method()) {
        return response;
    }
    let exchange = Exchange::begin(&app, Protocol::Score, request.headers(), request.extensions());
    let result = async {
        let served = app.served()?;
        match &served.backend {
            Backend::Model(sessions) if request.method() == Method::POST && is_image(request.headers()) => {
                score_image(&app, &exchange, sessions, served.images.as_ref(), request).await
            }
            Backend::Model(sessions) if request.method() == Method::POST => {
                score_model(&app, &exchange, sessions, request, Door::Score).await
            }
            Backend::Model(_) => Err(method_not_allowed()),
            Backend::Script(script) => {
                score_script(&app, &exchange, script.as_ref(), request, ScriptRoute::Score).await
            }
        }
    }
    .await;
    exchange.finish(result, Dialect::Score).await
}

/// Answers what is not to be scored: a method that is not offered, and OPTIONS unless the script wants to see it.
fn before_scoring(app: &App, method: &Method) -> Option<Response> {
    let raw_http = app.served().is_ok_and(|served| match &served.backend {
        Backend::Script(script) => script.info().style == ScriptStyle::RawHttp,
        Backend::Model(_) => false,
    });
    match *method {
        Method::GET | Method::POST => None,
        Method::OPTIONS | Method::HEAD if raw_http => None,
        Method::OPTIONS => {
            let mut response = Html("").into_response();
            response.headers_mut().insert(RUN_FUNCTION_FAILED, run_function_failed(false));
            Some(response)
        }
        // The one method that Azure ML's server refuses in its own words.
        Method::HEAD => Some(
            Problem::new(ErrorClass::Unsupported, "Method not allowed")
                .with_status(StatusCode::METHOD_NOT_ALLOWED)
                .response(Dialect::Score),
        ),
        _ => Some(method_not_allowed().response(Dialect::Score)),
    }
}

fn media_type(headers: &HeaderMap) -> &[u8] {
    let content_type = headers.get(http::header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii()
}

fn is_image(headers: &HeaderMap) -> bool {
    media_type(headers).get(..6).is_some_and(|begin| begin.eq_ignore_ascii_case(b"image/"))
}

/// Whether a plain script gets an empty text for this body, as Flask leaves it of a form.
fn is_form(headers: &HeaderMap) -> bool {
    let media_type = media_type(headers);
    media_type.eq_ignore_ascii_case(b"application/x-www-form-urlencoded")
        || media_type.eq_ignore_ascii_case(b"multipart/form-data")
}

/// Scores a JSON body that came through `door` with the engine.
pub(super) async fn score_model(
    app: &App,
    exchange: &Exchange,
    sessions: &Sessions,
    request: Request,
    door: Door,
) -> Result<Answer, Problem> {
    let (parts, body) = request.into_parts();
    let (body, share) = read_body(app, &parts.headers, body).await?;
    exchange.received(&parts.method, &parts.uri, &parts.headers, &body);
    let decoded = score::decode(&body, sessions.signature(), app.limits(), door)?;
    drop((body, share));
    let scored = exchange.run(sessions, decoded.inputs).await?;
    Ok(Answer::json(score::encode(&scored.outputs, decoded.style)).run(Some(false), Some(scored.run_time)))
}

/// Scores an image with the engine, prepared as the release declares.
async fn score_image(
    app: &App,
    exchange: &Exchange,
    sessions: &Sessions,
    images: Option<&ImagePreparation>,
    request: Request,
) -> Result<Answer, Problem> {
    let Some(images) = images else {
        let told = "the deployment takes no images: declare how they become tensors with its `moorline.image.…` properties, or send tensors as JSON";
        return Err(
            Problem::new(ErrorClass::InvalidInput, told).with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE)
        );
    };
    let (parts, body) = request.into_parts();
    let (body, share) = read_body(app, &parts.headers, body).await?;
    exchange.received(&parts.method, &parts.uri, &parts.headers, &body);
    let inputs =
        images.prepare(body).await.map_err(|error| Problem::new(error.class(), error.to_string()))?;
    drop(share);
    let scored = exchange.run(sessions, inputs).await?;
    Ok(Answer::json(score::encode(&scored.outputs, Style::Bare)).run(Some(false), Some(scored.run_time)))
}

/// Hands the request to the script as it came.
pub(super) async fn score_script(
    app: &App,
    exchange: &Exchange,
    script: &dyn Script,
    request: Request,
    route: ScriptRoute,
) -> Result<Answer, Problem> {
    let (parts, body) = request.into_parts();
    let (mut body, share) = read_body(app, &parts.headers, body).await?;
    exchange.received(&parts.method, &parts.uri, &parts.headers, &body);
    if script.info().style == ScriptStyle::Plain && is_form(&parts.headers) {
        body = Bytes::new();
    }
    let admitted = Instant::now();
    let permit = app.admission().admit(exchange.deadline()).await?;
    let scoring_deadline = Instant::now() + app.config().scoring_timeout;
    let request_deadline = exchange.deadline();
    let span = exchange.script_span();
    let call = ScriptCall {
        route,
        method: parts.method.as_str().to_owned(),
        target: target(&parts.uri),
        headers: if script.info().needs_headers { header_pairs(&parts.headers) } else { Vec::new() },
        body,
        request_id: exchange.request_id().to_owned(),
        traceparent: exchange.traceparent(span.as_ref(), &parts.headers),
        deadline: request_deadline.map_or(scoring_deadline, |deadline| deadline.min(scoring_deadline)),
    };
    let reply = script.score(call).await.inspect_err(|_| {
        if let Some(span) = &span {
            span.fail("the script gave no answer");
        }
    });
    let reply = reply.map_err(|error| match (error, app.config().request_timeout) {
        // Of the two deadlines the nearer one was passed, and each has its own answer.
        (ScriptError::Timeout { .. }, Some(limit))
            if request_deadline.is_some_and(|own| own < scoring_deadline) =>
        {
            Problem::timeout(limit)
        }
        (ScriptError::Timeout { .. }, _) => {
            Problem::from(ScriptError::Timeout { limit: app.config().scoring_timeout })
        }
        (error, _) => Problem::from(error),
    })?;
    drop((permit, share));
    if let Some(run_time) = reply.run_time {
        let started = Instant::now().checked_sub(run_time).unwrap_or(admitted).max(admitted);
        app.metrics().record_wait(started - admitted);
        app.metrics().record_run(run_time);
        if let Some(span) = &span {
            span.past("queue", admitted, started);
            span.past("run", started, started + run_time);
        }
    }
    let mut headers = HeaderMap::with_capacity(reply.headers.len() + 8);
    for (name, value) in &reply.headers {
        // A header that HTTP cannot carry is the script's mistake; it costs the header, not the answer.
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_bytes(&latin1(value))) {
            headers.append(name, value);
        } else {
            tracing::warn!(request_id = exchange.request_id(), name, "the script returned an invalid header");
        }
    }
    // The length is that of the body that leaves here.
    headers.remove(http::header::CONTENT_LENGTH);
    headers.remove(http::header::TRANSFER_ENCODING);
    let status = StatusCode::from_u16(reply.status).map_err(|_| {
        Problem::new(ErrorClass::Script, format!("The scoring script answered with status {}", reply.status))
    })?;
    let answer = Answer { status, headers, body: Bytes::clone(&reply.body) };
    Ok(match route {
        ScriptRoute::Score => answer.run(reply.failed, reply.run_time),
        ScriptRoute::Invocations => answer,
    })
}

fn target(uri: &Uri) -> String {
    uri.path_and_query().map_or_else(|| uri.path().to_owned(), |target| target.as_str().to_owned())
}

/// Header values are Latin-1 to a script, as WSGI has them.
fn header_pairs(headers: &HeaderMap) -> Vec<(String, String)> {
    headers
        .iter()
        .map(|(name, value)| {
            (name.as_str().to_owned(), value.as_bytes().iter().map(|byte| char::from(*byte)).collect())
        })
        .collect()
}

/// The inverse of [`header_pairs`]; characters beyond Latin-1 go out as UTF-8.
fn latin1(value: &str) -> Vec<u8> {
    value
        .chars()
        .map(|c| u8::try_from(u32::from(c)))
        .collect::<Result<_, _>>()
        .unwrap_or_else(|_| value.as_bytes().to_vec())
}
