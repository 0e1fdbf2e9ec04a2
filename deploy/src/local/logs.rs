//! Reading the logs of a deployment: its replicas' lines in the order of their times, and on with new ones.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use moorline_core::{DeploymentId, ErrorClass, LogOptions, LogStream, TargetError};
use tokio::{sync::mpsc, time::sleep};

use super::{
    Context,
    layout::ReplicaFolder,
    log_source::{Line, LogSource},
};

/// How often files are looked at for new lines.
const POLL: Duration = Duration::from_millis(100);
/// Lines go to the reader in pieces of about this size.
const CHUNK: usize = 64 * 1024;
/// Pieces that wait for a slow reader.
const WAITING: usize = 4;
/// The longest line in a failure's log.
const LONGEST_LINE: usize = 2000;

type Piece = Result<Bytes, TargetError>;

/// Nobody reads any more.
struct Left;

/// The logs as they are asked for. What is not known has none.
pub(crate) fn open(
    context: &Arc<Context>,
    id: &DeploymentId,
    options: LogOptions,
) -> Result<LogStream, TargetError> {
    if let Some(replica) = &options.replica
        && !context.layout.replica_ids(id).contains(replica)
    {
        return Err(TargetError::new(
            ErrorClass::NotFound,
            format!("deployment `{id}` has no replica `{replica}`, or its log is not kept any more"),
        ));
    }
    let (pieces, reader) = mpsc::channel(WAITING);
    let reading = Reading {
        context: Arc::clone(context),
        id: id.clone(),
        only: options.replica,
        sources: Vec::new(),
        known: HashSet::new(),
    };
    tokio::spawn(run(reading, options.tail, options.follow, pieces));
    let stream = stream::unfold(reader, |mut reader: mpsc::Receiver<Piece>| async {
        reader.recv().await.map(|piece| (piece, reader))
    });
    Ok(Box::pin(stream))
}

async fn run(mut reading: Reading, tail: Option<usize>, follow: bool, pieces: mpsc::Sender<Piece>) {
    let mut first = Some(tail);
    loop {
        let out = pieces.clone();
        let tail = first.take();
        // Files are read on a thread that may wait.
        let read = tokio::task::spawn_blocking(move || {
            let done = match tail {
                Some(tail) => reading.first(tail, &out),
                None => reading.more(&out),
            };
            (reading, done)
        });
        match read.await {
            Ok((back, Ok(()))) => reading = back,
            _ => return,
        }
        if !follow || !reading.context.layout.exists(&reading.id) {
            return;
        }
        tokio::select! {
            () = sleep(POLL) => {}
            () = pieces.closed() => return,
        }
    }
}

/// All sources of one reader.
struct Reading {
    context: Arc<Context>,
    id: DeploymentId,
    only: Option<String>,
    sources: Vec<LogSource>,
    known: HashSet<String>,
}

impl Reading {
    fn first(&mut self, tail: Option<usize>, out: &mpsc::Sender<Piece>) -> Result<(), Left> {
        self.look(tail);
        let mut writer = Writer { out, text: String::new() };
        match tail {
            None => merge(&mut self.sources, |line| writer.line(&line))?,
            Some(tail) => {
                let mut last = VecDeque::with_capacity(tail.min(1024));
                merge(&mut self.sources, |line| {
                    if last.len() == tail {
                        last.pop_front();
                    }
                    if tail > 0 {
                        last.push_back(line);
                    }
                    Ok::<_, Left>(())
                })?;
                last.iter().try_for_each(|line| writer.line(line))?;
            }
        }
        writer.flush()
    }

    fn more(&mut self, out: &mpsc::Sender<Piece>) -> Result<(), Left> {
        self.look(None);
        let mut writer = Writer { out, text: String::new() };
        merge(&mut self.sources, |line| writer.line(&line))?;
        writer.flush()
    }

    /// Finds replicas that were not there before.
    fn look(&mut self, tail: Option<usize>) {
        for replica in self.context.layout.replica_ids(&self.id) {
            if self.only.as_ref().is_some_and(|only| *only != replica) || !self.known.insert(replica.clone())
            {
                continue;
            }
            let folder = self.context.layout.replica(&self.id, &replica);
            let prefix = if self.only.is_some() { String::new() } else { format!("[{replica}] ") };
            self.sources.push(LogSource::of_log(&folder, prefix.clone(), tail));
            self.sources.push(LogSource::of_stderr(&folder, prefix, tail));
        }
    }
}

/// Gives the lines that are there now, of all sources, the oldest first.
fn merge<E>(sources: &mut [LogSource], mut emit: impl FnMut(Line) -> Result<(), E>) -> Result<(), E> {
    let mut heads: Vec<Option<Line>> = sources.iter_mut().map(LogSource::next).collect();
    loop {
        let oldest = heads
            .iter()
            .enumerate()
            .filter_map(|(index, line)| line.as_ref().map(|line| (&line.time, index)))
            .min()
            .map(|(_, index)| index);
        let Some(index) = oldest else { return Ok(()) };
        let next = sources[index].next();
        if let Some(line) = std::mem::replace(&mut heads[index], next) {
            emit(line)?;
        }
    }
}

struct Writer<'a> {
    out: &'a mpsc::Sender<Piece>,
    text: String,
}

impl Writer<'_> {
    fn line(&mut self, line: &Line) -> Result<(), Left> {
        self.text.push_str(&line.text);
        self.text.push('\n');
        if self.text.len() >= CHUNK { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Left> {
        if self.text.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::take(&mut self.text));
        self.out.blocking_send(Ok(piece)).map_err(|_| Left)
    }
}

/// The last lines of one replica, for the report of its failure. What the log says as well is not repeated from the
/// standard error.
pub(crate) fn last_lines(folder: &ReplicaFolder, count: usize) -> Vec<String> {
    let lines = |mut source: LogSource| {
        let mut lines = VecDeque::new();
        while let Some(line) = source.next() {
            for line in line.text.lines() {
                if lines.len() == count {
                    lines.pop_front();
                }
                lines.push_back(line.chars().take(LONGEST_LINE).collect::<String>());
            }
        }
        lines
    };
    let mut log = lines(LogSource::of_log(folder, String::new(), Some(count)));
    let stderr = lines(LogSource::of_stderr(folder, String::new(), Some(count)));
    let said: HashSet<&str> = log.iter().map(String::as_str).collect();
    let more: Vec<String> = stderr.iter().filter(|line| !said.contains(line.as_str())).cloned().collect();
    log.extend(more);
    let surplus = log.len().saturating_sub(count);
    log.into_iter().skip(surplus).collect()
}
