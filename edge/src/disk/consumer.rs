//! The reading end of a queue: hands messages out in their order, and remembers which of them are done.

use std::{
    collections::{BTreeSet, VecDeque},
    io::Read as _,
    io::Seek as _,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
};

use tokio::task::JoinHandle;

use super::{
    DiskError, Entry, Queue,
    queue::{self, CHUNK, Place},
    record::{self, Front},
};

/// Messages that are read ahead.
const AHEAD: usize = 256;

/// Reads a queue from its oldest message that is not done. One at a time: two would hand out the same messages.
#[derive(Debug)]
pub struct Consumer {
    queue: Arc<Queue>,
    /// The number of the next message to read.
    next: u64,
    ahead: VecDeque<Arc<Entry>>,
    /// Handed out, and not done.
    open: BTreeSet<u64>,
    reading: Option<JoinHandle<Result<Chunk, DiskError>>>,
    /// In which segment the next message is, and how far in.
    offset: Option<(u64, u64)>,
}

#[derive(Debug)]
struct Chunk {
    entries: Vec<Arc<Entry>>,
    /// Where the first message behind them is.
    offset: Option<(u64, u64)>,
    /// The messages up to this number cannot be read.
    damaged_until: Option<u64>,
}

impl Consumer {
    pub fn new(queue: Arc<Queue>) -> Self {
        let next = queue.oldest();
        Self { queue, next, ahead: VecDeque::new(), open: BTreeSet::new(), reading: None, offset: None }
    }

    pub fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// Messages that were handed out and are not done.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// The next message that has not expired; waits for one. Nothing is lost when this future is dropped.
    pub async fn next(&mut self) -> Result<Arc<Entry>, DiskError> {
        loop {
            while let Some(entry) = self.ahead.pop_front() {
                // Dropped from a full queue meanwhile.
                if entry.sequence < self.queue.oldest() {
                    continue;
                }
                self.open.insert(entry.sequence);
                if entry.expires != 0 && entry.expires <= self.queue.clock().now() {
                    self.queue.counts.expired.fetch_add(1, Ordering::Relaxed);
                    self.done([entry.sequence])?;
                    continue;
                }
                return Ok(entry);
            }
            self.fill().await?;
        }
    }

    /// These messages were taken in by whoever they are for; that is written down once for all of them.
    pub fn done(&mut self, sequences: impl IntoIterator<Item = u64>) -> Result<(), DiskError> {
        for sequence in sequences {
            self.open.remove(&sequence);
        }
        let handed_out = self.ahead.front().map_or(self.next, |entry| entry.sequence);
        self.queue.done_below(self.open.first().copied().unwrap_or(handed_out))
    }

    async fn fill(&mut self) -> Result<(), DiskError> {
        if self.reading.is_none() {
            match self.queue.place(self.next, AHEAD) {
                Place::End => {
                    self.queue.arrived.notified().await;
                    return Ok(());
                }
                Place::Memory(entries) => {
                    self.take(entries);
                    self.offset = None;
                    return Ok(());
                }
                Place::File { path, segment, from, until } => {
                    let start =
                        self.offset.filter(|(known, _)| *known == segment).map_or(0, |(_, offset)| offset);
                    self.reading =
                        Some(tokio::task::spawn_blocking(move || read(path, segment, start, from, until)));
                }
            }
        }
        let Some(reading) = &mut self.reading else { return Ok(()) };
        let chunk = reading.await;
        self.reading = None;
        let chunk = chunk.map_err(|_| DiskError::Closed)??;
        self.offset = chunk.offset;
        self.take(chunk.entries);
        if let Some(until) = chunk.damaged_until {
            let lost = until.saturating_sub(self.next);
            tracing::warn!(messages = lost, "could not read messages back");
            self.queue.counts.damaged.fetch_add(lost, Ordering::Relaxed);
            self.next = self.next.max(until);
        }
        Ok(())
    }

    fn take(&mut self, entries: Vec<Arc<Entry>>) {
        if let Some(last) = entries.last() {
            self.next = last.sequence + 1;
        }
        self.ahead.extend(entries);
    }
}

/// Reads messages `from` to `until` of a segment, as many as fit into a chunk.
fn read(path: PathBuf, segment: u64, start: u64, from: u64, until: u64) -> Result<Chunk, DiskError> {
    let error = |source| DiskError::Io { path: path.clone(), source };
    let mut chunk = Chunk { entries: Vec::new(), offset: None, damaged_until: None };
    let mut file = match fs_err::File::open(&path) {
        Ok(file) => file,
        // Dropped meanwhile: where the queue goes on is looked up anew.
        Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => return Ok(chunk),
        Err(other) => return Err(error(other)),
    };
    file.seek(std::io::SeekFrom::Start(start)).map_err(error)?;
    let (mut offset, mut bytes, mut at, mut expected, mut ended) = (start, Vec::new(), 0, None, false);
    let mut wanted = CHUNK;
    loop {
        match record::front(&bytes[at..]) {
            Front::Record(body, length) => {
                let entry = queue::decode(body)
                    .filter(|entry| expected.is_none_or(|expected| entry.sequence == expected));
                let Some(entry) = entry else {
                    chunk.damaged_until = Some(until);
                    return Ok(chunk);
                };
                at += length;
                offset += length as u64;
                expected = Some(entry.sequence + 1);
                let last = entry.sequence + 1 >= until;
                if entry.sequence >= from {
                    chunk.entries.push(Arc::new(entry));
                }
                if last || chunk.entries.len() >= AHEAD || (offset - start) as usize >= 8 * CHUNK {
                    chunk.offset = Some((segment, offset));
                    if last || !chunk.entries.is_empty() {
                        return Ok(chunk);
                    }
                }
            }
            Front::Short(needed) if !ended => {
                bytes.drain(..at);
                at = 0;
                let before = bytes.len();
                let more = wanted.max(needed).saturating_sub(before) as u64;
                std::io::Read::by_ref(&mut file).take(more.max(1)).read_to_end(&mut bytes).map_err(error)?;
                ended = bytes.len() == before;
                wanted = CHUNK;
            }
            Front::Short(_) | Front::Damaged => {
                chunk.damaged_until = Some(until);
                return Ok(chunk);
            }
        }
    }
}
