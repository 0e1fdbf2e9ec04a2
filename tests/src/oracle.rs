//! The peer whose behaviour scoring scripts were written against: a real `azmlinfsrv` beside the scorer.

use std::{
    net::{SocketAddr, TcpListener},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::{
    http::{Connection, Reply, Request, call},
    log::Log,
    place::Venv,
    process::eventually,
};

/// A running `azmlinfsrv`.
#[derive(Debug)]
pub struct Oracle {
    child: Child,
    log: Log,
    address: SocketAddr,
}

impl Oracle {
    /// Starts it for `score.py` in `code` and waits until it answers.
    pub fn start(venv: &Venv, code: &Path, variables: &[(String, String)]) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let address = free.expect("a free port can be found");
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", venv.bin("").display());
        let mut child = Command::new(venv.bin("azmlinfsrv"))
            .args(["--entry_script", "score.py", "--worker_count", "1"])
            .args(["--port", &address.port().to_string()])
            .current_dir(code)
            .env_clear()
            .env("PATH", path)
            .env("AML_APP_ROOT", code)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("azmlinfsrv can be started");
        let log = Log::default();
        log.follow(child.stdout.take().expect("stdout is piped"));
        log.follow(child.stderr.take().expect("stderr is piped"));
        let oracle = Self { child, log, address };
        let healthy = || {
            Connection::open(address)
                .and_then(|mut connection| connection.send(&Request::get("/")))
                .is_ok_and(|reply| reply.status == 200)
        };
        assert!(
            eventually(Duration::from_secs(90), healthy),
            "azmlinfsrv did not start:\n{}",
            oracle.log.text()
        );
        oracle
    }

    pub fn call(&self, request: &Request) -> Reply {
        call(self.address, request)
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        // gunicorn's workers are in the same group; a group that is gone is what is wanted.
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}
