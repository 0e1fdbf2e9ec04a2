//! Rollouts of endpoints: begun, looked at, and ended early. What is written here, the reconciler carries through.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use moorline_core::Name;
use moorline_store::{RecordKind, StoreError};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    AtEndpoint, Refusals,
    bodies::RolloutShown,
    endpoints::{Endpoint, operation_location},
    extract::{At, Given},
};
use crate::{
    control::Control,
    operations::OperationKind,
    problem::ApiError,
    rollout::{ErrorRate, Judge, Latency, MAX_MIN_REQUESTS, MIN_REQUESTS, Rollout, Steps, Traffic},
    status::{DeploymentState, EndpointBody, ProvisioningState, split_record_name},
};

/// How often a rollout is begun anew because somebody else changed the endpoint meanwhile.
const ATTEMPTS: usize = 8;

pub(super) fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new().routes(routes!(get, begin, abort))
}

/// What is asked for.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RolloutWish {
    /// The deployment that gets the traffic.
    #[schema(value_type = String, example = "green")]
    to: Name,
    /// Percentages that rise to 100, and how long each is watched; the last may go without.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "10:5m,50:5m,100")]
    steps: Steps,
    /// The share of requests that may fail.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "1%")]
    max_error_rate: ErrorRate,
    /// What 99 of a hundred requests may take at most; no bound where it is left out.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "200ms")]
    max_p99: Option<Latency>,
    /// Requests that a judgement takes: those that are missing count as good ones.
    #[serde(default = "min_requests")]
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 1_000_000_000, default = 100)]
    min_requests: u64,
}

fn min_requests() -> u64 {
    MIN_REQUESTS
}

/// The newest rollout of an endpoint, under way or ended.
#[utoipa::path(get, path = "/workspaces/{workspace}/online-endpoints/{endpoint}/rollout", params(AtEndpoint),
    responses((status = 200, body = RolloutShown), Refusals))]
async fn get(State(control): State<Control>, At(at): At<AtEndpoint>) -> Result<Json<Value>, ApiError> {
    let endpoint = Endpoint::load(&control, &at).await?;
    match &endpoint.body.rollout {
        Some(rollout) => Ok(Json(rollout.show())),
        None => Err(ApiError::not_found(format!("endpoint `{}` never had a rollout", endpoint.name))),
    }
}

/// Gives a deployment the endpoint's traffic step by step, as long as what it answers keeps the bounds; otherwise the
/// traffic becomes what it was.
#[utoipa::path(post, path = "/workspaces/{workspace}/online-endpoints/{endpoint}/rollout", params(AtEndpoint),
    request_body = RolloutWish,
    responses((status = 202, description = "Begun.", body = RolloutShown,
        headers(("operation-location" = String, description = "Where to see how it goes."))), Refusals))]
async fn begin(
    State(control): State<Control>,
    At(at): At<AtEndpoint>,
    Given(wish): Given<RolloutWish>,
) -> Result<Response, ApiError> {
    if !(1..=MAX_MIN_REQUESTS).contains(&wish.min_requests) {
        return Err(ApiError::invalid(format!("`min_requests` is 1 to {MAX_MIN_REQUESTS}")));
    }
    let mut attempts = 1..=ATTEMPTS;
    loop {
        let endpoint = Endpoint::load(&control, &at).await?;
        let to = check(&control, &endpoint, &wish).await?;
        let subject = endpoint.name.as_str();
        let operation =
            control.operations.begin(&endpoint.workspace, OperationKind::Rollout, subject).await?;
        match store(&control, &endpoint, &wish, to, &operation).await {
            Ok(rollout) => {
                control.reconciler.sync_endpoint(&endpoint.workspace, &endpoint.name).await;
                control.reconciler.nudge_rollout(endpoint.workspace.clone(), endpoint.name.clone());
                let location = operation_location(&endpoint.workspace, &operation);
                let answer = (StatusCode::ACCEPTED, [("operation-location", location)], Json(rollout.show()));
                return Ok(answer.into_response());
            }
            Err(error) => {
                let again = matches!(error, StoreError::Stale { .. }) && attempts.next().is_some();
                let error = ApiError::from(error);
                control.operations.fail(&operation, error.class(), error.detail(), &[]).await;
                if !again {
                    return Err(error);
                }
            }
        }
    }
}

/// Ends the rollout that is under way; the traffic becomes what it was before it.
#[utoipa::path(delete, path = "/workspaces/{workspace}/online-endpoints/{endpoint}/rollout", params(AtEndpoint),
    responses((status = 200, description = "Ended.", body = RolloutShown), Refusals))]
