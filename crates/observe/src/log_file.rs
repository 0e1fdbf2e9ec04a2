//! A log in a file that is turned over before it grows too large: `FILE`, `FILE.1`, `FILE.2`, …, the oldest last.

use std::{
    ffi::OsString,
    io::{self, Write},
    path::{Path, PathBuf},
};

use fs_err::{File, OpenOptions};

/// The file that is written to. Every `write` is taken as one whole line, and a line is never split over two files.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: File,
    length: u64,
    /// Beyond it the file is turned over.
    max_bytes: u64,
    /// Turned-over files that are kept.
    kept: usize,
    /// Where turning over failed, how long the file was; it is tried again a file's length later.
    failed_at: u64,
}

impl LogFile {
    /// Goes on where an earlier process ended.
    pub fn open(path: &Path, max_bytes: u64, kept: usize) -> io::Result<Self> {
        let file = append_to(path)?;
        let length = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, length, max_bytes, kept, failed_at: 0 })
    }

    /// Renames from the oldest on, so that a crash in the middle leaves a gap in the numbers and loses nothing that
    /// was to be kept. The old file is written to until the new one is open.
    fn turn_over(&mut self) -> io::Result<()> {
        for number in (1..self.kept).rev() {
            match fs_err::rename(numbered(&self.path, number), numbered(&self.path, number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs_err::rename(&self.path, numbered(&self.path, 1))?;
        self.file = append_to(&self.path)?;
        self.length = 0;
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn numbered(path: &Path, number: usize) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".{number}"));
    name.into()
}

impl Write for LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let after = self.length + line.len() as u64;
        if self.length > 0 && after > self.failed_at + self.max_bytes {
            // A log that cannot be turned over grows; that is better than one that loses lines.
            self.failed_at = if self.turn_over().is_ok() { 0 } else { self.length };
        }
        self.file.write_all(line)?;
        self.length += line.len() as u64;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn every_line_is_in_one_file_and_the_newest_are_kept() {
        let folder = std::env::temp_dir().join(format!("moorline-log-file-{}", std::process::id()));
        fs_err::create_dir_all(&folder).unwrap();
        let path = folder.join("scorer.log");
        let mut log = LogFile::open(&path, 30, 2).unwrap();
        for number in 0..10 {
            if number == 5 {
                log = LogFile::open(&path, 30, 2).unwrap();
            }
            writeln!(log_line(&mut log), "line {number:04}").unwrap();
        }
        let text = |path: &Path| fs_err::read_to_string(path).unwrap();
        let mut kept = String::new();
        for file in [numbered(&path, 2), numbered(&path, 1), path.clone()] {
            assert!(text(&file).len() <= 30);
            write!(kept, "{}", text(&file)).unwrap();
        }
        let lines: Vec<String> = (3..10).map(|number| format!("line {number:04}")).collect();
        assert_eq!(kept.lines().collect::<Vec<_>>(), lines);
        assert!(!numbered(&path, 3).exists());
        fs_err::remove_dir_all(&folder).unwrap();
    }

    /// As the subscriber does: a line in one `write`.
    fn log_line(log: &mut LogFile) -> io::LineWriter<&mut LogFile> {
        io::LineWriter::new(log)
    }
}
