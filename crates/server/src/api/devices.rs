//! Devices and their modules: who they are, and what they prove it by.

mod agent;
mod talk;

use std::collections::BTreeMap;

use axum::{
    Extension, Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use jiff::Timestamp;
use moorline_core::{ErrorClass, Name};
use moorline_edge::hub::{AGENT, ClientId, ClientState, HubError};
use moorline_store::{Record, RecordKind, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    AtName, InWorkspace, Refusals,
    extract::{Asked, At, Given, Precondition},
    list::{List, Part},
    stored, to_json,
};
use crate::{
    auth::Caller,
    control::Control,
    edge::{Authentication, DeviceBody, EdgeHub, Keys, ModuleBody, client, keys_of, secret_name},
    problem::{ApiError, chain},
};

/// Modules of one device.
const MOST_MODULES: usize = 64;

pub(super) fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(get, put, delete))
        .routes(routes!(keys))
        .routes(routes!(regenerate))
        .routes(routes!(put_module, delete_module))
        .routes(routes!(module_keys))
        .merge(agent::routes())
        .merge(talk::routes())
}

impl Control {
    /// The hub, where this server has one.
    pub(crate) fn edge(&self) -> Result<&EdgeHub, ApiError> {
        self.edge.as_ref().ok_or_else(|| {
            ApiError::new(ErrorClass::Unavailable, "this server has no hub for devices")
                .hint("start it with `moorline up --hub 0.0.0.0:8883 --hub-name NAME`")
        })
    }
}

/// A module of a device.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
struct AtModule {
    /// The workspace's name.
    #[param(value_type = String)]
    workspace: Name,
    /// The device's name.
    #[param(value_type = String)]
    name: Name,
    module: String,
}

/// What a device is to be.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
struct DeviceWish {
    /// Left out: as it was, and by a key for a new one.
    authentication: Option<Authentication>,
    /// Of one that may not connect.
    disabled: Option<bool>,
    /// Changes to its tags: what is `null` goes.
    #[schema(value_type = Object)]
    tags: Map<String, Value>,
}

/// What a module is to be.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
struct ModuleWish {
    authentication: Authentication,
}

/// A device.
#[derive(Debug, Serialize, ToSchema)]
struct DeviceShown {
    name: String,
    disabled: bool,
    authentication: Authentication,
    #[schema(value_type = Object)]
    tags: Map<String, Value>,
    connected: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    last_connect: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    last_disconnect: Option<Timestamp>,
    /// Those that may connect by themselves.
    modules: BTreeMap<String, ModuleShown>,
    /// Once it has enrolled.
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<agent::AgentShown>,
}

/// A module.
#[derive(Debug, Serialize, ToSchema)]
struct ModuleShown {
    authentication: Authentication,
    connected: bool,
}

/// How a device or module connects, for whoever installs it.
#[derive(Serialize, ToSchema)]
struct ConnectionShown {
    primary_connection_string: String,
    secondary_connection_string: String,
    /// The certificates by which the hub is known, in PEM.
    trusted_certificates: String,
}

/// Which of the two keys.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Regeneration {
    key: WhichKey,
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum WhichKey {
    Primary,
    Secondary,
}

/// Whose.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct OfModule {
    /// A module of the device; the device itself where it is left out.
    module: Option<String>,
}

/// The devices of a workspace, by name.
#[utoipa::path(get, path = "/workspaces/{workspace}/devices", params(InWorkspace, Part),
    responses((status = 200, body = List<DeviceShown>), Refusals))]
async fn list(
    State(control): State<Control>,
    At(at): At<InWorkspace>,
    Asked(part): Asked<Part>,
) -> Result<Json<List<DeviceShown>>, ApiError> {
    let edge = control.edge()?;
    let states: BTreeMap<ClientId, ClientState> = edge.hub().clients().into_iter().collect();
    let records = control.store.records(RecordKind::Device, Some(&at.workspace)).await?;
    part.of(records, |record| &record.name, |record| show(edge, &states, record)).map(Json)
}

#[utoipa::path(get, path = "/workspaces/{workspace}/devices/{name}", params(AtName),
    responses((status = 200, body = DeviceShown), Refusals))]
async fn get(State(control): State<Control>, At(at): At<AtName>) -> Result<Json<DeviceShown>, ApiError> {
    shown(&control, &at).await.map(Json)
}

