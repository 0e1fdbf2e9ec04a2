//! MLflow's scoring routes: `/invocations`, `/ping`, `/version`.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use http::{StatusCode, header};
use moorline_core::{ErrorClass, ScriptRoute, ScriptStyle};

use super::{
    Exchange,
    score::{score_model, score_script},
};
use crate::{
    app::{App, Backend},
    codec::score::Door,
    metrics::Protocol,
    problem::{Dialect, Problem},
};

pub(crate) async fn invocations(State(app): State<Arc<App>>, request: Request) -> Response {
    let exchange = Exchange::begin(&app, Protocol::Mlflow, request.headers(), request.extensions());
    let result = async {
        match &app.served()?.backend {
            Backend::Model(sessions) => score_model(&app, &exchange, sessions, request, Door::Invocations).await,
            Backend::Script(script) if script.info().style == ScriptStyle::Mlflow => {
                score_script(&app, &exchange, script.as_ref(), request, ScriptRoute::Invocations).await
            }
            Backend::Script(_) => Err(Problem::new(
                ErrorClass::NotFound,
                "This release has a scoring script, which answers at /score; /invocations serves MLflow and ONNX models",
            )),
        }
    }
    .await;
    exchange.finish(result, Dialect::Mlflow).await
}

/// 200 with an empty line once requests are answered, as MLflow's server has it.
pub(crate) async fn ping(State(app): State<Arc<App>>) -> Response {
    match app.served() {
        Ok(_) if app.ready() => ([(header::CONTENT_TYPE, "application/json")], "\n").into_response(),
        Ok(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Err(problem) => problem.response(Dialect::Mlflow),
    }
}

/// The version of the server.
pub(crate) async fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}
