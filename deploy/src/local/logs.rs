//! Reading the logs of a deployment: its replicas' lines in the order of their times, and on with new ones.

use std::{
    collections::{HashSet, VecDeque},
    convert::Infallible,
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
pub(crate) async fn open(
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
    let mut reading = Reading {
        context: Arc::clone(context),
        id: id.clone(),
        options: options.clone(),
        sources: Vec::new(),
        known: HashSet::new(),
    };
    let mut last = VecDeque::new();
    let mut left = options.tail.is_none();
    if let Some(tail) = options.tail {
        // Which lines are the last ones is decided before this returns: whatever is written later is new.
        let read = tokio::task::spawn_blocking(move || {
            let last = reading.last(tail);
            (reading, last)
        });
        (reading, last) = read
            .await
            .map_err(|error| TargetError::caused(ErrorClass::Internal, "the log could not be read", error))?;
        left |= options.follow;
    }
    let (pieces, reader) = mpsc::channel(WAITING);
    tokio::spawn(run(reading, last, left, options.follow, pieces));
    let stream = stream::unfold(reader, |mut reader: mpsc::Receiver<Piece>| async {
        reader.recv().await.map(|piece| (piece, reader))
    });
    Ok(Box::pin(stream))
}

/// Gives `last`, and what is `left` to be read.
async fn run(
    mut reading: Reading,
    last: VecDeque<Line>,
    left: bool,
    follow: bool,
    pieces: mpsc::Sender<Piece>,
) {
    let mut last = Some(last);
    loop {
        let out = pieces.clone();
        let first = last.take().unwrap_or_default();
        // Files are read, and readers waited for, on a thread that may wait.
        let read = tokio::task::spawn_blocking(move || {
            let mut writer = Writer { out: &out, text: String::new() };
            let mut done = first.iter().try_for_each(|line| writer.line(line));
            if left && done.is_ok() {
                done = reading.more(&mut writer);
            }
            (reading, done.and_then(|()| writer.flush()))
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
    options: LogOptions,
    sources: Vec<LogSource>,
    known: HashSet<String>,
}

impl Reading {
    /// The last lines of those that are there now.
    fn last(&mut self, tail: usize) -> VecDeque<Line> {
        // The last lines of one request may be anywhere.
        self.look(Some(tail).filter(|_| self.options.request_id.is_none()));
        let mut last = VecDeque::new();
        let options = &self.options;
        let keep = |line: Line| {
            if options.take(line.text.as_bytes()) {
                last.push_back(line);
            }
            if last.len() > tail {
                last.pop_front();
            }
            Ok::<_, Infallible>(())
        };
        let Ok(()) = merge(&mut self.sources, keep);
        last
    }

    fn more(&mut self, writer: &mut Writer<'_>) -> Result<(), Left> {
        self.look(None);
        let options = &self.options;
        merge(
            &mut self.sources,
            |line| {
                if options.take(line.text.as_bytes()) { writer.line(&line) } else { Ok(()) }
            },
        )
    }

    /// Finds replicas that were not there before.
    fn look(&mut self, tail: Option<usize>) {
        for replica in self.context.layout.replica_ids(&self.id) {
            let only = self.options.replica.as_ref();
            if only.is_some_and(|only| *only != replica) || !self.known.insert(replica.clone()) {
                continue;
            }
            let folder = self.context.layout.replica(&self.id, &replica);
            let prefix = if only.is_some() { String::new() } else { format!("[{replica}] ") };
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
