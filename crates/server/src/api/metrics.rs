//! What deployments did: the monitor's history by range.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::{Json, extract::State};
use moorline_core::{DeploymentId, ErrorClass, Name};
use moorline_monitor::{Range, series};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    AtEndpoint, Refusals,
    endpoints::Endpoint,
    extract::{Asked, At},
};
use crate::{control::Control, monitor::Monitoring, problem::ApiError, status::split_record_name};

/// What is answered where no time is named.
const USUAL_SPAN: u64 = 3600;
/// Deployments in one answer.
const MOST_DEPLOYMENTS: usize = 64;

pub(super) fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new().routes(routes!(metrics))
}

/// Which time, how finely, and of what.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Question {
    /// Seconds since 1970; an hour before `to` where it is left out.
    from: Option<u64>,
    /// Seconds since 1970; now where it is left out.
    to: Option<u64>,
    /// Seconds between two points; about 240 points where it is left out. It is made longer where the time is kept less
    /// finely, or where there would be more than a thousand points.
    #[param(minimum = 1)]
    step: Option<u64>,
    /// Only of this deployment.
    #[param(value_type = Option<String>)]
    deployment: Option<Name>,
    /// Only these series, with commas between.
    #[param(example = "request_rate,latency_p99")]
    names: Option<String>,
}

/// What deployments of an endpoint did.
#[derive(Serialize, ToSchema)]
struct MetricsShown {
    /// Seconds between two points.
    step_seconds: u64,
    /// When the first step begins, in seconds since 1970.
    from: u64,
    /// When the last step ends.
    to: u64,
    series: Vec<SeriesShown>,
}

/// One number of one deployment over time.
#[derive(Serialize, ToSchema)]
struct SeriesShown {
    /// `request_rate`, `error_rate` (a share, 0 to 1), `latency_p50`, `latency_p90`, `latency_p99`, `in_flight`,
    /// `waiting`, `replicas_ready`, `replicas`, `restarts`, `cpu`, `memory`, `queue_mean`, `inference_mean`,
    /// `inference_rate`, `batch_mean`, `requests` or `failures`.
    #[schema(example = "request_rate")]
    name: &'static str,
    #[schema(example = "blue")]
    deployment: String,
    /// `1/s`, `s`, `cores`, `bytes`, `rows`, or empty for a plain number.
    #[schema(example = "1/s")]
    unit: &'static str,
    /// What it is.
    help: &'static str,
    /// When each step begins, in seconds since 1970, and the value of that step; `null` where there is none.
    #[schema(value_type = Vec<Vec<Option<f64>>>)]
    points: Vec<(u64, Option<f64>)>,
}

/// What the deployments of an endpoint did: the last hours by 5 seconds, the last weeks by 5 minutes.
#[utoipa::path(get, path = "/workspaces/{workspace}/online-endpoints/{endpoint}/metrics",
    params(AtEndpoint, Question), responses((status = 200, body = MetricsShown), Refusals))]
async fn metrics(
    State(control): State<Control>,
    At(at): At<AtEndpoint>,
    Asked(question): Asked<Question>,
) -> Result<Json<MetricsShown>, ApiError> {
    let wanted = question.wanted()?;
    let range = question.range()?;
    let endpoint = Endpoint::load(&control, &at).await?;
    let records = control.store.deployments_of(&endpoint.workspace, &endpoint.name).await?;
    let mut deployments: Vec<Name> =
        records.iter().filter_map(|record| split_record_name(&record.name)).map(|(_, name)| name).collect();
    if let Some(only) = &question.deployment {
        deployments.retain(|name| name.as_str().eq_ignore_ascii_case(only.as_str()));
        if deployments.is_empty() {
            return Err(ApiError::not_found(format!("deployment `{only}` does not exist")));
        }
    }
    let mut shown = Vec::new();
    for deployment in deployments.into_iter().take(MOST_DEPLOYMENTS) {
        let id = DeploymentId {
            workspace: endpoint.workspace.clone(),
            endpoint: endpoint.name.clone(),
            deployment,
        };
        let steps = control.monitor.read(&id, &range).await.map_err(|error| {
            ApiError::new(ErrorClass::Unavailable, "the history cannot be read now").caused_by(error)
        })?;
        for series in &wanted {
            let points = range.steps().zip(&steps);
            let value = |sample: &Option<_>| sample.as_ref().and_then(|sample| series.value(sample));
            shown.push(SeriesShown {
                name: series.name,
                deployment: id.deployment.to_string(),
                unit: series.unit,
                help: series.help,
                points: points.map(|(at, sample)| (at, value(sample))).collect(),
            });
        }
    }
    Ok(Json(MetricsShown { step_seconds: range.step(), from: range.from(), to: range.to(), series: shown }))
}

impl Question {
    fn wanted(&self) -> Result<Vec<&'static series::Series>, ApiError> {
        let Some(names) = &self.names else { return Ok(series::ALL.iter().collect()) };
        let mut wanted: Vec<&series::Series> = Vec::new();
        for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let series = series::find(name).ok_or_else(|| {
                let known: Vec<&str> = series::ALL.iter().map(|series| series.name).collect();
                let name: String = name.chars().take(100).collect();
                ApiError::invalid(format!("there is no series `{name}`"))
                    .hint(format!("there are {}", known.join(", ")))
            })?;
            if !wanted.iter().any(|own| own.name == series.name) {
                wanted.push(series);
            }
        }
        Ok(wanted)
    }

    fn range(&self) -> Result<Range, ApiError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let to = self.to.unwrap_or(now);
        let from = self.from.unwrap_or(to.saturating_sub(USUAL_SPAN));
        if from >= to {
            return Err(ApiError::invalid("`from` must be before `to`"));
        }
        if self.step == Some(0) {
            return Err(ApiError::invalid("`step` must be 1 or more"));
        }
        Ok(Range::new(from, to, self.step, Monitoring::newest()))
    }
}
