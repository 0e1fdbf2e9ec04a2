//! Who has a device. A device takes one bitstream at a time, so whoever uses it leases it: a lock on a file, which the
//! kernel gives back when the last process that holds it has ended. The worker holds it together with its parent, so a
//! device is never leased anew while a worker of a dead parent is still busy with it. The file also remembers how
//! workers ended; a device that they ended on too often is kept in quarantine by a file beside it, until that is removed.

use std::{
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    os::fd::{AsFd, BorrowedFd},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use fs_err::{File, OpenOptions};
use moorline_core::{Digest, ErrorClass};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::device::DeviceId;

const QUARANTINE: &str = "quarantine";
/// More than a record ever has.
const LONGEST_RECORD: u64 = 1 << 20;

/// Why a device is not to be had.
#[derive(Debug, Error)]
pub enum LeaseError {
    #[error("could not read or write the lease of `{device}` below `{}`", folder.display())]
    Io {
        device: DeviceId,
        folder: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "the device `{device}` is leased to `{holder}` (process {process}); stop that, or take another device"
    )]
    Taken { device: DeviceId, holder: String, process: u32 },
    #[error("the device `{device}` is in quarantine: {reason}; see to it, and then remove `{}`", file.display())]
    Quarantined { device: DeviceId, reason: String, file: PathBuf },
    #[error(
        "the lease of `{device}` was lost: its file was replaced, and the device may have another holder; start again"
    )]
    Lost { device: DeviceId },
}

impl LeaseError {
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::Io { .. } => ErrorClass::Internal,
            Self::Taken { .. } => ErrorClass::Conflict,
            Self::Quarantined { .. } | Self::Lost { .. } => ErrorClass::Unavailable,
        }
    }
}

/// When a device is put into quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quarantine {
    /// As many workers must have died or hung on it,
    pub ends: usize,
    /// within this time.
    pub within: Duration,
}

impl Default for Quarantine {
    fn default() -> Self {
        Self { ends: 3, within: Duration::from_mins(10) }
    }
}

/// What a lease's file says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Record {
    device: String,
    /// Grows with every lease: of two who believe to have the device, the one with the greater number has it.
    generation: u64,
    holder: String,
    process: u32,
    /// How workers ended of late: seconds since 1970, and why.
    ends: Vec<(u64, String)>,
}

/// A device's lease as others see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeaseState {
    /// Who has it; nobody where it is free.
    pub holder: Option<String>,
    pub generation: u64,
    /// Why nobody may have it.
    pub quarantine: Option<String>,
}

/// The leases of one machine: a folder that all share who use its devices.
#[derive(Clone, Debug)]
pub struct Leases {
    folder: PathBuf,
}

impl Leases {
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// Takes a device for `holder`, which is told to whoever else asks for it.
    pub fn acquire(&self, device: &DeviceId, holder: &str, rule: Quarantine) -> Result<Lease, LeaseError> {
        self.try_acquire(device, holder, rule).map_err(|refusal| refusal.of(device, &self.folder))
    }

    fn try_acquire(&self, device: &DeviceId, holder: &str, rule: Quarantine) -> Result<Lease, Refusal> {
        fs_err::create_dir_all(&self.folder)?;
        let _gate = self.gate(device)?;
        let path = self.path(device, "lease");
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        let locked = lock(&file)?;
        let mut record = read(&mut file)?;
        if !locked {
            return Err(Refusal::Taken { holder: record.holder, process: record.process });
        }
        if let Some(reason) = quarantine(&self.path(device, QUARANTINE))? {
            return Err(Refusal::Quarantined { reason, file: self.path(device, QUARANTINE) });
        }
        record.device = device.to_string();
        record.generation += 1;
        holder.clone_into(&mut record.holder);
        record.process = std::process::id();
        write(&mut file, &record)?;
        let generation = record.generation;
        Ok(Lease { leases: self.clone(), device: device.clone(), generation, path, file, rule })
    }

    /// What is true of a device now. It may be leased the moment after.
    pub fn state(&self, device: &DeviceId) -> Result<LeaseState, LeaseError> {
        self.try_state(device).map_err(|refusal| refusal.of(device, &self.folder))
    }

