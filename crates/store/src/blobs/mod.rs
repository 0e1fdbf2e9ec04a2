//! Blobs: the content of files, named by its sha256, so that what is stored twice is there once.
//!
//! An upload grows in a file of its own, from which it resumes after an interruption or a crash, and becomes a blob only
//! when its size and digest are what was announced: whole or not at all, and on disk when that is acknowledged.

mod bucket;
mod folder;
mod staging;

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use moorline_core::{Digest, FileEntry};
use object_store::{GetResultPayload, ObjectMeta, ObjectStore, ObjectStoreExt as _, path::Path as Key};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use crate::{Cause, StoreError, config, database::Database};

use folder::Folder;
use staging::Staging;

/// How much of an upload is written at once, and of a blob read at once.
const CHUNK: usize = 1024 * 1024;
/// Requests to a bucket at one time.
const REQUESTS: usize = 16;

/// The content of a blob, piece by piece.
pub type BlobStream = BoxStream<'static, Result<Bytes, StoreError>>;

/// The blob store of a workspace; a clone is the same one.
#[derive(Clone, Debug)]
pub struct BlobStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    objects: Arc<dyn ObjectStore>,
    /// Where the objects are files.
    folder: Option<Folder>,
    staging: Staging,
    /// Says which blobs are needed.
    database: Database,
    /// Held for reading while a registration relies on blobs, for writing while some are collected.
    collection: Arc<RwLock<()>>,
}

impl BlobStore {
    pub(crate) async fn open(
        config: &config::Blobs,
        uploads: PathBuf,
        database: Database,
    ) -> Result<Self, StoreError> {
        let (objects, folder) = match config {
            config::Blobs::Folder(path) => {
                let folder = Folder::open(path.clone()).await?;
                (folder.objects()?, Some(folder))
            }
            config::Blobs::S3 { bucket, prefix, options } => {
                (bucket::open(bucket, prefix, options).await?, None)
            }
        };
        let staging = Staging::open(uploads).await?;
        let collection = Arc::default();
        Ok(Self { inner: Arc::new(Inner { objects, folder, staging, database, collection }) })
    }

