//! Deployments: what is desired is checked, resolved and stored here; the reconciler makes it true.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt, stream};
use http::{StatusCode, header};
use moorline_core::{DeploymentId, Desired, Name, Observation, Source};
use moorline_deploy::kubernetes::{self, Action};
use moorline_spec::{OnlineDeployment, from_json};
use moorline_store::{Record, RecordKind, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    AtDeployment, AtEndpoint, InWorkspace, Refusals,
    bodies::{DeploymentBody as DeploymentDocument, DeploymentShown},
    endpoints::{Endpoint, etag, operation_location},
    extract::{Asked, At, Document, Object, Precondition, merge, name_document},
    list::{List, Part},
    removal, rollouts, to_json,
};
use crate::{
    control::Control,
    operations::OperationKind,
    problem::ApiError,
    resolve, secrets,
    status::{DeploymentBody, DeploymentState, deployment_record_name},
};

/// How often a change is made anew because somebody else changed the same deployment meanwhile.
const ATTEMPTS: usize = 8;
/// A deployment's name, at most: it is a part of folders' names.
const NAME_BYTES: usize = 64;
/// Deployments observed at one time.
const OBSERVERS: usize = 16;

pub(super) fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(list_all))
        .routes(routes!(get, put, patch, delete))
}

/// What is asked for beside the document.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Wish {
    /// The deployment takes all of the endpoint's traffic once it has succeeded.
    #[serde(default)]
    all_traffic: bool,
    /// The compute that it runs on, whatever the documents say.
    #[param(value_type = Option<String>)]
    compute: Option<Name>,
    /// Nothing is stored; the answer is what the compute would be told.
    #[serde(default)]
    dry_run: bool,
    /// With `dry_run`: the reference of the image that it would run, where one is made already.
    image: Option<String>,
}

/// What a compute would be told.
#[derive(Serialize, ToSchema)]
struct Rendered {
    /// Documents of the compute's own kind, with secrets by reference.
    #[schema(value_type = Vec<Object>)]
    documents: Vec<Value>,
    /// What of the compute that would change, where it can tell: on a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    changes: Option<Vec<Value>>,
    /// The deployment's document with its references pinned to versions.
    #[schema(value_type = Object)]
    deployment: Value,
    /// What was decided for the caller.
    notes: Vec<String>,
}

/// The image of what serves, where it would be the same one.
fn image_of_same(state: &DeploymentState, desired: &Desired) -> Option<Source> {
    let active = state.status.active.as_ref()?;
    state.status.image().filter(|_| runs_the_same(active, desired))
}

/// Whether both are the same thing in the same place, however many of it there are.
fn runs_the_same(one: &Desired, other: &Desired) -> bool {
    one.release == other.release
        && one.environment == other.environment
        && one.context == other.context
        && one.bitstream == other.bitstream
        && one.below == other.below
        && (one.target, &one.compute) == (other.target, &other.compute)
}

fn shown_change(change: &kubernetes::Change) -> Value {
    let (action, places) = match &change.action {
        Action::Create => ("create", Vec::new()),
        Action::Keep => ("keep", Vec::new()),
        Action::Remove => ("remove", Vec::new()),
        Action::Change(places) => {
            let shown = |(path, is, would_be): &(String, Value, Value)| json!({ "path": path, "is": is, "would_be": would_be });
            ("change", places.iter().map(shown).collect())
        }
    };
    json!({ "kind": change.kind, "name": change.name, "action": action, "places": places })
}

/// What becomes of the document that is there.
enum Change {
    Replace(Object),
    Merge(Object),
}

/// The deployments of an endpoint, by name.
#[utoipa::path(get, path = "/workspaces/{workspace}/online-endpoints/{endpoint}/deployments",
    params(AtEndpoint, Part), responses((status = 200, body = List<DeploymentShown>), Refusals))]
async fn list(
    State(control): State<Control>,
    At(at): At<AtEndpoint>,
    Asked(part): Asked<Part>,
) -> Result<Json<List<Value>>, ApiError> {
    let endpoint = Endpoint::load(&control, &at).await?;
    let all = control.store.deployments_of(&endpoint.workspace, &endpoint.name).await?;
    show_all(&control, part.of(all, |record| own_name(&record.name), Ok)?).await
}

/// The deployments of all endpoints of a workspace, by endpoint and name.
#[utoipa::path(get, path = "/workspaces/{workspace}/deployments", params(InWorkspace, Part),
    responses((status = 200, body = List<DeploymentShown>), Refusals))]
