//! Workspaces: what holds everything else.

use std::time::Duration;

use axum::{Json, extract::State};
use http::StatusCode;
use moorline_core::{ErrorClass, Name};
use moorline_spec::from_json;
use moorline_store::{NewWorkspace, RecordKind, Workspace};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    InWorkspace, Refusals,
    bodies::{WorkspaceBody, WorkspaceShown},
    extract::{Asked, At, Document, Object, merge, name_document},
    list::{List, Part},
    removal, to_json,
};
use crate::{auth::Caller, control::Control, problem::ApiError};

/// How long a deletion waits for what runs in the workspace to end.
const PATIENCE: Duration = Duration::from_secs(45);

pub(super) fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(get, update, delete))
}

/// The workspaces that the caller can see, by name.
#[utoipa::path(get, path = "/workspaces", params(Part),
    responses((status = 200, body = List<WorkspaceShown>), Refusals))]
async fn list(
    State(control): State<Control>,
    Asked(part): Asked<Part>,
    caller: axum::Extension<Caller>,
) -> Result<Json<List<Value>>, ApiError> {
    let mut all = control.store.workspaces().await?;
    if let Some(scope) = caller.workspace() {
        all.retain(|workspace| workspace.name.as_str().eq_ignore_ascii_case(scope.as_str()));
    }
    part.of(all, |workspace| workspace.name.as_str(), |workspace| Ok(show(&workspace))).map(Json)
}

/// Makes a workspace.
#[utoipa::path(post, path = "/workspaces", request_body = WorkspaceBody,
    responses((status = 201, description = "Made.", body = WorkspaceShown), Refusals))]
async fn create(
    State(control): State<Control>,
    Document(document): Document,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let (name, body) = read(document)?;
    let workspace = control.store.create_workspace(NewWorkspace { name, body }).await?;
    Ok((StatusCode::CREATED, Json(show(&workspace))))
}

#[utoipa::path(get, path = "/workspaces/{workspace}", params(InWorkspace),
    responses((status = 200, body = WorkspaceShown), Refusals))]
async fn get(State(control): State<Control>, At(at): At<InWorkspace>) -> Result<Json<Value>, ApiError> {
    Ok(Json(show(&control.store.workspace(&at.workspace).await?)))
}

/// Changes what describes a workspace, by a merge patch.
#[utoipa::path(patch, path = "/workspaces/{workspace}", params(InWorkspace),
    request_body(content((WorkspaceBody = "application/json"), (WorkspaceBody = "application/merge-patch+json"))),
    responses((status = 200, body = WorkspaceShown), Refusals))]
async fn update(
    State(control): State<Control>,
    At(at): At<InWorkspace>,
    Document(mut patch): Document,
) -> Result<Json<Value>, ApiError> {
    let workspace = control.store.workspace(&at.workspace).await?;
    name_document(&mut patch, "name", workspace.name.as_str())?;
    let mut document = workspace.body;
    merge(&mut document, Value::Object(patch));
    let Value::Object(document) = document else { return Err(ApiError::invalid("a workspace is an object")) };
    let (_, body) = read(document)?;
    Ok(Json(show(&control.store.update_workspace(&at.workspace, body).await?)))
}

/// How a workspace is deleted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Deletion {
    /// With everything in it. Endpoints are deleted first, which takes as long as their requests do.
    #[serde(default)]
    with_contents: bool,
}

/// Deletes a workspace; one that holds something only `with_contents`.
#[utoipa::path(delete, path = "/workspaces/{workspace}", params(InWorkspace, Deletion),
    responses((status = 204, description = "Deleted."), Refusals))]
async fn delete(
    State(control): State<Control>,
    At(at): At<InWorkspace>,
    Asked(deletion): Asked<Deletion>,
) -> Result<StatusCode, ApiError> {
    let workspace = control.store.workspace(&at.workspace).await?.name;
    if workspace == control.config.default_workspace {
        return Err(ApiError::conflict(format!("`{workspace}` is the workspace of clients that name none"))
            .hint("delete what is in it instead"));
    }
    if deletion.with_contents {
        delete_endpoints(&control, &workspace).await?;
    }
    control.store.delete_workspace(&workspace, deletion.with_contents).await.map_err(|error| {
        let held = error.class() == ErrorClass::Conflict;
        let error = ApiError::from(error);
        if held { error.hint("?with_contents=true deletes it with everything in it") } else { error }
    })?;
    Ok(StatusCode::NO_CONTENT)
}

/// Deletes every endpoint and waits until each is gone, so that nothing runs on that nobody knows of.
async fn delete_endpoints(control: &Control, workspace: &Name) -> Result<(), ApiError> {
    let mut operations = Vec::new();
    for endpoint in control.store.records(RecordKind::Endpoint, Some(workspace)).await? {
        let endpoint: Name =
            endpoint.name.parse().map_err(|error| ApiError::internal("a name was stored", error))?;
        operations.push(removal::delete_endpoint(control, workspace, &endpoint, None).await?);
    }
    let all_gone = async {
        for operation in operations {
            control.operations.ended(&operation).await?;
        }
        Ok::<_, ApiError>(())
    };
    tokio::time::timeout(PATIENCE, all_gone).await.unwrap_or_else(|_| {
        Err(ApiError::new(ErrorClass::Unavailable, "the workspace's endpoints are still being deleted")
            .hint("repeat the request until it succeeds"))
    })
}

/// The name and what is kept of a workspace's document.
fn read(document: Object) -> Result<(Name, Value), ApiError> {
    let document = from_json::<moorline_spec::Workspace>(&Value::Object(document))?.document;
    let name = document.name.clone();
    let mut body = to_json(&document)?;
    if let Some(body) = body.as_object_mut() {
        body.shift_remove("name");
    }
    Ok((name, body))
}

fn show(workspace: &Workspace) -> Value {
    let mut shown = Object::new();
    shown.insert("name".to_owned(), workspace.name.as_str().into());
    shown.extend(workspace.body.as_object().cloned().unwrap_or_default());
    shown.insert(
        "creation_context".to_owned(),
        json!({ "created_at": workspace.created_at, "last_modified_at": workspace.modified_at }),
    );
    Value::Object(shown)
}