/// Makes a device, or changes one.
#[utoipa::path(put, path = "/workspaces/{workspace}/devices/{name}", params(AtName,
        ("if-none-match" = Option<String>, Header, description = "`*`: only if there is none of that name.")),
    request_body = DeviceWish,
    responses((status = 201, description = "Made.", body = DeviceShown),
        (status = 200, description = "Changed.", body = DeviceShown), Refusals))]
async fn put(
    State(control): State<Control>,
    At(at): At<AtName>,
    precondition: Precondition,
    Given(wish): Given<DeviceWish>,
) -> Result<(StatusCode, Json<DeviceShown>), ApiError> {
    let edge = control.edge()?;
    let id = client(at.name.as_str(), None).map_err(|error| ApiError::invalid(error.to_string()))?;
    let there = match record(&control, &at).await {
        Ok(record) => Some(record),
        Err(error) if error.class() == ErrorClass::NotFound => None,
        Err(error) => return Err(error),
    };
    let made = there.is_none();
    match there {
        None => {
            let body = DeviceBody {
                disabled: wish.disabled.unwrap_or_default(),
                authentication: wish.authentication.unwrap_or_default(),
                ..DeviceBody::default()
            };
            // The keys first: a device that is there has them.
            ensure_keys(&control, &at.workspace, &id, &body.authentication).await?;
            let name = at.name.as_str();
            control.store.create_record(&at.workspace, RecordKind::Device, name, to_json(&body)?).await?;
        }
        Some(_) if precondition.create => {
            return Err(ApiError::conflict(format!("there is a device `{}` already", at.name)));
        }
        Some(there) => {
            let mut body: DeviceBody = stored(&there.name, there.body)?;
            if let Some(authentication) = wish.authentication {
                ensure_keys(&control, &at.workspace, &id, &authentication).await?;
                body.authentication = authentication;
            }
            body.disabled = wish.disabled.unwrap_or(body.disabled);
            update(&control, &at, there.generation, &body).await?;
            if body.disabled {
                // Its modules and its agent connect by themselves.
                let modules = body.modules.keys().map(|module| client(&there.name, Some(module)));
                for id in modules.filter_map(Result::ok).chain([id.clone()]) {
                    edge.hub().disconnect(&id);
                }
            }
        }
    }
    if !wish.tags.is_empty() {
        edge.hub().patch_tags(&id, &Value::Object(wish.tags)).await.map_err(of_hub)?;
        edge.fleet().look();
    }
    let status = if made { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(shown(&control, &at).await?)))
}

/// Deletes a device with its modules, twins, keys and all that waits for it. It is disconnected.
#[utoipa::path(delete, path = "/workspaces/{workspace}/devices/{name}", params(AtName),
    responses((status = 204, description = "Deleted."), Refusals))]
async fn delete(State(control): State<Control>, At(at): At<AtName>) -> Result<StatusCode, ApiError> {
    let edge = control.edge()?;
    let there = record(&control, &at).await?;
    let body: DeviceBody = stored(&there.name, there.body)?;
    // It cannot come again while the rest is taken away.
    control.store.delete_record(&at.workspace, RecordKind::Device, &there.name).await?;
    let modules = body.modules.keys().map(|module| client(&there.name, Some(module)));
    for id in modules.chain([client(&there.name, None)]).filter_map(Result::ok) {
        forget(&control, edge, &at.workspace, &id).await?;
    }
    edge.fleet().look();
    Ok(StatusCode::NO_CONTENT)
}

/// How a device connects. It is a POST because whoever reads keys is written to the log.
#[utoipa::path(post, path = "/workspaces/{workspace}/devices/{name}/keys", params(AtName),
    responses((status = 200, body = ConnectionShown), Refusals))]
async fn keys(
    State(control): State<Control>,
    At(at): At<AtName>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, ApiError> {
    let there = record(&control, &at).await?;
    let body: DeviceBody = stored(&there.name, there.body)?;
    connection(&control, &at.workspace, &there.name, None, &body.authentication, &caller).await
}

/// Makes one key anew; the other one goes on to be good, and sessions by the old one end.
#[utoipa::path(post, path = "/workspaces/{workspace}/devices/{name}/regenerate-keys", params(AtName, OfModule),
    request_body = Regeneration, responses((status = 200, body = ConnectionShown), Refusals))]
