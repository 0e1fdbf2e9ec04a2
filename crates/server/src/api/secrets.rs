//! Secrets: set, listed by name, deleted. A value is never given out.

use axum::{Json, extract::State};
use http::StatusCode;
use jiff::Timestamp;
use moorline_core::Secret;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    AtName, InWorkspace, Refusals,
    extract::{Asked, At, Given},
    list::{List, Part},
};
use crate::{control::Control, problem::ApiError};

pub(super) fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(set, delete))
}

/// What can be seen of a secret.
#[derive(Debug, Serialize, ToSchema)]
struct SecretShown {
    name: String,
    /// Grows with every change.
    version: u64,
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(skip_serializing_if = "Option::is_none")]
    modified_at: Option<Timestamp>,
}

/// A secret's value.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SecretBody {
    #[schema(value_type = String)]
    #[serde(deserialize_with = "secret")]
    value: Secret,
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
    String::deserialize(deserializer).map(Secret::new)
}

/// The secrets of a workspace, by name and without values.
#[utoipa::path(get, path = "/workspaces/{workspace}/secrets", params(InWorkspace, Part),
    responses((status = 200, body = List<SecretShown>), Refusals))]
async fn list(
    State(control): State<Control>,
    At(at): At<InWorkspace>,
    Asked(part): Asked<Part>,
) -> Result<Json<List<SecretShown>>, ApiError> {
    let all = control.store.secrets(&at.workspace).await?;
    let show = |entry: moorline_store::SecretEntry| {
        Ok(SecretShown { name: entry.key, version: entry.version, modified_at: Some(entry.modified_at) })
    };
    part.of(all, |entry| &entry.key, show).map(Json)
}

/// Sets a secret. Deployments that use it have the new value when their replicas start next.
#[utoipa::path(put, path = "/workspaces/{workspace}/secrets/{name}", params(AtName), request_body = SecretBody,
    responses((status = 200, description = "Set.", body = SecretShown), Refusals))]
async fn set(
    State(control): State<Control>,
    At(at): At<AtName>,
    Given(body): Given<SecretBody>,
) -> Result<Json<SecretShown>, ApiError> {
    let version = control.store.set_secret(&at.workspace, at.name.as_str(), body.value).await?;
    // On devices, that is now.
    control.reconciler.secret_changed(&at.workspace, at.name.as_str()).await?;
    Ok(Json(SecretShown { name: at.name.to_string(), version, modified_at: None }))
}

#[utoipa::path(delete, path = "/workspaces/{workspace}/secrets/{name}", params(AtName),
    responses((status = 204, description = "Deleted."), Refusals))]
async fn delete(State(control): State<Control>, At(at): At<AtName>) -> Result<StatusCode, ApiError> {
    control.store.delete_secret(&at.workspace, at.name.as_str()).await?;
    Ok(StatusCode::NO_CONTENT)
}
