//! Records on disk until they are fetched: one file at a time for each collection, which ends by time or by size and is a
//! segment then. What there is is bounded, and what a scorer leaves that was killed, the next one of the folder takes over.
//!
//! ```text
//! FOLDER/PROCESS/lock                               held while the process lives
//! FOLDER/PROCESS/PROCESS-SEQ.PERIOD.COLLECTION.part written to
//! FOLDER/PROCESS/PROCESS-SEQ.PERIOD.COLLECTION      a segment
//! ```

use std::{
    collections::VecDeque,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use fs_err::{File, OpenOptions};
use rustix::fs::{FlockOperation, flock};
use serde_json::json;

use super::Dropped;

/// A file that is this long is a segment.
const SEGMENT_BYTES: u64 = 8 * 1024 * 1024;
const PART: &str = ".part";
const LOCK: &str = "lock";
/// After a write that failed.
const PAUSE: Duration = Duration::from_secs(1);
/// Folders of processes that are gone, of which one takes over at its start.
const MOST_LEFT: usize = 64;

/// What one process has written and nobody has fetched.
#[derive(Debug)]
pub(super) struct Spool {
    folder: PathBuf,
    process: String,
    sequence: u64,
    /// By the place of the collection.
    open: Vec<Option<Open>>,
    names: Vec<String>,
    sealed: VecDeque<Segment>,
    period: u64,
    /// Of all files.
    bytes: u64,
    most: u64,
    /// Nothing is written before.
    paused_until: Option<Instant>,
    /// It goes with the process.
    _lock: File,
}

#[derive(Debug)]
struct Open {
    file: File,
    name: Name,
    size: u64,
}

/// What a file's name says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Name {
    id: String,
    /// When its period began, in seconds since 1970.
    period: u64,
    collection: String,
}

#[derive(Debug)]
struct Segment {
    name: Name,
    size: u64,
}

impl Name {
    fn file(&self) -> String {
        format!("{}.{}.{}", self.id, self.period, self.collection)
    }

    fn parse(file: &str) -> Option<Self> {
        let mut parts = file.splitn(3, '.');
        let (id, period, collection) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self { id: id.to_owned(), period: period.parse().ok()?, collection: collection.to_owned() })
    }
}

impl Spool {
    pub(super) fn open(folder: &Path, names: &[String], period: u64, most: u64) -> io::Result<Self> {
        // What is collected is nobody else's: a folder that somebody else made is not written to.
        fs_err::create_dir_all(folder.parent().unwrap_or(folder))?;
        match std::fs::DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        if fs_err::symlink_metadata(folder)?.uid() != rustix::process::geteuid().as_raw() {
            return Err(io::Error::other(format!("`{}` belongs to somebody else", folder.display())));
        }
        let process = uuid::Uuid::new_v4().simple().to_string();
        let own = folder.join(&process);
        fs_err::create_dir(&own)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(own.join(LOCK))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        let mut spool = Self {
            folder: own,
            process,
            sequence: 0,
            open: names.iter().map(|_| None).collect(),
            names: names.to_vec(),
            sealed: VecDeque::new(),
            period,
            bytes: 0,
            most,
            paused_until: None,
            _lock: lock,
        };
        spool.take_over(folder)?;
        Ok(spool)
    }

