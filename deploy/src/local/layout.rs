//! The target's folder: whose it is, and where the files of deployments and replicas lie.
//!
//! ```text
//! HOME/id                                    says which replicas on this machine are ours
//! HOME/lock                                  held while a process owns the folder
//! HOME/deployments/W/E/D/state.json          what was applied last
//! HOME/deployments/W/E/D/replicas/ID/        address.json  scorer.log[.N]  stderr.log  draining
//! HOME/deployments/W/E/D/collected/           what its replicas collected and nobody has fetched
//! ```

use std::{
    io,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use fs_err::{File, OpenOptions};
use moorline_core::{DeploymentId, Digest, ErrorClass, Name, TargetError};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Folders of replicas that ended are kept for their logs, so many for a deployment.
const KEPT_ENDED: usize = 5;
const DEPLOYMENTS: &str = "deployments";
const REPLICAS: &str = "replicas";
const STATE: &str = "state.json";

/// The folder, owned by this process.
#[derive(Debug)]
pub(crate) struct Layout {
    home: PathBuf,
    /// Random, so that the replicas of two homes are told apart.
    pub(crate) id: String,
    /// The lock goes with the file.
    _lock: File,
}

/// What is remembered of a deployment over a restart; never anything secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) revision: Digest,
    pub(crate) replicas: u32,
}

/// The folder of one replica.
#[derive(Clone, Debug)]
pub(crate) struct ReplicaFolder(PathBuf);

impl Layout {
    pub(crate) fn open(home: &Path) -> Result<Self, TargetError> {
        let failed = |error: io::Error| {
            TargetError::caused(
                ErrorClass::Unavailable,
                "could not open the folder of the local target",
                error,
            )
        };
        fs_err::create_dir_all(home.join(DEPLOYMENTS)).map_err(failed)?;
        let home = fs_err::canonicalize(home).map_err(failed)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(home.join("lock"))
            .map_err(failed)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
            TargetError::caused(
                ErrorClass::Conflict,
                format!("`{}` is in use by another server", home.display()),
                io::Error::from(error),
            )
        })?;
        let path = home.join("id");
        let known = fs_err::read_to_string(&path).ok().filter(|id| Uuid::parse_str(id).is_ok());
        let id = if let Some(id) = known {
            id
        } else {
            let id = Uuid::new_v4().simple().to_string();
            write_whole(&path, id.as_bytes()).map_err(failed)?;
            id
        };
        Ok(Self { home, id, _lock: lock })
    }

    fn deployment(&self, id: &DeploymentId) -> PathBuf {
        self.home.join(folder_of(id))
    }

    fn replicas(&self, id: &DeploymentId) -> PathBuf {
        self.deployment(id).join(REPLICAS)
    }

    pub(crate) fn replica(&self, id: &DeploymentId, replica: &str) -> ReplicaFolder {
        ReplicaFolder(self.replicas(id).join(replica))
    }

    /// Where below any home a replica writes its address, be it that the home was moved since.
    pub(crate) fn address_below_home(id: &DeploymentId, replica: &str) -> PathBuf {
        ReplicaFolder(folder_of(id).join(REPLICAS).join(replica)).address()
    }

    /// The ids of all replicas whose folders are there, the oldest first.
    pub(crate) fn replica_ids(&self, id: &DeploymentId) -> Vec<String> {
        names_in(&self.replicas(id))
    }

    pub(crate) fn exists(&self, id: &DeploymentId) -> bool {
        self.deployment(id).is_dir()
    }

    pub(crate) fn remember(&self, id: &DeploymentId, record: &Record) -> io::Result<()> {
        let folder = self.deployment(id);
        fs_err::create_dir_all(&folder)?;
        write_whole(&folder.join(STATE), &serde_json::to_vec(record)?)
    }

    /// Removes everything that is kept of a deployment, and the folders above it that are empty then.
    pub(crate) fn forget(&self, id: &DeploymentId) -> io::Result<()> {
        let folder = self.deployment(id);
        match fs_err::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        for above in folder.ancestors().skip(1).take(2) {
            // Another deployment's folder in it is the usual reason why it stays.
            if fs_err::remove_dir(above).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Everything that is remembered.
    pub(crate) fn records(&self) -> Vec<(DeploymentId, Record)> {
        let root = self.home.join(DEPLOYMENTS);
        let mut found = Vec::new();
        for workspace in names_in(&root) {
            for endpoint in names_in(&root.join(&workspace)) {
                for deployment in names_in(&root.join(&workspace).join(&endpoint)) {
                    let Some(id) = deployment_id(&workspace, &endpoint, &deployment) else { continue };
                    let path = self.deployment(&id).join(STATE);
                    // Half a file is not possible but after a power cut, and then nothing of it runs.
                    let record = fs_err::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok());
                    found.extend(record.map(|record| (id, record)));
                }
            }
        }
        found
    }

    /// Removes the oldest folders of replicas that ended.
    pub(crate) fn prune(&self, id: &DeploymentId, running: &[String]) {
        let mut ended = self.replica_ids(id);
        ended.retain(|replica| !running.contains(replica));
        for replica in ended.iter().rev().skip(KEPT_ENDED) {
            if let Err(error) = fs_err::remove_dir_all(&self.replica(id, replica).0) {
                tracing::warn!(%error, "could not remove the log of a replica that ended long ago");
            }
        }
    }
}

