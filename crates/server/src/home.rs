//! `$MOORLINE_HOME`: the lock that keeps a second server out, and the file that tells clients where the first one is.

use std::{
    io::{self, Read, Seek, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

/// What clients read of a running server: the content of `server.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    pub address: SocketAddr,
    pub pid: u32,
    pub version: String,
}

impl Announcement {
    /// The file's name in the home folder.
    pub const FILE: &str = "server.json";

    /// Reads what the server of this home wrote, if one did; whether it still runs is not looked at.
    pub fn read(home: &Path) -> io::Result<Option<Self>> {
        match fs_err::read(home.join(Self::FILE)) {
            // One that was cut off is none: the server writes a new one at its next start.
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The right to be this home's server, for as long as the value lives.
#[derive(Debug)]
pub(crate) struct HomeLock {
    home: PathBuf,
    /// The kernel lets go of the lock when the process ends, however it does.
    _file: fs_err::File,
}

/// Why the home could not be had.
pub(crate) enum LockFailure {
    /// Another process is this home's server.
    Held {
        pid: Option<u32>,
    },
    Io(io::Error),
}

impl HomeLock {
    /// Makes the folder where it is missing, and takes its lock.
    pub(crate) fn take(home: &Path) -> Result<Self, LockFailure> {
        let take = || -> io::Result<Result<Self, Option<u32>>> {
            fs_err::create_dir_all(home)?;
            let mut file = fs_err::OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(home.join("server.lock"))?;
            if let Err(error) = rustix::fs::flock(file.file(), FlockOperation::NonBlockingLockExclusive) {
                if error != rustix::io::Errno::WOULDBLOCK {
                    return Err(error.into());
                }
                let mut text = String::new();
                // The text is for people; the lock is what counts.
                let _ = (&mut file).take(32).read_to_string(&mut text);
                return Ok(Err(text.trim().parse().ok()));
            }
            file.file().set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())?;
            Ok(Ok(Self { home: home.to_owned(), _file: file }))
        };
        match take() {
            Ok(Ok(lock)) => Ok(lock),
            Ok(Err(pid)) => Err(LockFailure::Held { pid }),
            Err(error) => Err(LockFailure::Io(error)),
        }
    }

    /// What tells this home's things from those of others, wherever they are: made once.
    pub(crate) fn id(&self) -> io::Result<String> {
        let path = self.home.join("server.id");
        match fs_err::read_to_string(&path) {
            Ok(id) if !id.trim().is_empty() => Ok(id.trim().to_owned()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => {
                let id = uuid::Uuid::new_v4().simple().to_string();
                let draft = self.home.join("server.id.new");
                fs_err::write(&draft, &id)?;
                fs_err::rename(draft, path)?;
                Ok(id)
            }
        }
    }

    /// Writes `server.json`, whole or not at all.
    pub(crate) fn announce(&self, announcement: &Announcement) -> io::Result<()> {
        let target = self.home.join(Announcement::FILE);
        let draft = self.home.join("server.json.new");
        fs_err::write(&draft, serde_json::to_vec(announcement)?)?;
        fs_err::rename(draft, target)
    }

    /// Takes `server.json` away again.
    pub(crate) fn withdraw(&self) -> io::Result<()> {
        match fs_err::remove_file(self.home.join(Announcement::FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_has_one_server_at_a_time() {
        let home = tempfile::tempdir().unwrap();
        let lock = HomeLock::take(home.path()).ok().unwrap();
        let Err(LockFailure::Held { pid }) = HomeLock::take(home.path()) else {
            panic!("a second lock was given out")
        };
        assert_eq!(pid, Some(std::process::id()));
        drop(lock);
        assert!(HomeLock::take(home.path()).is_ok());
    }

    #[test]
    fn a_home_keeps_its_id() {
        let home = tempfile::tempdir().unwrap();
        let id = HomeLock::take(home.path()).ok().unwrap().id().unwrap();
        assert_eq!(HomeLock::take(home.path()).ok().unwrap().id().unwrap(), id);
    }

    #[test]
    fn an_announcement_is_read_back_and_withdrawn() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(Announcement::read(home.path()).unwrap(), None);
        let lock = HomeLock::take(home.path()).ok().unwrap();
        let announcement =
            Announcement { address: ([127, 0, 0, 1], 7).into(), pid: 1, version: "1.2.3".to_owned() };
        lock.announce(&announcement).unwrap();
        assert_eq!(Announcement::read(home.path()).unwrap(), Some(announcement));
        lock.withdraw().unwrap();
        lock.withdraw().unwrap();
        assert_eq!(Announcement::read(home.path()).unwrap(), None);
    }
}
