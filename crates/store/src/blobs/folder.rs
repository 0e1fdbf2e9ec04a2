//! Blobs as read-only files in a folder of this machine.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use bytes::Bytes;
use fs_err::{File, OpenOptions};
use futures_util::{StreamExt as _, stream};
use moorline_core::{Digest, FileEntry};
use object_store::{ObjectStore, local::LocalFileSystem};
use tokio::sync::OwnedRwLockWriteGuard;
use uuid::Uuid;

use super::{BlobStream, CHUNK, blocking, bucket, require, staging};
use crate::StoreError;

/// What is full when the disk is.
const PLACE: &str = "the blob store";
/// Begins the name of a copy on its way from another file system.
const INCOMING: &str = ".incoming-";

/// The folder.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    root: PathBuf,
}

impl Folder {
    pub(super) async fn open(root: PathBuf) -> Result<Self, StoreError> {
        let made = root.clone();
        blocking(move || fs_err::create_dir_all(made).map_err(|error| StoreError::file(PLACE, error)))
            .await?;
        Ok(Self { root })
    }

    pub(super) fn objects(&self) -> Result<Arc<dyn ObjectStore>, StoreError> {
        let objects = LocalFileSystem::new_with_prefix(&self.root).map_err(bucket::failure)?;
        Ok(Arc::new(objects))
    }

    pub(super) fn path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.root.join("sha256").join(&hex[..2]).join(hex)
    }

    /// Moves a verified file to its name. One that is there has the same content: it is replaced, and is as young as the
    /// newest upload of it.
    pub(super) async fn place(&self, digest: &Digest, part: staging::Part) -> Result<(), StoreError> {
        let (root, path) = (self.root.clone(), self.path(digest));
        let place = move || {
            let file = File::open(&part.path)?;
            file.set_permissions(PermissionsExt::from_mode(0o444))?;
            file.sync_all()?;
            drop(file);
            let folder = path.parent().unwrap_or(&root);
            if !folder.is_dir() {
                fs_err::create_dir_all(folder)?;
                staging::sync_folder(&root.join("sha256"))?;
                staging::sync_folder(&root)?;
            }
            match fs_err::rename(&part.path, &path) {
                Err(error) if error.kind() == ErrorKind::CrossesDevices => bring(&part.path, &root, &path)?,
                other => other?,
            }
            staging::sync_folder(folder)
        };
        blocking(move || place().map_err(|error| StoreError::file(PLACE, error))).await
    }

    pub(super) async fn require(&self, files: Vec<FileEntry>) -> Result<(), StoreError> {
        let folder = self.clone();
        blocking(move || {
            files.iter().try_for_each(|file| {
                let size = match fs_err::metadata(folder.path(&file.sha256)) {
                    Ok(found) => Some(found.len()),
                    Err(error) if error.kind() == ErrorKind::NotFound => None,
                    Err(error) => return Err(StoreError::file(PLACE, error)),
                };
                require(file, size)
            })
        })
        .await
    }

    pub(super) async fn write_to(&self, digest: &Digest, target: PathBuf) -> Result<(), StoreError> {
        let (source, digest) = (self.path(digest), *digest);
        blocking(move || {
            let expected = match fs_err::metadata(&source) {
                Ok(found) => found.len(),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return Err(StoreError::NotFound { noun: "blob", name: digest.to_string() });
                }
                Err(error) => return Err(StoreError::file(PLACE, error)),
            };
            let draft = Draft::new(target)?;
            let write = || {
                reflink_copy::reflink_or_copy(&source, &draft.path)?;
                fs_err::set_permissions(&draft.path, PermissionsExt::from_mode(0o444))?;
                fs_err::metadata(&draft.path).map(|found| found.len())
            };
            let actual = write().map_err(|error| StoreError::file("a copy of a blob", error))?;
            if actual != expected {
                return Err(StoreError::Size { digest, expected, actual });
            }
            draft.keep();
            Ok(())
        })
        .await
    }

    /// Removes a blob unless it was uploaded again since `before`; whether it was removed.
    pub(super) async fn remove(
        &self,
        digest: &Digest,
        before: SystemTime,
        turn: Arc<OwnedRwLockWriteGuard<()>>,
    ) -> Result<bool, StoreError> {
        let path = self.path(digest);
        blocking(move || {
            // Goes along: no registration may begin to rely on the blob before it is gone.
            let _turn = turn;
            let remove = || {
                if fs_err::metadata(&path)?.modified()? >= before {
                    return Ok(false);
                }
                fs_err::remove_file(&path).map(|()| true)
            };
            match remove() {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
                other => other.map_err(|error| StoreError::file(PLACE, error)),
            }
        })
        .await
    }

    /// Removes copies that a crash has left halfway.
    pub(super) async fn collect(&self, before: SystemTime) -> Result<u64, StoreError> {
        let root = self.root.clone();
        blocking(move || {
            let entries = fs_err::read_dir(root).map_err(|error| StoreError::file(PLACE, error))?;
            let stale = entries
                .filter_map(Result::ok)
                .filter(|entry| entry.file_name().to_string_lossy().starts_with(INCOMING))
                .filter(|entry| {
                    let modified = entry.metadata().and_then(|found| found.modified());
                    modified.is_ok_and(|time| time < before)
                })
                .filter(|entry| fs_err::remove_file(entry.path()).is_ok());
            Ok(stale.count() as u64)
        })
        .await
    }
}