    /// A blob's bytes, if it is there.
    pub async fn size(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        match self.inner.objects.head(&key(digest)).await {
            Ok(found) => Ok(Some(found.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(bucket::failure(error)),
        }
    }

    /// Where the upload of this blob goes on: 0 if nothing is there, the blob's size if all of it is.
    pub async fn upload_offset(&self, digest: &Digest) -> Result<u64, StoreError> {
        match self.size(digest).await? {
            Some(size) => Ok(size),
            None => self.inner.staging.length(digest).await,
        }
    }

    /// Adds to an upload and gives the offset after it, up to which it is on disk. `offset` must be where the upload is;
    /// otherwise it is a `Conflict` that says where that is. When the stream fails, what came before it is kept.
    ///
    /// Of several uploads of the same blob at once, each adds where the other one stopped, or is told to. Nothing bounds
    /// the length here but [`BlobStore::commit`]: the caller knows what was announced.
    pub async fn append<E: Into<Cause>>(
        &self,
        digest: &Digest,
        offset: u64,
        content: impl Stream<Item = Result<Bytes, E>> + Send,
    ) -> Result<u64, StoreError> {
        let start = self.upload_offset(digest).await?;
        if start != offset {
            return Err(StoreError::Offset { digest: *digest, offset, actual: start });
        }
        let appended = self.inner.staging.append(digest, offset, content).await;
        match appended {
            // Another one has finished it meanwhile: then the blob says where the upload is.
            Err(StoreError::Offset { digest, offset, .. }) => {
                let actual = self.upload_offset(&digest).await?;
                Err(StoreError::Offset { digest, offset, actual })
            }
            other => other,
        }
    }

    /// Makes an upload a blob once its size and digest are right; from then on it is there after any crash. Wrong content
    /// is dropped, a part that is too short is kept. A blob that is there already is fine.
    pub async fn commit(&self, digest: &Digest, size: u64) -> Result<(), StoreError> {
        if let Some(part) = self.inner.staging.verify(digest, size).await? {
            return self.place(digest, part).await;
        }
        match self.size(digest).await? {
            Some(actual) if actual == size => Ok(()),
            found => {
                let actual = found.unwrap_or_default();
                Err(StoreError::Size { digest: *digest, expected: size, actual })
            }
        }
    }

    /// Stores bytes at once.
    pub async fn put(&self, content: Bytes) -> Result<Digest, StoreError> {
        let (part, digest, _) = self.inner.staging.write(content).await?;
        self.place(&digest, part).await?;
        Ok(digest)
    }

    /// Stores a copy of a file: its digest and its size. A symlink is followed; anything but a file is `InvalidInput`.
    pub async fn put_file(&self, path: impl Into<PathBuf>) -> Result<(Digest, u64), StoreError> {
        let (part, digest, size) = self.inner.staging.copy(path.into()).await?;
        self.place(&digest, part).await?;
        Ok((digest, size))
    }

    /// A blob's size and content. `NotFound` if it is not there.
    pub async fn read(&self, digest: &Digest) -> Result<(u64, BlobStream), StoreError> {
        let found = self.inner.objects.get(&key(digest)).await.map_err(|error| failure(digest, error))?;
        let size = found.meta.size;
        let stream = match found.payload {
            GetResultPayload::File(file, _) => folder::stream(file),
            GetResultPayload::Stream(stream) => stream.map_err(bucket::failure).boxed(),
        };
        Ok((size, stream))
    }

    /// Writes a blob to a new file, read-only: as a clone that shares the disk's blocks where the file system can, else
    /// as a copy. It is checked, and not forced to disk.
    pub async fn write_to(&self, digest: &Digest, path: impl Into<PathBuf>) -> Result<(), StoreError> {
        let path = path.into();
        if let Some(folder) = &self.inner.folder {
            return folder.write_to(digest, path).await;
        }
        let (size, stream) = self.read(digest).await?;
        folder::receive(digest, size, stream, path).await
    }

    /// The blob as a file that can be opened and must not be changed; only where blobs lie in a folder.
    pub fn path(&self, digest: &Digest) -> Option<PathBuf> {
        let path = self.inner.folder.as_ref()?.path(digest);
        path.is_file().then_some(path)
    }

    /// While this is held, no blob is collected.
    pub(crate) async fn hold(&self) -> OwnedRwLockReadGuard<()> {
        Arc::clone(&self.inner.collection).read_owned().await
    }

    /// Refuses files whose blobs are not there, or have another size.
    pub(crate) async fn require(&self, files: &[FileEntry]) -> Result<(), StoreError> {
        if let Some(folder) = &self.inner.folder {
            return folder.require(files.to_vec()).await;
        }
        let check = |file: FileEntry| async move { require(&file, self.size(&file.sha256).await?) };
        stream::iter(files.to_vec()).map(check).buffer_unordered(REQUESTS).try_collect().await
    }

    /// Waits for the registrations that are under way, and keeps others from beginning.
    pub(crate) async fn stop_registrations(&self) -> OwnedRwLockWriteGuard<()> {
        Arc::clone(&self.inner.collection).write_owned().await
    }

    pub(crate) fn database(&self) -> &Database {
        &self.inner.database
    }

    /// Blobs that were uploaded before this, with their sizes.
    pub(crate) fn older_than(&self, before: SystemTime) -> BoxStream<'_, Result<(Digest, u64), StoreError>> {
        let old = move |found: ObjectMeta| async move {
            let digest =
                digest_of(&found.location).filter(|_| SystemTime::from(found.last_modified) < before);
            Ok(digest.map(|digest| (digest, found.size)))
        };
        self.inner.objects.list(None).map_err(bucket::failure).try_filter_map(old).boxed()
    }

    /// Removes a blob unless it was uploaded again since `before`; whether it was removed.
    pub(crate) async fn remove(
        &self,
        digest: &Digest,
        before: SystemTime,
        turn: Arc<OwnedRwLockWriteGuard<()>>,
    ) -> Result<bool, StoreError> {
        if let Some(folder) = &self.inner.folder {
            return folder.remove(digest, before, turn).await;
        }
        match self.inner.objects.delete(&key(digest)).await {
            Ok(()) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(bucket::failure(error)),
        }
    }

    /// Removes uploads that nobody has touched since `before`; how many there were.
    pub(crate) async fn collect_uploads(&self, before: SystemTime) -> Result<u64, StoreError> {
        let uploads = self.inner.staging.collect(before).await?;
        match &self.inner.folder {
            Some(folder) => Ok(uploads + folder.collect(before).await?),
            None => Ok(uploads),
        }
    }

    async fn place(&self, digest: &Digest, part: staging::Part) -> Result<(), StoreError> {
        match &self.inner.folder {
            Some(folder) => folder.place(digest, part).await,
            None => bucket::place(&*self.inner.objects, &key(digest), part).await,
        }
    }
}

/// The name of a blob below the folder or the prefix.
fn key(digest: &Digest) -> Key {
    let hex = digest.hex();
    Key::from_iter(["sha256", &hex[..2], &hex])
}

/// The blob that a name below the folder or the prefix is of.
fn digest_of(key: &Key) -> Option<Digest> {
    let digest: Digest = format!("sha256:{}", key.filename()?).parse().ok()?;
    (self::key(&digest) == *key).then_some(digest)
}

fn require(file: &FileEntry, size: Option<u64>) -> Result<(), StoreError> {
    match size {
        Some(size) if size == file.size => Ok(()),
        Some(actual) => Err(StoreError::Size { digest: file.sha256, expected: file.size, actual }),
        None => Err(StoreError::BlobMissing { digest: file.sha256 }),
    }
}

fn failure(digest: &Digest, error: object_store::Error) -> StoreError {
    match error {
        object_store::Error::NotFound { .. } => {
            StoreError::NotFound { noun: "blob", name: digest.to_string() }
        }
        other => bucket::failure(other),
    }
}

/// Runs work with files on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down.
            Err(error) => Err(StoreError::Blobs { source: error.into() }),
        },
    }
}