    /// Takes the segments of processes that are gone, under the ids that they have: who has stored one already knows it.
    fn take_over(&mut self, folder: &Path) -> io::Result<()> {
        for entry in fs_err::read_dir(folder)?.take(MOST_LEFT) {
            let left = entry?.path();
            if left == self.folder {
                continue;
            }
            // One without a lock is just being made, or removed by another one.
            let Ok(lock) = OpenOptions::new().write(true).open(left.join(LOCK)) else { continue };
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
                continue;
            }
            for file in fs_err::read_dir(&left)? {
                let from = file?.path();
                let Some(file) = from.file_name().and_then(|name| name.to_str()) else { continue };
                let Some(name) = Name::parse(file.strip_suffix(PART).unwrap_or(file)) else { continue };
                whole_lines(&from)?;
                let size = fs_err::metadata(&from)?.len();
                if size == 0 || self.bytes + size > self.most {
                    fs_err::remove_file(&from)?;
                    continue;
                }
                fs_err::rename(&from, self.folder.join(name.file()))?;
                self.bytes += size;
                self.sealed.push_back(Segment { name, size });
            }
            fs_err::remove_dir_all(&left)?;
        }
        self.sealed.make_contiguous().sort_by_key(|segment| segment.name.period);
        Ok(())
    }

    /// Appends whole lines, all or none.
    pub(super) fn append(&mut self, collection: usize, lines: &[u8], now: SystemTime) -> Result<(), Dropped> {
        if self.bytes + lines.len() as u64 > self.most {
            return Err(Dropped::SpoolFull);
        }
        if self.paused_until.is_some_and(|until| Instant::now() < until) {
            return Err(Dropped::Disk);
        }
        match self.write(collection, lines, seconds(now)) {
            Ok(()) => {
                if self.paused_until.take().is_some() {
                    tracing::info!("collecting goes on");
                }
                Ok(())
            }
            Err(error) => {
                if self.paused_until.is_none() {
                    tracing::warn!(%error, "what is collected cannot be written; it is dropped until it can");
                }
                self.paused_until = Some(Instant::now() + PAUSE);
                Err(Dropped::Disk)
            }
        }
    }

    fn write(&mut self, collection: usize, lines: &[u8], now: u64) -> io::Result<()> {
        let period = now - now % self.period;
        if self.open[collection].as_ref().is_some_and(|open| open.name.period != period) {
            self.seal(collection);
        }
        if self.open[collection].is_none() {
            let name = Name {
                id: format!("{}-{}", self.process, self.sequence),
                period,
                collection: self.names[collection].clone(),
            };
            let path = self.folder.join(name.file() + PART);
            let file = OpenOptions::new().create_new(true).append(true).open(path)?;
            self.sequence += 1;
            self.open[collection] = Some(Open { file, name, size: 0 });
        }
        let Some(open) = &mut self.open[collection] else { return Ok(()) };
        if let Err(error) = open.file.write_all(lines) {
            // A disk that filled up took a part of it.
            open.file.set_len(open.size)?;
            return Err(error);
        }
        open.size += lines.len() as u64;
        self.bytes += lines.len() as u64;
        if open.size >= SEGMENT_BYTES {
            self.seal(collection);
        }
        Ok(())
    }

    /// Ends the file of a collection.
    fn seal(&mut self, collection: usize) {
        let Some(Open { file, name, size }) = self.open[collection].take() else { return };
        drop(file);
        let to = self.folder.join(name.file());
        let from = self.folder.join(name.file() + PART);
        if size == 0 {
            let _ = fs_err::remove_file(from);
            return;
        }
        match fs_err::rename(from, to) {
            Ok(()) => self.sealed.push_back(Segment { name, size }),
            // It is there for the next process.
            Err(error) => tracing::warn!(%error, "a file of collected records could not be ended"),
        }
    }

    pub(super) fn seal_all(&mut self) {
        for collection in 0..self.open.len() {
            self.seal(collection);
        }
    }

    /// Ends the files whose period is over.
    pub(super) fn seal_due(&mut self, now: SystemTime) {
        let now = seconds(now);
        let period = now - now % self.period;
        for collection in 0..self.open.len() {
            if self.open[collection].as_ref().is_some_and(|open| open.name.period != period) {
                self.seal(collection);
            }
        }
    }

    /// The oldest segment: a line that says what it is, and its lines.
    pub(super) fn next(&mut self) -> io::Result<Vec<u8>> {
        let Some(Segment { name, size }) = self.sealed.front() else { return Ok(Vec::new()) };
        let head = json!({ "segment": name.id, "collection": name.collection, "period": name.period });
        let mut said = head.to_string().into_bytes();
        said.push(b'\n');
        match fs_err::read(self.folder.join(name.file())) {
            Ok(lines) => said.extend_from_slice(&lines),
            Err(error) => {
                // It was taken away, and there is no use in asking again.
                self.bytes -= size;
                self.sealed.pop_front();
                return Err(error);
            }
        }
        Ok(said)
    }

    /// Removes a segment that was fetched; one that is not there was removed before.
    pub(super) fn forget(&mut self, id: &str) -> io::Result<()> {
        let Some(at) = self.sealed.iter().position(|segment| segment.name.id == id) else { return Ok(()) };
        if let Some(Segment { name, size }) = self.sealed.remove(at) {
            self.bytes -= size;
            fs_err::remove_file(self.folder.join(name.file()))?;
        }
        Ok(())
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sealed.is_empty()
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if self.bytes == 0 {
            // What is left otherwise is for the next process.
            let _ = fs_err::remove_dir_all(&self.folder);
        }
    }
}

