//! What a deployment's scorers collected: files of records in the workspace's store.

use axum::{Json, extract::State};
use moorline_core::{DeploymentId, Digest, ErrorClass, Name};
use moorline_store::CollectedFile;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    AtDeployment, Refusals,
    extract::{Asked, At},
    list::{List, Part},
};
use crate::{control::Control, problem::ApiError};

pub(super) fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new().routes(routes!(list, fetch))
}

/// Which files.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Wanted {
    /// Only of this collection.
    #[param(value_type = Option<String>)]
    collection: Option<Name>,
}

/// A file of records, in JSON Lines.
#[derive(Serialize, ToSchema)]
pub(super) struct CollectedShown {
    /// Where it lies below a folder of all that was collected:
    /// `endpoint/deployment/collection/year/month/day/hour/segment.jsonl`.
    #[schema(example = "iris/blue/model_inputs/2026/12/01/13/0f3c-0.jsonl")]
    path: String,
    #[schema(value_type = String, example = "model_inputs")]
    collection: Name,
    /// When the period of its records began.
    #[schema(value_type = String, format = DateTime)]
    begins_at: jiff::Timestamp,
    records: u64,
    size: u64,
    /// Its content is the blob of this digest.
    #[schema(value_type = String)]
    sha256: Digest,
}

/// The files that were collected of a deployment, the newest first. They are kept when it is deleted.
#[utoipa::path(get, path = "/workspaces/{workspace}/online-endpoints/{endpoint}/deployments/{deployment}/collected",
    params(AtDeployment, Wanted, Part), responses((status = 200, body = List<CollectedShown>), Refusals))]
async fn list(
    State(control): State<Control>,
    At(at): At<AtDeployment>,
    Asked(wanted): Asked<Wanted>,
    Asked(part): Asked<Part>,
) -> Result<Json<List<CollectedShown>>, ApiError> {
    control.store.workspace(&at.workspace).await?;
    let limit = part.limit()?;
    let before = part.after.as_deref().map(str::parse).transpose();
    let before = before.map_err(|_| ApiError::invalid("`after` is not the `next` of a page"))?;
    let of = DeploymentId { workspace: at.workspace, endpoint: at.endpoint, deployment: at.deployment };
    let mut files = control.store.collected(&of, wanted.collection.as_ref(), before, limit + 1).await?;
    let more = files.len() > limit;
    files.truncate(limit);
    let next = files.last().filter(|_| more).map(|file| file.id.to_string());
    Ok(Json(List { value: files.into_iter().map(|file| shown(&of, file)).collect(), next }))
}

/// Has the deployment's replicas end the files that they are writing, and stores all that they have.
#[utoipa::path(post, path = "/workspaces/{workspace}/online-endpoints/{endpoint}/deployments/{deployment}/collected",
    params(AtDeployment), responses((status = 204, description = "What they had is stored."), Refusals))]
async fn fetch(
    State(control): State<Control>,
    At(at): At<AtDeployment>,
) -> Result<http::StatusCode, ApiError> {
    let of = DeploymentId { workspace: at.workspace, endpoint: at.endpoint, deployment: at.deployment };
    control.collecting.fetch_now(&of).await.map_err(|error| {
        ApiError::new(ErrorClass::Unavailable, "what was collected cannot be fetched now").caused_by(error)
    })?;
    Ok(http::StatusCode::NO_CONTENT)
}

fn shown(of: &DeploymentId, file: CollectedFile) -> CollectedShown {
    let folder = file.begins_at.strftime("%Y/%m/%d/%H");
    let (endpoint, deployment, collection) = (&of.endpoint, &of.deployment, &file.collection);
    CollectedShown {
        path: format!("{endpoint}/{deployment}/{collection}/{folder}/{}.jsonl", file.segment),
        collection: file.collection,
        begins_at: file.begins_at,
        records: file.records,
        size: file.size,
        sha256: file.digest,
    }
}
