//! What the server says of itself: its name, that it lives, its documents, its metrics.

use axum::{Json, extract::State, http::header, response::IntoResponse};
use prometheus::TextEncoder;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::Refusals;
use crate::{control::Control, openapi, problem::ApiError};

pub(super) fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new().routes(routes!(about)).routes(routes!(health))
}

/// What lies beside the versioned API.
pub(super) fn unversioned() -> OpenApiRouter<Control> {
    OpenApiRouter::new().routes(routes!(document)).routes(routes!(metrics))
}

/// What answers here.
#[derive(Serialize, ToSchema)]
struct About {
    #[schema(example = "moorline")]
    name: &'static str,
    version: &'static str,
    /// Where clients work that are told no other.
    default_workspace: String,
}

/// What answers here.
#[utoipa::path(get, path = "", responses((status = 200, body = About), Refusals))]
async fn about(State(control): State<Control>) -> Json<About> {
    Json(About {
        name: "moorline",
        version: env!("CARGO_PKG_VERSION"),
        default_workspace: control.config.default_workspace.to_string(),
    })
}

/// Whether the server can work.
#[derive(Serialize, ToSchema)]
struct Health {
    #[schema(example = "healthy")]
    status: &'static str,
}

/// Whether the server can work: it answers, and its store does.
#[utoipa::path(get, path = "/health", responses((status = 200, body = Health), Refusals))]
async fn health(State(control): State<Control>) -> Result<Json<Health>, ApiError> {
    control.store.workspaces().await?;
    Ok(Json(Health { status: "healthy" }))
}

/// This document.
#[utoipa::path(get, path = "/api/openapi.json",
    responses((status = 200, description = "The OpenAPI document.", body = Object), Refusals))]
async fn document() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], openapi::text())
}

/// The metrics of the server's process and of its gateway.
#[utoipa::path(get, path = "/metrics",
    responses((status = 200, description = "Prometheus' text format.", body = String, content_type = "text/plain"), Refusals))]
async fn metrics(State(control): State<Control>) -> Result<impl IntoResponse, ApiError> {
    let text = TextEncoder::new()
        .encode_to_string(&control.metrics.gather())
        .map_err(|error| ApiError::internal("the metrics cannot be written", error))?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text))
}
