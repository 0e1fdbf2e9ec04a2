//! Running the programs that make an environment: their output goes to the build's log, line by line, and to whoever
//! watches; when nobody waits for them any more, they end with all that they started.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{self, Write},
    path::Path,
    process::{ExitStatus, Stdio},
};

use fs_err::File;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
};

/// Lines kept for the message of a failed build.
const KEPT_LINES: usize = 40;
const LONGEST_LINE: usize = 4096;
/// A build that prints more goes on, and its log does not.
const LONGEST_LOG: u64 = 32 << 20;

/// The log of one build.
pub(crate) struct BuildLog<'a> {
    file: File,
    written: u64,
    tail: VecDeque<String>,
    progress: &'a (dyn Fn(&str) + Send + Sync),
}

impl<'a> BuildLog<'a> {
    pub(crate) fn create(path: &Path, progress: &'a (dyn Fn(&str) + Send + Sync)) -> io::Result<Self> {
        Ok(Self { file: File::create(path)?, written: 0, tail: VecDeque::new(), progress })
    }

    pub(crate) fn line(&mut self, line: &str) {
        let line: String = line.chars().take(LONGEST_LINE).collect();
        self.written += line.len() as u64 + 1;
        if self.written < LONGEST_LOG
            && let Err(error) = writeln!(self.file, "{line}")
        {
            tracing::debug!(%error, "the log of a build could not be written");
        }
        (self.progress)(&line);
        if self.tail.len() == KEPT_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
    }

    pub(crate) fn tail(self) -> Vec<String> {
        self.tail.into()
    }
}

/// Ends a group when it goes, unless its leader has ended.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0
            && let Err(error) = kill_process_group(leader, Signal::KILL)
        {
            tracing::debug!(%error, "could not end a build that is not waited for any more");
        }
    }
}

/// Runs a program to its end.
pub(crate) async fn run(
    mut command: Command,
    environment: &BTreeMap<String, String>,
    log: &mut BuildLog<'_>,
) -> io::Result<ExitStatus> {
    // One pipe for both streams keeps the order of the lines.
    let (reader, writer) = io::pipe()?;
    command
        .env_clear()
        .envs(environment)
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn()?;
    // The command holds the writing end of the pipe, which would never end with it.
    drop(command);
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(id as i32)));
    let output = tokio::net::unix::pipe::Receiver::from_owned_fd(reader.into())?;
    let pump = pump(output, log);
    tokio::pin!(pump);
    let status = tokio::select! {
        read = &mut pump => {
            read?;
            child.wait().await?
        }
        status = child.wait() => {
            let status = status?;
            // What it printed last is in the pipe; a process that it left behind may hold it open.
            let grace = std::time::Duration::from_secs(2);
            if let Ok(read) = tokio::time::timeout(grace, pump).await {
                read?;
            }
            status
        }
    };
    group.0 = None;
    Ok(status)
}

async fn pump(mut from: impl AsyncRead + Unpin, log: &mut BuildLog<'_>) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(8 * 1024);
    loop {
        let ended = from.read_buf(&mut buffer).await? == 0;
        let mut start = 0;
        while start < buffer.len() {
            let newline = buffer[start..].iter().position(|byte| *byte == b'\n');
            let end = match newline {
                Some(offset) => start + offset + 1,
                None if ended || buffer.len() - start >= LONGEST_LINE => buffer.len(),
                None => break,
            };
            log.line(String::from_utf8_lossy(&buffer[start..end]).trim_end());
            start = end;
        }
        buffer.drain(..start);
        if ended {
            return Ok(());
        }
    }
}