async fn regenerate(
    State(control): State<Control>,
    At(at): At<AtName>,
    Asked(of): Asked<OfModule>,
    Extension(caller): Extension<Caller>,
    Given(wish): Given<Regeneration>,
) -> Result<Response, ApiError> {
    let (there, id, authentication) = known(&control, &at, of.module.as_deref()).await?;
    let edge = control.edge()?;
    let mut keys = keys_of(&control.store, &at.workspace, &id).await?.unwrap_or_else(Keys::make);
    let fresh = Keys::make();
    match wish.key {
        WhichKey::Primary => keys.primary = fresh.primary,
        WhichKey::Secondary => keys.secondary = fresh.secondary,
    }
    control.store.set_secret(&at.workspace, &secret_name(&id), keys.to_secret()).await?;
    edge.hub().disconnect(&id);
    tracing::info!(client = %id, caller = caller.name(), "key made anew");
    let module = of.module.as_deref();
    connection(&control, &at.workspace, &there, module, &authentication, &caller).await
}

/// Makes a module of a device, or changes one.
#[utoipa::path(put, path = "/workspaces/{workspace}/devices/{name}/modules/{module}", params(AtModule),
    request_body = ModuleWish, responses((status = 200, body = DeviceShown), Refusals))]
async fn put_module(
    State(control): State<Control>,
    At(at): At<AtModule>,
    Given(wish): Given<ModuleWish>,
) -> Result<Json<DeviceShown>, ApiError> {
    let device = AtName { workspace: at.workspace, name: at.name };
    let there = record(&control, &device).await?;
    let id = client(&there.name, Some(&at.module)).map_err(|error| ApiError::invalid(error.to_string()))?;
    let mut body: DeviceBody = stored(&there.name, there.body)?;
    if body.modules.len() >= MOST_MODULES && !body.modules.contains_key(&at.module) {
        return Err(ApiError::invalid(format!("a device has at most {MOST_MODULES} modules")));
    }
    ensure_keys(&control, &device.workspace, &id, &wish.authentication).await?;
    body.modules.insert(at.module, ModuleBody { authentication: wish.authentication });
    update(&control, &device, there.generation, &body).await?;
    shown(&control, &device).await.map(Json)
}

/// Deletes a module of a device, with its twin and its keys.
#[utoipa::path(delete, path = "/workspaces/{workspace}/devices/{name}/modules/{module}", params(AtModule),
    responses((status = 204, description = "Deleted."), Refusals))]
async fn delete_module(State(control): State<Control>, At(at): At<AtModule>) -> Result<StatusCode, ApiError> {
    let device = AtName { workspace: at.workspace, name: at.name };
    let edge = control.edge()?;
    let there = record(&control, &device).await?;
    let mut body: DeviceBody = stored(&there.name, there.body)?;
    if body.modules.remove(&at.module).is_none() {
        return Err(no_module(&there.name, &at.module));
    }
    update(&control, &device, there.generation, &body).await?;
    let id = client(&there.name, Some(&at.module)).map_err(|error| ApiError::invalid(error.to_string()))?;
    forget(&control, edge, &device.workspace, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// How a module connects.
#[utoipa::path(post, path = "/workspaces/{workspace}/devices/{name}/modules/{module}/keys", params(AtModule),
    responses((status = 200, body = ConnectionShown), Refusals))]
