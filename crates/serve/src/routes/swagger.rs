//! `/swagger.json`: the documents that the model or the script describes itself with, by version.
//! The versions, and the messages for those that are not there, are those of Azure ML's inference server.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    extract::{Query, State},
    response::{IntoResponse, Response},
};
use http::{HeaderValue, header};
use moorline_core::ErrorClass;

use crate::{
    app::App,
    problem::{Dialect, Problem, RUN_FUNCTION_FAILED, run_function_failed},
    swagger::{SwaggerVersion, SwaggerVersionError},
};

pub(crate) async fn swagger(
    State(app): State<Arc<App>>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let version = query.get("version").map_or("2", String::as_str);
    let found = app.served().and_then(|served| document(&served.swagger, version));
    match found {
        Ok(document) => {
            let headers = [
                (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
                (RUN_FUNCTION_FAILED, run_function_failed(false)),
            ];
            (headers, document.clone()).into_response()
        }
        Err(problem) => problem.response(Dialect::Score),
    }
}

fn document<'a>(documents: &'a BTreeMap<String, String>, version: &str) -> Result<&'a String, Problem> {
    let not_found = |message: String| Problem::new(ErrorClass::NotFound, message);
    let version: SwaggerVersion =
        version.parse().map_err(|error: SwaggerVersionError| not_found(error.to_string()))?;
    documents.get(version.as_str()).ok_or_else(|| {
        let offered: Vec<&str> = documents.keys().map(String::as_str).collect();
        not_found(format!(
            "Swagger version [{}] is not supported for the scoring script. Supported swagger versions: [{}].",
            version.as_str(),
            offered.join(", ")
        ))
    })
}
