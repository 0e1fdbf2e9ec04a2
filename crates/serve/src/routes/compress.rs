//! gzip, deflate and br, both ways, on whole buffers: an answer is encoded once and known in full, and a request's
//! decompressed size must be bounded before anything looks at it. Large buffers are worked on off the runtime.

use std::io::{self, Read, Write};

use bytes::Bytes;
use flate2::{
    Compression,
    bufread::{MultiGzDecoder, ZlibDecoder},
    write::{GzEncoder, ZlibEncoder},
};
use moorline_core::ErrorClass;

use crate::problem::Problem;

/// Below this an answer is sent as it is: compressing it costs more than it saves.
const MIN_ANSWER_BYTES: usize = 1024;
/// From here on the work goes to a blocking thread.
const OFF_RUNTIME_BYTES: usize = 64 * 1024;
const BROTLI_BUFFER: usize = 16 * 1024;
const BROTLI_QUALITY: u32 = 4;
const BROTLI_WINDOW: u32 = 20;

/// A content coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Identity,
    Gzip,
    Deflate,
    Brotli,
}

impl Encoding {
    /// The coding of a `Content-Encoding`; `None` where it is not one of ours.
    pub(crate) fn of_content(value: &[u8]) -> Option<Self> {
        let value = value.trim_ascii();
        [
            (&b"identity"[..], Self::Identity),
            (b"", Self::Identity),
            (b"gzip", Self::Gzip),
            (b"x-gzip", Self::Gzip),
            (b"deflate", Self::Deflate),
            (b"br", Self::Brotli),
        ]
        .into_iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(value))
        .map(|(_, encoding)| encoding)
    }

    /// The best coding that an `Accept-Encoding` allows (RFC 9110, section 12.5.3); br before gzip before deflate
    /// among equals.
    pub(crate) fn accepted(value: &str) -> Self {
        let weight = |name: &str| {
            value.split(',').find_map(|part| {
                let (coding, parameters) = part.split_once(';').unwrap_or((part, ""));
                let q = parameters
                    .trim()
                    .strip_prefix("q=")
                    .map_or(Some(1.0), |q| q.trim().parse::<f32>().ok())?;
                coding.trim().eq_ignore_ascii_case(name).then_some(q)
            })
        };
        let any = weight("*").unwrap_or(0.0);
        let mut best = (Self::Identity, 0.0);
        for (name, encoding) in [("br", Self::Brotli), ("gzip", Self::Gzip), ("deflate", Self::Deflate)] {
            let q = weight(name).unwrap_or(any);
            if q > best.1 {
                best = (encoding, q);
            }
        }
        best.0
    }

    /// The value of `Content-Encoding`; `None` for identity.
    pub(crate) const fn header(self) -> Option<&'static str> {
        match self {
            Self::Identity => None,
            Self::Gzip => Some("gzip"),
            Self::Deflate => Some("deflate"),
            Self::Brotli => Some("br"),
        }
    }
}

/// Decompresses a request's body to at most `max` bytes.
pub(crate) async fn decompress(encoding: Encoding, body: Bytes, max: usize) -> Result<Bytes, Problem> {
    let name = encoding.header().unwrap_or("identity");
    let plain = off_runtime(body.len(), move || expand(encoding, &body, max)).await.map_err(|error| {
        Problem::new(ErrorClass::InvalidInput, format!("The request's body is not valid {name}: {error}"))
    })?;
    if plain.len() > max {
        return Err(Problem::new(
            ErrorClass::TooLarge,
            format!("The request's body exceeds the limit of {max} bytes after decompression"),
        ));
    }
    Ok(plain.into())
}

/// Compresses an answer where that is asked for and worth it; `None` leaves it as it is.
pub(crate) async fn compress(encoding: Encoding, body: &Bytes) -> Option<Bytes> {
    if encoding == Encoding::Identity || body.len() < MIN_ANSWER_BYTES {
        return None;
    }
    let body = body.clone();
    off_runtime(body.len(), move || shrink(encoding, &body)).await.ok().map(Bytes::from)
}

async fn off_runtime(
    size: usize,
    work: impl FnOnce() -> io::Result<Vec<u8>> + Send + 'static,
) -> io::Result<Vec<u8>> {
    if size < OFF_RUNTIME_BYTES {
        return work();
    }
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Reads one byte past `max`, so that the caller can tell a full body from one that is too large.
fn expand(encoding: Encoding, body: &[u8], max: usize) -> io::Result<Vec<u8>> {
    let limit = max as u64 + 1;
    let mut plain = Vec::with_capacity((body.len() * 4).min(max));
    match encoding {
        Encoding::Identity => plain.extend_from_slice(body),
        Encoding::Gzip => {
            MultiGzDecoder::new(body).take(limit).read_to_end(&mut plain)?;
        }
        Encoding::Deflate => {
            ZlibDecoder::new(body).take(limit).read_to_end(&mut plain)?;
        }
        Encoding::Brotli => {
            brotli::Decompressor::new(body, BROTLI_BUFFER).take(limit).read_to_end(&mut plain)?;
        }
    }
    Ok(plain)
}

fn shrink(encoding: Encoding, body: &[u8]) -> io::Result<Vec<u8>> {
    let out = Vec::with_capacity(body.len() / 2);
    match encoding {
        Encoding::Identity => Ok(body.to_vec()),
        Encoding::Gzip => {
            let mut encoder = GzEncoder::new(out, Compression::fast());
            encoder.write_all(body)?;
            encoder.finish()
        }
        Encoding::Deflate => {
            let mut encoder = ZlibEncoder::new(out, Compression::fast());
            encoder.write_all(body)?;
            encoder.finish()
        }
        Encoding::Brotli => {
            let mut encoder =
                brotli::CompressorWriter::new(out, BROTLI_BUFFER, BROTLI_QUALITY, BROTLI_WINDOW);
            encoder.write_all(body)?;
            Ok(encoder.into_inner())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_coding_round_trips_and_a_bomb_is_stopped() {
        let body = Bytes::from(vec![b'a'; 200_000]);
        for encoding in [Encoding::Gzip, Encoding::Deflate, Encoding::Brotli] {
            let small = compress(encoding, &body).await.unwrap();
            assert!(small.len() < body.len() / 10);
            assert_eq!(decompress(encoding, small.clone(), body.len()).await.unwrap(), body);
            let bomb = decompress(encoding, small.clone(), 1000).await.unwrap_err();
            assert_eq!(bomb.class, ErrorClass::TooLarge);
            let truncated =
                decompress(encoding, small.slice(..small.len() / 2), body.len()).await.unwrap_err();
            assert_eq!(truncated.class, ErrorClass::InvalidInput, "{encoding:?}");
        }
    }

    #[test]
    fn the_client_chooses() {
        assert_eq!(Encoding::accepted("gzip, deflate, br"), Encoding::Brotli);
        assert_eq!(Encoding::accepted("gzip;q=1.0, br;q=0.5"), Encoding::Gzip);
        assert_eq!(Encoding::accepted("br;q=0, *;q=0.1"), Encoding::Gzip);
        assert_eq!(Encoding::accepted("identity"), Encoding::Identity);
        assert_eq!(Encoding::accepted("br;q=x"), Encoding::Identity);
    }
}
