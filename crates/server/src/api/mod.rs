//! The API under `/api/v1`, one file for each kind of resource. Who may use a route is said in `auth`; what it takes and
//! gives is said beside its handler, and is in the OpenAPI document.

mod assets;
mod bitstreams;
mod blobs;
mod bodies;
mod caller;
mod codes;
mod collected;
mod computes;
mod deployments;
mod devices;
mod doctor;
mod endpoint_keys;
mod endpoints;
mod environments;
mod events;
mod extract;
mod images;
mod list;
mod logs;
mod metrics;
mod models;
mod operations;
mod prometheus;
mod removal;
mod rollouts;
mod secrets;
mod server;
mod signature;
mod tokens;
mod versioned;
mod workspaces;

use axum::{Router, middleware};
use moorline_core::{ErrorClass, Name};
use serde::Deserialize;
use utoipa::{
    IntoParams, IntoResponses,
    openapi::{ContentBuilder, HeaderBuilder, OpenApi, Ref, RefOr, Response, ResponseBuilder},
};
use utoipa_axum::router::OpenApiRouter;

pub(crate) use doctor::Findings;
pub(crate) use removal::recover;

use crate::{auth, control::Control, openapi, problem::ApiError};

/// Where the API begins.
pub(crate) const BASE: &str = "/api/v1";

/// Every route with its documentation.
fn routes() -> OpenApiRouter<Control> {
    let api = OpenApiRouter::new()
        .merge(server::routes())
        .merge(caller::routes())
        .merge(doctor::routes())
        .merge(workspaces::routes())
        .merge(blobs::routes())
        .merge(models::routes())
        .merge(signature::routes())
        .merge(environments::routes())
        .merge(codes::routes())
        .merge(bitstreams::routes())
        .merge(computes::routes())
        .merge(devices::routes())
        .merge(images::routes())
        .merge(secrets::routes())
        .merge(endpoints::routes())
        .merge(endpoint_keys::routes())
        .merge(rollouts::routes())
        .merge(deployments::routes())
        .merge(logs::routes())
        .merge(collected::routes())
        .merge(metrics::routes())
        .merge(prometheus::routes())
        .merge(events::routes())
        .merge(operations::routes())
        .merge(tokens::routes());
    OpenApiRouter::with_openapi(openapi::head()).nest(BASE, api).merge(server::unversioned())
}

/// The API as a service, each route behind the check of its caller.
pub(crate) fn router(control: Control) -> Router {
    let (router, _) = routes().split_for_parts();
    // What no route fits is answered by the guard, before any handler is looked for.
    router.layer(middleware::from_fn_with_state(control.clone(), auth::guard)).with_state(control)
}

/// What the routes say of themselves.
pub(crate) fn document() -> OpenApi {
    routes().into_openapi()
}

/// In a workspace.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
struct InWorkspace {
    /// The workspace's name.
    #[param(value_type = String)]
    workspace: Name,
}

/// An asset by name.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
struct AtName {
    /// The workspace's name.
    #[param(value_type = String)]
    workspace: Name,
    #[param(value_type = String)]
    name: Name,
}

/// A version of an asset.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
struct AtVersion {
    /// The workspace's name.
    #[param(value_type = String)]
    workspace: Name,
    #[param(value_type = String)]
    name: Name,
    #[param(value_type = String)]
    version: Name,
}

/// An endpoint.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
struct AtEndpoint {
    /// The workspace's name.
    #[param(value_type = String)]
    workspace: Name,
    /// The endpoint's name.
    #[param(value_type = String)]
    endpoint: Name,
}

/// A deployment.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
struct AtDeployment {
    /// The workspace's name.
    #[param(value_type = String)]
    workspace: Name,
    /// The endpoint's name.
    #[param(value_type = String)]
    endpoint: Name,
    /// The deployment's name.
    #[param(value_type = String)]
    deployment: Name,
}

/// The refusals that every route has in common.
struct Refusals;

impl IntoResponses for Refusals {
    fn responses() -> std::collections::BTreeMap<String, RefOr<Response>> {
        let refusal = |description: &str| {
            let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
            let id = HeaderBuilder::new().description(Some("The request's id.")).build();
            ResponseBuilder::new()
                .description(description)
                .content("application/problem+json", content)
                .header("x-request-id", id)
                .build()
        };
        [
            ("400", "Something in the path, the query or the body cannot work."),
            ("401", "The server asks for a token, and there was none or one that is not valid."),
            ("403", "The token's role or scope does not allow this, or a web page of another site sent it."),
            ("404", "Something that the request names does not exist."),
            ("409", "It exists already, has changed since it was read, or is in use."),
            ("413", "The body is beyond the bound."),
            ("415", "The body is not JSON."),
            ("500", "The server failed; its log has the cause under the request's id."),
            ("501", "Understood, and not offered by this build."),
            ("503", "The store cannot be used now."),
            ("504", "No answer within the bound."),
        ]
        .into_iter()
        .map(|(status, description)| (status.to_owned(), RefOr::T(refusal(description))))
        .collect()
    }
}

/// Reads what the server itself wrote into the store.
fn stored<T: serde::de::DeserializeOwned>(what: &str, value: serde_json::Value) -> Result<T, ApiError> {
    serde_json::from_value(value)
        .map_err(|error| ApiError::internal(format!("the record of {what} cannot be read"), error))
}

/// Writes what has only string keys.
fn to_json<T: serde::Serialize>(value: &T) -> Result<serde_json::Value, ApiError> {
    serde_json::to_value(value).map_err(|error| ApiError::internal("the answer cannot be written", error))
}

/// What a query or a path may hold as a version.
fn is_latest(version: &Name) -> bool {
    version.as_str().eq_ignore_ascii_case("latest")
}

/// Whether the store says that there is no such thing.
fn is_absent(error: &moorline_store::StoreError) -> bool {
    error.class() == ErrorClass::NotFound
}