async fn module_keys(
    State(control): State<Control>,
    At(at): At<AtModule>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, ApiError> {
    let device = AtName { workspace: at.workspace, name: at.name };
    let (there, _, authentication) = known(&control, &device, Some(&at.module)).await?;
    connection(&control, &device.workspace, &there, Some(&at.module), &authentication, &caller).await
}

async fn record(control: &Control, at: &AtName) -> Result<Record, ApiError> {
    Ok(control.store.record(&at.workspace, RecordKind::Device, at.name.as_str()).await?)
}

/// A device's name as it was created, the client that it or its module is, and how that proves itself.
async fn known(
    control: &Control,
    at: &AtName,
    module: Option<&str>,
) -> Result<(String, ClientId, Authentication), ApiError> {
    let there = record(control, at).await?;
    let body: DeviceBody = stored(&there.name, there.body)?;
    let authentication = match module {
        None => body.authentication,
        Some(module) => {
            let known = body.modules.get(module).ok_or_else(|| no_module(&there.name, module))?;
            known.authentication.clone()
        }
    };
    let id = client(&there.name, module).map_err(|error| ApiError::invalid(error.to_string()))?;
    Ok((there.name, id, authentication))
}

fn no_module(device: &str, module: &str) -> ApiError {
    ApiError::not_found(format!("device `{device}` has no module `{module}`"))
        .hint(format!("`moorline edge module create -d {device} -n {module}` makes it"))
}

async fn update(control: &Control, at: &AtName, generation: u64, body: &DeviceBody) -> Result<(), ApiError> {
    let (store, name, body) = (&control.store, at.name.as_str(), to_json(body)?);
    store.update_record(&at.workspace, RecordKind::Device, name, Some(generation), body).await?;
    Ok(())
}

async fn ensure_keys(
    control: &Control,
    workspace: &Name,
    id: &ClientId,
    authentication: &Authentication,
) -> Result<(), StoreError> {
    if *authentication == Authentication::Sas && keys_of(&control.store, workspace, id).await?.is_none() {
        control.store.set_secret(workspace, &secret_name(id), Keys::make().to_secret()).await?;
    }
    Ok(())
}

/// Takes away everything that is kept of a client beside its record.
async fn forget(control: &Control, edge: &EdgeHub, workspace: &Name, id: &ClientId) -> Result<(), ApiError> {
    edge.hub().remove(id).await.map_err(of_hub)?;
    match control.store.delete_secret(workspace, &secret_name(id)).await {
        Err(error) if error.class() != ErrorClass::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

async fn connection(
    control: &Control,
    workspace: &Name,
    device: &str,
    module: Option<&str>,
    authentication: &Authentication,
    caller: &Caller,
) -> Result<Response, ApiError> {
    let edge = control.edge()?;
    let id = client(device, module).map_err(|error| ApiError::invalid(error.to_string()))?;
    if *authentication != Authentication::Sas {
        return Err(ApiError::conflict(format!("`{id}` proves itself by a certificate, and has no keys"))
            .hint("`--auth sas` of an update gives it keys"));
    }
    ensure_keys(control, workspace, &id, authentication).await?;
    let keys = keys_of(&control.store, workspace, &id).await?;
    let keys = keys.ok_or_else(|| ApiError::conflict(format!("`{id}` is being deleted")))?;
    tracing::info!(client = %id, caller = caller.name(), "keys read");
    let module = module.map(|module| format!(";ModuleId={module}")).unwrap_or_default();
    let text = |key: &moorline_core::Secret| {
        format!("HostName={};DeviceId={device}{module};SharedAccessKey={}", edge.name(), key.expose())
    };
    let body = ConnectionShown {
        primary_connection_string: text(&keys.primary),
        secondary_connection_string: text(&keys.secondary),
        trusted_certificates: edge.trusted().to_owned(),
    };
    Ok(([(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(body)).into_response())
}

async fn shown(control: &Control, at: &AtName) -> Result<DeviceShown, ApiError> {
    let edge = control.edge()?;
    let states: BTreeMap<ClientId, ClientState> = edge.hub().clients().into_iter().collect();
    show(edge, &states, record(control, at).await?)
}

fn show(
    edge: &EdgeHub,
    states: &BTreeMap<ClientId, ClientState>,
    record: Record,
) -> Result<DeviceShown, ApiError> {
    let body: DeviceBody = stored(&record.name, record.body)?;
    let id = client(&record.name, None).map_err(|error| ApiError::internal("a device's name", error))?;
    let state = states.get(&id).cloned().unwrap_or_default();
    let time = |time: std::time::SystemTime| Timestamp::try_from(time).ok();
    let connected = |module: &str| {
        let id = client(&record.name, Some(module)).ok();
        id.and_then(|id| states.get(&id)).is_some_and(|state| state.connected)
    };
    let modules = body.modules.iter().map(|(name, module)| {
        let authentication = module.authentication.clone();
        (name.clone(), ModuleShown { authentication, connected: connected(name) })
    });
    Ok(DeviceShown {
        modules: modules.collect(),
        agent: agent::shown(edge, &record.name, &body, connected(AGENT)).map_err(of_hub)?,
        disabled: body.disabled,
        authentication: body.authentication,
        tags: edge.hub().twin(&id).map_err(of_hub)?.tags,
        connected: state.connected,
        last_connect: state.last_connect.and_then(time),
        last_disconnect: state.last_disconnect.or_else(|| edge.seen().earlier(&record.name)).and_then(time),
        name: record.name,
    })
}

fn of_hub(error: HubError) -> ApiError {
    ApiError::new(error.class(), chain(&error)).caused_by(error)
}
