//! A queue of messages on disk: segment files that are written at the end, read at the front and deleted whole.
//!
//! What was stored survives the end of the process at any instant, and, where the limits ask for it, that of the
//! machine. Which messages are done is one number in a file of its own; it may be older than the truth after a crash,
//! so that a message may come twice, and none gets lost or overtakes another.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, oneshot};

use super::{
    Clock, DiskError,
    committer::{Disk, Job, Stored, Waiter},
    record::{self, Front},
};

/// Bytes that stay in memory, so that a reader who keeps up reads no file.
const TAIL_BYTES: usize = 64 * 1024;
const TAIL_ENTRIES: usize = 128;
/// A segment of messages that are all done is deleted when it is longer than this, not only when it is full.
const DONE_SEGMENT: u64 = 64 * 1024;
const LONGEST_SEGMENT: u64 = 16 * 1024 * 1024;
const SHORTEST_SEGMENT: u64 = 4 * 1024;
/// Read at one time.
pub(super) const CHUNK: usize = 128 * 1024;

/// What happens to a message that finds no space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFull {
    /// The oldest messages make space: a whole segment of them, an eighth of the queue.
    #[default]
    DropOldest,
    /// The new message is dropped.
    DropNewest,
}

/// The bounds of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueueLimits {
    /// On disk, with everything around the messages.
    pub max_bytes: u64,
    pub on_full: OnFull,
    /// Whether a message counts as stored only when it would survive a loss of power. Costs a flush of the disk for
    /// messages that arrive together.
    pub flush_on_write: bool,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self { max_bytes: 64 * 1024 * 1024, on_full: OnFull::DropOldest, flush_on_write: false }
    }
}

/// A message in a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number: one more than that of the message before it.
    pub sequence: u64,
    /// By the hub's [`Clock`]; 0 for never.
    pub expires: u64,
    pub topic: String,
    pub payload: Bytes,
}

#[derive(Debug)]
pub(super) struct NewEntry {
    pub(super) expires: u64,
    pub(super) topic: String,
    pub(super) payload: Bytes,
}

/// What was counted since the queue was opened.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) stored: AtomicU64,
    /// Because the queue was full.
    pub(crate) dropped: AtomicU64,
    pub(crate) expired: AtomicU64,
    /// Could not be read back.
    pub(crate) damaged: AtomicU64,
}

/// A queue. Its messages are read by a [`Consumer`](super::Consumer).
#[derive(Debug)]
pub struct Queue {
    folder: PathBuf,
    limits: QueueLimits,
    disk: Disk,
    clock: Arc<Clock>,
    state: Mutex<State>,
    writer: Mutex<Option<Writer>>,
    position: File,
    pub(super) arrived: Notify,
    pub(crate) counts: Counts,
}

#[derive(Debug)]
struct State {
    /// Oldest first; the last one is written to.
    segments: VecDeque<Segment>,
    /// The number of the next message.
    next: u64,
    /// Every message below is done.
    done: u64,
    /// The newest messages.
    tail: VecDeque<Arc<Entry>>,
    tail_bytes: usize,
}

#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) first: u64,
    bytes: u64,
    pub(super) path: PathBuf,
}

#[derive(Debug)]
struct Writer {
    file: File,
    bytes: u64,
}

/// Where the messages behind a number are.
pub(super) enum Place {
    /// There are none yet.
    End,
    Memory(Vec<Arc<Entry>>),
    /// In this file, which holds those up to `until`; the number is the first that there still is.
    File {
        path: PathBuf,
        segment: u64,
        from: u64,
        until: u64,
    },
}

impl Queue {
    /// Opens the queue in `folder`, or makes it; a message that was not written whole is cut.
    pub(super) fn open(
        folder: PathBuf,
        limits: QueueLimits,
        disk: Disk,
        clock: Arc<Clock>,
    ) -> Result<Arc<Self>, DiskError> {
        let error = |source| DiskError::Io { path: folder.clone(), source };
        fs_err::create_dir_all(&folder).map_err(error)?;
        let mut segments = segments(&folder).map_err(error)?;
        let mut next = 1;
        if let Some(last) = segments.back_mut() {
            let (count, bytes) = cut_torn_end(&last.path, last.first).map_err(error)?;
            (next, last.bytes) = (last.first + count, bytes);
        }
        let position = fs_err::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(folder.join("position"))
            .map_err(error)?
            .into_file();
        let known = read_position(&position);
        let done = known.unwrap_or_default().max(segments.front().map_or(1, |segment| segment.first));
        // Done but not there any more: numbers are never given twice.
        let next = next.max(done);
        while segments.len() > 1 && segments[1].first <= done {
            if let Some(segment) = segments.pop_front() {
                fs_err::remove_file(segment.path).map_err(error)?;
            }
        }
        let state = State { segments, next, done, tail: VecDeque::new(), tail_bytes: 0 };
        Ok(Arc::new(Self {
            folder,
            limits,
            disk,
            clock,
            state: Mutex::new(state),
            writer: Mutex::new(None),
            position,
            arrived: Notify::new(),
            counts: Counts::default(),
        }))
    }

