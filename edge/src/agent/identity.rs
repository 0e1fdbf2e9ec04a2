//! What a device keeps of its enrolment: files that are replaced whole.

use std::{io, path::Path};

use serde::{Deserialize, Serialize};

use super::AgentError;
use crate::{disk, enrol::Enrolled, hub::ClientId};

const FILE: &str = "identity.json";

/// Who this device is, and whom it trusts.
#[derive(Clone, Serialize, Deserialize)]
pub struct Identity {
    /// That of its agent.
    pub id: ClientId,
    /// Where certificates are renewed.
    pub server: String,
    #[serde(flatten)]
    pub enrolled: Enrolled,
    /// PEM.
    pub key: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("id", &self.id).field("server", &self.server).finish_non_exhaustive()
    }
}

impl Identity {
    pub fn open(folder: &Path) -> Result<Self, AgentError> {
        let path = folder.join(FILE);
        let bytes = match fs_err::read(&path) {
            Ok(bytes) => bytes,
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
                return Err(AgentError::NotEnrolled(path));
            }
            Err(source) => return Err(AgentError::Io { path, source }),
        };
        serde_json::from_slice(&bytes).map_err(|source| AgentError::Damaged { path, source })
    }

    /// Writes it down, readable by its owner alone.
    pub fn save(&self, folder: &Path) -> Result<(), AgentError> {
        let bytes = serde_json::to_vec_pretty(self)
            .map_err(|source| AgentError::Damaged { path: folder.join(FILE), source })?;
        replace(&folder.join(FILE), &bytes)
    }
}

/// Replaces a file of the agent's.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), AgentError> {
    disk::replace(path, bytes).map_err(|source| AgentError::Io { path: path.to_owned(), source })
}