async fn list_all(
    State(control): State<Control>,
    At(at): At<InWorkspace>,
    Asked(part): Asked<Part>,
) -> Result<Json<List<Value>>, ApiError> {
    let all = control.store.records(RecordKind::Deployment, Some(&at.workspace)).await?;
    show_all(&control, part.of(all, |record| &record.name, Ok)?).await
}

async fn show_all(control: &Control, page: List<Record>) -> Result<Json<List<Value>>, ApiError> {
    let shown = stream::iter(page.value)
        .map(|record| async move { show(control, &record).await })
        .buffered(OBSERVERS)
        .collect::<Vec<_>>()
        .await;
    Ok(Json(List { value: shown.into_iter().collect::<Result<_, _>>()?, next: page.next }))
}

#[utoipa::path(get, path = "/workspaces/{workspace}/online-endpoints/{endpoint}/deployments/{deployment}",
    params(AtDeployment),
    responses((status = 200, body = DeploymentShown, headers(("etag" = String))), Refusals))]
async fn get(State(control): State<Control>, At(at): At<AtDeployment>) -> Result<Response, ApiError> {
    let record = load(&control, &at).await?;
    answer(&control, StatusCode::OK, &record, None).await
}

/// Makes a deployment, or replaces its document. The deployment that served before serves until the new one is ready.
#[utoipa::path(put, path = "/workspaces/{workspace}/online-endpoints/{endpoint}/deployments/{deployment}",
    params(AtDeployment, Wish,
        ("if-none-match" = Option<String>, Header, description = "`*`: only if there is none of that name."),
        ("if-match" = Option<String>, Header, description = "The `etag` that it must still have.")),
    request_body = DeploymentDocument,
    responses(
        (status = 202, description = "Begun.", body = DeploymentShown,
            headers(("operation-location" = String, description = "Where to see how it goes."), ("etag" = String))),
        (status = 200, description = "Nothing was left to do; with `dry_run`, what the compute would be told.",
            content((DeploymentShown = "application/json"), (Rendered = "application/vnd.moorline.rendered+json"))),
        Refusals))]
async fn put(
    State(control): State<Control>,
    At(at): At<AtDeployment>,
    Asked(wish): Asked<Wish>,
    precondition: Precondition,
    Document(document): Document,
) -> Result<Response, ApiError> {
    Box::pin(change(&control, &at, &wish, precondition, Change::Replace(document))).await
}

/// Changes a deployment by a merge patch: `{"instance_count": 2}`.
#[utoipa::path(patch, path = "/workspaces/{workspace}/online-endpoints/{endpoint}/deployments/{deployment}",
    params(AtDeployment, Wish,
        ("if-match" = Option<String>, Header, description = "The `etag` that it must still have.")),
    request_body(content(
        (DeploymentDocument = "application/json"), (DeploymentDocument = "application/merge-patch+json"))),
    responses(
        (status = 202, description = "Begun.", body = DeploymentShown,
            headers(("operation-location" = String, description = "Where to see how it goes."), ("etag" = String))),
        (status = 200, description = "Nothing was left to do; with `dry_run`, what the compute would be told.",
            content((DeploymentShown = "application/json"), (Rendered = "application/vnd.moorline.rendered+json"))),
        Refusals))]
async fn patch(
    State(control): State<Control>,
    At(at): At<AtDeployment>,
    Asked(wish): Asked<Wish>,
    precondition: Precondition,
    Document(patch): Document,
) -> Result<Response, ApiError> {
    Box::pin(change(&control, &at, &wish, precondition, Change::Merge(patch))).await
}

/// Deletes a deployment without traffic. Its requests in flight are finished first.
#[utoipa::path(delete, path = "/workspaces/{workspace}/online-endpoints/{endpoint}/deployments/{deployment}",
    params(AtDeployment, ("if-match" = Option<String>, Header, description = "The `etag` that it must still have.")),
    responses((status = 202, description = "Begun.", body = DeploymentShown,
        headers(("operation-location" = String, description = "Where to see when it has ended."))), Refusals))]
