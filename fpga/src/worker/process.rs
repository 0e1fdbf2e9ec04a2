//! A worker's process: how it is started, what it is asked, and how it ends.

use std::{
    collections::{BTreeMap, VecDeque},
    ffi::OsString,
    fmt,
    io::{self, PipeReader, Read as _},
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt as _, process::ExitStatusExt as _},
    },
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use crate::{lease::Lease, runtime::RuntimeError};

use super::{
    WorkerError,
    line::{Call, Line, LineError},
    wire::{Reply, Request, Shared, WireError},
};

/// What is kept of a worker's output.
const TAIL: usize = 8 * 1024;

/// Variables that make drivers of hardware emulate it.
const EMULATION: [&str; 2] = ["XCL_EMULATION_MODE", "CL_CONTEXT_EMULATOR_DEVICE_INTELFPGA"];

/// How worker processes are started.
#[derive(Clone)]
pub struct Launcher {
    /// A binary that calls [`main`](super::main),
    pub program: PathBuf,
    /// with these arguments.
    pub arguments: Vec<OsString>,
    /// All variables that it is given; drivers look at many of them. `OCL_ICD_VENDORS` says which drivers there are.
    pub environment: BTreeMap<String, String>,
    /// Where each worker has a folder of its own for its driver's files while it runs.
    pub scratch: PathBuf,
}

impl fmt::Debug for Launcher {
    /// Without the values of variables, of which some may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Launcher")
            .field("program", &self.program)
            .field("arguments", &self.arguments)
            .field("scratch", &self.scratch)
            .finish_non_exhaustive()
    }
}

impl Launcher {
    pub(super) fn told_to_emulate(&self) -> bool {
        EMULATION.iter().any(|name| self.environment.contains_key(*name))
    }
}

/// A worker's process. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Process {
    id: u32,
    body: Mutex<Body>,
    pub(super) line: Line,
}

#[derive(Debug)]
struct Body {
    child: Child,
    tail: Arc<Tail>,
    pump: Option<JoinHandle<()>>,
    /// Removed after the process has ended.
    _scratch: TempDir,
}

/// How a process ended.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) status: String,
    /// By a signal that a broken program gets, and not by one that a person sends.
    pub(super) broke_down: bool,
    pub(super) output: String,
}

/// Why a request was not answered.
#[derive(Clone, Debug)]
pub(super) enum Silence {
    /// It had ended before the request was sent.
    Unsent,
    Ended(End),
    /// It was killed: it was too late, or had said that a launch is.
    Late {
        launch: Option<usize>,
    },
    Garbage(String),
}

impl Process {
    /// Starts a worker with the variables that an image asks for on top of the others. It holds the lease, where there is
    /// one, for as long as it lives.
    pub(super) fn start(
        launcher: &Launcher,
        variables: &BTreeMap<String, String>,
        lease: Option<&Lease>,
    ) -> Result<Self, WorkerError> {
        let failed = |source| WorkerError::Spawn { program: launcher.program.clone(), source };
        fs_err::create_dir_all(&launcher.scratch).map_err(failed)?;
        let scratch =
            tempfile::Builder::new().prefix("fpga-worker-").tempdir_in(&launcher.scratch).map_err(failed)?;
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let (output, their_output) = io::pipe().map_err(failed)?;
        let mut command = Command::new(&launcher.program);
        command
            .args(&launcher.arguments)
            .env_clear()
            .envs(&launcher.environment)
            .env("POCL_CACHE_DIR", scratch.path())
            // Kernels run as they are in the image: no compiler, no linker, no surprise at the first launch.
            .env("POCL_WORK_GROUP_SPECIALIZATION", "0")
            .envs(variables)
            // The socket is the standard input: inherited without a word of unsafe code.
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(their_output.try_clone().map_err(failed)?)
            .stderr(their_output)
            // A group of its own: signals from the terminal do not reach it, and it ends with all that it started.
            .process_group(0);
        let child = command.spawn().map_err(failed)?;
        // Its ends of the socket and the pipe are in `command`.
        drop(command);
        let tail = Arc::new(Tail::default());
        let keep = Arc::clone(&tail);
        let pump = thread::Builder::new()
            .name("fpga-worker-output".to_owned())
            .spawn(move || keep.fill(output))
            .map_err(failed)?;
        let shared = Shared::new().map_err(failed)?;
        let line = Line::new(ours, shared).map_err(failed)?;
        let body = Body { child, tail, pump: Some(pump), _scratch: scratch };
        let process = Self { id: body.child.id(), body: Mutex::new(body), line };
        if process.line.hand_over(lease.map(Lease::lock)).is_err() {
            let End { status, output, .. } = process.end();
            return Err(WorkerError::Died { status, output });
        }
        Ok(process)
    }

