//! The secrets of a device's modules: asked of the server over TLS, by the device's certificate, and kept in files that this
//! user alone can read, so that modules start without a network. A document names them with their versions, and says
//! nothing of their values.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use moorline_core::Secret;
use thiserror::Error;

use crate::{
    disk::{self, replace},
    releases::{Releases, Unanswered},
};

/// The longest secret that is taken.
const LONGEST: u64 = 64 * 1024;

/// Why a secret is not there.
#[derive(Debug, Error)]
pub enum SecretsError {
    #[error("the secret `{name}` could not be fetched")]
    Fetch { name: String, source: Unanswered },
    #[error("the secret `{0}` is no text")]
    Shape(String),
    #[error("the secret `{name}` could not be read or kept")]
    Io { name: String, source: io::Error },
}

/// The secrets of a device.
#[derive(Debug)]
pub struct Secrets {
    folder: PathBuf,
    /// By whose connection they are asked for.
    releases: Arc<Releases>,
}

impl Secrets {
    pub fn new(folder: PathBuf, releases: Arc<Releases>) -> Self {
        Self { folder, releases }
    }

    /// Makes sure that this version of a secret is here.
    pub async fn ensure(&self, name: &str, version: u64) -> Result<(), SecretsError> {
        let path = path(&self.folder, name, version);
        if path.is_file() {
            return Ok(());
        }
        let fetched = self.releases.beside(&format!("secrets/{}", disk::file_name(name)), LONGEST).await;
        let value = fetched.map_err(|source| SecretsError::Fetch { name: name.to_owned(), source })?;
        if std::str::from_utf8(&value).is_err() || value.contains(&0) {
            return Err(SecretsError::Shape(name.to_owned()));
        }
        replace(&path, &value).map_err(|source| SecretsError::Io { name: name.to_owned(), source })
    }

    /// Deletes those that are not among these.
    pub fn retain<'a>(&self, kept: impl Iterator<Item = (&'a str, u64)>) -> io::Result<()> {
        let kept: BTreeSet<PathBuf> = kept.map(|(name, version)| path(&self.folder, name, version)).collect();
        let entries = match fs_err::read_dir(&self.folder) {
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            if !kept.contains(&path) {
                fs_err::remove_file(path)?;
            }
        }
        Ok(())
    }
}

/// A secret that was fetched.
pub(crate) fn read(folder: &Path, name: &str, version: u64) -> Result<Secret, SecretsError> {
    let read = fs_err::read_to_string(path(folder, name, version));
    read.map(Secret::new).map_err(|source| SecretsError::Io { name: name.to_owned(), source })
}

fn path(folder: &Path, name: &str, version: u64) -> PathBuf {
    folder.join(format!("{}.{version}", disk::file_name(name)))
}
