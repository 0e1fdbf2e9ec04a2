//! What changes in a workspace, as server-sent events: a help for pages that show what is true now.

use std::convert::Infallible;

use axum::{
    extract::State,
    response::{
        Sse,
        sse::{Event as SseEvent, KeepAlive},
    },
};
use futures_util::{Stream, StreamExt, stream};
use moorline_core::{DeploymentId, Name};
use moorline_store::Change;
use serde_json::json;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{InWorkspace, Refusals, extract::At, operations::ALIVE};
use crate::{
    control::Control,
    problem::ApiError,
    status::{deployment_record_name, split_record_name},
};

pub(super) fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new().routes(routes!(events))
}

/// Something of a workspace that a page may show.
#[derive(Clone, Debug)]
enum Happened {
    Changed(Change),
    /// Replicas of a deployment came, went, or changed their state.
    Observed(DeploymentId),
    /// The reader was too slow to be told everything.
    Missed,
}

/// What changes in a workspace, from now on: `{"kind","name","endpoint","generation"}` says what to look at again.
/// `kind` is `endpoint`, `deployment`, `compute`, `device`, `model`, `environment`, `code`, `bitstream` or `operation`.
/// An event `reset` says that something was missed: everything may have changed.
#[utoipa::path(get, path = "/workspaces/{workspace}/events", params(InWorkspace),
    responses((status = 200, description = "Server-sent events.", body = String, content_type = "text/event-stream"),
        Refusals))]
async fn events(
    State(control): State<Control>,
    At(at): At<InWorkspace>,
) -> Result<Sse<impl Stream<Item = Result<SseEvent, Infallible>> + use<>>, ApiError> {
    // Before the workspace is looked up: what happens in between is told.
    let changed = heard(control.store.changes(), Happened::Changed);
    let observed = heard(control.observed.subscribe(), Happened::Observed);
    let workspace = control.store.workspace(&at.workspace).await?.name;
    let told = stream::select(changed, observed)
        .filter_map(move |happened| std::future::ready(event(&workspace, happened)))
        .map(Ok)
        .take_until(control.stopping.clone().cancelled_owned());
    Ok(Sse::new(told).keep_alive(KeepAlive::new().interval(ALIVE)))
}

fn heard<T: Clone + Send + 'static>(
    receiver: Receiver<T>,
    happened: impl Fn(T) -> Happened + Send + 'static,
) -> impl Stream<Item = Happened> + Send {
    stream::unfold((receiver, happened), |(mut receiver, happened)| async move {
        let what = match receiver.recv().await {
            Ok(told) => happened(told),
            Err(RecvError::Lagged(_)) => Happened::Missed,
            Err(RecvError::Closed) => return None,
        };
        Some((what, (receiver, happened)))
    })
}

/// What is told of it in this workspace.
fn event(workspace: &Name, happened: Happened) -> Option<SseEvent> {
    let (of, kind, name, generation) = match happened {
        Happened::Missed => return Some(SseEvent::default().event("reset").data("{}")),
        Happened::Changed(change) => (change.workspace, change.kind, change.name, change.generation),
        Happened::Observed(id) => {
            let name = deployment_record_name(&id.endpoint, &id.deployment);
            (id.workspace, "deployment", name, None)
        }
    };
    if !of.as_str().eq_ignore_ascii_case(workspace.as_str()) {
        return None;
    }
    let mut data = json!({ "kind": kind, "name": name });
    if kind == "deployment"
        && let Some((endpoint, deployment)) = split_record_name(&name)
    {
        data["name"] = deployment.as_str().into();
        data["endpoint"] = endpoint.as_str().into();
    }
    if let Some(generation) = generation {
        data["generation"] = generation.into();
    }
    Some(SseEvent::default().data(data.to_string()))
}

#[cfg(test)]
mod tests {
    use tokio::sync::broadcast;

    use super::*;

    #[tokio::test]
    async fn who_is_too_slow_is_told_so_and_goes_on() {
        let sender = broadcast::Sender::new(2);
        let told = heard(sender.subscribe(), Happened::Observed);
        for number in 0..5 {
            let name = |text: String| text.parse().unwrap();
            let id = DeploymentId {
                workspace: name("w".to_owned()),
                endpoint: name("iris".to_owned()),
                deployment: name(format!("d{number}")),
            };
            sender.send(id).unwrap();
        }
        drop(sender);
        let told: Vec<_> = told.collect().await;
        assert!(
            matches!(&told[..], [Happened::Missed, Happened::Observed(d3), Happened::Observed(d4)]
            if d3.deployment.as_str() == "d3" && d4.deployment.as_str() == "d4"),
            "{told:?}"
        );
    }
}
