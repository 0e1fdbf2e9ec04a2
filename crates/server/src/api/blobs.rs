//! Blobs: the content of files, uploaded in parts that can be resumed, verified, and found by digest.

use std::{io, time::Duration};

use axum::{
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use moorline_core::{Digest, Name};
use moorline_store::StoreError;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Refusals,
    extract::{Asked, At},
};
use crate::{control::Control, problem::ApiError};

/// Where an upload is, and where a part of one begins.
const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");

pub(super) fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new().routes(routes!(look, get, append))
}

/// A blob.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
struct AtBlob {
    /// The workspace's name.
    #[param(value_type = String)]
    workspace: Name,
    /// The digest of its content.
    #[param(value_type = String, pattern = "^sha256:[0-9a-f]{64}$")]
    digest: Digest,
}

/// What is announced of an upload.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Announced {
    /// Bytes of the whole blob.
    size: u64,
}

/// Whether a blob is there, and otherwise where its upload goes on.
#[utoipa::path(head, path = "/workspaces/{workspace}/blobs/{digest}", params(AtBlob),
    responses(
        (status = 200, description = "It is there.", headers(("content-length" = u64))),
        (status = 404, description = "It is not there.",
            headers(("upload-offset" = u64, description = "Where its upload goes on."))),
        Refusals))]
async fn look(State(control): State<Control>, At(at): At<AtBlob>) -> Result<Response, ApiError> {
    control.store.workspace(&at.workspace).await?;
    let blobs = control.store.blobs();
    if let Some(size) = blobs.size(&at.digest).await? {
        return Ok(with_header(StatusCode::OK, header::CONTENT_LENGTH, size));
    }
    let offset = blobs.upload_offset(&at.digest).await?;
    Ok(with_header(StatusCode::NOT_FOUND, UPLOAD_OFFSET, offset))
}

/// A blob's content.
#[utoipa::path(get, path = "/workspaces/{workspace}/blobs/{digest}", params(AtBlob),
    responses(
        (status = 200, description = "The content.", body = Vec<u8>, content_type = "application/octet-stream"),
        Refusals))]
async fn get(State(control): State<Control>, At(at): At<AtBlob>) -> Result<Response, ApiError> {
    control.store.workspace(&at.workspace).await?;
    let (size, content) = control.store.blobs().read(&at.digest).await?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (header::CONTENT_LENGTH, HeaderValue::from(size)),
    ];
    Ok((headers, Body::from_stream(content)).into_response())
}

/// Adds a part to an upload. With its last part the blob is verified and there.
#[utoipa::path(patch, path = "/workspaces/{workspace}/blobs/{digest}",
    params(AtBlob, Announced, ("upload-offset" = u64, Header, description = "Where this part begins.")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 201, description = "The blob is there.", headers(("upload-offset" = u64))),
        (status = 204, description = "The part is there.",
            headers(("upload-offset" = u64, description = "Where the next one begins."))),
        (status = 409, description = "The upload is elsewhere.",
            headers(("upload-offset" = u64, description = "Where it goes on."))),
        Refusals))]
async fn append(
    State(control): State<Control>,
    At(at): At<AtBlob>,
    Asked(announced): Asked<Announced>,
    request: Request,
) -> Result<Response, ApiError> {
    control.store.workspace(&at.workspace).await?;
    let (blobs, size) = (control.store.blobs(), announced.size);
    let offset = number(request.headers(), &UPLOAD_OFFSET)?.ok_or_else(|| {
        ApiError::invalid("the header `upload-offset` is missing; it says where this part begins")
    })?;
    if let Some(length) = number(request.headers(), &header::CONTENT_LENGTH)?
        && offset.saturating_add(length) > size
    {
        return Err(ApiError::invalid(format!(
            "a part of {length} bytes at {offset} goes beyond the blob's {size} bytes"
        )));
    }
    if offset == size && blobs.size(&at.digest).await? == Some(size) {
        return Ok(with_header(StatusCode::CREATED, UPLOAD_OFFSET, size));
    }
    let room = size.saturating_sub(offset);
    let content = within(request.into_body().into_data_stream(), room, control.config.bounds.body_timeout);
    match blobs.append(&at.digest, offset, content).await {
        Ok(reached) if reached < size => Ok(with_header(StatusCode::NO_CONTENT, UPLOAD_OFFSET, reached)),
        Ok(_) => {
            blobs.commit(&at.digest, size).await?;
            Ok(with_header(StatusCode::CREATED, UPLOAD_OFFSET, size))
        }
        Err(error) => {
            let actual = if let StoreError::Offset { actual, .. } = &error { Some(*actual) } else { None };
            let mut response = ApiError::from(error).into_response();
            if let Some(actual) = actual {
                response.headers_mut().insert(UPLOAD_OFFSET, actual.into());
            }
            Ok(response)
        }
    }
}

fn with_header(status: StatusCode, name: HeaderName, value: u64) -> Response {
    let mut response = status.into_response();
    response.headers_mut().insert(name, value.into());
    response
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Result<Option<u64>, ApiError> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    number
        .map(Some)
        .ok_or_else(|| ApiError::invalid(format!("the header `{name}` must be a number of bytes")))
}

/// The content as it comes: an error where it stands still for too long or goes beyond what was announced.
fn within(
    content: impl Stream<Item = Result<Bytes, axum::Error>> + Send + Unpin + 'static,
    room: u64,
    timeout: Duration,
) -> impl Stream<Item = Result<Bytes, io::Error>> + Send {
    stream::unfold(Some((content, room)), move |state| async move {
        let (mut content, room) = state?;
        let item = match tokio::time::timeout(timeout, content.next()).await {
            Ok(None) => return None,
            Ok(Some(Ok(bytes))) if bytes.len() as u64 <= room => Ok(bytes),
            Ok(Some(Ok(_))) => Err(io::Error::other("there is more content than was announced")),
            Ok(Some(Err(error))) => Err(io::Error::other(error)),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        let next = item.as_ref().ok().map(|bytes| (content, room - bytes.len() as u64));
        Some((item, next))
    })
}
