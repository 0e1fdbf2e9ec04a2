//! What callers of an endpoint show: its two keys, and tokens that are good for a while.

use axum::{Extension, Json, extract::State};
use http::{HeaderValue, header};
use jiff::{SignedDuration, Timestamp};
use moorline_core::{Name, Secret};
use moorline_store::{NewToken, Role};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    AtEndpoint, Refusals,
    endpoints::Endpoint,
    extract::{At, Given},
};
use crate::{auth::Caller, control::Control, problem::ApiError, status::key_names};

/// How long a token is good.
const LIFETIME: SignedDuration = SignedDuration::from_hours(1);
/// When its holder should ask for the next one.
const REFRESH_AFTER: SignedDuration = SignedDuration::from_mins(45);

/// An answer that nobody on the way may keep.
type Unkept<T> = ([(header::HeaderName, HeaderValue); 1], Json<T>);

pub(super) fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new().routes(routes!(keys)).routes(routes!(regenerate)).routes(routes!(token))
}

/// The keys of an endpoint; each is good.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Keys {
    primary_key: String,
    secondary_key: String,
}

/// Which key is made anew.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
enum KeyType {
    #[serde(alias = "primary")]
    Primary,
    #[serde(alias = "secondary")]
    Secondary,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct EndpointKeyRegeneration {
    key_type: KeyType,
}

/// A token for one endpoint.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct EndpointToken {
    access_token: String,
    /// Seconds since 1970.
    expiry_time_utc: i64,
    refresh_after_time_utc: i64,
    #[schema(example = "Bearer")]
    token_type: &'static str,
}

/// The keys. It is a POST because whoever reads them is written to the log.
#[utoipa::path(post, path = "/workspaces/{workspace}/online-endpoints/{endpoint}/keys", params(AtEndpoint),
    responses((status = 200, body = Keys), Refusals))]
async fn keys(
    State(control): State<Control>,
    At(at): At<AtEndpoint>,
    Extension(caller): Extension<Caller>,
) -> Result<Unkept<Keys>, ApiError> {
    let endpoint = keyed(&control, &at).await?;
    complete(&control, &endpoint.workspace, &endpoint.name).await?;
    tracing::info!(endpoint = %endpoint.name, caller = caller.name(), "keys read");
    read(&control, &endpoint).await
}

/// Makes one key anew; the old one stops working at once.
#[utoipa::path(post, path = "/workspaces/{workspace}/online-endpoints/{endpoint}/regenerate-keys",
    params(AtEndpoint), request_body = EndpointKeyRegeneration, responses((status = 200, body = Keys), Refusals))]
async fn regenerate(
    State(control): State<Control>,
    At(at): At<AtEndpoint>,
    Extension(caller): Extension<Caller>,
    Given(body): Given<EndpointKeyRegeneration>,
) -> Result<Unkept<Keys>, ApiError> {
    let endpoint = keyed(&control, &at).await?;
    let which = match body.key_type {
        KeyType::Primary => 0,
        KeyType::Secondary => 1,
    };
    renew(&control, &endpoint.workspace, &endpoint.name, &[which]).await?;
    complete(&control, &endpoint.workspace, &endpoint.name).await?;
    control.reconciler.sync_endpoint(&endpoint.workspace, &endpoint.name).await;
    tracing::info!(endpoint = %endpoint.name, caller = caller.name(), "key made anew");
    read(&control, &endpoint).await
}

/// Makes a token that is good for this endpoint and for an hour.
#[utoipa::path(post, path = "/workspaces/{workspace}/online-endpoints/{endpoint}/token", params(AtEndpoint),
    responses((status = 200, body = EndpointToken), Refusals))]
async fn token(
    State(control): State<Control>,
    At(at): At<AtEndpoint>,
    Extension(caller): Extension<Caller>,
) -> Result<Unkept<EndpointToken>, ApiError> {
    let endpoint = Endpoint::load(&control, &at).await?;
    endpoint.stays()?;
    let now = Timestamp::now();
    let after = |duration| {
        now.checked_add(duration).map_err(|error| ApiError::internal("the clock is at its end", error))
    };
    let new = NewToken {
        workspace: Some(endpoint.workspace.clone()),
        name: format!("endpoint {}", endpoint.name),
        role: Role::Scorer,
        endpoint: Some(endpoint.name.clone()),
        expires_at: Some(after(LIFETIME)?),
    };
    let (_, secret) = control.store.create_token(new).await?;
    tracing::info!(endpoint = %endpoint.name, caller = caller.name(), "token made");
    Ok(unkept(EndpointToken {
        access_token: secret.expose().to_owned(),
        expiry_time_utc: after(LIFETIME)?.as_second(),
        refresh_after_time_utc: after(REFRESH_AFTER)?.as_second(),
        token_type: "Bearer",
    }))
}

/// The endpoint, if it has keys.
async fn keyed(control: &Control, at: &AtEndpoint) -> Result<Endpoint, ApiError> {
    let endpoint = Endpoint::load(control, at).await?;
    endpoint.stays()?;
    let mode = endpoint.body.document["auth_mode"].as_str().unwrap_or("key");
    if mode != "key" {
        return Err(ApiError::conflict(format!(
            "endpoint `{}` has auth_mode {mode}, and no keys",
            endpoint.name
        ))
        .hint("ask for a token instead"));
    }
    Ok(endpoint)
}

async fn read(control: &Control, endpoint: &Endpoint) -> Result<Unkept<Keys>, ApiError> {
    let [primary, secondary] = key_names(&endpoint.name);
    let key = async |name: &str| match control.store.secret(&endpoint.workspace, name).await? {
        Some((_, key)) => Ok(key.expose().to_owned()),
        None => Err(ApiError::conflict(format!("endpoint `{}` is being deleted", endpoint.name))),
    };
    Ok(unkept(Keys { primary_key: key(&primary).await?, secondary_key: key(&secondary).await? }))
}

fn unkept<T>(body: T) -> Unkept<T> {
    ([(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(body))
}

/// Makes these of the two keys anew.
pub(super) async fn renew(
    control: &Control,
    workspace: &Name,
    endpoint: &Name,
    which: &[usize],
) -> Result<(), ApiError> {
    let names = key_names(endpoint);
    for index in which {
        // 122 random bits, as 32 letters and digits.
        let key = Secret::new(Uuid::new_v4().simple().to_string());
        control.store.set_secret(workspace, &names[*index], key).await?;
    }
    Ok(())
}

/// Makes the keys that are missing: a server may have ended between an endpoint and its keys.
pub(super) async fn complete(control: &Control, workspace: &Name, endpoint: &Name) -> Result<(), ApiError> {
    let mut missing = Vec::new();
    for (index, name) in key_names(endpoint).iter().enumerate() {
        if control.store.secret(workspace, name).await?.is_none() {
            missing.push(index);
        }
    }
    if !missing.is_empty() {
        renew(control, workspace, endpoint, &missing).await?;
        control.reconciler.sync_endpoint(workspace, endpoint).await;
    }
    Ok(())
}
