//! What a deployment's replicas said.

use axum::{
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt, TryStreamExt};
use http::{HeaderValue, header};
use moorline_core::LogOptions;
use moorline_store::RecordKind;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    AtDeployment, Refusals,
    extract::{Asked, At},
};
use crate::{
    control::Control,
    problem::{ApiError, chain},
    status::{DeploymentState, deployment_record_name},
};

/// Lines from the end, at most.
const TAIL: usize = 100_000;
/// The longest id that a request can have.
const REQUEST_ID: usize = 100;

pub(super) fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new().routes(routes!(logs))
}

/// Which part of the log.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct LogPart {
    /// The last lines; all that are kept where it is left out.
    #[param(maximum = 100_000)]
    tail: Option<usize>,
    /// Goes on with new lines until the caller leaves.
    #[serde(default)]
    follow: bool,
    /// Only this replica's.
    replica: Option<String>,
    /// Only the lines of this request: what answers say as `x-request-id`. `tail` is then about these.
    #[param(max_length = 100)]
    request_id: Option<String>,
}

/// The log of a deployment's replicas, oldest first.
#[utoipa::path(get, path = "/workspaces/{workspace}/online-endpoints/{endpoint}/deployments/{deployment}/logs",
    params(AtDeployment, LogPart),
    responses((status = 200, description = "The lines, as they come.", body = String, content_type = "text/plain"),
        Refusals))]
async fn logs(
    State(control): State<Control>,
    At(at): At<AtDeployment>,
    Asked(part): Asked<LogPart>,
) -> Result<Response, ApiError> {
    if part.tail.is_some_and(|tail| tail > TAIL) {
        return Err(ApiError::invalid(format!("`tail` can be {TAIL} at most")));
    }
    if part.request_id.as_ref().is_some_and(|id| id.is_empty() || id.len() > REQUEST_ID) {
        return Err(ApiError::invalid(format!("`request_id` has 1 to {REQUEST_ID} characters")));
    }
    let name = deployment_record_name(&at.endpoint, &at.deployment);
    let record = control.store.record(&at.workspace, RecordKind::Deployment, &name).await?;
    let state = DeploymentState::read(&record)
        .map_err(|error| ApiError::internal(format!("the record of `{name}` cannot be read"), error))?;
    let options = LogOptions {
        tail: part.tail,
        follow: part.follow,
        replica: part.replica,
        request_id: part.request_id,
    };
    // All revisions of a deployment write to the same place; which one is asked for does not matter.
    let lines = control.targets.logs(&state.body.desired, options).await?;
    let lines = lines
        .inspect_err(move |error| tracing::warn!(deployment = name, error = chain(error), "a log broke off"))
        .take_until(control.stopping.clone().cancelled_owned());
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((headers, Body::from_stream(lines)).into_response())
}
