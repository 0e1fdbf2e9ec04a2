//! Reading a request's body within its bounds: size, time, the memory of all bodies together, and its encoding.

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use moorline_core::ErrorClass;

use super::compress::{Encoding, decompress};
use crate::{admission::BodyShare, app::App, problem::Problem};

/// The whole body, decompressed, and the share of memory that it holds.
pub(crate) async fn read_body(
    app: &App,
    headers: &HeaderMap,
    body: Body,
) -> Result<(Bytes, BodyShare), Problem> {
    let encoding = match headers.get(header::CONTENT_ENCODING) {
        None => Encoding::Identity,
        Some(value) => Encoding::of_content(value.as_bytes()).ok_or_else(|| {
            let given = String::from_utf8_lossy(value.as_bytes());
            Problem::new(
                ErrorClass::InvalidInput,
                format!("Content-Encoding `{given}` is not supported; use gzip, deflate, br or identity"),
            )
            .with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE)
        })?,
    };
    let max = app.config().max_body_bytes;
    let mut share = app.budget().share();
    let collected = collect(body, max, &mut share);
    let raw = tokio::time::timeout(app.config().body_timeout, collected)
        .await
        .map_err(|_| Problem::new(ErrorClass::Timeout, "The request's body did not arrive in time."))??;
    app.metrics().request_bytes.inc_by(raw.len() as u64);
    if encoding == Encoding::Identity {
        return Ok((raw, share));
    }
    let plain = decompress(encoding, raw, max).await?;
    share.grow(plain.len())?;
    Ok((plain, share))
}

/// Collects the frames; a body of one frame, which most are, is not copied.
async fn collect(mut body: Body, max: usize, share: &mut BodyShare) -> Result<Bytes, Problem> {
    use http_body::Body as _;
    if body.size_hint().lower() > max as u64 {
        return Err(too_large(max));
    }
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Problem::new(ErrorClass::InvalidInput, format!("The request's body could not be read: {error}"))
        })?;
        let Ok(data) = frame.into_data() else { continue };
        share.grow(data.len())?;
        if first.len() + rest.len() + data.len() > max {
            return Err(too_large(max));
        }
        if first.is_empty() && rest.is_empty() {
            first = data;
        } else {
            if rest.is_empty() {
                let expected = usize::try_from(body.size_hint().lower()).unwrap_or(0).min(max);
                rest.reserve(first.len() + data.len() + expected);
                rest.extend_from_slice(&first);
                first = Bytes::new();
            }
            rest.extend_from_slice(&data);
        }
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

fn too_large(max: usize) -> Problem {
    Problem::new(ErrorClass::TooLarge, format!("The request's body exceeds the limit of {max} bytes"))
}
