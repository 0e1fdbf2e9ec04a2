//! The clock that ages of messages are measured by: it only goes forward, and steps of the machine's clock while the
//! hub runs do not move it. Devices without a clock of their own start in 1970 and learn the time minutes later; a
//! message must neither expire for that nor live for ever.

use std::{
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::DiskError;

/// 2024-01-01: a machine that says less has not learnt the time yet.
const PLAUSIBLE: Duration = Duration::from_hours(473_352);

/// Milliseconds that have passed for one hub, over all its runs.
#[derive(Debug)]
pub struct Clock {
    path: PathBuf,
    started: Instant,
    /// What the clock said when this run started.
    base: u64,
    writing: Mutex<()>,
}

impl Clock {
    pub(crate) fn open(folder: &Path) -> Result<Self, DiskError> {
        let path = folder.join("clock");
        let base = match fs_err::read_to_string(&path) {
            Ok(text) => resume(&text, wall()),
            Err(_) => 1,
        };
        let clock = Self { path, started: Instant::now(), base, writing: Mutex::new(()) };
        clock.save()?;
        Ok(clock)
    }

    /// Now.
    pub fn now(&self) -> u64 {
        self.base + self.started.elapsed().as_millis() as u64
    }

    /// Writes down what the next run goes on from.
    pub(crate) fn save(&self) -> Result<(), DiskError> {
        let _writing = self.writing.lock();
        let new = self.path.with_extension("new");
        let text = format!("{} {}\n", self.now(), wall().as_millis());
        fs_err::write(&new, text)
            .and_then(|()| fs_err::rename(&new, &self.path))
            .map_err(DiskError::io(&self.path))
    }
}

fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// What a clock says that was written down as `text`, and is opened again when the machine's clock says `wall`.
fn resume(text: &str, wall: Duration) -> u64 {
    let mut numbers = text.split_whitespace().map(str::parse::<u64>);
    let (Some(Ok(said)), Some(Ok(then))) = (numbers.next(), numbers.next()) else { return 1 };
    let then = Duration::from_millis(then);
    // Time spent switched off counts where both ends of it are known.
    let off = if then >= PLAUSIBLE && wall >= PLAUSIBLE { wall.saturating_sub(then) } else { Duration::ZERO };
    said.max(1) + off.as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_time_that_is_known_to_have_passed_counts() {
        let then = 1_800_000_000_000;
        let text = format!("5000 {then}\n");
        let at = |millis: u64| Duration::from_millis(millis);
        assert_eq!(resume(&text, at(then + 700)), 5700);
        // Set back, or not set at all.
        assert_eq!(resume(&text, at(then - 700)), 5000);
        assert_eq!(resume(&text, at(12_000)), 5000);
        // It was not set when this was written.
        assert_eq!(resume("5000 12000\n", at(then)), 5000);
        assert_eq!(resume("torn", at(then)), 1);
    }

    #[test]
    fn a_clock_goes_on_where_it_was() {
        let folder = tempfile::tempdir().unwrap();
        fs_err::write(folder.path().join("clock"), "9000 5\n").unwrap();
        let first = Clock::open(folder.path()).unwrap();
        assert!(first.now() >= 9000);
        let second = Clock::open(folder.path()).unwrap();
        assert!(second.now() >= 9000);
    }
}
