//! Gives devices the files of the releases that they are told to run, `GET /edge/v1/releases/sha256:…`, from any byte on; and
//! the secrets of their modules' variables, `GET /edge/v1/secrets/NAME`.
//!
//! A device proves itself by the certificate of its agent, and gets nothing that is not for it.

use std::{io, path::Path};

use axum::{
    Extension, Router,
    body::Body,
    extract::{Path as At, State},
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use moorline_core::Digest;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

use crate::{
    fleet::Fleet,
    hub::{AGENT, ClientId, Hub, Presented},
};

/// Files are below.
pub const PATH: &str = "/edge/v1/releases";
/// Secrets are below.
const SECRETS: &str = "/edge/v1/secrets";
/// Read at once.
const CHUNK: usize = 64 * 1024;

#[derive(Clone, Debug)]
struct Supply {
    hub: Hub,
    fleet: Fleet,
}

/// The routes, for the HTTPS of the fleet's hub.
pub fn router(hub: Hub, fleet: Fleet) -> Router {
    Router::new()
        .route(&format!("{PATH}/{{digest}}"), get(file))
        .route(&format!("{SECRETS}/{{name}}"), get(secret))
        .with_state(Supply { hub, fleet })
}

impl Supply {
    /// The device whose agent asks.
    async fn device(&self, presented: Option<Presented>) -> Result<ClientId, Response> {
        let proved = match &presented {
            Some(presented) => self.hub.proved_by(presented).await,
            None => None,
        };
        proved.filter(|id| id.module_name() == Some(AGENT)).ok_or_else(|| {
            refusal(StatusCode::UNAUTHORIZED, "the certificate is not that of the agent of a device")
        })
    }
}

async fn secret(
    State(supply): State<Supply>,
    Extension(presented): Extension<Option<Presented>>,
    At(name): At<String>,
) -> Response {
    let device = match supply.device(presented).await {
        Ok(device) => device,
        Err(refused) => return refused,
    };
    match supply.fleet.secret(device.device_name(), &name).await {
        Ok(Some(secret)) => {
            tracing::info!(client = %device, secret = name, "a device was given a secret");
            let kept =
                [(header::CACHE_CONTROL, "no-store"), (header::CONTENT_TYPE, "text/plain; charset=utf-8")];
            (kept, secret.expose().to_owned()).into_response()
        }
        Ok(None) => refusal(StatusCode::NOT_FOUND, "no module of this device has such a secret"),
        Err(error) => {
            tracing::warn!(client = %device, error = &error as &dyn std::error::Error, "could not look a secret up");
            refusal(StatusCode::SERVICE_UNAVAILABLE, "try again later")
        }
    }
}

async fn file(
    State(supply): State<Supply>,
    Extension(presented): Extension<Option<Presented>>,
    At(digest): At<String>,
    headers: HeaderMap,
) -> Response {
    let device = match supply.device(presented).await {
        Ok(device) => device,
        Err(refused) => return refused,
    };
    let not_found = || refusal(StatusCode::NOT_FOUND, "no release of this device has such a file");
    let Ok(digest) = digest.parse::<Digest>() else { return not_found() };
    let path = match supply.fleet.file(device.device_name(), &digest).await {
        Ok(Some(path)) => path,
        Err(error) => {
            tracing::warn!(client = %device, error = &error as &dyn std::error::Error, "could not look a file up");
            return refusal(StatusCode::SERVICE_UNAVAILABLE, "try again later");
        }
        Ok(None) => return not_found(),
    };
    match send(&path, from(&headers)).await {
        Ok(answer) => answer,
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "could not read a file of a release");
            refusal(StatusCode::SERVICE_UNAVAILABLE, "try again later")
        }
    }
}

/// The first byte that is asked for: an agent goes on where it was cut off. Any other range gets all of it, as HTTP allows.
fn from(headers: &HeaderMap) -> u64 {
    let range = headers.get(header::RANGE).and_then(|range| range.to_str().ok());
    range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()).unwrap_or(0)
}

async fn send(path: &Path, from: u64) -> io::Result<Response> {
    let mut file = tokio::fs::File::open(path).await?;
    let size = file.metadata().await?.len();
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if from > 0 && from >= size {
        headers.insert(header::CONTENT_RANGE, text(&format!("bytes */{size}"))?);
        return Ok((StatusCode::RANGE_NOT_SATISFIABLE, headers).into_response());
    }
    let mut status = StatusCode::OK;
    if from > 0 {
        file.seek(io::SeekFrom::Start(from)).await?;
        status = StatusCode::PARTIAL_CONTENT;
        headers.insert(header::CONTENT_RANGE, text(&format!("bytes {from}-{}/{size}", size - 1))?);
    }
    headers.insert(header::CONTENT_LENGTH, text(&(size - from).to_string())?);
    let body = Body::from_stream(ReaderStream::with_capacity(file.take(size - from), CHUNK));
    Ok((status, headers, body).into_response())
}

fn text(value: &str) -> io::Result<HeaderValue> {
    HeaderValue::from_str(value).map_err(io::Error::other)
}

fn refusal(status: StatusCode, message: &str) -> Response {
    (status, axum::Json(serde_json::json!({ "message": message }))).into_response()
}
