//! What Prometheus asks: which replicas there are, and the metrics of those that it cannot reach itself.

use std::collections::BTreeMap;

use axum::{
    Extension, Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, Uri, header};
use moorline_core::{DeploymentId, ErrorClass, Name};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    BASE, Refusals,
    endpoints::Origin,
    extract::{Asked, At},
};
use crate::{
    auth::Caller,
    control::Control,
    monitor::{self, Silent},
    problem::ApiError,
};

/// No replica's id is longer.
const REPLICA_BYTES: usize = 253;

pub(super) fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new().routes(routes!(targets)).routes(routes!(metrics))
}

/// How replicas are to be reached.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Reach {
    /// By their own addresses, for a Prometheus that stands where this server does; by way of this server otherwise.
    #[serde(default)]
    direct: bool,
}

/// Targets with the same labels, as Prometheus' HTTP service discovery has them.
#[derive(Serialize, ToSchema)]
struct TargetGroup {
    /// `host:port`.
    targets: Vec<String>,
    /// `workspace`, `endpoint`, `deployment`, `target` (the kind of its compute), `replica`; and where Prometheus is to ask.
    #[schema(value_type = BTreeMap<String, String>)]
    labels: BTreeMap<&'static str, String>,
}

/// A replica of a deployment.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
struct AtReplica {
    /// The workspace's name.
    #[param(value_type = String)]
    workspace: Name,
    /// The endpoint's name.
    #[param(value_type = String)]
    endpoint: Name,
    /// The deployment's name.
    #[param(value_type = String)]
    deployment: Name,
    /// The replica's id.
    replica: String,
}

/// Every replica of every deployment that the caller may see, for Prometheus' HTTP service discovery.
#[utoipa::path(get, path = "/prometheus/targets", params(Reach),
    responses((status = 200, body = Vec<TargetGroup>), Refusals))]
async fn targets(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
    Asked(reach): Asked<Reach>,
    origin: Origin,
) -> Result<Json<Vec<TargetGroup>>, ApiError> {
    // Whoever asks keeps what it knew before, which it would not if this said that there is nothing.
    let replicas = control.monitor.replicas().ok_or_else(|| {
        ApiError::new(
            ErrorClass::Unavailable,
            "this server has just started, and has not seen its replicas yet",
        )
    })?;
    let server: Uri = origin.server().parse().map_err(|_| ApiError::invalid("this server has no address"))?;
    let seen = |workspace: &Name| {
        caller.workspace().is_none_or(|own| own.as_str().eq_ignore_ascii_case(workspace.as_str()))
    };
    let groups = replicas.iter().filter(|replica| seen(&replica.id.workspace));
    let group = |replica| if reach.direct { Some(direct(replica)) } else { by_way_of(&server, replica) };
    Ok(Json(groups.filter_map(group).collect()))
}

fn direct(replica: &monitor::Asked) -> TargetGroup {
    TargetGroup { targets: vec![replica.admin.to_string()], labels: labels(replica) }
}

/// By the address that the question came to, so that it can be reached from where it was asked.
fn by_way_of(server: &Uri, replica: &monitor::Asked) -> Option<TargetGroup> {
    let port = server.port_u16().unwrap_or(if server.scheme_str() == Some("https") { 443 } else { 80 });
    let DeploymentId { workspace, endpoint, deployment } = &replica.id;
    let mut labels = labels(replica);
    labels.insert("__scheme__", server.scheme_str()?.to_owned());
    let before = server.path().trim_end_matches('/');
    let path = format!(
        "{before}{BASE}/workspaces/{workspace}/online-endpoints/{endpoint}/deployments/{deployment}/replicas/{}/metrics",
        replica.replica
    );
    labels.insert("__metrics_path__", path);
    Some(TargetGroup { targets: vec![format!("{}:{port}", server.host()?)], labels })
}

fn labels(replica: &monitor::Asked) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("workspace", replica.id.workspace.to_string()),
        ("endpoint", replica.id.endpoint.to_string()),
        ("deployment", replica.id.deployment.to_string()),
        ("target", replica.target.as_str().to_owned()),
        ("replica", replica.replica.clone()),
    ])
}

/// What a replica says of itself, in Prometheus' text format, for whoever cannot reach it.
#[utoipa::path(get,
    path = "/workspaces/{workspace}/online-endpoints/{endpoint}/deployments/{deployment}/replicas/{replica}/metrics",
    params(AtReplica),
    responses((status = 200, description = "Prometheus' text format.", body = String, content_type = "text/plain"),
        Refusals))]
async fn metrics(State(control): State<Control>, At(at): At<AtReplica>) -> Result<Response, ApiError> {
    if at.replica.len() > REPLICA_BYTES {
        return Err(ApiError::invalid(format!("a replica's id has at most {REPLICA_BYTES} characters")));
    }
    let id = DeploymentId { workspace: at.workspace, endpoint: at.endpoint, deployment: at.deployment };
    let text = match control.monitor.metrics_of(&id, &at.replica).await {
        Ok(text) => text,
        Err(Silent::Unknown) => {
            return Err(ApiError::not_found(format!("deployment `{id}` has no replica `{}`", at.replica)));
        }
        Err(error @ Silent::Failed { .. }) => {
            return Err(ApiError::new(ErrorClass::Unavailable, error.to_string()).caused_by(error));
        }
    };
    // What it says is its own word: no browser is to take it for a page.
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((headers, text).into_response())
}