async fn abort(State(control): State<Control>, At(at): At<AtEndpoint>) -> Result<Json<Value>, ApiError> {
    let endpoint = Endpoint::load(&control, &at).await?;
    let ended = control.reconciler.abort_rollout(&endpoint.workspace, &endpoint.name).await?;
    match ended {
        Some(rollout) => Ok(Json(rollout.show())),
        None => Err(ApiError::conflict(format!("endpoint `{}` has no rollout under way", endpoint.name))),
    }
}

/// A refusal of what cannot be while a rollout is under way.
pub(super) fn in_the_way(endpoint: &Endpoint, rollout: &Rollout, what: &str) -> ApiError {
    ApiError::conflict(format!("a rollout to `{}` is under way, and {what}", rollout.to)).hint(format!(
        "wait for its end, or end it: moorline online-endpoint rollout -n {} --abort",
        endpoint.name
    ))
}

/// Whether this rollout can be; the deployment under the name that it was given first.
async fn check(control: &Control, endpoint: &Endpoint, wish: &RolloutWish) -> Result<Name, ApiError> {
    endpoint.stays()?;
    if let Some(rollout) = endpoint.body.running_rollout() {
        return Err(in_the_way(endpoint, rollout, "an endpoint has one at a time"));
    }
    let name = &endpoint.name;
    let mut found = None;
    for record in control.store.deployments_of(&endpoint.workspace, name).await? {
        let Some((_, deployment)) = split_record_name(&record.name) else { continue };
        let state = DeploymentState::read(&record).map_err(|error| {
            ApiError::internal(format!("the record of deployment `{}` cannot be read", record.name), error)
        })?;
        if state.body.all_traffic && !state.settled() {
            return Err(ApiError::conflict(format!(
                "deployment `{deployment}` is about to take all traffic"
            ))
            .hint(format!("wait until it has: moorline online-deployment show -n {deployment} -e {name}")));
        }
        if deployment.as_str().eq_ignore_ascii_case(wish.to.as_str()) {
            found = Some((deployment, state));
        }
    }
    let Some((to, state)) = found else {
        return Err(ApiError::not_found(format!("endpoint `{name}` has no deployment `{}`", wish.to)));
    };
    let provisioning = state.provisioning_state();
    if provisioning != ProvisioningState::Succeeded || state.status.active.is_none() {
        return Err(ApiError::conflict(format!(
            "deployment `{to}` is {provisioning:?}, and only one that has succeeded can get traffic"
        ))
        .hint(format!("see what it lacks: moorline online-deployment show -n {to} -e {name}")));
    }
    check_traffic(name, &to, &endpoint.body.traffic(), &wish.steps)?;
    Ok(to)
}

/// There must be traffic that the deployment does not have yet.
fn check_traffic(endpoint: &Name, to: &Name, before: &Traffic, steps: &Steps) -> Result<(), ApiError> {
    let all: u32 = before.values().map(|share| u32::from(*share)).sum();
    let own = u32::from(before.get(to).copied().unwrap_or_default());
    if all == 0 {
        return Err(ApiError::conflict(format!("no deployment of endpoint `{endpoint}` has traffic")).hint(
            format!(
                "there is nobody to take it from: moorline online-endpoint update -n {endpoint} --traffic {to}=100"
            ),
        ));
    }
    if own == all {
        return Err(ApiError::conflict(format!("deployment `{to}` has all of the traffic already")));
    }
    let first = u32::from(steps.get(0).percent);
    if first * all <= own * 100 {
        return Err(ApiError::invalid(format!(
            "step 1 gives `{to}` {first} % of the traffic, and it has {} % already",
            own * 100 / all
        ))
        .hint("begin with more"));
    }
    Ok(())
}

/// Writes the rollout at its first step, with the traffic of that.
async fn store(
    control: &Control,
    endpoint: &Endpoint,
    wish: &RolloutWish,
    to: Name,
    operation: &str,
) -> Result<Rollout, StoreError> {
    let rollout = Rollout {
        operation: operation.to_owned(),
        to,
        steps: wish.steps.clone(),
        judge: Judge {
            max_error_rate: wish.max_error_rate,
            max_p99: wish.max_p99,
            min_requests: wish.min_requests,
        },
        before: endpoint.body.traffic(),
        step: 0,
        outcome: None,
    };
    let mut body = EndpointBody { rollout: Some(rollout.clone()), ..endpoint.body.clone() };
    body.document["traffic"] = serde_json::json!(rollout.traffic());
    let body = serde_json::to_value(body).expect("a body has only string keys");
    control
        .store
        .update_record(
            &endpoint.workspace,
            RecordKind::Endpoint,
            endpoint.name.as_str(),
            Some(endpoint.generation),
            body,
        )
        .await?;
    Ok(rollout)
}
