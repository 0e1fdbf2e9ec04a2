//! Uploads on their way: `<digest>.part` for one that clients send piece by piece, a random name for one that is written
//! in one go. Both are collected when nobody has touched them for long.

use std::{
    collections::HashMap,
    io::{self, ErrorKind, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use bytes::Bytes;
use fs_err::{File, OpenOptions};
use futures_util::{Stream, StreamExt as _};
use moorline_core::Digest;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use uuid::Uuid;

use super::{CHUNK, blocking};
use crate::{Cause, StoreError};

/// What is full when the disk is.
const PLACE: &str = "the upload";

/// The folder of uploads.
#[derive(Debug)]
pub(super) struct Staging {
    folder: PathBuf,
    /// One at a time works on the upload of a blob. Entries go when nobody has them.
    locks: Mutex<HashMap<Digest, Arc<AsyncMutex<()>>>>,
}

/// A complete file whose content was verified; removed when it is dropped before it was moved.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) path: PathBuf,
    /// Until it is in its place, nobody else works on the same upload or collects it.
    _turn: OwnedMutexGuard<()>,
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = fs_err::remove_file(&self.path);
    }
}

impl Staging {
    pub(super) async fn open(folder: PathBuf) -> Result<Self, StoreError> {
        let made = folder.clone();
        blocking(move || fs_err::create_dir_all(made).map_err(|error| StoreError::file(PLACE, error)))
            .await?;
        Ok(Self { folder, locks: Mutex::default() })
    }

    fn part(&self, digest: &Digest) -> PathBuf {
        self.folder.join(format!("{}.part", digest.hex()))
    }

