//! What workers print becomes log events: with the worker's number, the request's id and the level that it was said
//! with. The layout of a record is described in `worker/moorline_worker/console.py`.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::frame::TRACE_FOLLOWS;

/// The longest piece of a line that is one event; the worker's own records are shorter.
const LONGEST_LINE: usize = 80 * 1024;
/// How much of the last output is kept for the message of a failed start.
const KEPT_LINES: usize = 100;

/// The last lines that a worker printed.
#[derive(Debug, Default)]
pub(crate) struct Tail(Mutex<VecDeque<String>>);

impl Tail {
    fn push(&self, line: &str) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == KEPT_LINES {
            lines.pop_front();
        }
        lines.push_back(line.chars().take(4096).collect());
    }

    pub(crate) fn text(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

#[derive(Debug, PartialEq, Eq)]
struct Record {
    level: Level,
    /// As the worker was told it, with the trace's id.
    mark: Option<String>,
    text: String,
}

/// Which of the two streams something was printed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Out,
    Err,
}

impl Stream {
    const fn level(self) -> Level {
        match self {
            Self::Out => Level::Info,
            Self::Err => Level::Warn,
        }
    }
}

fn parse(line: &[u8], stream: Stream) -> Record {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end_matches(['\n', '\r']);
    let tagged = text.strip_prefix('\x1e').and_then(|rest| rest.split_once('\x1f'));
    let Some((tag, escaped)) = tagged else {
        return Record { level: stream.level(), mark: None, text: text.to_owned() };
    };
    let mut tag = tag.chars();
    let level = match tag.next() {
        Some('D') => Level::Debug,
        Some('I') => Level::Info,
        Some('W') => Level::Warn,
        Some('E') => Level::Error,
        _ => stream.level(),
    };
    let mark = Some(tag.as_str().to_owned()).filter(|mark| !mark.is_empty());
    let mut text = String::with_capacity(escaped.len());
    let mut letters = escaped.chars();
    while let Some(letter) = letters.next() {
        match (letter, letter == '\\') {
            (_, true) => match letters.next() {
                Some('n') => text.push('\n'),
                Some('r') => text.push('\r'),
                Some(other) => text.push(other),
                None => {}
            },
            (letter, false) => text.push(letter),
        }
    }
    Record { level, mark, text }
}

fn log(worker: usize, record: &Record) {
    let text = &record.text;
    let (request_id, trace_id) = match record.mark.as_deref().map(|mark| mark.split_once(TRACE_FOLLOWS)) {
        Some(Some((request, trace))) => (Some(request).filter(|id| !id.is_empty()), Some(trace)),
        _ => (record.mark.as_deref(), None),
    };
    match record.level {
        Level::Debug => tracing::debug!(target: "script", worker, request_id, trace_id, "{text}"),
        Level::Info => tracing::info!(target: "script", worker, request_id, trace_id, "{text}"),
        Level::Warn => tracing::warn!(target: "script", worker, request_id, trace_id, "{text}"),
        Level::Error => tracing::error!(target: "script", worker, request_id, trace_id, "{text}"),
    }
}

/// Reads one stream of a worker until it ends. `current` tells the request that a bare line most likely belongs to.
pub(crate) async fn pump(
    mut from: impl AsyncRead + Unpin,
    worker: usize,
    stream: Stream,
    tail: Arc<Tail>,
    current: impl Fn() -> Option<String>,
) {
    let mut buffer = Vec::with_capacity(8 * 1024);
    let mut seen = 0;
    loop {
        let ended = !matches!(from.read_buf(&mut buffer).await, Ok(read) if read > 0);
        let mut start = 0;
        while start < buffer.len() {
            let newline = buffer[seen.max(start)..].iter().position(|byte| *byte == b'\n');
            let end = match newline {
                Some(offset) => seen.max(start) + offset + 1,
                None if ended || buffer.len() - start >= LONGEST_LINE => buffer.len(),
                None => break,
            };
            let mut record = parse(&buffer[start..end], stream);
            if record.mark.is_none() && buffer[start] != 0x1e {
                record.mark = current();
            }
            tail.push(&record.text);
            log(worker, &record);
            start = end;
        }
        buffer.drain(..start);
        seen = buffer.len();
        if ended {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_keep_level_request_and_lines() {
        let record = parse(b"\x1eEabc-1\x1fline 1\\nback\\\\slash\n", Stream::Err);
        let expected = Record {
            level: Level::Error,
            mark: Some("abc-1".to_owned()),
            text: "line 1\nback\\slash".to_owned(),
        };
        assert_eq!(record, expected);
    }

    #[test]
    fn bare_lines_take_the_level_of_their_stream() {
        for (stream, level) in [(Stream::Out, Level::Info), (Stream::Err, Level::Warn)] {
            let record = parse(b"segfault \xff\r\n", stream);
            assert_eq!(record, Record { level, mark: None, text: "segfault \u{fffd}".to_owned() });
        }
        assert_eq!(parse(b"\x1e\n", Stream::Out).text, "\x1e");
        assert_eq!(parse(b"\x1e\x1f", Stream::Out).text, "");
    }

    #[tokio::test]
    async fn endless_lines_are_cut_and_the_last_one_needs_no_end() {
        let tail = Arc::new(Tail::default());
        let mut printed = vec![b'x'; LONGEST_LINE * 2];
        printed.extend(b"\nlast");
        pump(&printed[..], 0, Stream::Out, Arc::clone(&tail), || None).await;
        let text = tail.text();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.len() >= 2);
        assert_eq!(lines.last(), Some(&"last"));
    }
}