/// Copies a file from another file system, so that it appears at its name whole or not at all.
fn bring(source: &Path, root: &Path, target: &Path) -> io::Result<()> {
    let incoming = root.join(format!("{INCOMING}{}", Uuid::new_v4().simple()));
    let bring = || {
        fs_err::copy(source, &incoming)?;
        File::open(&incoming)?.sync_all()?;
        fs_err::rename(&incoming, target)
    };
    bring().inspect_err(|_| drop(fs_err::remove_file(&incoming)))
}

/// A new file that goes again unless it is kept.
struct Draft {
    path: PathBuf,
    kept: bool,
}

impl Draft {
    /// Refuses a name that is taken.
    fn new(path: PathBuf) -> Result<Self, StoreError> {
        if path.symlink_metadata().is_ok() {
            let taken =
                io::Error::new(ErrorKind::AlreadyExists, format!("`{}` exists already", path.display()));
            return Err(StoreError::File { source: taken });
        }
        Ok(Self { path, kept: false })
    }

    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs_err::remove_file(&self.path);
        }
    }
}

/// Writes what comes over a network to a new file, and verifies it.
pub(super) async fn receive(
    digest: &Digest,
    size: u64,
    mut content: BlobStream,
    target: PathBuf,
) -> Result<(), StoreError> {
    let full = |error| StoreError::file("a copy of a blob", error);
    let (draft, mut file) = blocking(move || {
        let draft = Draft::new(target)?;
        let file = OpenOptions::new().write(true).create_new(true).open(&draft.path).map_err(full)?;
        Ok((draft, file))
    })
    .await?;
    while let Some(bytes) = content.next().await {
        let bytes = bytes?;
        file = blocking(move || file.write_all(&bytes).map(|()| file).map_err(full)).await?;
    }
    let digest = *digest;
    blocking(move || {
        file.set_permissions(PermissionsExt::from_mode(0o444)).map_err(full)?;
        let written = File::open(&draft.path).map_err(full)?;
        let (actual, length) = Digest::of_reader(written).map_err(full)?;
        if length != size {
            return Err(StoreError::Size { digest, expected: size, actual: length });
        }
        if actual != digest {
            return Err(StoreError::Digest { digest, actual });
        }
        draft.keep();
        Ok(())
    })
    .await
}

/// The content of an open file in large pieces.
pub(super) fn stream(file: std::fs::File) -> BlobStream {
    stream::try_unfold(file, |mut file| {
        blocking(move || {
            let mut piece = Vec::with_capacity(CHUNK);
            io::Read::by_ref(&mut file)
                .take(CHUNK as u64)
                .read_to_end(&mut piece)
                .map_err(|error| StoreError::file(PLACE, error))?;
            Ok((!piece.is_empty()).then(|| (Bytes::from(piece), file)))
        })
    })
    .boxed()
}
