//! What a process under test writes to stderr, kept line by line, and a way to wait for a line.

use std::{
    io::{BufRead, BufReader, Read},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

/// A growing log; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Log {
    shared: Arc<(Mutex<Lines>, Condvar)>,
}

#[derive(Debug, Default)]
struct Lines {
    lines: Vec<String>,
    open: usize,
}

impl Log {
    /// Reads `stream` to its end on a thread of its own.
    pub fn follow(&self, stream: impl Read + Send + 'static) {
        self.lines_mut().open += 1;
        let log = self.clone();
        thread::spawn(move || {
            let mut reader = BufReader::new(stream);
            let mut line = Vec::new();
            while matches!(reader.read_until(b'\n', &mut line), Ok(count) if count > 0) {
                log.lines_mut().lines.push(String::from_utf8_lossy(&line).trim_end().to_owned());
                log.shared.1.notify_all();
                line.clear();
            }
            log.lines_mut().open -= 1;
            log.shared.1.notify_all();
        });
    }

    fn lines_mut(&self) -> MutexGuard<'_, Lines> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn text(&self) -> String {
        self.lines_mut().lines.join("\n")
    }

    /// The lines that are JSON objects, oldest first.
    pub fn events(&self) -> Vec<Value> {
        self.lines_mut().lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    pub fn contains(&self, part: &str) -> bool {
        self.lines_mut().lines.iter().any(|line| line.contains(part))
    }

    /// The first line that `wanted` takes, waiting for it; `None` when the streams ended or the time passed.
    pub fn wait_for<T>(&self, within: Duration, wanted: impl Fn(&str) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + within;
        let mut lines = self.lines_mut();
        let mut seen = 0;
        loop {
            if let Some(found) = lines.lines[seen..].iter().find_map(|line| wanted(line)) {
                return Some(found);
            }
            seen = lines.lines.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if lines.open == 0 || left.is_zero() {
                return None;
            }
            lines = self.shared.1.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until a line contains `part`.
    pub fn wait_for_text(&self, within: Duration, part: &str) -> bool {
        self.wait_for(within, |line| line.contains(part).then_some(())).is_some()
    }

    /// Waits until every followed stream has ended.
    pub fn wait_for_end(&self, within: Duration) {
        let deadline = Instant::now() + within;
        let mut lines = self.lines_mut();
        while lines.open > 0 && Instant::now() < deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            lines = self.shared.1.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