async fn delete(
    State(control): State<Control>,
    At(at): At<AtDeployment>,
    precondition: Precondition,
) -> Result<Response, ApiError> {
    let endpoint = Endpoint::load(&control, &endpoint_of(&at)).await?;
    let record = load(&control, &at).await?;
    for key in ["traffic", "mirror_traffic"] {
        let share = endpoint.body.document[key][own_name(&record.name)].as_u64().unwrap_or_default();
        if share > 0 && !endpoint.body.deleting {
            return Err(ApiError::conflict(format!(
                "deployment `{}` has {share} % of `{key}`",
                at.deployment
            ))
            .hint(format!("give it none first: `{key}` {}=0", at.deployment)));
        }
    }
    if let Some(rollout) = endpoint.body.running_rollout()
        && rollout.needs(own_name(&record.name))
    {
        let what = format!("deployment `{}` is a part of it", at.deployment);
        return Err(rollouts::in_the_way(&endpoint, rollout, &what));
    }
    let operation = removal::delete_deployment(&control, record, precondition.generation).await?;
    // As it is now: marked, unless it is gone already.
    if let Ok(record) = load(&control, &at).await {
        return answer(&control, StatusCode::ACCEPTED, &record, Some(&operation)).await;
    }
    let location = operation_location(&endpoint.workspace, &operation);
    let shown =
        json!({ "name": at.deployment, "endpoint_name": at.endpoint, "provisioning_state": "Deleting" });
    Ok((StatusCode::ACCEPTED, [("operation-location", location)], Json(shown)).into_response())
}

fn endpoint_of(at: &AtDeployment) -> AtEndpoint {
    AtEndpoint { workspace: at.workspace.clone(), endpoint: at.endpoint.clone() }
}

/// The part after the `/`.
fn own_name(record_name: &str) -> &str {
    record_name.split_once('/').map_or(record_name, |(_, name)| name)
}

async fn load(control: &Control, at: &AtDeployment) -> Result<Record, ApiError> {
    let name = deployment_record_name(&at.endpoint, &at.deployment);
    Ok(control.store.record(&at.workspace, RecordKind::Deployment, &name).await?)
}

async fn change(
    control: &Control,
    at: &AtDeployment,
    wish: &Wish,
    precondition: Precondition,
    mut change: Change,
) -> Result<Response, ApiError> {
    if at.deployment.as_str().len() > NAME_BYTES {
        return Err(ApiError::invalid(format!("a deployment's name has at most {NAME_BYTES} characters")));
    }
    let (Change::Replace(document) | Change::Merge(document)) = &mut change;
    name_document(document, "name", at.deployment.as_str())?;
    name_document(document, "endpoint_name", at.endpoint.as_str())?;

    let mut attempts = 1..=ATTEMPTS;
    loop {
        let endpoint = Endpoint::load(control, &endpoint_of(at)).await?;
        endpoint.stays()?;
        let current = match load(control, at).await {
            Ok(record) => Some(record),
            Err(error) if error.class() == moorline_core::ErrorClass::NotFound => None,
            Err(error) => return Err(error),
        };
        let attempt = Attempt { control, at, endpoint: &endpoint, wish, precondition };
        match Box::pin(attempt.make(&change, current)).await {
            Err(Refusal::Raced) if attempts.next().is_some() => {}
            Err(Refusal::Raced) => {
                return Err(ApiError::conflict(format!(
                    "deployment `{}` is being changed by others",
                    at.deployment
                ))
                .hint("try again"));
            }
            Err(Refusal::Error(error)) => return Err(error),
            Ok(response) => return Ok(response),
        }
    }
}

/// One attempt to change a deployment that is as it was found.
struct Attempt<'a> {
    control: &'a Control,
    at: &'a AtDeployment,
    endpoint: &'a Endpoint,
    wish: &'a Wish,
    precondition: Precondition,
}

enum Refusal {
    /// Somebody else was first; the next attempt sees what they did.
    Raced,
    Error(ApiError),
}

impl<E: Into<ApiError>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