    fn try_state(&self, device: &DeviceId) -> Result<LeaseState, Refusal> {
        let quarantine = quarantine(&self.path(device, QUARANTINE))?;
        let path = self.path(device, "lease");
        if !path.exists() {
            return Ok(LeaseState { holder: None, generation: 0, quarantine });
        }
        let _gate = self.gate(device)?;
        let mut file = OpenOptions::new().read(true).open(&path)?;
        let unlocked = lock(&file)?;
        let record = read(&mut file)?;
        let holder = (!unlocked).then_some(record.holder);
        Ok(LeaseState { holder, generation: record.generation, quarantine })
    }

    /// Held only for the moment of a look, so that nobody takes the look for a lease.
    fn gate(&self, device: &DeviceId) -> Result<File, Refusal> {
        let path = self.path(device, "gate");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        flock(file.file(), FlockOperation::LockExclusive).map_err(std::io::Error::from)?;
        Ok(file)
    }

    fn path(&self, device: &DeviceId, extension: &str) -> PathBuf {
        let mut name = Digest::of(device.to_string().as_bytes()).hex();
        name.truncate(16);
        self.folder.join(format!("{name}.{extension}"))
    }
}

/// Why a lease is not given, without what the caller knows.
enum Refusal {
    Io(std::io::Error),
    Taken { holder: String, process: u32 },
    Quarantined { reason: String, file: PathBuf },
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl Refusal {
    fn of(self, device: &DeviceId, folder: &Path) -> LeaseError {
        let device = device.clone();
        match self {
            Self::Io(source) => LeaseError::Io { device, folder: folder.to_owned(), source },
            Self::Taken { holder, process } => LeaseError::Taken { device, holder, process },
            Self::Quarantined { reason, file } => LeaseError::Quarantined { device, reason, file },
        }
    }
}

/// Why a device is in quarantine, where it is.
fn quarantine(path: &Path) -> std::io::Result<Option<String>> {
    match fs_err::read_to_string(path) {
        Ok(reason) => Ok(Some(reason.trim().to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the lock is ours now.
fn lock(file: &File) -> std::io::Result<bool> {
    match flock(file.file(), FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn read(file: &mut File) -> std::io::Result<Record> {
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(LONGEST_RECORD).read_to_end(&mut text)?;
    if text.is_empty() {
        return Ok(Record::default());
    }
    serde_json::from_slice(&text).map_err(std::io::Error::from)
}

fn write(file: &mut File, record: &Record) -> std::io::Result<()> {
    let text = serde_json::to_vec(record)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&text)?;
    file.set_len(text.len() as u64)?;
    file.sync_all()
}

/// A device that is ours until this is dropped, and every worker that was handed its lock has ended.
#[derive(Debug)]
pub struct Lease {
    leases: Leases,
    device: DeviceId,
    generation: u64,
    path: PathBuf,
    file: File,
    rule: Quarantine,
}

impl Lease {
    pub fn device(&self) -> &DeviceId {
        &self.device
    }

    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The lock itself, for a worker to hold on to.
    pub(crate) fn lock(&self) -> BorrowedFd<'_> {
        self.file.file().as_fd()
    }

    /// Fails where the device is not ours any more, or in quarantine: asked before every start of a worker.
    pub(crate) fn check(&mut self) -> Result<(), LeaseError> {
        if self.record().map_err(|source| self.io(source))?.is_none() {
            return Err(LeaseError::Lost { device: self.device.clone() });
        }
        let file = self.leases.path(&self.device, QUARANTINE);
        match quarantine(&file).map_err(|source| self.io(source))? {
            Some(reason) => Err(LeaseError::Quarantined { device: self.device.clone(), reason, file }),
            None => Ok(()),
        }
    }

    /// Remembers that a worker ended on the device, and puts it into quarantine if too many did of late.
    pub(crate) fn record_end(&mut self, reason: &str) -> Result<(), LeaseError> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        self.note(now, reason).map_err(|source| self.io(source))
    }

    fn note(&mut self, now: u64, reason: &str) -> std::io::Result<()> {
        let Some(mut record) = self.record()? else { return Ok(()) };
        let within = self.rule.within.as_secs();
        record.ends.retain(|(at, _)| at.saturating_add(within) > now);
        record.ends.push((now, reason.to_owned()));
        if record.ends.len() >= self.rule.ends {
            let count = record.ends.len();
            record.ends.clear();
            let why = format!("{count} workers ended on it within {within} s, the last because {reason}\n");
            fs_err::write(self.leases.path(&self.device, QUARANTINE), why)?;
        }
        write(&mut self.file, &record)
    }

    /// The record, as long as the file is the one that we locked and names our generation.
    fn record(&mut self) -> std::io::Result<Option<Record>> {
        let (ours, there) = (self.file.metadata()?, fs_err::metadata(&self.path));
        if !there.is_ok_and(|there| there.ino() == ours.ino() && there.dev() == ours.dev()) {
            return Ok(None);
        }
        let record = read(&mut self.file)?;
        Ok((record.generation == self.generation).then_some(record))
    }

    fn io(&self, source: std::io::Error) -> LeaseError {
        LeaseError::Io { device: self.device.clone(), folder: self.leases.folder.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(index: u32) -> DeviceId {
        DeviceId { platform: "p".to_owned(), name: "n / ../n".to_owned(), index }
    }

    #[test]
    fn a_device_has_one_holder_and_the_next_a_greater_generation() {
        let folder = tempfile::tempdir().unwrap();
        let leases = Leases::new(folder.path());
        let rule = Quarantine::default();
        assert_eq!(leases.state(&device(0)).unwrap().holder, None);
        let first = leases.acquire(&device(0), "one", rule).unwrap();
        let error = leases.acquire(&device(0), "two", rule).unwrap_err();
        assert!(matches!(&error, LeaseError::Taken { holder, .. } if holder == "one"), "{error}");
        assert_eq!(leases.state(&device(0)).unwrap().holder.as_deref(), Some("one"));
        let _other_device = leases.acquire(&device(1), "two", rule).unwrap();
        let generation = first.generation();
        drop(first);
        assert_eq!(leases.state(&device(0)).unwrap().holder, None);
        assert_eq!(leases.acquire(&device(0), "two", rule).unwrap().generation(), generation + 1);
    }

    #[test]
    fn whoever_still_holds_the_lock_keeps_the_device() {
        let folder = tempfile::tempdir().unwrap();
        let leases = Leases::new(folder.path());
        let lease = leases.acquire(&device(0), "one", Quarantine::default()).unwrap();
        let worker = lease.lock().try_clone_to_owned().unwrap();
        drop(lease);
        assert!(leases.acquire(&device(0), "two", Quarantine::default()).is_err());
        drop(worker);
        leases.acquire(&device(0), "two", Quarantine::default()).unwrap();
    }

    #[test]
    fn too_many_ends_within_the_time_are_a_quarantine_that_lasts() {
        let folder = tempfile::tempdir().unwrap();
        let leases = Leases::new(folder.path());
        let rule = Quarantine { ends: 2, within: Duration::from_mins(1) };
        let mut lease = leases.acquire(&device(0), "one", rule).unwrap();
        lease.note(100, "it hung").unwrap();
        lease.note(160, "it hung").unwrap();
        lease.check().unwrap();
        lease.note(219, "it died").unwrap();
        assert!(matches!(lease.check(), Err(LeaseError::Quarantined { .. })));
        drop(lease);
        let error = leases.acquire(&device(0), "two", rule).unwrap_err();
        assert!(error.to_string().contains("it died"), "{error}");
        let LeaseError::Quarantined { file, .. } = error else { panic!("{error}") };
        assert!(leases.state(&device(0)).unwrap().quarantine.is_some());
        fs_err::remove_file(file).unwrap();
        leases.acquire(&device(0), "two", rule).unwrap();
    }

    #[test]
    fn a_lease_whose_file_was_replaced_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let leases = Leases::new(folder.path());
        let mut first = leases.acquire(&device(0), "one", Quarantine::default()).unwrap();
        first.check().unwrap();
        fs_err::remove_file(&first.path).unwrap();
        assert!(matches!(first.check(), Err(LeaseError::Lost { .. })));
        let mut second = leases.acquire(&device(0), "two", Quarantine::default()).unwrap();
        assert!(matches!(first.check(), Err(LeaseError::Lost { .. })));
        second.check().unwrap();
    }
}
