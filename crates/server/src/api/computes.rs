//! Computes: places where deployments run. Every workspace has `local`, this machine.

use axum::{Json, extract::State};
use http::StatusCode;
use moorline_core::{DeploymentId, Name, TargetKind};
use moorline_spec::{Compute, from_json};
use moorline_store::{Record, RecordKind};
use serde_json::{Value, json};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    AtName, InWorkspace, Refusals,
    bodies::{ComputeBody, ComputeShown},
    extract::{Asked, At, Document, Object, Precondition, name_document},
    is_absent,
    list::{List, Part},
    stored, to_json,
};
use crate::{
    control::Control,
    edge,
    problem::ApiError,
    status::{DeploymentBody, EndpointBody, ProvisioningState},
};

/// The compute that every workspace has.
const LOCAL: &str = "local";

pub(super) fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(get, put, delete))
}

/// The computes of a workspace, by name.
#[utoipa::path(get, path = "/workspaces/{workspace}/computes", params(InWorkspace, Part),
    responses((status = 200, body = List<ComputeShown>), Refusals))]
async fn list(
    State(control): State<Control>,
    At(at): At<InWorkspace>,
    Asked(part): Asked<Part>,
) -> Result<Json<List<Value>>, ApiError> {
    let records = control.store.records(RecordKind::Compute, Some(&at.workspace)).await?;
    let mut all: Vec<(String, Value)> =
        records.iter().map(|record| (record.name.clone(), show(record))).collect();
    all.push((LOCAL.to_owned(), local()));
    all.sort_by_key(|(name, _)| name.to_ascii_lowercase());
    part.of(all, |(name, _)| name, |(_, shown)| Ok(shown)).map(Json)
}

#[utoipa::path(get, path = "/workspaces/{workspace}/computes/{name}", params(AtName),
    responses((status = 200, body = ComputeShown), Refusals))]
async fn get(State(control): State<Control>, At(at): At<AtName>) -> Result<Json<Value>, ApiError> {
    if is_local(&at.name) {
        control.store.workspace(&at.workspace).await?;
        return Ok(Json(local()));
    }
    Ok(Json(show(&control.store.record(&at.workspace, RecordKind::Compute, at.name.as_str()).await?)))
}

/// Makes or changes a compute. Deployments that are there stay as they are until they are updated.
#[utoipa::path(put, path = "/workspaces/{workspace}/computes/{name}", params(AtName,
        ("if-none-match" = Option<String>, Header, description = "`*`: only if there is none of that name.")),
    request_body = ComputeBody,
    responses((status = 201, description = "Made.", body = ComputeShown),
        (status = 200, description = "Changed.", body = ComputeShown), Refusals))]
async fn put(
    State(control): State<Control>,
    At(at): At<AtName>,
    precondition: Precondition,
    Document(mut document): Document,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    if is_local(&at.name) {
        return Err(ApiError::conflict("every workspace has the compute `local` as it is")
            .hint("choose another name; its `type` can be `local` too"));
    }
    name_document(&mut document, "name", at.name.as_str())?;
    let document = from_json::<Compute>(&Value::Object(document))?.document;
    let body = to_json(&document)?;
    // What is wrong in a condition is told now, and not to whoever deploys.
    let fleet = match document.kind {
        TargetKind::Edge => Some(edge::settings(&document)?),
        _ => None,
    };
    let (store, name) = (&control.store, at.name.as_str());
    if !precondition.create {
        stays_where_it_is(&control, &at, &body).await?;
        let updated = store
            .update_record(&at.workspace, RecordKind::Compute, name, precondition.generation, body.clone())
            .await;
        match updated {
            Ok(record) => {
                // What runs there may have to be another way now.
                for id in deployments_on(&control, &at).await? {
                    if let (Some(settings), Some(edge)) = (&fleet, &control.edge) {
                        edge.fleet().adjust(&id, settings);
                    }
                    control.reconciler.nudge(id);
                }
                return Ok((StatusCode::OK, Json(show(&record))));
            }
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let record = store.create_record(&at.workspace, RecordKind::Compute, name, body).await?;
    Ok((StatusCode::CREATED, Json(show(&record))))
}

/// Deletes a compute that nothing uses.
#[utoipa::path(delete, path = "/workspaces/{workspace}/computes/{name}", params(AtName),
    responses((status = 204, description = "Deleted."), Refusals))]
