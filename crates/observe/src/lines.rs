//! Lines that a request leaves behind: gathered in memory within a bound, and written as JSON by a thread of their own.

use std::{
    convert::Infallible,
    fmt,
    io::{self, Write},
    path::PathBuf,
    str::FromStr,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use serde::Serialize;

use crate::log_file::LogFile;

/// Lines that wait to be written; further ones are lost.
const MOST_WAITING: usize = 16 * 1024;
/// So long lines are gathered, so that a request seldom wakes the thread and a write has many of them.
const GATHER: Duration = Duration::from_millis(20);
/// A write is about this long at most.
const CHUNK: usize = 64 * 1024;

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinePlace {
    Off,
    StandardOutput,
    File(PathBuf),
}

impl FromStr for LinePlace {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "" | "off" => Self::Off,
            "-" => Self::StandardOutput,
            file => Self::File(file.into()),
        })
    }
}

/// Where lines go, and how much of them is kept in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinesConfig {
    pub place: LinePlace,
    /// At this size a file is turned over.
    pub max_bytes: u64,
    /// Turned-over files that are kept.
    pub kept: usize,
}

impl LinesConfig {
    /// Where to write; `None` where nothing is wanted.
    pub fn open(&self) -> io::Result<Option<Box<dyn Write + Send>>> {
        Ok(match &self.place {
            LinePlace::Off => None,
            LinePlace::StandardOutput => Some(Box::new(io::stdout())),
            LinePlace::File(path) => Some(Box::new(LogFile::open(path, self.max_bytes, self.kept)?)),
        })
    }
}

/// Told how many lines were lost.
type Lost = Box<dyn Fn(u64) + Send + Sync>;

/// Takes lines, and never waits.
pub struct Lines<T> {
    shared: Arc<Shared<T>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared<T> {
    waiting: Mutex<Waiting<T>>,
    /// That there is a first line, or that there will be none any more.
    more: Condvar,
    lost: Lost,
}

struct Waiting<T> {
    lines: Vec<T>,
    over: bool,
}

impl<T> fmt::Debug for Lines<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").finish_non_exhaustive()
    }
}

impl<T: Serialize + Send + 'static> Lines<T> {
    /// Begins to write to `sink`; every write there is of whole lines.
    pub fn start(sink: Box<dyn Write + Send>, lost: Lost) -> io::Result<Self> {
        let waiting = Mutex::new(Waiting { lines: Vec::new(), over: false });
        let shared = Arc::new(Shared { waiting, more: Condvar::new(), lost });
        let thread = std::thread::Builder::new().name("lines".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || shared.write(sink)
        })?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    pub fn push(&self, line: T) {
        let mut waiting = lock(&self.shared.waiting);
        if waiting.over || waiting.lines.len() >= MOST_WAITING {
            drop(waiting);
            (self.shared.lost)(1);
            return;
        }
        waiting.lines.push(line);
        if waiting.lines.len() == 1 {
            self.shared.more.notify_one();
        }
    }

    /// Writes what waits, and takes no more. Blocks.
    pub fn finish(&self) {
        lock(&self.shared.waiting).over = true;
        self.shared.more.notify_one();
        if let Some(thread) = lock(&self.thread).take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that writes lines had ended");
        }
    }
}

impl<T: Serialize> Shared<T> {
    fn write(&self, mut sink: Box<dyn Write + Send>) {
        let mut text = Vec::with_capacity(CHUNK);
        let mut failing = false;
        loop {
            let (lines, over) = self.gather();
            let mut unwritten = 0;
            for line in lines {
                // Into memory, so it fails for no line.
                if serde_json::to_writer(&mut text, &line).is_ok() {
                    text.push(b'\n');
                    unwritten += 1;
                }
                if text.len() >= CHUNK {
                    self.give(&mut sink, &mut text, &mut unwritten, &mut failing);
                }
            }
            self.give(&mut sink, &mut text, &mut unwritten, &mut failing);
            if over {
                return;
            }
        }
    }

