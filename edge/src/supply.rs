//! Gives devices the files of the releases that they are told to run: `GET /edge/v1/releases/sha256:…`, from any byte on.
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
    hub::{AGENT, Hub, Presented},
};

/// Files are below.
pub const PATH: &str = "/edge/v1/releases";
/// Read at once.
const CHUNK: usize = 64 * 1024;

#[derive(Clone, Debug)]
struct Supply {
    hub: Hub,
    fleet: Fleet,
}

/// The route, for the HTTPS of the fleet's hub.
pub fn router(hub: Hub, fleet: Fleet) -> Router {
    Router::new().route(&format!("{PATH}/{{digest}}"), get(file)).with_state(Supply { hub, fleet })
}

async fn file(
    State(supply): State<Supply>,
    Extension(presented): Extension<Option<Presented>>,
    At(digest): At<String>,
    headers: HeaderMap,
) -> Response {
    let device = match &presented {
        Some(presented) => supply.hub.proved_by(presented).await,
        None => None,
    };
    let Some(device) = device.filter(|id| id.module_name() == Some(AGENT)) else {
        return refusal(StatusCode::UNAUTHORIZED, "the certificate is not that of the agent of a device");
    };
    let found = digest.parse::<Digest>().ok().map(|digest| supply.fleet.file(device.device_name(), &digest));
    let path = match found {
        Some(Ok(Some(path))) => path,
        Some(Err(error)) => {
            tracing::warn!(client = %device, error = &error as &dyn std::error::Error, "could not look a file up");
            return refusal(StatusCode::SERVICE_UNAVAILABLE, "try again later");
        }
        Some(Ok(None)) | None => {
            return refusal(StatusCode::NOT_FOUND, "no release of this device has such a file");
        }
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