    /// Waits until nobody else works on the upload of this blob.
    async fn turn(&self, digest: &Digest) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(locks.entry(*digest).or_default())
        };
        lock.lock_owned().await
    }

    pub(super) async fn length(&self, digest: &Digest) -> Result<u64, StoreError> {
        let path = self.part(digest);
        blocking(move || Ok(part_length(&path)?.unwrap_or_default())).await
    }

    /// Adds what the stream gives, a chunk at a time, so that a slow sender keeps nobody from the upload.
    pub(super) async fn append<E: Into<Cause>>(
        &self,
        digest: &Digest,
        offset: u64,
        content: impl Stream<Item = Result<Bytes, E>> + Send,
    ) -> Result<u64, StoreError> {
        let mut content = std::pin::pin!(content);
        let mut position = offset;
        // Copied, since pieces may be as small as a byte, and each of them would keep the buffer it came in.
        let mut chunk: Vec<u8> = Vec::new();
        loop {
            let next = content.next().await;
            let (ended, failure) = match next {
                Some(Ok(bytes)) => {
                    chunk.extend_from_slice(&bytes);
                    (false, None)
                }
                Some(Err(error)) => (true, Some(error)),
                None => (true, None),
            };
            if ended || chunk.len() >= CHUNK {
                position = self.write_chunk(digest, position, std::mem::take(&mut chunk), ended).await?;
            }
            if let Some(error) = failure {
                return Err(StoreError::Interrupted { digest: *digest, source: error.into() });
            }
            if ended {
                return Ok(position);
            }
        }
    }

    async fn write_chunk(
        &self,
        digest: &Digest,
        offset: u64,
        chunk: Vec<u8>,
        sync: bool,
    ) -> Result<u64, StoreError> {
        let turn = self.turn(digest).await;
        let (path, folder, digest) = (self.part(digest), self.folder.clone(), *digest);
        blocking(move || {
            // Goes along, so that a caller who went away does not let the next one write at the same time.
            let _turn = turn;
            let actual = part_length(&path)?;
            if actual.unwrap_or_default() != offset {
                return Err(StoreError::Offset { digest, offset, actual: actual.unwrap_or_default() });
            }
            let write = || {
                let mut file = OpenOptions::new().append(true).create(true).open(&path)?;
                file.write_all(&chunk)?;
                if sync {
                    file.sync_all()?;
                    sync_folder(&folder)?;
                }
                Ok(offset + chunk.len() as u64)
            };
            write().map_err(|error: io::Error| {
                if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
                    // What does not fit must not keep the rest of the disk from everybody else. What cannot be removed
                    // now is collected later.
                    let _ = fs_err::remove_file(&path);
                }
                StoreError::file(PLACE, error)
            })
        })
        .await
    }

    /// The upload, if it has this size and this digest; `None` if there is no upload.
    pub(super) async fn verify(&self, digest: &Digest, size: u64) -> Result<Option<Part>, StoreError> {
        let turn = self.turn(digest).await;
        let (path, digest) = (self.part(digest), *digest);
        blocking(move || {
            let actual = match part_length(&path)? {
                Some(length) => length,
                // Of nothing, no piece is ever sent.
                None if size == 0 && digest == Digest::of(b"") => {
                    File::create(&path).map_err(|error| StoreError::file(PLACE, error))?;
                    0
                }
                None => return Ok(None),
            };
            if actual < size {
                return Err(StoreError::Size { digest, expected: size, actual });
            }
            // From here on it is a blob or it is nothing.
            let part = Part { path, _turn: turn };
            if actual > size {
                return Err(StoreError::Size { digest, expected: size, actual });
            }
            let file = File::open(&part.path).map_err(|error| StoreError::file(PLACE, error))?;
            let (actual, _) = Digest::of_reader(file).map_err(|error| StoreError::file(PLACE, error))?;
            if actual != digest {
                return Err(StoreError::Digest { digest, actual });
            }
            Ok(Some(part))
        })
        .await
    }

    /// A file of its own with these bytes.
    pub(super) async fn write(&self, content: Bytes) -> Result<(Part, Digest, u64), StoreError> {
        let (path, turn) = self.own_name().await;
        blocking(move || {
            let (part, mut file) = create(path, turn)?;
            file.write_all(&content).map_err(|error| StoreError::file(PLACE, error))?;
            Ok((part, Digest::of(&content), content.len() as u64))
        })
        .await
    }

    /// A file of its own with the content of another.
    pub(super) async fn copy(&self, source: PathBuf) -> Result<(Part, Digest, u64), StoreError> {
        let (path, turn) = self.own_name().await;
        blocking(move || {
            let file_error = |error| StoreError::file(PLACE, error);
            // Before it is opened: opening a pipe would wait for its other end.
            if !fs_err::metadata(&source).map_err(file_error)?.is_file() {
                return Err(StoreError::invalid(format!("`{}`", source.display()), "it is not a file"));
            }
            let (part, file) = create(path, turn)?;
            let reader = Copying { from: File::open(&source).map_err(file_error)?, to: file };
            let (digest, size) = Digest::of_reader(reader).map_err(file_error)?;
            Ok((part, digest, size))
        })
        .await
    }

    /// A name that nobody else has, and a turn that keeps it from being collected.
    async fn own_name(&self) -> (PathBuf, OwnedMutexGuard<()>) {
        let name = Uuid::new_v4().simple().to_string();
        let turn = self.turn(&Digest::of(name.as_bytes())).await;
        (self.folder.join(format!("{name}.whole")), turn)
    }

    /// Removes what nobody has touched since `before`; how many there were.
    pub(super) async fn collect(&self, before: SystemTime) -> Result<u64, StoreError> {
        let folder = self.folder.clone();
        let stale = blocking(move || {
            let old = |path: &Path| {
                fs_err::metadata(path).and_then(|found| found.modified()).is_ok_and(|time| time < before)
            };
            let entries = fs_err::read_dir(folder).map_err(|error| StoreError::file(PLACE, error))?;
            Ok(entries
                .filter_map(|entry| entry.ok().map(|entry| entry.path()))
                .filter(|path| path.extension().is_some_and(|end| end == "part" || end == "whole"))
                .filter(|path| old(path))
                .collect::<Vec<_>>())
        })
        .await?;
        let mut removed = 0;
        for path in stale {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let of_name = || Digest::of(stem.as_bytes());
            let turn = self.turn(&format!("sha256:{stem}").parse().unwrap_or_else(|_| of_name())).await;
            removed += blocking(move || {
                let _turn = turn;
                // Again: it may have gone on while this waited.
                let modified = fs_err::metadata(&path).and_then(|found| found.modified());
                let stale = modified.is_ok_and(|time| time < before);
                Ok(u64::from(stale && fs_err::remove_file(&path).is_ok()))
            })
            .await?;
        }
        Ok(removed)
    }
}

/// Writes what it reads.
struct Copying {
    from: File,
    to: File,
}

impl io::Read for Copying {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.from.read(buffer)?;
        self.to.write_all(&buffer[..length])?;
        Ok(length)
    }
}

fn create(path: PathBuf, turn: OwnedMutexGuard<()>) -> Result<(Part, File), StoreError> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(|error| StoreError::file(PLACE, error))?;
    Ok((Part { path, _turn: turn }, file))
}

fn part_length(path: &Path) -> Result<Option<u64>, StoreError> {
    match fs_err::metadata(path) {
        Ok(found) => Ok(Some(found.len())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::file(PLACE, error)),
    }
}

/// Forces the names in a folder to disk.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
