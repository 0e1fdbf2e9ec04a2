//! Models: versioned sets of files.

use axum::{Json, extract::State};
use http::StatusCode;
use moorline_store::AssetKind;
use serde_json::Value;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    AtName, AtVersion, InWorkspace, Refusals,
    assets::{self, Archived, Registration},
    bodies::{Described, ModelBody, ModelVersion},
    extract::{Asked, At, Document, DocumentWithFiles},
    list::{List, Part},
};
use crate::{control::Control, problem::ApiError};

const KIND: AssetKind = AssetKind::Model;

pub(super) fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(versions))
        .routes(routes!(register_next))
        .routes(routes!(get, register, describe))
        .routes(routes!(archive))
        .routes(routes!(restore))
}

/// The newest version of every model, by name and without files.
#[utoipa::path(get, path = "/workspaces/{workspace}/models", params(InWorkspace, Part, Archived),
    responses((status = 200, body = List<ModelVersion>), Refusals))]
async fn list(
    State(control): State<Control>,
    At(at): At<InWorkspace>,
    Asked(part): Asked<Part>,
    Asked(archived): Asked<Archived>,
) -> Result<Json<List<Value>>, ApiError> {
    assets::list(&control, KIND, &at.workspace, part, &archived).await.map(Json)
}

/// The versions of a model, newest first and without files.
#[utoipa::path(get, path = "/workspaces/{workspace}/models/{name}", params(AtName, Part, Archived),
    responses((status = 200, body = List<ModelVersion>), Refusals))]
async fn versions(
    State(control): State<Control>,
    At(at): At<AtName>,
    Asked(part): Asked<Part>,
    Asked(archived): Asked<Archived>,
) -> Result<Json<List<Value>>, ApiError> {
    assets::versions(&control, KIND, &at, part, &archived).await.map(Json)
}

/// One version; `latest` is the newest one that is not archived.
#[utoipa::path(get, path = "/workspaces/{workspace}/models/{name}/versions/{version}", params(AtVersion),
    responses((status = 200, body = ModelVersion), Refusals))]
async fn get(State(control): State<Control>, At(at): At<AtVersion>) -> Result<Json<Value>, ApiError> {
    assets::get(&control, KIND, &at).await.map(Json)
}

/// Registers a version. The same content again is no change; other content is refused: versions never change.
#[utoipa::path(put, path = "/workspaces/{workspace}/models/{name}/versions/{version}", params(AtVersion, Registration),
    request_body = ModelBody,
    responses((status = 201, description = "Registered.", body = ModelVersion),
        (status = 200, description = "It was there.", body = ModelVersion), Refusals))]
async fn register(
    State(control): State<Control>,
    At(at): At<AtVersion>,
    Asked(registration): Asked<Registration>,
    DocumentWithFiles(document): DocumentWithFiles,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let name = AtName { workspace: at.workspace, name: at.name };
    let (status, shown) =
        assets::register(&control, KIND, name, Some(at.version), document, &registration).await?;
    Ok((status, Json(shown)))
}

/// Registers the next version: one more than the highest number so far.
#[utoipa::path(post, path = "/workspaces/{workspace}/models/{name}/versions", params(AtName, Registration), request_body = ModelBody,
    responses((status = 201, description = "Registered.", body = ModelVersion), Refusals))]
async fn register_next(
    State(control): State<Control>,
    At(at): At<AtName>,
    Asked(registration): Asked<Registration>,
    DocumentWithFiles(document): DocumentWithFiles,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let (status, shown) = assets::register(&control, KIND, at, None, document, &registration).await?;
    Ok((status, Json(shown)))
}

/// Changes what describes a version, by a merge patch.
#[utoipa::path(patch, path = "/workspaces/{workspace}/models/{name}/versions/{version}", params(AtVersion),
    request_body(content((Described = "application/json"), (Described = "application/merge-patch+json"))),
    responses((status = 200, body = ModelVersion), Refusals))]
async fn describe(
    State(control): State<Control>,
    At(at): At<AtVersion>,
    Document(patch): Document,
) -> Result<Json<Value>, ApiError> {
    assets::describe(&control, KIND, &at, patch).await.map(Json)
}

/// Takes a version off the lists; it is still found by its version.
#[utoipa::path(post, path = "/workspaces/{workspace}/models/{name}/versions/{version}/archive", params(AtVersion),
    responses((status = 200, body = ModelVersion), Refusals))]
async fn archive(State(control): State<Control>, At(at): At<AtVersion>) -> Result<Json<Value>, ApiError> {
    assets::archive(&control, KIND, &at, true).await.map(Json)
}

/// Puts an archived version back on the lists.
#[utoipa::path(post, path = "/workspaces/{workspace}/models/{name}/versions/{version}/restore", params(AtVersion),
    responses((status = 200, body = ModelVersion), Refusals))]
async fn restore(State(control): State<Control>, At(at): At<AtVersion>) -> Result<Json<Value>, ApiError> {
    assets::archive(&control, KIND, &at, false).await.map(Json)
}
