//! Operations: polled, and followed as server-sent events.

use std::{convert::Infallible, time::Duration};

use axum::{
    Json,
    extract::State,
    response::{
        Sse,
        sse::{Event as SseEvent, KeepAlive},
    },
};
use futures_util::{Stream, StreamExt, stream};
use jiff::Timestamp;
use moorline_core::Name;
use moorline_store::{Operation, OperationPart, OperationState};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::broadcast::{Receiver, error::RecvError};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    InWorkspace, Refusals,
    extract::{Asked, At},
    list::{List, Part},
};
use crate::{
    control::Control,
    operations::{Event, Following, Transfer},
    problem::ApiError,
};

/// A silent stream says that it lives this often, so that nothing on the way takes it for dead.
pub(super) const ALIVE: Duration = Duration::from_secs(15);

pub(super) fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(get)).routes(routes!(events))
}

/// An operation.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
struct AtOperation {
    /// The workspace's name.
    #[param(value_type = String)]
    workspace: Name,
    #[param(value_type = String)]
    id: Name,
}

/// An operation as it is now.
#[derive(Serialize, ToSchema)]
struct OperationShown {
    id: String,
    workspace: String,
    /// `create_deployment`, `update_deployment`, `delete_deployment`, `delete_endpoint`, `build_image` or `rollout`.
    kind: String,
    /// `endpoint` or `endpoint/deployment`.
    subject: String,
    /// `Running`, `Succeeded`, `Failed` or `Cancelled`.
    state: &'static str,
    /// How far it is: `resolve`, `environment`, `start`, `ready`, `drain`; of a rollout, its step.
    phase: Option<String>,
    /// When it came to each of its phases. Not there in lists.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    phases: Vec<PhaseShown>,
    /// The last lines, oldest first. Not there in lists.
    log: Vec<String>,
    /// Why it did not succeed: `class`, `message` and the last lines of what failed in `log`.
    #[schema(value_type = Option<Object>)]
    error: Option<Value>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    finished_at: Option<Timestamp>,
}

/// When an operation came to a phase.
#[derive(Serialize, ToSchema)]
struct PhaseShown {
    name: String,
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
}

/// Which operations.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Which {
    /// Those on this alone: `endpoint` or `endpoint/deployment`.
    subject: Option<String>,
}

impl From<Operation> for OperationShown {
    fn from(operation: Operation) -> Self {
        Self {
            id: operation.id,
            workspace: operation.workspace.into(),
            kind: operation.kind,
            subject: operation.subject,
            state: operation.state.as_str(),
            phase: operation.phase,
            phases: operation
                .phases
                .into_iter()
                .map(|phase| PhaseShown { name: phase.name, at: phase.at })
                .collect(),
            log: operation.log,
            error: operation.error,
            created_at: operation.created_at,
            finished_at: operation.finished_at,
        }
    }
}

/// The operations of a workspace, newest first and without their logs.
#[utoipa::path(get, path = "/workspaces/{workspace}/operations", params(InWorkspace, Part, Which),
    responses((status = 200, body = List<OperationShown>), Refusals))]
async fn list(
    State(control): State<Control>,
    At(at): At<InWorkspace>,
    Asked(part): Asked<Part>,
    Asked(which): Asked<Which>,
) -> Result<Json<List<OperationShown>>, ApiError> {
    let limit = part.limit()?;
    let wanted = OperationPart { subject: which.subject, before: part.after, limit: limit + 1 };
    let mut found = control.store.operations(&at.workspace, &wanted).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|last| last.id.clone());
    // What was not written yet is newer here.
    let live = control.operations.all_running();
    let newer = |stored: Operation| match live.iter().find(|live| live.id == stored.id) {
        Some(live) => Operation { phase: live.phase.clone(), ..stored },
        None => stored,
    };
    Ok(Json(List { value: found.into_iter().map(newer).map(Into::into).collect(), next }))
}

/// An operation as it is now. The newest thousand that have ended are kept.
#[utoipa::path(get, path = "/workspaces/{workspace}/operations/{id}", params(AtOperation),
    responses((status = 200, body = OperationShown), Refusals))]
async fn get(
    State(control): State<Control>,
    At(at): At<AtOperation>,
) -> Result<Json<OperationShown>, ApiError> {
    Ok(Json(follow(&control, &at).await?.operation.into()))
}

/// An operation from its beginning on: `phase` (`{"phase"}`), `log` (`{"line"}`), and at last `done` (the operation).
/// While bytes are on their way, `transfer` (`{"direction","done","total"}`, in bytes) says how far they are; while a
/// rollout's step is watched, `standing` (`{"text"}`) says what was measured.
#[utoipa::path(get, path = "/workspaces/{workspace}/operations/{id}/events", params(AtOperation),
    responses((status = 200, description = "Server-sent events.", body = String, content_type = "text/event-stream"),
        Refusals))]
async fn events(
    State(control): State<Control>,
    At(at): At<AtOperation>,
) -> Result<Sse<impl Stream<Item = Result<SseEvent, Infallible>> + use<>>, ApiError> {
    let Following { operation, events } = follow(&control, &at).await?;
    let mut past: Vec<SseEvent> = operation.phase.as_deref().map(phase).into_iter().collect();
    past.extend(operation.log.iter().map(|text| line(text)));
    if operation.state != OperationState::Running {
        past.push(done(operation));
    }
    let coming = match events {
        Some(events) => coming(events).boxed(),
        None => stream::empty().boxed(),
    };
    let all = stream::iter(past).chain(coming).map(Ok).take_until(control.stopping.clone().cancelled_owned());
    Ok(Sse::new(all).keep_alive(KeepAlive::new().interval(ALIVE)))
}

async fn follow(control: &Control, at: &AtOperation) -> Result<Following, ApiError> {
    let following = control.operations.follow(at.id.as_str()).await?;
    if !following.operation.workspace.as_str().eq_ignore_ascii_case(at.workspace.as_str()) {
        return Err(ApiError::not_found(format!("operation `{}` does not exist", at.id)));
    }
    Ok(following)
}

/// Every event up to the last one.
fn coming(events: Receiver<Event>) -> impl Stream<Item = SseEvent> + Send {
    stream::unfold(Some(events), |events| async {
        let mut events = events?;
        match events.recv().await {
            Ok(Event::Phase(name)) => Some((phase(&name), Some(events))),
            Ok(Event::Log(text)) => Some((line(&text), Some(events))),
            Ok(Event::Transfer(transfer)) => Some((bytes(transfer), Some(events))),
            Ok(Event::Standing(text)) => Some((standing(&text), Some(events))),
            Ok(Event::Done(operation)) => Some((done(*operation), None)),
            Err(RecvError::Lagged(missed)) => {
                Some((line(&format!("… {missed} lines left out")), Some(events)))
            }
            Err(RecvError::Closed) => None,
        }
    })
}

fn phase(name: &str) -> SseEvent {
    event("phase", &json!({ "phase": name }))
}

fn line(text: &str) -> SseEvent {
    event("log", &json!({ "line": text }))
}

fn bytes(transfer: Transfer) -> SseEvent {
    let Transfer { direction, done, total } = transfer;
    event("transfer", &json!({ "direction": direction, "done": done, "total": total }))
}

fn standing(text: &str) -> SseEvent {
    event("standing", &json!({ "text": text }))
}

fn done(operation: Operation) -> SseEvent {
    event("done", &json!(OperationShown::from(operation)))
}

/// JSON has no line breaks of its own, so that it always fits into one line of data.
fn event(name: &str, data: &Value) -> SseEvent {
    SseEvent::default().event(name).data(data.to_string())
}
