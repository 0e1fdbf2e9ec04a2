//! Small documents by key, all in memory, on disk as a log of changes that is written anew when it has grown to much
//! more than what it says.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Seek as _, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{
    DiskError,
    committer::{Disk, Job},
    record::{self, Front},
};

/// A log shorter than this is never written anew.
const COMPACT_FROM: u64 = 4 * 1024 * 1024;
/// A log is written anew when it is this many times as long as what it says.
const COMPACT_RATIO: u64 = 4;

#[derive(Debug)]
pub(crate) struct Documents {
    path: PathBuf,
    disk: Disk,
    live: Mutex<BTreeMap<String, Bytes>>,
    log: Mutex<Log>,
}

#[derive(Debug)]
struct Log {
    file: File,
    length: u64,
    buffer: Vec<u8>,
    /// What the buffered changes make of the documents once they are durable.
    changes: Vec<(String, Option<Bytes>)>,
}

impl Documents {
    /// Reads the log and cuts what was not written whole.
    pub(crate) fn open(path: PathBuf, disk: Disk) -> Result<Arc<Self>, DiskError> {
        let error = |source| DiskError::Io { path: path.clone(), source };
        let bytes = match fs_err::read(&path) {
            Ok(bytes) => bytes,
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(other) => return Err(error(other)),
        };
        let mut live = BTreeMap::new();
        let mut at = 0;
        while let Front::Record(body, length) = record::front(&bytes[at..]) {
            let Some((key, value)) = decode(body) else { break };
            match value {
                Some(value) => live.insert(key, Bytes::copy_from_slice(value)),
                None => live.remove(&key),
            };
            at += length;
        }
        if at < bytes.len() {
            tracing::warn!(path = %path.display(), bytes = bytes.len() - at, "cut a torn end of the documents");
        }
        let file = open_log(&path, at as u64).map_err(error)?;
        let log = Log { file, length: at as u64, buffer: Vec::new(), changes: Vec::new() };
        Ok(Arc::new(Self { path, disk, live: Mutex::new(live), log: Mutex::new(log) }))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn get(&self, key: &str) -> Option<Bytes> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// Every key that begins with `prefix`, with its document.
    pub(crate) fn below(&self, prefix: &str) -> Vec<(String, Bytes)> {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.range(prefix.to_owned()..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }

    /// Is done when the document is durable; it can be read from then on.
    pub(crate) async fn put(self: &Arc<Self>, key: &str, value: Option<Vec<u8>>) -> Result<(), DiskError> {
        let (done, stored) = oneshot::channel();
        let job = Job::Put { documents: Arc::clone(self), key: key.to_owned(), value, done };
        self.disk.submit(job).await?;
        stored.await.map_err(|_| DiskError::Closed)?
    }

    /// Called by the committer alone.
    pub(super) fn buffer(&self, key: &str, value: Option<&[u8]>) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        encode(&mut log.buffer, key, value);
        log.changes.push((key.to_owned(), value.map(Bytes::copy_from_slice)));
    }

    /// Writes what was buffered. Called by the committer alone.
    pub(super) fn flush(&self) -> io::Result<()> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let (buffer, changes) = (std::mem::take(&mut log.buffer), std::mem::take(&mut log.changes));
        let written = log.file.write_all(&buffer).and_then(|()| log.file.sync_data());
        if let Err(error) = written {
            // What was written in part must not stand before what comes next.
            let length = log.length;
            log.file.set_len(length)?;
            log.file.seek(io::SeekFrom::Start(length))?;
            return Err(error);
        }
        log.length += buffer.len() as u64;
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in changes {
            match value {
                Some(value) => live.insert(key, value),
                None => live.remove(&key),
            };
        }
        let said: u64 = live.iter().map(|(key, value)| (key.len() + value.len() + 16) as u64).sum();
        if log.length > COMPACT_FROM && log.length / COMPACT_RATIO > said {
            let mut anew = Vec::with_capacity(said as usize);
            for (key, value) in live.iter() {
                encode(&mut anew, key, Some(value));
            }
            drop(live);
            // The old log holds everything: a failure costs space, no document.
            match self.replace(&anew) {
                Ok(file) => (log.file, log.length) = (file, anew.len() as u64),
                Err(error) => {
                    tracing::warn!(path = %self.path.display(), %error, "could not shorten the documents");
                }
            }
        }
        Ok(())
    }

    fn replace(&self, bytes: &[u8]) -> io::Result<File> {
        let new = self.path.with_extension("new");
        fs_err::write(&new, bytes)?;
        fs_err::File::open(&new)?.sync_all()?;
        fs_err::rename(&new, &self.path)?;
        sync_folder(&self.path)?;
        open_log(&self.path, bytes.len() as u64)
    }
}

fn open_log(path: &Path, length: u64) -> io::Result<File> {
    let mut options = fs_err::OpenOptions::new();
    let mut file = options.create(true).truncate(false).write(true).open(path)?.into_file();
    file.set_len(length)?;
    file.seek(io::SeekFrom::Start(length))?;
    sync_folder(path)?;
    Ok(file)
}

/// A new name is durable once its folder is.
fn sync_folder(path: &Path) -> io::Result<()> {
    fs_err::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

fn encode(buffer: &mut Vec<u8>, key: &str, value: Option<&[u8]>) {
    let length = (key.len() as u16).to_le_bytes();
    let there = [u8::from(value.is_some())];
    record::append(buffer, &[&length, key.as_bytes(), &there, value.unwrap_or_default()]);
}

fn decode(body: &[u8]) -> Option<(String, Option<&[u8]>)> {
    let (length, rest) = body.split_first_chunk::<2>()?;
    let (key, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    let (there, value) = rest.split_first()?;
    Some((String::from_utf8(key.to_vec()).ok()?, (*there == 1).then_some(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn documents_survive_a_torn_end_and_a_shortened_log() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("documents");
        let disk = Disk::start().unwrap();
        let documents = Documents::open(path.clone(), disk.clone()).unwrap();
        documents.put("a/1", Some(b"one".to_vec())).await.unwrap();
        documents.put("a/2", Some(b"two".to_vec())).await.unwrap();
        documents.put("b", Some(b"other".to_vec())).await.unwrap();
        documents.put("a/1", None).await.unwrap();
        // Grows far beyond what it says.
        for _ in 0..80 {
            documents.put("c", Some(vec![7; 64 * 1024])).await.unwrap();
        }
        disk.close().await;
        let length = fs_err::metadata(&path).unwrap().len();
        assert!(length < COMPACT_FROM, "{length}");
        let mut bytes = fs_err::read(&path).unwrap();
        let whole = bytes.len();
        encode(&mut bytes, "d", Some(b"torn"));
        bytes.truncate(bytes.len() - 1);
        fs_err::write(&path, &bytes).unwrap();

        let disk = Disk::start().unwrap();
        let documents = Documents::open(path.clone(), disk.clone()).unwrap();
        assert_eq!(fs_err::metadata(&path).unwrap().len(), whole as u64);
        let keys: Vec<String> = documents.below("a/").into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["a/2"]);
        assert_eq!(documents.get("b").as_deref(), Some(&b"other"[..]));
        assert_eq!(documents.get("d"), None);
        documents.put("d", Some(b"whole".to_vec())).await.unwrap();
        disk.close().await;
        assert!(documents.put("e", None).await.is_err());
        let again = Documents::open(path, Disk::start().unwrap()).unwrap();
        assert_eq!(again.get("d").as_deref(), Some(&b"whole"[..]));
        assert_eq!(again.get("c").map(|value| value.len()), Some(64 * 1024));
    }
}
