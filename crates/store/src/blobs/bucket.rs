//! Blobs as objects in a bucket of anything that speaks S3.
//!
//! An object appears when its upload is complete, so that there is never half of one. What a crash leaves of a
//! multi-part upload is the bucket's to collect (a lifecycle rule for incomplete uploads).

use std::{collections::BTreeMap, io::Read as _, sync::Arc, time::Duration};

use bytes::Bytes;
use fs_err::File;
use futures_util::StreamExt as _;
use moorline_core::Secret;
use object_store::{
    ObjectStore, ObjectStoreExt as _, PutPayload, RetryConfig, WriteMultipart, aws::AmazonS3Builder,
    aws::AmazonS3ConfigKey, path::Path as Key, prefix::PrefixStore,
};

use super::{blocking, staging};
use crate::StoreError;

/// The size of one part, and of the largest object that is sent in one piece. S3 allows 10,000 parts, which makes
/// 156 GiB the largest blob.
const PART: usize = 16 * 1024 * 1024;
/// How often and how long a request is tried again that the server could not answer.
const RETRIES: usize = 4;
const PATIENCE: Duration = Duration::from_secs(15);
/// Parts on their way at one time.
const PARTS: usize = 4;

/// Opens the bucket and looks whether it answers.
pub(super) async fn open(
    bucket: &str,
    prefix: &str,
    options: &BTreeMap<String, Secret>,
) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let mut builder = AmazonS3Builder::new();
    for (name, value) in options {
        // Others are for other programs that read the same environment.
        if let Ok(key) = name.parse::<AmazonS3ConfigKey>() {
            if key == AmazonS3ConfigKey::Endpoint && !is_address(value.expose()) {
                return Err(StoreError::Configuration {
                    what: "the address of the bucket's server is not one",
                    source: "it is written `https://host:port`".into(),
                });
            }
            builder = builder.with_config(key, value.expose());
        }
    }
    let retries = RetryConfig { max_retries: RETRIES, retry_timeout: PATIENCE, ..RetryConfig::default() };
    let objects = builder.with_bucket_name(bucket).with_retry(retries).build().map_err(|error| {
        StoreError::Configuration { what: "the bucket's options do not fit together", source: error.into() }
    })?;
    let objects: Arc<dyn ObjectStore> =
        if prefix.is_empty() { Arc::new(objects) } else { Arc::new(PrefixStore::new(objects, prefix)) };
    match objects.list(None).next().await {
        Some(Err(error)) if error.to_string().contains("NoSuchBucket") => {
            Err(StoreError::Configuration { what: "the bucket does not exist", source: error.into() })
        }
        Some(Err(error)) => Err(failure(error)),
        _ => Ok(objects),
    }
}

/// Whether the driver can send requests there; with anything else it panics.
fn is_address(text: &str) -> bool {
    let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")).unwrap_or_default();
    !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]/".contains(&byte))
}

/// Sends a verified file.
pub(super) async fn place(
    objects: &dyn ObjectStore,
    key: &Key,
    part: staging::Part,
) -> Result<(), StoreError> {
    let mut file = File::open(&part.path).map_err(|error| StoreError::file("the upload", error))?;
    let (mut piece, rest) = read(file).await?;
    file = rest;
    if piece.len() < PART {
        objects.put(key, PutPayload::from_bytes(piece)).await.map_err(failure)?;
        return Ok(());
    }
    let upload = objects.put_multipart(key).await.map_err(failure)?;
    let mut upload = WriteMultipart::new_with_chunk_size(upload, PART);
    while !piece.is_empty() {
        upload.wait_for_capacity(PARTS).await.map_err(failure)?;
        upload.put(piece);
        (piece, file) = read(file).await?;
    }
    upload.finish().await.map_err(failure)?;
    Ok(())
}

/// The next [`PART`] bytes of a file; fewer at its end.
async fn read(mut file: File) -> Result<(Bytes, File), StoreError> {
    blocking(move || {
        let mut piece = Vec::new();
        let read = std::io::Read::by_ref(&mut file).take(PART as u64).read_to_end(&mut piece);
        read.map_err(|error| StoreError::file("the upload", error))?;
        Ok((piece.into(), file))
    })
    .await
}

/// Says what kind of failure it is. `NotFound` of an object is the caller's to tell.
pub(super) fn failure(error: object_store::Error) -> StoreError {
    use object_store::Error as E;
    match error {
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => StoreError::Configuration {
            what: "the blob store does not accept its credentials",
            source: error.into(),
        },
        E::Generic { store: "LocalFileSystem", .. } => StoreError::Blobs { source: error.into() },
        E::Generic { .. } => StoreError::BlobsUnreachable { source: error.into() },
        other => StoreError::Blobs { source: other.into() },
    }
}