    /// Hands a message to the disk; what comes back is done when the message is stored. `ttl` in milliseconds.
    pub(crate) async fn append(
        self: &Arc<Self>,
        topic: String,
        payload: Bytes,
        ttl: Option<u64>,
    ) -> Result<oneshot::Receiver<Result<Stored, DiskError>>, DiskError> {
        let expires = ttl.map_or(0, |ttl| self.clock.now().saturating_add(ttl).max(1));
        let (done, stored) = oneshot::channel();
        let entry = NewEntry { expires, topic, payload };
        self.disk.submit(Job::Append { queue: Arc::clone(self), entry, done: Some(done) }).await?;
        Ok(stored)
    }

    /// Messages that are neither done nor dropped, and their bytes on disk.
    pub fn depth(&self) -> (u64, u64) {
        let state = self.state();
        (state.next - state.done, state.segments.iter().map(|segment| segment.bytes).sum())
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The number of the oldest message that is not done.
    pub(super) fn oldest(&self) -> u64 {
        self.state().done
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every message below `sequence` is done.
    pub(super) fn done_below(&self, sequence: u64) -> Result<(), DiskError> {
        let mut removed = Vec::new();
        {
            let mut state = self.state();
            if sequence <= state.done {
                return Ok(());
            }
            state.done = sequence.min(state.next);
            state.forget_done();
            write_position(&self.position, state.done).map_err(DiskError::io(&self.folder))?;
            while state.segments.len() > 1 && state.segments[1].first <= state.done {
                removed.extend(state.segments.pop_front());
            }
        }
        for segment in removed {
            fs_err::remove_file(&segment.path).map_err(DiskError::io(segment.path))?;
        }
        Ok(())
    }

    /// Where the messages from `from` on are.
    pub(super) fn place(&self, from: u64, most: usize) -> Place {
        let state = self.state();
        let from =
            from.max(state.segments.front().map_or(state.next, |segment| segment.first)).max(state.done);
        if from >= state.next {
            return Place::End;
        }
        if let Some(front) = state.tail.front()
            && front.sequence <= from
        {
            let skip = (from - front.sequence) as usize;
            return Place::Memory(state.tail.iter().skip(skip).take(most).cloned().collect());
        }
        let idx = state.segments.partition_point(|segment| segment.first <= from).saturating_sub(1);
        let until = state.segments.get(idx + 1).map_or(state.next, |segment| segment.first);
        match state.segments.get(idx) {
            Some(segment) => Place::File { path: segment.path.clone(), segment: segment.first, from, until },
            None => Place::End,
        }
    }

    /// Writes messages in their order. Called by the committer alone.
    pub(super) fn write(&self, entries: Vec<(NewEntry, Option<Waiter>)>) {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut waiting = Vec::with_capacity(entries.len());
        let (mut buffer, mut buffered) = (Vec::new(), Vec::new());
        for (entry, done) in entries {
            let length = (record::HEADER + 18 + entry.topic.len() + entry.payload.len()) as u64;
            match self.make_space(&mut writer, length, &mut buffer, &mut buffered) {
                Ok(true) => {
                    let sequence = self.state().next + buffered.len() as u64;
                    let entry = Entry {
                        sequence,
                        expires: entry.expires,
                        topic: entry.topic,
                        payload: entry.payload,
                    };
                    encode(&mut buffer, &entry);
                    buffered.push(Arc::new(entry));
                    waiting.push((done, Ok(Stored::At(sequence))));
                }
                Ok(false) => {
                    self.counts.dropped.fetch_add(1, Ordering::Relaxed);
                    waiting.push((done, Ok(Stored::Full)));
                }
                Err(error) => waiting.push((done, Err(error))),
            }
        }
        let mut written = self.flush(&mut writer, &mut buffer, &mut buffered);
        if written.is_ok()
            && self.limits.flush_on_write
            && let Some(writer) = writer.as_ref()
        {
            written = writer.file.sync_data();
        }
        if let Err(error) = &written {
            tracing::warn!(folder = %self.folder.display(), %error, "could not store messages");
        }
        for (done, outcome) in waiting {
            let Some(done) = done else { continue };
            // A message in front of the failure may be stored: it will come twice rather than not at all.
            let outcome = match (&written, outcome) {
                (Err(error), Ok(Stored::At(_))) => Err(self.failure(error)),
                (_, outcome) => outcome,
            };
            let _ = done.send(outcome);
        }
    }

    fn failure(&self, error: &io::Error) -> DiskError {
        let source = io::Error::new(error.kind(), error.to_string());
        DiskError::Io { path: self.folder.clone(), source }
    }

    /// Whether there is space for `length` more bytes, after what the policy allows was done for it.
    fn make_space(
        &self,
        writer: &mut Option<Writer>,
        length: u64,
        buffer: &mut Vec<u8>,
        buffered: &mut Vec<Arc<Entry>>,
    ) -> Result<bool, DiskError> {
        let longest = (self.limits.max_bytes / 8).clamp(SHORTEST_SEGMENT, LONGEST_SEGMENT);
        if length > self.limits.max_bytes {
            return Ok(false);
        }
        let (here, unread, all_done) = {
            let state = self.state();
            let all: u64 = state.segments.iter().map(|segment| segment.bytes).sum();
            (all, state.next - state.done, state.done == state.next)
        };
        let own = writer.as_ref().map_or(0, |writer| writer.bytes) + buffer.len() as u64;
        let stale = all_done && buffered.is_empty() && own > DONE_SEGMENT;
        if own > 0 && (own + length > longest || stale) {
            self.flush(writer, buffer, buffered).map_err(|error| self.failure(&error))?;
            self.rotate(writer).map_err(|error| self.failure(&error))?;
            return self.make_space(writer, length, buffer, buffered);
        }
        if here + buffer.len() as u64 + length <= self.limits.max_bytes {
            return Ok(true);
        }
        if self.limits.on_full == OnFull::DropNewest && unread > 0 {
            return Ok(false);
        }
        self.flush(writer, buffer, buffered).map_err(|error| self.failure(&error))?;
        self.drop_oldest(writer).map_err(|error| self.failure(&error))?;
        self.make_space(writer, length, buffer, buffered)
    }

    /// Deletes the oldest segment, whatever is in it.
    fn drop_oldest(&self, writer: &mut Option<Writer>) -> io::Result<()> {
        if self.state().segments.len() == 1 {
            self.rotate(writer)?;
        }
        let segment = {
            let mut state = self.state();
            let until = state.segments.get(1).map_or(state.next, |segment| segment.first);
            let Some(segment) = state.segments.pop_front() else { return Ok(()) };
            let lost = until.saturating_sub(state.done);
            if lost > 0 {
                state.done = until;
                state.forget_done();
                self.counts.dropped.fetch_add(lost, Ordering::Relaxed);
                write_position(&self.position, until)?;
            }
            segment
        };
        fs_err::remove_file(segment.path)
    }

    /// Begins a segment.
    fn rotate(&self, writer: &mut Option<Writer>) -> io::Result<()> {
        if let Some(old) = writer.as_ref()
            && self.limits.flush_on_write
        {
            old.file.sync_data()?;
        }
        *writer = None;
        let mut removed = None;
        {
            let mut state = self.state();
            let first = state.next;
            if state.segments.back().is_none_or(|last| last.first != first) {
                state.segments.push_back(Segment {
                    first,
                    bytes: 0,
                    path: segment_path(&self.folder, first),
                });
            }
            if state.segments.len() > 1 && state.segments[1].first <= state.done {
                removed = state.segments.pop_front();
            }
        }
        *writer = Some(self.open_last()?);
        removed.map_or(Ok(()), |segment| fs_err::remove_file(segment.path))
    }

    fn open_last(&self) -> io::Result<Writer> {
        let (path, bytes) = {
            let mut state = self.state();
            let first = state.next;
            if state.segments.is_empty() {
                state.segments.push_back(Segment {
                    first,
                    bytes: 0,
                    path: segment_path(&self.folder, first),
                });
            }
            state.segments.back().map(|last| (last.path.clone(), last.bytes)).unwrap_or_default()
        };
        let file = fs_err::OpenOptions::new().create(true).append(true).open(path)?.into_file();
        if self.limits.flush_on_write {
            fs_err::File::open(&self.folder)?.sync_all()?;
        }
        Ok(Writer { file, bytes })
    }

    /// Writes what is buffered, and lets readers see it.
    fn flush(
        &self,
        writer: &mut Option<Writer>,
        buffer: &mut Vec<u8>,
        buffered: &mut Vec<Arc<Entry>>,
    ) -> io::Result<()> {
        if buffered.is_empty() {
            return Ok(());
        }
        let entries = std::mem::take(buffered);
        let bytes = std::mem::take(buffer);
        // A segment that was numbered for messages which then were done elsewhere is not written to.
        let at_end = self.state().segments.back().is_none_or(|last| last.first <= entries[0].sequence);
        let writer = match writer {
            Some(writer) if at_end => writer,
            _ => writer.insert(self.open_last()?),
        };
        if let Err(error) = writer.file.write_all(&bytes) {
            // What was written in part must not stand before what comes next.
            writer.file.set_len(writer.bytes)?;
            return Err(error);
        }
        writer.bytes += bytes.len() as u64;
        self.counts.stored.fetch_add(entries.len() as u64, Ordering::Relaxed);
        let mut state = self.state();
        state.next += entries.len() as u64;
        let length = writer.bytes;
        if let Some(last) = state.segments.back_mut() {
            last.bytes = length;
        }
        for entry in entries {
            state.tail_bytes += entry.payload.len() + entry.topic.len();
            state.tail.push_back(entry);
            while state.tail.len() > TAIL_ENTRIES || state.tail_bytes > TAIL_BYTES {
                state.forget_front();
            }
        }
        drop(state);
        self.arrived.notify_one();
        Ok(())
    }
}

impl State {
    fn forget_front(&mut self) {
        if let Some(entry) = self.tail.pop_front() {
            self.tail_bytes -= entry.payload.len() + entry.topic.len();
        }
    }

    fn forget_done(&mut self) {
        while self.tail.front().is_some_and(|entry| entry.sequence < self.done) {
            self.forget_front();
        }
    }
}

fn segment_path(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("{first:020}.log"))
}

fn segments(folder: &Path) -> io::Result<VecDeque<Segment>> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_string_lossy().strip_suffix(".log").and_then(|stem| stem.parse().ok());
        if let Some(first) = number {
            found.push(Segment { first, bytes: entry.metadata()?.len(), path: entry.path() });
        }
    }
    found.sort_by_key(|segment| segment.first);
    Ok(found.into())
}

