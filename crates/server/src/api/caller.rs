//! Who calls, as they are known here: what a page needs to offer no more than it may do.

use axum::{Extension, Json};
use moorline_store::Role;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Refusals, tokens::RoleBody};
use crate::{
    auth::{Action, Caller},
    control::Control,
    problem::ApiError,
};

pub(super) fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new().routes(routes!(caller))
}

/// Who calls.
#[derive(Serialize, ToSchema)]
struct CallerShown {
    /// The token's name; `local` where nobody is asked for one.
    name: String,
    role: RoleBody,
    /// Whether it showed a token.
    signed_in: bool,
    /// The only workspace that the token is good for.
    #[serde(skip_serializing_if = "Option::is_none")]
    workspace: Option<String>,
    /// The only endpoint that the token is good for.
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
    /// What the role allows, within that.
    may: Vec<Deed>,
}

/// Something that roles allow or do not.
#[derive(Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Deed {
    /// See everything but secrets and keys.
    Read,
    /// Register, deploy, change, delete.
    Write,
    /// See and change the keys of endpoints and devices.
    Keys,
    /// Set, list and delete secrets.
    Secrets,
    /// Make and delete workspaces.
    Workspaces,
    /// Make and revoke tokens.
    Tokens,
    /// Send requests to endpoints.
    Score,
}

const DEEDS: [(Deed, Action); 7] = [
    (Deed::Read, Action::Read),
    (Deed::Write, Action::Write),
    (Deed::Keys, Action::Keys),
    (Deed::Secrets, Action::Secrets),
    (Deed::Workspaces, Action::Workspaces),
    (Deed::Tokens, Action::Tokens),
    (Deed::Score, Action::Score),
];

/// Who calls, and what they may do.
#[utoipa::path(get, path = "/caller", responses((status = 200, body = CallerShown), Refusals))]
async fn caller(Extension(caller): Extension<Caller>) -> Result<Json<CallerShown>, ApiError> {
    let token = match &caller {
        Caller::Local => None,
        Caller::Holder(token) => Some(token),
    };
    let role = token.map_or(Role::Owner, |token| token.role);
    let may = DEEDS.into_iter().filter(|(_, action)| action.allowed_to(role)).map(|(deed, _)| deed).collect();
    Ok(Json(CallerShown {
        name: caller.name().to_owned(),
        role: role.into(),
        signed_in: token.is_some(),
        workspace: caller.workspace().map(ToString::to_string),
        endpoint: token.and_then(|token| token.endpoint.as_ref()).map(ToString::to_string),
        may,
    }))
}