async fn delete(State(control): State<Control>, At(at): At<AtName>) -> Result<StatusCode, ApiError> {
    if is_local(&at.name) {
        return Err(ApiError::conflict("every workspace has the compute `local`; it cannot be deleted"));
    }
    if let Some(user) = user_of(&control, &at).await? {
        return Err(ApiError::conflict(format!("compute `{}` is used by {user}", at.name)));
    }
    control.store.delete_record(&at.workspace, RecordKind::Compute, at.name.as_str()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Refuses to let a compute that is in use mean another place: what runs in the former one would be left there.
async fn stays_where_it_is(control: &Control, at: &AtName, body: &Value) -> Result<(), ApiError> {
    let record = match control.store.record(&at.workspace, RecordKind::Compute, at.name.as_str()).await {
        Ok(record) => record,
        Err(error) if is_absent(&error) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let moved = ["type", "host", "context", "namespace", "compute"]
        .iter()
        .find(|key| record.body.get(**key) != body.get(**key));
    let Some(moved) = moved else { return Ok(()) };
    match user_of(control, at).await? {
        Some(user) => Err(ApiError::conflict(format!(
            "`{moved}` of compute `{}` cannot change while it is used by {user}",
            at.name
        ))
        .hint("register the other place under a name of its own, and move the deployments there with `--compute`")),
        None => Ok(()),
    }
}

/// The deployments that are to run on a compute.
async fn deployments_on(control: &Control, at: &AtName) -> Result<Vec<DeploymentId>, ApiError> {
    let mut all = Vec::new();
    for record in control.store.records(RecordKind::Deployment, Some(&at.workspace)).await? {
        let body: DeploymentBody = stored(&record.name, record.body)?;
        let named = [&body.desired.compute, &body.desired.runs_on().0];
        if named.iter().any(|name| name.as_str().eq_ignore_ascii_case(at.name.as_str())) {
            all.push(body.desired.id);
        }
    }
    Ok(all)
}

/// One deployment or endpoint that names this compute.
async fn user_of(control: &Control, at: &AtName) -> Result<Option<String>, ApiError> {
    let same = |name: &str| name.eq_ignore_ascii_case(at.name.as_str());
    if let Some(id) = deployments_on(control, at).await?.first() {
        return Ok(Some(format!("deployment `{}/{}`", id.endpoint, id.deployment)));
    }
    for record in control.store.records(RecordKind::Endpoint, Some(&at.workspace)).await? {
        let body: EndpointBody = stored(&record.name, record.body)?;
        let compute = body.document["compute"].as_str().and_then(|text| text.strip_prefix("azureml:"));
        if compute.is_some_and(same) {
            return Ok(Some(format!("endpoint `{}`", record.name)));
        }
    }
    Ok(None)
}

fn is_local(name: &Name) -> bool {
    name.as_str().eq_ignore_ascii_case(LOCAL)
}

fn local() -> Value {
    json!({
        "name": LOCAL,
        "type": TargetKind::Local.as_str(),
        "description": "processes on the server's machine",
        "provisioning_state": ProvisioningState::Succeeded,
    })
}

fn show(record: &Record) -> Value {
    let mut shown = Object::new();
    shown.insert("name".to_owned(), record.name.as_str().into());
    let body = record.body.as_object().cloned().unwrap_or_default();
    shown.extend(body.into_iter().filter(|(key, _)| key != "name"));
    shown.insert("provisioning_state".to_owned(), json!(ProvisioningState::Succeeded));
    Value::Object(shown)
}