impl Attempt<'_> {
    async fn make(&self, change: &Change, current: Option<Record>) -> Result<Response, Refusal> {
        let Self { control, endpoint, wish, .. } = *self;
        let state = current.as_ref().map(read).transpose()?;
        self.check_precondition(state.as_ref())?;
        let (document, warnings) = self.document(change, state.as_ref())?;
        // What was once put somewhere by a flag stays there.
        let named = document.runtime().compute.is_some();
        let stays = state.as_ref().filter(|_| !named).map(|state| state.body.desired.compute.clone());
        let resolved = Box::pin(resolve::deployment(
            &control.store,
            &control.targets,
            &endpoint.workspace,
            &endpoint.name,
            &document,
            resolve::Place::Compute(wish.compute.as_ref().or(stays.as_ref())),
        ))
        .await?;
        control.targets.admit(&resolved.desired).await.map_err(ApiError::from)?;
        let mut notes = warnings;
        notes.extend(resolved.notes);
        let document = to_json(&resolved.document)?;
        if wish.dry_run {
            let named = wish.image.as_deref().map(Source::image);
            let image = named.or_else(|| image_of_same(state.as_ref()?, &resolved.desired));
            let versions = secrets::versions(&control.store, &resolved.desired).await?;
            let rendered =
                control.targets.render(&control.releases, &resolved.desired, image, &versions).await;
            let (manifest, changes) = rendered.map_err(ApiError::from)?;
            let changes = changes.map(|changes| changes.iter().map(shown_change).collect());
            let rendered = Rendered { documents: manifest.documents, changes, deployment: document, notes };
            return Ok(Json(rendered).into_response());
        }
        self.keep_rollout(&resolved.desired, state.as_ref())?;
        if let (Some(record), Some(state)) = (&current, &state)
            && !wish.all_traffic
            && state.body.document == document
            && state.body.desired == resolved.desired
            && state.settled()
            && state.status.failure.is_none()
        {
            return Ok(answer(control, StatusCode::OK, record, None).await?);
        }
        self.store(current, document, resolved.desired, &notes).await
    }

    /// Refuses what would make a rollout that is under way one of something else. Replicas may come and go.
    fn keep_rollout(&self, desired: &Desired, state: Option<&DeploymentState>) -> Result<(), ApiError> {
        let Some(rollout) = self.endpoint.body.running_rollout() else { return Ok(()) };
        if self.wish.all_traffic {
            return Err(rollouts::in_the_way(self.endpoint, rollout, "it alone changes the traffic"));
        }
        let same = state.is_some_and(|state| runs_the_same(&state.body.desired, desired));
        if rollout.to == desired.id.deployment && !same {
            return Err(rollouts::in_the_way(self.endpoint, rollout, "it judges that deployment as it is"));
        }
        Ok(())
    }

    fn check_precondition(&self, state: Option<&DeploymentState>) -> Result<(), ApiError> {
        let name = &self.at.deployment;
        match (state, self.precondition) {
            (Some(state), _) if state.body.deleting => {
                Err(ApiError::conflict(format!("deployment `{name}` is being deleted"))
                    .hint("wait until it is gone"))
            }
            (Some(_), Precondition { create: true, .. }) => {
                Err(ApiError::conflict(format!("deployment `{name}` exists already"))
                    .hint("update it, or choose another name"))
            }
            (Some(state), Precondition { generation: Some(expected), .. })
                if state.generation != expected =>
            {
                Err(StoreError::Stale {
                    noun: "deployment",
                    name: name.to_string(),
                    expected,
                    actual: state.generation,
                }
                .into())
            }
            (None, Precondition { generation: Some(_), .. }) => {
                Err(ApiError::not_found(format!("deployment `{name}` does not exist")))
            }
            _ => Ok(()),
        }
    }

    /// The document that is desired, and what is worth saying about it.
    fn document(
        &self,
        change: &Change,
        state: Option<&DeploymentState>,
    ) -> Result<(OnlineDeployment, Vec<String>), ApiError> {
        let mut document = match (change, state) {
            (Change::Replace(document), _) => document.clone(),
            (Change::Merge(patch), Some(state)) => {
                let mut document = state.body.document.clone();
                merge(&mut document, Value::Object(patch.clone()));
                match document {
                    Value::Object(document) => document,
                    _ => return Err(ApiError::invalid("a deployment is an object")),
                }
            }
            (Change::Merge(_), None) => {
                return Err(ApiError::not_found(format!(
                    "deployment `{}` does not exist",
                    self.at.deployment
                )));
            }
        };
        document.insert("endpoint_name".to_owned(), self.endpoint.name.as_str().into());
        if let Some(state) = state {
            document.insert("name".to_owned(), state.body.desired.id.deployment.as_str().into());
        }
        let loaded = from_json::<OnlineDeployment>(&Value::Object(document))?;
        Ok((loaded.document, loaded.warnings.iter().map(ToString::to_string).collect()))
    }

    /// Writes what is desired under a new operation, and has the reconciler look at it.
    async fn store(
        &self,
        current: Option<Record>,
        document: Value,
        desired: Desired,
        notes: &[String],
    ) -> Result<Response, Refusal> {
        let Self { control, endpoint, wish, precondition, .. } = *self;
        let kind =
            if current.is_some() { OperationKind::UpdateDeployment } else { OperationKind::CreateDeployment };
        let id = desired.id.clone();
        let name = deployment_record_name(&id.endpoint, &id.deployment);
        let operation = control.operations.begin(&endpoint.workspace, kind, &name).await?;
        // All traffic that was asked for with a generation which has not come to its end is asked for still.
        let waiting = current.as_ref().map(read).transpose()?;
        let waiting = waiting.is_some_and(|state| !state.settled() && state.body.all_traffic);
        let body = to_json(&DeploymentBody {
            document,
            desired,
            all_traffic: wish.all_traffic || waiting,
            deleting: false,
            operation: Some(operation.clone()),
        })?;
        let (store, workspace) = (&control.store, &endpoint.workspace);
        let written = match &current {
            Some(record) => {
                let expected = Some(record.generation);
                store.update_record(workspace, RecordKind::Deployment, &name, expected, body).await
            }
            None => store.create_record(workspace, RecordKind::Deployment, &name, body).await,
        };
        let record = match written {
            Ok(record) => record,
            Err(error) => {
                let raced = match (&error, &current) {
                    (StoreError::Stale { .. }, _) => precondition.generation.is_none(),
                    (StoreError::NotFound { .. }, Some(_)) => precondition.generation.is_none(),
                    (StoreError::Exists { .. }, None) => !precondition.create,
                    _ => false,
                };
                let error = ApiError::from(error);
                control.operations.fail(&operation, error.class(), error.detail(), &[]).await;
                return Err(if raced { Refusal::Raced } else { Refusal::Error(error) });
            }
        };
        for note in notes {
            control.operations.log(&operation, note).await;
        }
        control.operations.supersede(workspace, &name, &operation).await;
        self.follow_endpoint().await?;
        control.reconciler.nudge(DeploymentId { workspace: workspace.clone(), ..id });
        Ok(answer(control, StatusCode::ACCEPTED, &record, Some(&operation)).await?)
    }

    /// The endpoint may have been deleted since it was looked at; then what was just made goes with it.
    async fn follow_endpoint(&self) -> Result<(), ApiError> {
        let endpoint = Endpoint::load(self.control, &endpoint_of(self.at)).await?;
        if endpoint.body.deleting {
            removal::mark_deployments(self.control, &endpoint.workspace, &endpoint.name).await?;
        }
        Ok(())
    }
}

