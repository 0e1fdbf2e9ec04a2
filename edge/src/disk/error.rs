//! What can go wrong with the disk.

use std::{io, path::PathBuf};

use thiserror::Error;

/// A failure of the hub's folder.
#[derive(Debug, Error)]
pub enum DiskError {
    #[error("could not read or write what the hub keeps in `{}`", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("`{}` is in use by another hub; end it first", .0.display())]
    InUse(PathBuf),
    #[error("the hub is ending and stores nothing more")]
    Closed,
}

impl DiskError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