/// How many messages a segment holds and how many bytes they take; what stands behind them is cut off.
fn cut_torn_end(path: &Path, first: u64) -> io::Result<(u64, u64)> {
    let bytes = fs_err::read(path)?;
    let (mut at, mut count) = (0, 0);
    while let Front::Record(body, length) = record::front(&bytes[at..]) {
        if decode(body).is_none_or(|entry| entry.sequence != first + count) {
            break;
        }
        at += length;
        count += 1;
    }
    if at < bytes.len() {
        tracing::warn!(path = %path.display(), bytes = bytes.len() - at, "cut a torn end of a queue");
        let file = fs_err::OpenOptions::new().write(true).open(path)?;
        file.set_len(at as u64)?;
        file.sync_all()?;
    }
    Ok((count, at as u64))
}

fn encode(buffer: &mut Vec<u8>, entry: &Entry) {
    let topic = entry.topic.as_bytes();
    record::append(
        buffer,
        &[
            &entry.sequence.to_le_bytes(),
            &entry.expires.to_le_bytes(),
            &(topic.len() as u16).to_le_bytes(),
            topic,
            &entry.payload,
        ],
    );
}

pub(super) fn decode(body: &[u8]) -> Option<Entry> {
    let (sequence, rest) = body.split_first_chunk::<8>()?;
    let (expires, rest) = rest.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let (topic, payload) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    Some(Entry {
        sequence: u64::from_le_bytes(*sequence),
        expires: u64::from_le_bytes(*expires),
        topic: String::from_utf8(topic.to_vec()).ok()?,
        payload: Bytes::copy_from_slice(payload),
    })
}

/// Two places are written in turn, so that a write that was cut in the middle leaves the one before it.
fn write_position(file: &File, done: u64) -> io::Result<()> {
    let number = done.to_le_bytes();
    let mut place = [0; 12];
    place[..8].copy_from_slice(&number);
    place[8..].copy_from_slice(&crc32fast::hash(&number).to_le_bytes());
    file.write_all_at(&place, (done % 2) * 16)
}

fn read_position(file: &File) -> Option<u64> {
    [0, 16]
        .into_iter()
        .filter_map(|offset| {
            let mut place = [0; 12];
            file.read_exact_at(&mut place, offset).ok()?;
            let (number, checksum) = place.split_first_chunk::<8>()?;
            (crc32fast::hash(number).to_le_bytes() == checksum).then(|| u64::from_le_bytes(*number))
        })
        .max()
}