    /// The lines of a while; the second is whether they are the last ones.
    fn gather(&self) -> (Vec<T>, bool) {
        let waiting = lock(&self.waiting);
        let none = |waiting: &mut Waiting<T>| waiting.lines.is_empty() && !waiting.over;
        let waiting = self.more.wait_while(waiting, none).unwrap_or_else(PoisonError::into_inner);
        let more = |waiting: &mut Waiting<T>| !waiting.over;
        let gathered = self.more.wait_timeout_while(waiting, GATHER, more);
        let (mut waiting, _) = gathered.unwrap_or_else(PoisonError::into_inner);
        (std::mem::take(&mut waiting.lines), waiting.over)
    }

    fn give(&self, sink: &mut dyn Write, text: &mut Vec<u8>, unwritten: &mut u64, failing: &mut bool) {
        if text.is_empty() {
            return;
        }
        match sink.write_all(text).and_then(|()| sink.flush()) {
            Ok(()) => *failing = false,
            Err(error) => {
                // Once for a disk that is full, and not again and again.
                if !std::mem::replace(failing, true) {
                    tracing::error!(%error, "lines could not be written");
                }
                (self.lost)(*unwritten);
            }
        }
        text.clear();
        *unwritten = 0;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::{
        atomic::{AtomicU64, Ordering},
        mpsc,
    };

    use super::*;

    /// Hands what is written to a test, and goes on when the test lets it.
    struct Held {
        written: Arc<Mutex<Vec<u8>>>,
        begun: mpsc::Sender<()>,
        go_on: mpsc::Receiver<()>,
    }

    impl Write for Held {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            let _ = self.begun.send(());
            let _ = self.go_on.recv();
            lock(&self.written).extend_from_slice(text);
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn counted() -> (Arc<AtomicU64>, Lost) {
        let count = Arc::new(AtomicU64::new(0));
        let own = Arc::clone(&count);
        let lost = move |lost| {
            own.fetch_add(lost, Ordering::Relaxed);
        };
        (count, Box::new(lost))
    }

    #[test]
    fn a_sink_that_stands_still_costs_lines_and_nobody_waits() {
        let (begun, begins) = mpsc::channel();
        let (go_on, held) = mpsc::channel();
        let written = Arc::new(Mutex::new(Vec::new()));
        let sink = Held { written: Arc::clone(&written), begun, go_on: held };
        let (count, lost) = counted();
        let lines = Lines::start(Box::new(sink), lost).unwrap();
        lines.push("first\n\"line\"".to_owned());
        begins.recv().unwrap();
        for number in 0..MOST_WAITING + 7 {
            lines.push(number.to_string());
        }
        assert_eq!(count.load(Ordering::Relaxed), 7);
        drop(go_on);
        lines.finish();
        lines.push("too late".to_owned());
        assert_eq!(count.load(Ordering::Relaxed), 8);
        let text = String::from_utf8(lock(&written).clone()).unwrap();
        let all: Vec<&str> = text.lines().collect();
        assert_eq!(all.len(), 1 + MOST_WAITING);
        assert_eq!((all[0], all[MOST_WAITING]), (r#""first\n\"line\"""#, r#""16383""#));
    }

    #[test]
    fn what_a_full_disk_does_not_take_is_counted() {
        let (count, lost) = counted();
        let lines = Lines::start(Box::new(Full), lost).unwrap();
        (0..3).for_each(|number| lines.push(number));
        lines.finish();
        assert_eq!(count.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_place_is_a_word_or_a_file() {
        let place = |text: &str| text.parse::<LinePlace>().unwrap();
        assert_eq!((place("off"), place("-")), (LinePlace::Off, LinePlace::StandardOutput));
        assert_eq!(place("/var/log/a.json"), LinePlace::File("/var/log/a.json".into()));
    }
}