fn read(record: &Record) -> Result<DeploymentState, ApiError> {
    DeploymentState::read(record).map_err(|error| {
        ApiError::internal(format!("the record of deployment `{}` cannot be read", record.name), error)
    })
}

async fn answer(
    control: &Control,
    status: StatusCode,
    record: &Record,
    operation: Option<&str>,
) -> Result<Response, ApiError> {
    let shown = show(control, record).await?;
    let etag = [(header::ETAG, etag(record.generation))];
    let mut response = (status, etag, Json(shown)).into_response();
    if let Some(operation) = operation {
        response.headers_mut().insert("operation-location", operation_location(&record.workspace, operation));
    }
    Ok(response)
}

async fn show(control: &Control, record: &Record) -> Result<Value, ApiError> {
    let state = read(record)?;
    let mut shown: Object = state.body.document.as_object().cloned().unwrap_or_default();
    let desired = &state.body.desired;
    shown.insert("provisioning_state".to_owned(), json!(state.provisioning_state()));
    shown.insert("compute_name".to_owned(), desired.compute.as_str().into());
    let serving = state.status.active.as_ref().unwrap_or(desired);
    match control.targets.observe(serving).await {
        Ok(observation) => {
            shown.insert("replicas".to_owned(), replicas(&observation));
        }
        // What is desired can be shown without it.
        Err(error) => tracing::warn!(deployment = record.name, %error, "could not observe a deployment"),
    }
    if let Some(failure) = &state.status.failure {
        shown.insert("error".to_owned(), json!({ "message": failure.reason, "log": failure.log }));
    }
    shown.insert("generation".to_owned(), record.generation.into());
    shown.insert(
        "creation_context".to_owned(),
        json!({ "created_at": record.created_at, "last_modified_at": record.modified_at }),
    );
    Ok(Value::Object(shown))
}

fn replicas(observation: &Observation) -> Value {
    let shown = observation.replicas.iter().map(|replica| {
        json!({
            "id": replica.id,
            "state": replica.state,
            "restarts": replica.restarts,
            "current": Some(replica.revision) == observation.revision,
        })
    });
    shown.collect()
}
