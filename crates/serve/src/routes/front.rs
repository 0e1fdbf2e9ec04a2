//! What every request of the data port passes first and every answer last: ids, the server's version, CORS.

use std::{convert::Infallible, sync::Arc};

use axum::{Router, body::Body, response::Response};
use http::{HeaderName, HeaderValue, Request, Version, header};
use tower::ServiceExt;
use tower_http::cors::{AllowOrigin, Any, CorsLayer};

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
    let mut response = match RequestIds::of(request.headers()) {
        Ok(ids) => {
            request.extensions_mut().insert(ids.clone());
            let mut response = router.oneshot(request).await?;
            ids.write(response.headers_mut());
            response
        }
        Err(problem) => problem.response(Dialect::Score),
    };
    if app.config().server_version_header {
        response.headers_mut().insert(SERVER_VERSION, VERSION);
    }
    if kept && app.draining() {
        // Lets a kept connection end with this answer instead of with a reset.
        response.headers_mut().entry(header::CONNECTION).or_insert(HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// CORS for these origins; `*` allows any. `None` where there are none.
pub(crate) fn cors(origins: &[String]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let origin = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().filter_map(|origin| origin.parse::<HeaderValue>().ok()))
    };
    Some(CorsLayer::new().allow_origin(origin).allow_methods(Any).allow_headers(Any).expose_headers(Any))
}
