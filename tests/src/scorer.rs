//! The real `moorline-scorer` as a child process: started on free ports, watched through its log, killed on drop.

use std::{
    env,
    ffi::{OsStr, OsString},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    http::{Reply, Request, call},
    log::Log,
    place::{binary, ort_library, python},
    process::eventually,
    release::ReleaseDir,
};

/// How long a start may take; Python on a busy machine is slow.
const START_LIMIT: Duration = Duration::from_mins(1);

/// A running scorer.
#[derive(Debug)]
pub struct Scorer {
    child: Child,
    release: Option<ReleaseDir>,
    log: Log,
    address: SocketAddr,
    admin: SocketAddr,
}

/// A scorer that did not start.
#[derive(Debug)]
pub struct Failure {
    pub code: Option<i32>,
    pub log: String,
}

/// A scorer to be started.
#[derive(Debug)]
pub struct ScorerCommand {
    command: Command,
    release: Option<ReleaseDir>,
    log: Log,
}

impl ScorerCommand {
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    pub fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.command.args(arguments);
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Keeps the release's folder for as long as the scorer lives.
    pub(crate) fn keeping(mut self, release: ReleaseDir) -> Self {
        self.release = Some(release);
        self
    }

    /// Starts it and waits until it says that it is ready, in its log and on its admin port.
    pub fn start(self) -> Scorer {
        let scorer = self.start_until_said_ready();
        let ready = eventually(START_LIMIT, || scorer.ready());
        assert!(ready, "/ready did not become 200; the log:\n{}", scorer.log.text());
        scorer
    }

    /// Starts it and takes the log's word for it.
    pub fn start_until_said_ready(self) -> Scorer {
        let scorer = self.start_listening();
        assert!(
            scorer.log.wait_for(START_LIMIT, |line| message_is(line, "ready")).is_some(),
            "the scorer did not become ready; its log:\n{}",
            scorer.log.text()
        );
        scorer
    }

    /// Starts it and waits until its sockets are bound; the model may still be loading.
    pub fn start_listening(mut self) -> Scorer {
        let mut child = self.spawn();
        let addresses = self.log.wait_for(START_LIMIT, |line| {
            let event = message_is(line, "listening")?;
            let address = |name: &str| event.get(name)?.as_str()?.parse().ok();
            Some((address("address")?, address("admin_address")?))
        });
        let Some((address, admin)) = addresses else {
            // It goes away before the test says why, so that nothing is left running.
            let _ = child.kill();
            let status = child.wait().expect("a child can be waited for");
            panic!("the scorer did not listen ({status}); its log:\n{}", self.log.text());
        };
        Scorer { child, release: self.release, log: self.log, address, admin }
    }

    /// Starts it and waits for its end: it must refuse.
    pub fn fail(mut self) -> Failure {
        let mut child = self.spawn();
        let status = wait(&mut child, START_LIMIT).unwrap_or_else(|| {
            let _ = child.kill();
            panic!("the scorer should have refused to start; its log:\n{}", self.log.text());
        });
        self.log.wait_for_end(Duration::from_secs(5));
        let log = self.log.text();
        assert!(!log.contains("panicked at"), "the scorer panicked:\n{log}");
        Failure { code: status.code(), log }
    }

    fn spawn(&mut self) -> Child {
        let mut child = self.command.spawn().expect("`moorline-scorer` can be started");
        self.log.follow(child.stderr.take().expect("stderr is piped"));
        self.log.follow(child.stdout.take().expect("stdout is piped"));
        child
    }
}

impl Scorer {
    /// A scorer of a release, on free ports, logging JSON, in an environment of its own.
    pub fn of(release: &Path) -> ScorerCommand {
        let mut command = Command::new(binary("moorline-scorer"));
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for name in ["PATH", "HOME", "LD_LIBRARY_PATH", "TMPDIR"] {
            if let Some(value) = env::var_os(name) {
                command.env(name, value);
            }
        }
        if let Some(library) = ort_library() {
            command.env("ORT_DYLIB_PATH", library);
        }
        let mut arguments: Vec<OsString> = vec!["--release".into(), release.into()];
        arguments.extend(["--log-format", "json"].map(Into::into));
        // As variables, so that a test can name another port or another Python.
        command.args(arguments).env("SERVER_PORT", "0").env("MOORLINE_ADMIN_PORT", "0");
        command.env("MOORLINE_PYTHON", python());
        command.env("MOORLINE_ENDPOINT", "tested").env("MOORLINE_DEPLOYMENT", "tested");
        ScorerCommand { command, release: None, log: Log::default() }
    }

    /// The release that it serves, where [`ReleaseDir::serve`] started it.
    pub fn release(&self) -> &ReleaseDir {
        self.release.as_ref().expect("the release was kept")
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    pub fn log(&self) -> &Log {
        &self.log
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends one request to the data port.
    pub fn call(&self, request: &Request) -> Reply {
        call(self.address, request)
    }

    /// Posts JSON to the data port.
    pub fn post(&self, target: &str, body: &Value) -> Reply {
        self.call(&Request::json(target, body))
    }

    pub fn get(&self, target: &str) -> Reply {
        self.call(&Request::get(target))
    }

    /// Whether the admin port says that it is ready.
    pub fn ready(&self) -> bool {
        call(self.admin, &Request::get("/ready")).status == 200
    }

    /// The value of one series on `/metrics`, by its name and labels as written there; 0 when it is absent.
    pub fn metric(&self, series: &str) -> f64 {
        let text = call(self.admin, &Request::get("/metrics")).text();
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.trim().parse().expect("a metric's value is a number"))
    }

    pub fn terminate(&self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a child has a process id"), Signal::TERM).expect("a child can be signalled");
    }

    /// Waits for its end and gives its exit code (`None`: a signal ended it); panics when the time passes.
    pub fn wait(&mut self, within: Duration) -> Option<i32> {
        let status = wait(&mut self.child, within);
        status.unwrap_or_else(|| panic!("the scorer did not end; its log:\n{}", self.log.text())).code()
    }
}

impl Drop for Scorer {
    fn drop(&mut self) {
        // It may have ended by itself, as some tests want.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), "--- the scorer's log:\n{}", self.log.text());
        } else {
            self.log.wait_for_end(Duration::from_secs(2));
            let log = self.log.text();
            assert!(!log.contains("panicked at"), "the scorer panicked:\n{log}");
        }
    }
}

/// The event of a JSON line whose message is `message`.
fn message_is(line: &str, message: &str) -> Option<Value> {
    let event: Value = serde_json::from_str(line).ok()?;
    (event.get("message")?.as_str()? == message).then_some(event)
}

/// How it ended, once it has.
fn wait(child: &mut Child, within: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return Some(status);
        }
        if Instant::now() >= deadline {
            return None;
        }
        thread::sleep(Duration::from_millis(5));
    }
}
