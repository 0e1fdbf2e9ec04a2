//! The lines of one log file and of the files that it was turned over into, each once, while it goes on being written.

use std::{
    collections::VecDeque,
    fmt::Write,
    io::{BufRead, BufReader, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use fs_err::File;
use jiff::Timestamp;
use serde_json::Value;

use super::layout::ReplicaFolder;

/// A scorer keeps fewer numbered files than this.
const NUMBERED_FILES: usize = 16;
/// A longer line is given in pieces.
const LONGEST_LINE: u64 = 1 << 20;

/// A line for people, and its time as text that sorts.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) time: String,
    pub(crate) text: String,
}

#[derive(Debug)]
pub(crate) struct LogSource {
    path: PathBuf,
    /// Lines of JSON; else plain text, whose time is the file's.
    json: bool,
    prefix: String,
    current: Option<Opened>,
    later: VecDeque<Opened>,
    partial: Vec<u8>,
    time: String,
}

#[derive(Debug)]
struct Opened {
    reader: BufReader<File>,
    inode: u64,
}

impl LogSource {
    pub(crate) fn of_log(folder: &ReplicaFolder, prefix: String, tail: Option<usize>) -> Self {
        Self::open(folder.log(), true, prefix, tail)
    }

    pub(crate) fn of_stderr(folder: &ReplicaFolder, prefix: String, tail: Option<usize>) -> Self {
        Self::open(folder.stderr(), false, prefix, tail)
    }

    /// Begins with the oldest file, or with the newest ones that have the last `tail` lines between them.
    fn open(path: PathBuf, json: bool, prefix: String, tail: Option<usize>) -> Self {
        let mut later = chain(&path);
        if let Some(tail) = tail {
            let mut lines = 0;
            let needed = later.iter().rev().take_while(|file| {
                let enough = lines >= tail;
                lines += count_lines(file);
                !enough
            });
            let needed = needed.count();
            later.drain(..later.len() - needed);
        }
        Self { path, json, prefix, current: None, later, partial: Vec::new(), time: String::new() }
    }

    /// The next line, or `None` where there is none yet.
    pub(crate) fn next(&mut self) -> Option<Line> {
        loop {
            if self.current.is_none() {
                if self.later.is_empty() {
                    self.later = chain(&self.path);
                }
                self.current = self.later.pop_front();
            }
            let current = self.current.as_mut()?;
            if read_line(current, &mut self.partial) {
                return Some(self.line());
            }
            let inode = current.inode;
            if self.later.is_empty() {
                let newer = chain(&self.path);
                let own = newer.iter().position(|file| file.inode == inode);
                // One that is not among them was turned over until it was removed: all of them are newer.
                self.later = newer.into_iter().skip(own.map_or(0, |own| own + 1)).collect();
                if self.later.is_empty() {
                    self.follow_emptied();
                    return None;
                }
            }
            // Written to until the moment when the newer one was opened, so it is read once more.
            let current = self.current.as_mut()?;
            if read_line(current, &mut self.partial) {
                return Some(self.line());
            }
            self.current = None;
            if !self.partial.is_empty() {
                return Some(self.line());
            }
        }
    }

    /// The file of a standard error may have been emptied.
    fn follow_emptied(&mut self) {
        use std::io::{Seek, SeekFrom};
        if let Some(current) = &mut self.current {
            let length = current.reader.get_ref().metadata().map_or(u64::MAX, |file| file.len());
            if current.reader.stream_position().is_ok_and(|position| position > length)
                && let Err(error) = current.reader.seek(SeekFrom::Start(0))
            {
                tracing::debug!(%error, "a log that was emptied could not be read from its beginning");
            }
        }
    }

    fn line(&mut self) -> Line {
        let bytes = std::mem::take(&mut self.partial);
        let raw = String::from_utf8_lossy(&bytes);
        let raw = raw.trim_end_matches(['\n', '\r']);
        let parsed = if self.json { humane(raw) } else { None };
        let text = if let Some((time, text)) = parsed {
            self.time = time;
            text
        } else {
            if let Some(written) = self.current.as_ref().filter(|_| !self.json).and_then(modified) {
                self.time = written;
            }
            raw.to_owned()
        };
        Line { time: self.time.clone(), text: format!("{}{text}", self.prefix) }
    }
}

/// Whether a whole line, or as much of one as is given at a time, is in `partial`.
fn read_line(file: &mut Opened, partial: &mut Vec<u8>) -> bool {
    let room = LONGEST_LINE.saturating_sub(partial.len() as u64);
    match (&mut file.reader).take(room).read_until(b'\n', partial) {
        Ok(_) => partial.ends_with(b"\n") || partial.len() as u64 >= LONGEST_LINE,
        Err(error) => {
            tracing::debug!(%error, "a log could not be read");
            false
        }
    }
}

/// The file and the numbered ones, the oldest first. They are opened from the newest on: a file that is turned over
/// meanwhile is seen twice and kept once, where the other order would miss one.
fn chain(path: &Path) -> VecDeque<Opened> {
    let mut files: VecDeque<Opened> = VecDeque::new();
    for number in 0..=NUMBERED_FILES {
        let path = if number == 0 { path.to_owned() } else { numbered(path, number) };
        let Ok(file) = File::open(path) else {
            // A crash between two renames leaves a gap of one.
            if number > 1 && files.len() + 1 < number {
                break;
            }
            continue;
        };
        let Ok(inode) = file.metadata().map(|file| file.ino()) else { continue };
        if files.iter().all(|other| other.inode != inode) {
            files.push_front(Opened { reader: BufReader::new(file), inode });
        }
    }
    files
}

fn numbered(path: &Path, number: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

fn count_lines(file: &Opened) -> usize {
    let mut count = 0;
    let mut buffer = vec![0; 64 * 1024];
    // A descriptor of its own would share the position, so the file is read by offsets.
    let mut offset = 0;
    while let Ok(read) = rustix::io::pread(file.reader.get_ref(), &mut buffer[..], offset)
        && read > 0
    {
        count += buffer[..read].split(|byte| *byte == b'\n').count() - 1;
        offset += read as u64;
    }
    count
}

fn modified(file: &Opened) -> Option<String> {
    let written = file.reader.get_ref().metadata().ok()?.modified().ok()?;
    Some(format!("{:.6}", Timestamp::try_from(written).ok()?))
}

/// `TIME LEVEL message name=value …` of a line that the scorer wrote as JSON.
fn humane(raw: &str) -> Option<(String, String)> {
    let Ok(Value::Object(mut fields)) = serde_json::from_str(raw) else { return None };
    let mut take = |name: &str| match fields.shift_remove(name) {
        Some(Value::String(text)) => text,
        _ => String::new(),
    };
    let (time, level, message) = (take("timestamp"), take("level"), take("message"));
    take("target");
    let mut text = format!("{time} {level} {message}");
    for (name, value) in fields {
        match value {
            Value::String(value) => write!(text, " {name}={value}"),
            value => write!(text, " {name}={value}"),
        }
        .ok()?;
    }
    Some((time, text))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn all(source: &mut LogSource) -> Vec<String> {
        std::iter::from_fn(|| source.next()).map(|line| line.text).collect()
    }

    fn append(path: &Path, text: &str) {
        let mut file = fs_err::OpenOptions::new().create(true).append(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn turn_over(path: &Path) {
        for number in (1..4).rev() {
            let _ = fs_err::rename(numbered(path, number), numbered(path, number + 1));
        }
        fs_err::rename(path, numbered(path, 1)).unwrap();
    }

    #[test]
    fn every_line_is_given_once_however_often_the_file_is_turned_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut source = LogSource::open(path.clone(), false, String::new(), None);
        assert!(source.next().is_none());
        append(&path, "1\n2\nthr");
        assert_eq!(all(&mut source), ["1", "2"]);
        append(&path, "ee\n");
        turn_over(&path);
        append(&path, "4\n");
        turn_over(&path);
        append(&path, "5\n");
        assert_eq!(all(&mut source), ["three", "4", "5"]);
        turn_over(&path);
        assert!(source.next().is_none());
        append(&path, "6\n");
        assert_eq!(all(&mut source), ["6"]);
        let mut tail = LogSource::open(path, false, "> ".to_owned(), Some(2));
        assert_eq!(all(&mut tail), ["> 5", "> 6"]);
    }

    #[test]
    fn lines_of_json_are_for_people() {
        let raw = r#"{"timestamp":"2026-01-01T00:00:00Z","level":"INFO","message":"ready","millis":5,"id":"a","target":"x"}"#;
        let (time, text) = humane(raw).unwrap();
        assert_eq!(time, "2026-01-01T00:00:00Z");
        assert_eq!(text, "2026-01-01T00:00:00Z INFO ready millis=5 id=a");
        assert!(humane("no JSON").is_none());
    }
}