    /// Asks one thing and waits for the answer, of which `most` bytes are taken. After [`Silence`] the process is over.
    pub(super) fn ask(
        &self,
        request: &Request,
        bytes: &[u8],
        most: u64,
        limit: Duration,
    ) -> Result<Result<(Reply, Vec<u8>), RuntimeError>, Silence> {
        let call = Call { limit, most, alone: false };
        self.line.call(
            call,
            |channel, _, _| channel.send(request, bytes),
            |_, _, answer| Ok(answer),
            |error| self.silence(error),
        )
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// What an error of the line says; the process is over afterwards.
    pub(super) fn silence(&self, error: LineError) -> Silence {
        match error {
            LineError::Hung { launch } => {
                self.end();
                Silence::Late { launch: Some(launch) }
            }
            LineError::Wire(WireError::Late) => {
                self.end();
                Silence::Late { launch: None }
            }
            LineError::Wire(WireError::Closed | WireError::Socket(_)) => Silence::Ended(self.end()),
            LineError::Wire(WireError::Garbage(reason)) => {
                self.end();
                Silence::Garbage(reason)
            }
        }
    }

    /// Ends the process, unless it has ended, and says how that was.
    fn end(&self) -> End {
        self.body.lock().unwrap_or_else(PoisonError::into_inner).end(self.id)
    }
}

impl Body {
    fn end(&mut self, id: u32) -> End {
        // One that has ended by itself keeps its own status: a signal to what is left of it changes nothing.
        if let Some(group) = Pid::from_raw(id as i32)
            && let Err(error) = kill_process_group(group, Signal::KILL)
        {
            tracing::debug!(%error, "could not kill a worker that is on its way out");
        }
        let status = self.child.wait();
        if let Some(pump) = self.pump.take()
            && pump.join().is_err()
        {
            tracing::debug!("the output of a worker was lost");
        }
        let signal = status.as_ref().ok().and_then(ExitStatus::signal);
        End {
            status: describe(status),
            broke_down: signal.is_some_and(|signal| BREAKDOWNS.contains(&signal)),
            output: self.tail.text(),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if self.pump.is_some() {
            self.end(self.child.id());
        }
    }
}

/// SIGILL, SIGABRT, SIGBUS, SIGFPE and SIGSEGV.
const BREAKDOWNS: [i32; 5] = [4, 6, 7, 8, 11];

/// How a process ended, for people.
fn describe(status: io::Result<ExitStatus>) -> String {
    match status {
        Err(error) => format!("its end is not known: {error}"),
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("it exited with code {code}"),
            (None, Some(6)) => "it was ended by signal 6, an assertion that failed".to_owned(),
            (None, Some(9)) => "it was killed by signal 9, as by `kill -9` or for want of memory".to_owned(),
            (None, Some(11)) => "it was ended by signal 11, a segmentation fault".to_owned(),
            (None, Some(signal)) => format!("it was ended by signal {signal}"),
            (None, None) => status.to_string(),
        },
    }
}

/// The last of what a worker printed.
#[derive(Debug, Default)]
struct Tail(Mutex<VecDeque<u8>>);

impl Tail {
    fn fill(&self, mut output: PipeReader) {
        let mut piece = [0; 4096];
        loop {
            match output.read(&mut piece) {
                Ok(read) if read > 0 => {
                    let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                    kept.extend(&piece[..read]);
                    let beyond = kept.len().saturating_sub(TAIL);
                    kept.drain(..beyond);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => return,
            }
        }
    }

    fn text(&self) -> String {
        let kept: Vec<u8> = self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        String::from_utf8_lossy(&kept).trim().to_owned()
    }
}
