//! A Docker Engine of one test's own, which it may reach in other ways than all tests do, fill up, and kill.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{containers::engine, process::eventually};

/// Longer than an Engine takes to start, or to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// An Engine with everything of its own in one folder. It ends with the value.
#[derive(Debug)]
pub struct Dockerd {
    arguments: Vec<String>,
    folder: TempDir,
    child: Child,
}

impl Dockerd {
    /// `None` where no Engine can be started, which was said.
    pub fn start() -> Option<Self> {
        Self::start_with(&[], |_| {})
    }

    /// The same with more arguments. `prepare` is told the folder in which it will keep everything.
    pub fn start_with(arguments: &[&str], prepare: impl FnOnce(&Path)) -> Option<Self> {
        // Where the tests have one, another can be started.
        engine()?;
        let folder = tempfile::Builder::new().prefix("moorline-dockerd-").tempdir();
        let folder = folder.expect("a temporary folder can be made");
        fs_err::create_dir(folder.path().join("data")).expect("a folder can be made");
        prepare(&folder.path().join("data"));
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let child = spawn(folder.path(), &arguments);
        let engine = Self { arguments, folder, child };
        engine.wait();
        Some(engine)
    }

    /// Its socket, as `DOCKER_HOST` has it.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Ends it as a power cut would; its containers run on until the next one finds them.
    pub fn kill(&mut self) {
        self.child.kill().expect("a process can be killed");
        self.child.wait().expect("a child can be waited for");
        // It takes its containerd with it, though not at once, and the next one would rely on what is about to end.
        let file = self.folder.path().join("run/containerd/containerd.pid");
        let text = fs_err::read_to_string(&file).expect("its containerd has written who it is");
        if let Some(pid) = text.trim().parse().ok().and_then(Pid::from_raw) {
            let gone = || kill_process(pid, Signal::KILL).is_err();
            assert!(eventually(PATIENCE, gone), "its containerd does not end");
        }
        fs_err::remove_file(file).expect("a file can be removed");
    }

    /// Asks it to end, as a restart of its machine's service does, and waits until it has.
    pub fn stop(&mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("a process can be sent a signal");
        self.child.wait().expect("a child can be waited for");
    }

    pub fn start_again(&mut self) {
        self.child = spawn(self.folder.path(), &self.arguments);
        self.wait();
    }

    pub fn log(&self) -> String {
        fs_err::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }

    fn wait(&self) {
        let answers = || {
            let Ok(mut stream) = UnixStream::connect(self.socket()) else { return false };
            let mut answer = [0; 12];
            stream.write_all(b"GET /_ping HTTP/1.0\r\nhost: docker\r\n\r\n").is_ok()
                && stream.read_exact(&mut answer).is_ok()
                && answer.ends_with(b"200")
        };
        assert!(eventually(PATIENCE, answers), "the Engine does not answer; its log:\n{}", self.log());
    }
}

/// Without rules of its own: another Engine of this machine has those, and published ports need none. They share the
/// machine's usual bridge, which one that wants none would take away from the other.
fn spawn(folder: &Path, arguments: &[String]) -> Child {
    let log = fs_err::OpenOptions::new().create(true).append(true).open(folder.join("log"));
    let (log, _) = log.expect("a log can be opened").into_parts();
    let program = Path::new("/usr/sbin/dockerd");
    let mut command = Command::new(if program.exists() { program } else { Path::new("dockerd") });
    command.args(["--iptables=false", "--ip6tables=false", "--log-level", "warn"]);
    command.arg("--host").arg(format!("unix://{}", folder.join("docker.sock").display()));
    for (option, place) in [("--data-root", "data"), ("--exec-root", "run"), ("--pidfile", "pid")] {
        command.arg(option).arg(folder.join(place));
    }
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.spawn().expect("an Engine can be started")
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        // What it, or the test, mounted in the folder, the innermost first.
        let mounts = fs_err::read_to_string("/proc/self/mounts").unwrap_or_default();
        let places = mounts.lines().rev().filter_map(|line| line.split_whitespace().nth(1));
        for place in places.filter(|place| Path::new(place).starts_with(self.folder.path())) {
            let _ = Command::new("umount").args(["--lazy", place]).stderr(Stdio::null()).status();
        }
    }
}
