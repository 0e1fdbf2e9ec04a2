//! Starting a `moorline-scorer` from outside and knowing when it serves, by what it logs.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{Workspace, shell};

/// Longer than any start that is worth waiting for.
const START_LIMIT: Duration = Duration::from_mins(2);
/// Longer than a drain with nothing in flight takes.
const STOP_LIMIT: Duration = Duration::from_secs(40);

/// A scorer that serves. It is killed when dropped; [`RunningScorer::stop`] lets it drain.
#[derive(Debug)]
pub struct RunningScorer {
    child: Child,
    /// `127.0.0.1:PORT` of the data port.
    pub address: String,
    /// From the start of the process to its message `ready`.
    pub start_time: Duration,
}

impl RunningScorer {
    /// Starts the scorer with `settings` on a release and free ports, and waits until it is ready. A scorer that gives
    /// up is an error that holds its last log lines.
    pub fn start(workspace: &Workspace, release: &Path, settings: &[&str]) -> Result<Self> {
        Self::start_program(workspace, &workspace.binary("moorline-scorer"), release, settings)
    }

    /// The same with another program than the workspace's.
    pub fn start_program(
        workspace: &Workspace,
        program: &Path,
        release: &Path,
        settings: &[&str],
    ) -> Result<Self> {
        let mut command = workspace.command(program);
        command.arg("--release").arg(release);
        command.args(["--port", "0", "--admin-port", "0", "--log-format", "json"]).args(settings);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let start = Instant::now();
        let mut child =
            command.spawn().with_context(|| format!("could not start `{}`", shell::line(&command)))?;
        let log = child.stderr.take().context("the scorer's error output is piped")?;
        let lines = follow(BufReader::new(log));
        let mut scorer = Self { child, address: String::new(), start_time: Duration::ZERO };
        let mut tail: Vec<String> = Vec::new();
        loop {
            let left = START_LIMIT.saturating_sub(start.elapsed());
            let Ok((seen, line)) = lines.recv_timeout(left) else {
                bail!("`{}` did not become ready:\n{}", shell::line(&command), tail.join("\n"));
            };
            let event: Value = serde_json::from_str(&line).unwrap_or_default();
            match event["message"].as_str() {
                Some("listening") => {
                    event["address"].as_str().unwrap_or_default().clone_into(&mut scorer.address);
                }
                Some("ready") => {
                    scorer.start_time = seen.duration_since(start);
                    return Ok(scorer);
                }
                _ => {}
            }
            tail.push(line);
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to drain with SIGTERM and waits for its end.
    pub fn stop(mut self) -> Result<()> {
        shell::output(Command::new("kill").arg(self.id().to_string()))?;
        let deadline = Instant::now() + STOP_LIMIT;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return if status.success() { Ok(()) } else { bail!("the scorer ended with {status}") };
            }
            thread::sleep(Duration::from_millis(5));
        }
        bail!("the scorer did not drain within {} s", STOP_LIMIT.as_secs())
    }
}

impl Drop for RunningScorer {
    fn drop(&mut self) {
        // It may have ended already; there is nobody left to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads a log to its end, so that its writer never blocks; each line comes with the moment it was seen.
fn follow(mut log: impl BufRead + Send + 'static) -> Receiver<(Instant, String)> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut line = Vec::new();
        while log.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            // Once ready, nobody listens any more; the log is still read.
            let _ = sender.send((Instant::now(), String::from_utf8_lossy(&line).trim_end().to_owned()));
            line.clear();
        }
    });
    receiver
}
