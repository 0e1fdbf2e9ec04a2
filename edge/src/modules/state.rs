//! What a device knows of a module beyond its desired state: which version worked last, and which one before it. A file
//! that is replaced whole, so that a loss of power leaves the old one or the new one.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{ModuleError, Version};
use crate::{desired::DesiredModule, disk::file_name};

const FILE: &str = "state.json";

#[derive(Debug)]
pub(super) struct State {
    path: PathBuf,
    /// Passed its checks, and took requests last.
    pub(super) good: Option<Version>,
    /// Proved itself before that one came.
    pub(super) previous: Option<Version>,
    /// Failed, and is not tried again.
    pub(super) refused: Option<DesiredModule>,
    /// The port of the module's address.
    pub(super) port: u16,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Written {
    good: Option<Version>,
    previous: Option<Version>,
    refused: Option<DesiredModule>,
    port: u16,
}

pub(super) fn folder(all: &Path, name: &str) -> PathBuf {
    all.join(file_name(name))
}

/// The modules of which something is known.
pub(super) fn names(all: &Path) -> Vec<String> {
    let entries = fs_err::read_dir(all).into_iter().flatten().flatten();
    // Names of modules are written as they are.
    entries
        .filter(|entry| entry.path().join(FILE).is_file())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

impl State {
    pub(super) fn open(all: &Path, name: &str) -> Result<Self, ModuleError> {
        let folder = folder(all, name);
        fs_err::create_dir_all(&folder).map_err(|source| ModuleError::Io { path: folder.clone(), source })?;
        let path = folder.join(FILE);
        let written: Written = match fs_err::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(%error, path = %path.display(), "what is known of a module cannot be read");
                Written::default()
            }),
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => Written::default(),
            Err(source) => return Err(ModuleError::Io { path, source }),
        };
        Ok(Self {
            path,
            good: written.good,
            previous: written.previous,
            refused: written.refused,
            port: written.port,
        })
    }

    pub(super) fn save(&self) -> Result<(), ModuleError> {
        let written = Written {
            good: self.good.clone(),
            previous: self.previous.clone(),
            refused: self.refused.clone(),
            port: self.port,
        };
        let new = self.path.with_extension("new");
        let save = || {
            fs_err::write(&new, serde_json::to_vec_pretty(&written)?)?;
            fs_err::File::open(&new)?.sync_all()?;
            fs_err::rename(&new, &self.path)?;
            fs_err::File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
        };
        save().map_err(|source| ModuleError::Io { path: self.path.clone(), source })
    }

    /// Of the module's logs and addresses.
    pub(super) fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }
}