impl ReplicaFolder {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn address(&self) -> PathBuf {
        self.0.join("address.json")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.0.join("scorer.log")
    }

    pub(crate) fn collected(&self) -> PathBuf {
        let deployment = self.0.ancestors().nth(2).unwrap_or(&self.0);
        deployment.join("collected")
    }

    pub(crate) fn stderr(&self) -> PathBuf {
        self.0.join("stderr.log")
    }

    /// There once it was told to finish: another server that adopts it goes on with that.
    pub(crate) fn draining(&self) -> PathBuf {
        self.0.join("draining")
    }
}

/// An id that no other replica has; later ones are greater.
pub(crate) fn new_replica_id() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let random = Uuid::new_v4().as_u128() as u32;
    format!("{seconds:08x}{:05x}", random & 0xf_ffff)
}

pub(crate) fn deployment_id(workspace: &str, endpoint: &str, deployment: &str) -> Option<DeploymentId> {
    let name = |text: &str| text.parse::<Name>().ok();
    Some(DeploymentId {
        workspace: name(workspace)?,
        endpoint: name(endpoint)?,
        deployment: name(deployment)?,
    })
}

fn folder_of(id: &DeploymentId) -> PathBuf {
    let names = [&id.workspace, &id.endpoint, &id.deployment];
    names.iter().fold(PathBuf::from(DEPLOYMENTS), |path, name| path.join(name.as_str()))
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs_err::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    names
}

/// The file is whole or as it was: it is written beside and renamed.
fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    fs_err::write(&beside, content)?;
    fs_err::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_owner_at_a_time_and_nothing_is_left_of_what_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::open(folder.path()).unwrap();
        let refusal = Layout::open(folder.path()).unwrap_err();
        assert_eq!(refusal.class, ErrorClass::Conflict);
        let id = deployment_id("default", "iris", "blue").unwrap();
        let record = Record { revision: Digest::of(b"1"), replicas: 2 };
        layout.remember(&id, &record).unwrap();
        let own = layout.id.clone();
        drop(layout);
        let layout = Layout::open(folder.path()).unwrap();
        assert_eq!((&layout.id, layout.records()), (&own, vec![(id.clone(), record)]));
        layout.forget(&id).unwrap();
        layout.forget(&id).unwrap();
        assert!(layout.records().is_empty());
        assert!(names_in(&folder.path().join(DEPLOYMENTS)).is_empty());
    }

    #[test]
    fn the_newest_logs_of_ended_replicas_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::open(folder.path()).unwrap();
        let id = deployment_id("default", "iris", "blue").unwrap();
        for number in 0..9 {
            fs_err::create_dir_all(layout.replica(&id, &format!("{number}")).path()).unwrap();
        }
        layout.prune(&id, &["0".to_owned()]);
        assert_eq!(layout.replica_ids(&id), ["0", "4", "5", "6", "7", "8"]);
    }
}
