//! Agents of devices: how a device enrols, and what its agent is told and says.

use std::collections::BTreeMap;

use axum::{
    Extension, Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use jiff::Timestamp;
use moorline_edge::{
    desired::Desired,
    fleet::{FleetError, Reported},
    hub::{AGENT, HubError},
    manifest::Manifest,
};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    super::{
        AtName, Refusals,
        extract::{At, Given},
        stored,
    },
    of_hub, record, update,
};
use crate::{
    auth::Caller,
    control::Control,
    edge::{DeviceBody, EdgeHub, client, new_token},
    problem::{ApiError, chain},
};

pub(super) fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new().routes(routes!(enrol_token)).routes(routes!(put_manifest, delete_manifest))
}

/// How a device enrols, once.
#[derive(Serialize, ToSchema)]
struct EnrolmentToken {
    /// For `moorline-edge enrol --token-file`.
    token: String,
    #[schema(value_type = String, format = DateTime)]
    expires: Timestamp,
    /// For `moorline-edge enrol --server`.
    server: String,
    /// For `moorline-edge enrol --authority`, in PEM.
    trusted_certificates: String,
}

/// What the agent of a device was told, and what it says.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AgentShown {
    connected: bool,
    /// Whether it took what it was told last: 200, or why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_desired_status: Option<u16>,
    #[serde(skip_serializing_if = "String::is_empty")]
    last_desired_description: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_version: Option<String>,
    modules: BTreeMap<String, RunShown>,
}

/// A module that an agent runs: what is desired, and what it reports.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(super) struct RunShown {
    #[serde(skip_serializing_if = "Option::is_none")]
    deployment: Option<String>,
    /// None of a module that is not desired any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    desired_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    /// As Azure's agent says it: `running`, `backoff`, `stopped`, `failed` or `unknown`.
    status: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    description: String,
    restarts: u32,
    /// Where it is reached on the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
}

/// What an agent was told and says; nothing where the device has none.
pub(super) fn shown(
    edge: &EdgeHub,
    device: &str,
    body: &DeviceBody,
    connected: bool,
) -> Result<Option<AgentShown>, HubError> {
    if !body.modules.contains_key(AGENT) {
        return Ok(None);
    }
    let id = client(device, Some(AGENT)).map_err(|_| HubError::UnknownClient(device.to_owned()))?;
    let twin = edge.hub().twin(&id)?;
    let Reported { version, status, modules: said } = Reported::of(&twin);
    let mut modules: BTreeMap<String, RunShown> = BTreeMap::new();
    for (name, module) in said {
        let run = RunShown {
            version: module.version,
            status: module.runtime_status,
            description: module.status_description,
            restarts: module.restart_count,
            address: module.address,
            ..RunShown::default()
        };
        modules.insert(name, run);
    }
    let desired = twin.desired.properties.get("modules").and_then(Value::as_object);
    for (name, module) in desired.into_iter().flatten() {
        let run = modules
            .entry(name.clone())
            .or_insert_with(|| RunShown { status: "unknown".to_owned(), ..RunShown::default() });
        let text = |key: &str| module[key].as_str().map(str::to_owned);
        (run.desired_version, run.deployment) = (text("version"), text("deployment"));
    }
    Ok(Some(AgentShown {
        connected,
        last_desired_status: (status.code > 0).then_some(status.code),
        last_desired_description: status.description,
        agent_version: version.version,
        modules,
    }))
}

/// What became of a manifest.
#[derive(Serialize, ToSchema)]
struct ManifestTaken {
    /// The modules that the device is to run for it.
    modules: Vec<String>,
    /// What of it means nothing to our devices.
    notes: Vec<String>,
}

/// Has a device run a deployment manifest of Azure IoT Edge, in the place of the one before, beside its deployments.
#[utoipa::path(put, path = "/workspaces/{workspace}/devices/{name}/manifest", params(AtName),
    request_body = Object, responses((status = 200, body = ManifestTaken), Refusals))]
async fn put_manifest(
    State(control): State<Control>,
    At(at): At<AtName>,
    Given(manifest): Given<Value>,
) -> Result<Json<ManifestTaken>, ApiError> {
    let edge = control.edge()?;
    let there = record(&control, &at).await?;
    let read = Manifest::parse(&manifest.to_string()).and_then(|manifest| manifest.apply());
    let applied =
        read.map_err(|error| ApiError::invalid(format!("the manifest is not taken: {}", chain(&error))))?;
    let modules = applied.desired.containers.keys().cloned().collect();
    edge.fleet().set_own(&there.name, applied.desired).await.map_err(|error| of_fleet(&error))?;
    for (module, properties) in applied.twins {
        let id = client(&there.name, Some(&module)).map_err(|error| ApiError::invalid(error.to_string()))?;
        let version = edge.hub().twin(&id).map_err(of_hub)?.desired.version + 1;
        edge.hub().replace_desired(&id, &properties.into(), version).await.map_err(of_hub)?;
    }
    Ok(Json(ManifestTaken { modules, notes: applied.notes }))
}

/// Takes away what a device runs for a manifest. What deployments put there stays.
#[utoipa::path(delete, path = "/workspaces/{workspace}/devices/{name}/manifest", params(AtName),
    responses((status = 204, description = "Taken away."), Refusals))]
async fn delete_manifest(State(control): State<Control>, At(at): At<AtName>) -> Result<StatusCode, ApiError> {
    let edge = control.edge()?;
    let there = record(&control, &at).await?;
    edge.fleet().set_own(&there.name, Desired::default()).await.map_err(|error| of_fleet(&error))?;
    Ok(StatusCode::NO_CONTENT)
}

fn of_fleet(error: &FleetError) -> ApiError {
    ApiError::new(error.class(), chain(error))
}

/// Makes a token by which a device enrols, once and within a day; one that was made before is good no more. It is a POST
/// because whoever makes one is written to the log.
#[utoipa::path(post, path = "/workspaces/{workspace}/devices/{name}/enrol-token", params(AtName),
    responses((status = 200, body = EnrolmentToken), Refusals))]
async fn enrol_token(
    State(control): State<Control>,
    At(at): At<AtName>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, ApiError> {
    let edge = control.edge()?;
    let Some(https) = edge.hub().https_address() else {
        return Err(ApiError::conflict("this server's hub has no HTTPS, over which devices enrol")
            .hint("start it with `moorline up --hub ADDRESS --hub-https ADDRESS --hub-name HOST`"));
    };
    let there = record(&control, &at).await?;
    let mut body: DeviceBody = stored(&there.name, there.body)?;
    if body.disabled {
        return Err(ApiError::conflict(format!("device `{}` is disabled", there.name)));
    }
    let (token, enrolment) = new_token();
    let expires = enrolment.expires;
    body.enrolment = Some(enrolment);
    update(&control, &at, there.generation, &body).await?;
    tracing::info!(device = there.name, caller = caller.name(), "made a token for an enrolment");
    let body = EnrolmentToken {
        token: token.expose().to_owned(),
        expires,
        server: format!("https://{}:{}", edge.name(), https.port()),
        trusted_certificates: edge.trusted().to_owned(),
    };
    Ok(([(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(body)).into_response())
}
