//! Releases on disk: the folder that a scorer on this machine reads, made from the blobs of the store.
//!
//! A folder is named by the release's digest and moved into place whole, so that one that exists is complete.

use std::{
    collections::{BTreeSet, HashSet},
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use futures_util::{TryStreamExt, stream};
use moorline_core::{Digest, FileEntry, Release};
use moorline_store::{BlobStore, StoreError};
use thiserror::Error;

/// Files copied at one time.
const COPIES: usize = 8;
const BUILDING: &str = ".building-";

/// A release that could not be laid out.
#[derive(Debug, Error)]
pub(crate) enum ReleaseError {
    #[error("could not take `{path}` of release `{release}` out of the store")]
    Blob {
        path: String,
        release: String,
        #[source]
        source: StoreError,
    },
    #[error("could not write a release's folder")]
    Write(#[from] io::Error),
}

/// The folder of releases.
#[derive(Clone, Debug)]
pub(crate) struct Releases {
    folder: PathBuf,
    blobs: BlobStore,
}

impl Releases {
    /// Opens the folder and removes what a crash left unfinished.
    pub(crate) fn open(folder: PathBuf, blobs: BlobStore) -> io::Result<Self> {
        fs_err::create_dir_all(&folder)?;
        for entry in fs_err::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(BUILDING) {
                fs_err::remove_dir_all(entry.path())?;
            }
        }
        Ok(Self { folder, blobs })
    }

    /// Where each has a folder that is named by its digest.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where this release lies, or will lie.
    pub(crate) fn path(&self, release: &Release) -> PathBuf {
        self.folder.join(release.digest().hex())
    }

    /// Lays the release out, unless it is there.
    pub(crate) async fn ensure(&self, release: &Release) -> Result<PathBuf, ReleaseError> {
        let place = self.path(release);
        let there = place.clone();
        if blocking(move || touch(&there)).await? {
            return Ok(place);
        }
        let building = self.folder.join(format!("{BUILDING}{}", uuid::Uuid::new_v4()));
        let built = self.build(release, &building, false).await;
        let (from, to) = (building, place.clone());
        blocking(move || {
            let moved = built.and_then(|()| Ok(fs_err::rename(&from, &to)?));
            if moved.is_err() {
                // What cannot be removed now is removed when the folder is opened next.
                let _ = fs_err::remove_dir_all(&from);
            }
            // Somebody else may have laid out the same release meanwhile; the same digest is the same content.
            if to.exists() { Ok(()) } else { moved }
        })
        .await?;
        Ok(place)
    }

    /// Lays the release out for who only reads it. Files that the store has in this file system are not copied.
    pub(crate) async fn lend(&self, release: &Release) -> Result<Lent, ReleaseError> {
        let lent = Lent(self.folder.join(format!("{BUILDING}{}", uuid::Uuid::new_v4())));
        self.build(release, &lent.0, true).await?;
        Ok(lent)
    }

    async fn build(&self, release: &Release, folder: &Path, link: bool) -> Result<(), ReleaseError> {
        let model =
            release.model.iter().flat_map(|model| &model.files).map(|file| (Release::MODEL_DIR, file));
        let code = release.code.iter().flat_map(|code| &code.files).map(|file| (Release::CODE_DIR, file));
        let files: Vec<(PathBuf, &FileEntry)> =
            model.chain(code).map(|(below, file)| (folder.join(below).join(&file.path), file)).collect();
        let folders: BTreeSet<PathBuf> =
            files.iter().filter_map(|(to, _)| to.parent().map(Path::to_owned)).collect();
        let (manifest, text) = (folder.join(Release::FILE), release.to_json());
        let own = folder.to_owned();
        blocking(move || {
            // A release whose image brings its own server may have no file but the one that says so.
            fs_err::create_dir_all(own)?;
            folders.iter().try_for_each(fs_err::create_dir_all)?;
            Ok(fs_err::write(manifest, text)?)
        })
        .await?;
        stream::iter(files.into_iter().map(Ok))
            .try_for_each_concurrent(COPIES, async |(to, file)| {
                if link && self.link(&file.sha256, &to).await? {
                    return Ok(());
                }
                self.blobs.write_to(&file.sha256, &to).await.map_err(|source| ReleaseError::Blob {
                    path: file.path.clone(),
                    release: release.name.to_string(),
                    source,
                })
            })
            .await
    }

    /// Whether the file could be made another name of the store's own.
    async fn link(&self, digest: &Digest, to: &Path) -> Result<bool, ReleaseError> {
        let Some(from) = self.blobs.path(digest) else { return Ok(false) };
        let to = to.to_owned();
        // On another file system, or one without links, it is copied; one that is missing is told of then.
        blocking(move || Ok(fs_err::hard_link(from, to).is_ok())).await
    }

    /// Removes the releases that are not in `keep` and that nobody asked for since `before`.
    pub(crate) async fn sweep(&self, keep: &HashSet<Digest>, before: SystemTime) -> Result<(), ReleaseError> {
        let keep: HashSet<String> = keep.iter().map(Digest::hex).collect();
        let folder = self.folder.clone();
        blocking(move || {
            for entry in fs_err::read_dir(&folder)? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                if !keep.contains(&name) && entry.metadata()?.modified()? < before {
                    fs_err::remove_dir_all(entry.path())?;
                }
            }
            Ok(())
        })
        .await
    }
}

/// A release that is laid out for reading alone: what is written to its files is written to the store's. It goes with the
/// value.
#[derive(Debug)]
pub(crate) struct Lent(PathBuf);

impl Lent {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // What cannot be removed now is removed when the folder is opened next.
        let _ = fs_err::remove_dir_all(&self.0);
    }
}

/// Whether the folder is there; if it is, it counts as asked for now.
fn touch(folder: &Path) -> Result<bool, ReleaseError> {
    match fs_err::File::open(folder) {
        Ok(file) => {
            file.file().set_modified(SystemTime::now())?;
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Runs file work where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ReleaseError> + Send + 'static,
) -> Result<T, ReleaseError> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
