//! The folder of environments: which are whole, which are half made, and who makes one now.
//!
//! ```text
//! DIR/KEY/           an environment; whole once `moorline-environment.json` is in it
//! DIR/KEY/tree/      in its place, the files of an environment for an image, and their versions in `lock.txt`
//! DIR/KEY.log        what its build printed
//! DIR/KEY.lock       held while it is made
//! DIR/.building/     where it is made, before it is moved into place
//! ```

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use fs_err::{File, OpenOptions};
use rustix::fs::{FlockOperation, flock};
use uuid::Uuid;

const BUILDING: &str = ".building";
/// Written last.
const MARK: &str = "moorline-environment.json";
const LOCK_POLL: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// Clears away what builds left that did not end.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        fs_err::create_dir_all(path.join(BUILDING))?;
        let folder = Self(fs_err::canonicalize(path)?);
        for entry in fs_err::read_dir(&folder.0)?.flatten() {
            let name = entry.file_name();
            let Some(key) = name.to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_hexdigit()))
            else {
                continue;
            };
            // Another process may be at it.
            if !folder.is_whole(key) && folder.try_lock(key)?.is_some() {
                remove(&entry.path())?;
            }
        }
        for entry in fs_err::read_dir(folder.0.join(BUILDING))?.flatten() {
            let name = entry.file_name();
            let key = name.to_str().and_then(|name| name.split('-').next()).unwrap_or_default();
            if folder.try_lock(key)?.is_some() {
                remove(&entry.path())?;
            }
        }
        Ok(folder)
    }

    pub(crate) fn place(&self, key: &str) -> PathBuf {
        self.0.join(key)
    }

    pub(crate) fn log(&self, key: &str) -> PathBuf {
        self.0.join(format!("{key}.log"))
    }

    pub(crate) fn python(&self, key: &str) -> PathBuf {
        self.place(key).join("bin/python")
    }

    /// The files of an environment for an image.
    pub(crate) fn layer_tree(&self, key: &str) -> PathBuf {
        Self::tree_of(&self.place(key))
    }

    pub(crate) fn layer_lock(&self, key: &str) -> PathBuf {
        Self::lock_of(&self.place(key))
    }

    pub(crate) fn tree_of(place: &Path) -> PathBuf {
        place.join("tree")
    }

    pub(crate) fn lock_of(place: &Path) -> PathBuf {
        place.join("lock.txt")
    }

    /// It was made to the end, and the Python that it stands on is still there, unless that is of an image.
    pub(crate) fn is_whole(&self, key: &str) -> bool {
        let stands = || self.python(key).exists() || self.layer_tree(key).is_dir();
        self.place(key).join(MARK).is_file() && stands()
    }

    /// A new folder to build in.
    pub(crate) fn workshop(&self, key: &str) -> PathBuf {
        self.0.join(BUILDING).join(format!("{key}-{}", Uuid::new_v4().simple()))
    }

    /// Marks what was built as whole.
    pub(crate) fn mark(built: &Path, content: &str) -> io::Result<()> {
        fs_err::write(built.join(MARK), content)
    }

    /// Moves it into place, where nothing is but what is not whole.
    pub(crate) fn put(&self, built: &Path, key: &str) -> io::Result<()> {
        self.clear(key)?;
        fs_err::rename(built, self.place(key))
    }

    pub(crate) fn clear(&self, key: &str) -> io::Result<()> {
        remove(&self.place(key))
    }

    fn try_lock(&self, key: &str) -> io::Result<Option<File>> {
        let path = self.0.join(format!("{key}.lock"));
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until nobody else makes it. The lock is let go of with the file, and by the kernel where a process dies.
    pub(crate) async fn lock(&self, key: &str, mut waits: impl FnMut()) -> io::Result<File> {
        let mut told = false;
        loop {
            if let Some(lock) = self.try_lock(key)? {
                return Ok(lock);
            }
            if !std::mem::replace(&mut told, true) {
                waits();
            }
            tokio::time::sleep(LOCK_POLL).await;
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs_err::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_made_to_the_end_is_cleared_away() {
        let home = tempfile::tempdir().unwrap();
        let folder = Folder::open(home.path()).unwrap();
        for key in ["aa", "bb", "cc"] {
            fs_err::create_dir_all(folder.place(key).join("bin")).unwrap();
            fs_err::write(folder.python(key), "").unwrap();
        }
        Folder::mark(&folder.place("aa"), "{}").unwrap();
        let held = folder.try_lock("cc").unwrap();
        fs_err::create_dir_all(folder.workshop("bb")).unwrap();
        let again = Folder::open(home.path()).unwrap();
        assert!(again.is_whole("aa"));
        assert!(!again.place("bb").exists(), "half an environment is none");
        assert!(again.place("cc").exists(), "it is being made");
        assert_eq!(fs_err::read_dir(home.path().join(BUILDING)).unwrap().count(), 0);
        drop(held);
    }
}
