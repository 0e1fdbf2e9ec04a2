//! What every request of the data port passes first and every answer last: ids, the server's version, CORS.

use std::{convert::Infallible, sync::Arc};

use axum::{Router, body::Body, response::Response};
use http::{HeaderName, HeaderValue, Request, StatusCode, Version, header};
use tower::ServiceExt;

use super::ids::RequestIds;
use crate::{app::App, problem::Dialect};

const SERVER_VERSION: HeaderName = HeaderName::from_static("x-ms-server-version");
const VERSION: HeaderValue = HeaderValue::from_static(concat!("moorline/", env!("CARGO_PKG_VERSION")));

/// Handles one request with `router` between the ids going in and the ids coming out.
pub(crate) async fn front(
    app: Arc<App>,
    router: Router,
    mut request: Request<Body>,
) -> Result<Response, Infallible> {
    let kept = request.version() <= Version::HTTP_11;
    let allowed = app.cors().and_then(|cors| cors.allow(&request));
    let (ids, refused) = RequestIds::of(request.headers());
    let mut response = if let Some(problem) = refused {
        problem.response(Dialect::Score)
    } else {
        request.extensions_mut().insert(ids.clone());
        router.oneshot(request).await?
    };
    let found = response.status() != StatusCode::NOT_FOUND;
    let headers = response.headers_mut();
    ids.write(headers);
    if let Some(allowed) = allowed
        && found
    {
        allowed.write(headers);
    }
    if app.config().server_version_header {
        headers.insert(SERVER_VERSION, VERSION);
    }
    if kept && app.draining() {
        // Lets a kept connection end with this answer instead of with a reset.
        headers.entry(header::CONNECTION).or_insert(HeaderValue::from_static("close"));
    }
    Ok(response)
}
