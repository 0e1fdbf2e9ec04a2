//! The data port's routes. Each file is one protocol; [`front`] is what all of them share.

mod body;
mod compress;
mod cors;
mod exchange;
mod front;
mod ids;
mod mlflow;
mod oip;
mod score;
mod swagger;

use std::sync::Arc;

use axum::{
    Router,
    response::{Html, IntoResponse, Response},
    routing::{any, get, post},
};
use moorline_core::ErrorClass;

pub(crate) use body::read_body;
pub(crate) use cors::Cors;
pub(crate) use exchange::{Answer, Exchange};
pub(crate) use front::front;
pub(crate) use oip::{named, scripted};

use crate::{
    app::App,
    grpc,
    problem::{Dialect, Problem},
};

/// Every route of the data port.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(root))
        .route("/score", any(score::score))
        .route("/swagger.json", get(swagger::swagger))
        .route("/invocations", post(mlflow::invocations))
        .route("/ping", get(mlflow::ping))
        .route("/version", get(mlflow::version))
        .route("/v2", get(oip::server))
        .route("/v2/health/live", get(oip::live))
        .route("/v2/health/ready", get(oip::ready))
        .route("/v2/models/{model}", get(oip::model))
        .route("/v2/models/{model}/ready", get(oip::model_ready))
        .route("/v2/models/{model}/infer", post(oip::infer))
        .route("/v2/models/{model}/versions/{version}", get(oip::model))
        .route("/v2/models/{model}/versions/{version}/ready", get(oip::model_ready))
        .route("/v2/models/{model}/versions/{version}/infer", post(oip::infer))
        .route(grpc::ROUTE, post(grpc::call))
        .fallback(async || {
            let message = "The requested URL was not found on the server. If you entered the URL manually please check \
                           your spelling and try again.";
            Problem::new(ErrorClass::NotFound, message).response(Dialect::Score)
        })
        .method_not_allowed_fallback(async || method_not_allowed().response(Dialect::Score))
        .with_state(app)
}

/// Azure ML's liveness route: 200 once the model is loaded.
async fn root(axum::extract::State(app): axum::extract::State<Arc<App>>) -> Response {
    match app.served() {
        Ok(_) => Html("Healthy").into_response(),
        Err(problem) => problem.response(Dialect::Score),
    }
}

/// What every route says to a method that it does not know; the words are Flask's.
fn method_not_allowed() -> Problem {
    Problem::new(ErrorClass::Unsupported, "The method is not allowed for the requested URL.")
        .with_status(http::StatusCode::METHOD_NOT_ALLOWED)
}