/// Cuts what follows the last line's end: a process that was killed may have written a part of a line.
fn whole_lines(path: &Path) -> io::Result<()> {
    let content = fs_err::read(path)?;
    let whole = content.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    if whole < content.len() {
        OpenOptions::new().write(true).open(path)?.set_len(whole as u64)?;
    }
    Ok(())
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn open(folder: &Path, most: u64) -> Spool {
        Spool::open(folder, &["a".to_owned(), "b.c".to_owned()], 60, most).unwrap()
    }

    /// The id, what is said of it, and its lines.
    fn next(spool: &mut Spool) -> Option<(String, String)> {
        let text = String::from_utf8(spool.next().unwrap()).unwrap();
        let (head, lines) = text.split_once('\n')?;
        let head: serde_json::Value = serde_json::from_str(head).unwrap();
        let what = format!("{} {} {lines:?}", head["collection"].as_str().unwrap(), head["period"]);
        Some((head["segment"].as_str().unwrap().to_owned(), what))
    }

    #[test]
    fn segments_end_with_their_period_and_stay_until_they_are_acknowledged() {
        let place = std::env::temp_dir().join(format!("moorline-spool-{}", uuid::Uuid::new_v4()));
        let mut spool = open(&place, 1000);
        spool.append(0, b"1\n", at(61)).unwrap();
        spool.append(0, b"2\n", at(119)).unwrap();
        assert_eq!(next(&mut spool), None);
        spool.append(0, b"3\n", at(120)).unwrap();
        spool.append(1, b"4\n", at(121)).unwrap();
        let (first, what) = next(&mut spool).unwrap();
        assert_eq!(what, r#"a 60 "1\n2\n""#);
        assert_eq!(next(&mut spool).unwrap().0, first);
        spool.forget(&first).unwrap();
        spool.forget(&first).unwrap();
        assert_eq!(next(&mut spool), None);
        spool.seal_due(at(180));
        assert_eq!(next(&mut spool).unwrap().1, r#"a 120 "3\n""#);
        assert_eq!(spool.append(0, &[b'x'; 1000], at(180)), Err(Dropped::SpoolFull));
        assert_eq!(spool.bytes(), 4);
        drop(spool);
        fs_err::remove_dir_all(place).unwrap();
    }

    #[test]
    fn what_a_killed_process_left_is_taken_over_in_whole_lines_under_its_id() {
        let place = std::env::temp_dir().join(format!("moorline-spool-{}", uuid::Uuid::new_v4()));
        let mut living = open(&place, 1000);
        living.append(0, b"3\n", at(61)).unwrap();
        let killed = place.join("killed");
        fs_err::create_dir(&killed).unwrap();
        for (file, content) in [("lock", ""), ("killed-0.60.a", "1\n"), ("killed-1.120.b.c.part", "2\nhalf")]
        {
            fs_err::write(killed.join(file), content).unwrap();
        }
        let mut after = open(&place, 1000);
        let (id, what) = next(&mut after).unwrap();
        assert_eq!((id.as_str(), what.as_str()), ("killed-0", r#"a 60 "1\n""#));
        after.forget(&id).unwrap();
        assert_eq!(next(&mut after).unwrap().1, r#"b.c 120 "2\n""#);
        assert_eq!((after.bytes(), after.sealed.len(), killed.exists()), (2, 1, false));
        fs_err::remove_dir_all(place).unwrap();
    }
}
