//! The outermost layer: a request goes to an endpoint or to the API; the latter has an id, a deadline, a line in the
//! log, and errors as problem documents.

use std::time::Instant;

use axum::{
    Router,
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use moorline_core::ErrorClass;
use tower::ServiceExt;
use uuid::Uuid;

use crate::{
    auth::Caller,
    config::Pages,
    control::Control,
    leader,
    problem::{ApiError, render},
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A caller's own id is kept up to this length.
const REQUEST_ID_BYTES: usize = 100;
const ENDPOINTS: &str = "/endpoints/";

/// Answers every request that the server gets.
pub(crate) async fn answer(control: Control, router: Router, request: Request<Body>) -> Response {
    if let Some((endpoint, target)) = endpoint_of(&request) {
        return control.gateway.handle(&endpoint, &target, request).await;
    }
    if is_grpc(request.headers()) {
        return control.gateway.handle_grpc(request).await;
    }
    if let Some(answer) = leader::probe(&request, true, true) {
        return answer;
    }
    // What a browser shows is the same for everyone; whoever asks the API for what is in it says who they are.
    let page = |pages: Pages| pages(request.method(), request.uri().path(), request.headers());
    if let Some(page) = control.config.pages.and_then(page) {
        return page.map(Body::from);
    }
    answer_api(control, router, request).await
}

/// The endpoint and the path below it, of `/endpoints/{endpoint}/…`.
pub(crate) fn endpoint_of(request: &Request<Body>) -> Option<(String, String)> {
    let target = request.uri().path_and_query()?.as_str().strip_prefix(ENDPOINTS)?;
    let end = target.find(['/', '?']).unwrap_or(target.len());
    let (endpoint, rest) = target.split_at(end);
    let rest = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
    Some((endpoint.to_owned(), rest))
}

pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    content_type.is_some_and(|value| value.starts_with(b"application/grpc"))
}

async fn answer_api(control: Control, router: Router, request: Request<Body>) -> Response {
    let begun = Instant::now();
    let id = request_id(request.headers());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let limit = control.config.bounds.request_timeout;
    let answer = async {
        if method == Method::GET || method == Method::HEAD {
            return tokio::time::timeout(limit, router.oneshot(request)).await.ok();
        }
        // An upload ends with its caller, and keeps what has come; how long it may stand still is bounded elsewhere.
        if path.contains("/blobs/") {
            return Some(router.oneshot(request).await);
        }
        // A change is several writes: one that was begun is finished, even if its caller leaves.
        let change = control.changes.spawn(router.oneshot(request));
        match tokio::time::timeout(limit, change).await {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(error)) => {
                Some(Ok(ApiError::internal("the request's handler ended", error).into_response()))
            }
            Err(_) => None,
        }
    };
    let response = match answer.await {
        Some(Ok(response)) => response,
        Some(Err(never)) => match never {},
        None => ApiError::new(ErrorClass::Timeout, format!("no answer within {} s", limit.as_secs()))
            .hint("the work may still be going on: look before you try again")
            .into_response(),
    };
    let mut response = render(response, &id);
    let caller = response.extensions_mut().remove::<Caller>();
    tracing::info!(
        request_id = id,
        %method,
        path,
        status = response.status().as_u16(),
        ms = begun.elapsed().as_secs_f64() * 1000.0,
        caller = caller.as_ref().map(Caller::name),
        "request"
    );
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// The caller's id for this request, if it sent one that can be written to a log.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
    let fits =
        |id: &&str| (1..=REQUEST_ID_BYTES).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
    given.filter(fits).map_or_else(|| Uuid::new_v4().to_string(), ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_told_from_the_api() {
        let of = |uri: &str| endpoint_of(&Request::get(uri).body(Body::empty()).unwrap());
        let found = |endpoint: &str, target: &str| Some((endpoint.to_owned(), target.to_owned()));
        assert_eq!(of("/endpoints/iris/score?a=b"), found("iris", "/score?a=b"));
        assert_eq!(of("/endpoints/iris"), found("iris", "/"));
        assert_eq!(of("/endpoints/iris?a=b"), found("iris", "/?a=b"));
        assert_eq!(of("http://host:1/endpoints/iris/v2/"), found("iris", "/v2/"));
        assert_eq!(of("/api/v1"), None);
    }

    #[test]
    fn a_request_has_its_callers_id_or_one_of_its_own() {
        let with = |id: &'static str| {
            request_id(&HeaderMap::from_iter([(REQUEST_ID, HeaderValue::from_static(id))]))
        };
        assert_eq!(with("abc-1"), "abc-1");
        assert_ne!(with("a b"), "a b");
        assert_ne!(with(""), "");
    }
}
