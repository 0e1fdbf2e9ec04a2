//! Tokens: who may call a server that other machines can reach.

use axum::{Json, extract::State};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use moorline_core::{ErrorClass, Name};
use moorline_store::{NewToken, Role, Token};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Refusals,
    extract::{Asked, At, Given},
    list::{List, Part},
};
use crate::{control::Control, problem::ApiError};

pub(super) fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(revoke))
}

/// What may be done with a token.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RoleBody {
    Owner,
    Contributor,
    Reader,
    Scorer,
}

impl From<RoleBody> for Role {
    fn from(role: RoleBody) -> Self {
        match role {
            RoleBody::Owner => Self::Owner,
            RoleBody::Contributor => Self::Contributor,
            RoleBody::Reader => Self::Reader,
            RoleBody::Scorer => Self::Scorer,
        }
    }
}

impl From<Role> for RoleBody {
    fn from(role: Role) -> Self {
        match role {
            Role::Owner => Self::Owner,
            Role::Contributor => Self::Contributor,
            Role::Reader => Self::Reader,
            Role::Scorer => Self::Scorer,
        }
    }
}

/// A token to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TokenBody {
    /// For people.
    name: String,
    role: RoleBody,
    /// The only workspace that it is good for.
    #[schema(value_type = Option<String>)]
    workspace: Option<Name>,
    /// The only endpoint that it is good for.
    #[schema(value_type = Option<String>)]
    endpoint: Option<Name>,
    /// Left out, it is good until it is revoked.
    #[schema(minimum = 1, maximum = 315360000)]
    expires_in_seconds: Option<i64>,
}

/// What can be seen of a token.
#[derive(Debug, Serialize, ToSchema)]
struct TokenShown {
    id: String,
    name: String,
    role: RoleBody,
    workspace: Option<String>,
    endpoint: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
}

/// A new token.
#[derive(Serialize, ToSchema)]
struct TokenMade {
    #[serde(flatten)]
    shown: TokenShown,
    /// What the caller sends. It is not kept and cannot be shown again.
    token: String,
}

/// A token.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
struct AtToken {
    #[param(value_type = String)]
    id: Name,
}

/// The tokens of the server, by id.
#[utoipa::path(get, path = "/tokens", params(Part),
    responses((status = 200, body = List<TokenShown>), Refusals))]
async fn list(
    State(control): State<Control>,
    Asked(part): Asked<Part>,
) -> Result<Json<List<TokenShown>>, ApiError> {
    let mut all = control.store.tokens().await?;
    all.sort_by(|one, other| one.id.cmp(&other.id));
    part.of(all, |token| &token.id, |token| Ok(show(token))).map(Json)
}

/// Makes a token.
#[utoipa::path(post, path = "/tokens", request_body = TokenBody,
    responses((status = 201, description = "Made.", body = TokenMade), Refusals))]
async fn create(
    State(control): State<Control>,
    Given(body): Given<TokenBody>,
) -> Result<(StatusCode, Json<TokenMade>), ApiError> {
    if body.name.trim().is_empty() {
        return Err(ApiError::invalid("`name` is empty; it tells people whose token it is"));
    }
    let expires_at = body.expires_in_seconds.map(expiry).transpose()?;
    let new = NewToken {
        workspace: body.workspace,
        name: body.name,
        role: body.role.into(),
        endpoint: body.endpoint,
        expires_at,
    };
    let (token, secret) = control.store.create_token(new).await?;
    let made = TokenMade { shown: show(token), token: secret.expose().to_owned() };
    Ok((StatusCode::CREATED, Json(made)))
}

/// Revokes a token. The gateway may take it for some seconds more.
#[utoipa::path(delete, path = "/tokens/{id}", params(AtToken),
    responses((status = 204, description = "Revoked."), Refusals))]
async fn revoke(State(control): State<Control>, At(at): At<AtToken>) -> Result<StatusCode, ApiError> {
    control.store.revoke_token(at.id.as_str()).await?;
    control.doorkeeper.forget();
    Ok(StatusCode::NO_CONTENT)
}

fn expiry(seconds: i64) -> Result<Timestamp, ApiError> {
    const YEARS: i64 = 10 * 365 * 24 * 3600;
    if !(1..=YEARS).contains(&seconds) {
        return Err(ApiError::invalid(format!("`expires_in_seconds` is {seconds}; it can be 1 to {YEARS}")));
    }
    Timestamp::now().checked_add(SignedDuration::from_secs(seconds)).map_err(|error| {
        ApiError::new(ErrorClass::InvalidInput, "`expires_in_seconds` is too far").caused_by(error)
    })
}

fn show(token: Token) -> TokenShown {
    TokenShown {
        id: token.id,
        name: token.name,
        role: token.role.into(),
        workspace: token.workspace.map(String::from),
        endpoint: token.endpoint.map(String::from),
        created_at: token.created_at,
        expires_at: token.expires_at,
    }
}
