//! The baselines as processes: started on a free port, awaited, and killed when the row is done.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use xtask::{Workspace, python, shell, tools};

const START_LIMIT: Duration = Duration::from_mins(1);

/// A server that a row is measured against; it ends when dropped.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    pub address: String,
}

impl Drop for Peer {
    fn drop(&mut self) {
        // gunicorn's workers end when their parent is asked to, not when it is killed.
        let _ = shell::output(Command::new("kill").arg(self.child.id().to_string()));
        let _ = self.child.wait();
    }
}

/// The bare axum handler, which prints its address once it listens.
pub fn echo(workspace: &Workspace) -> Result<Peer> {
    let binary = "echo-baseline";
    let mut command = workspace.command(workspace.binary(binary));
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context(binary)?;
    let mut address = String::new();
    let output = child.stdout.take().context("its output is piped")?;
    BufReader::new(output).read_line(&mut address)?;
    Ok(Peer { child, address: address.trim().to_owned() })
}

/// A collector of traces that looks at nothing, and prints where it listens.
pub fn collector(workspace: &Workspace) -> Result<Peer> {
    let mut command = workspace.command(python::interpreter(workspace, "tools"));
    command.args(["-u", "benches/models/otlp_sink.py"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().context("otlp_sink.py")?;
    let mut address = String::new();
    let output = child.stdout.take().context("its output is piped")?;
    BufReader::new(output).read_line(&mut address)?;
    Ok(Peer { child, address: address.trim().to_owned() })
}

/// Azure ML's own server, with the script of `benches/models/echo`.
pub fn azmlinfsrv(workspace: &Workspace, workers: usize) -> Result<Peer> {
    let program = python::venvs(workspace).join("oracle/bin/azmlinfsrv");
    let address = free_address()?;
    let port = address.rsplit(':').next().unwrap_or_default();
    let mut command = Command::new(program);
    command
        .current_dir(workspace.root().join("benches/models/echo"))
        .env("AML_APP_ROOT", workspace.root().join("benches/models/echo"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .args(["--entry_script", "score.py", "--port", port, "--worker_count", &workers.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let child = command.spawn().with_context(|| shell::line(&command))?;
    let mut peer = Peer { child, address };
    let deadline = Instant::now() + START_LIMIT;
    while !healthy(&peer.address) {
        if let Some(status) = peer.child.try_wait()? {
            bail!("`{}` ended with {status}", shell::line(&command));
        }
        if Instant::now() > deadline {
            bail!("`{}` did not answer within {} s", shell::line(&command), START_LIMIT.as_secs());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(peer)
}

/// Whether `GET /` is answered with 200. gunicorn listens long before a worker can answer.
pub(crate) fn healthy(address: &str) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(START_LIMIT))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.lines().next().is_some_and(|status| status.contains(" 200 ")))
}

/// ONNX Runtime in a loop with nothing around it.
#[derive(Debug)]
pub struct OrtLoop<'a> {
    pub model: &'a std::path::Path,
    pub shape: &'a [usize],
    pub threads: usize,
}

impl OrtLoop<'_> {
    /// Runs a second, over all threads.
    pub fn runs_per_second(&self, workspace: &Workspace, seconds: u64) -> Result<f64> {
        self.measure(workspace, seconds, "runs_per_second")
    }

    /// Loading the library and creating one session, in seconds.
    pub fn session_creation(&self, workspace: &Workspace) -> Result<f64> {
        self.measure(workspace, 0, "seconds")
    }

    fn measure(&self, workspace: &Workspace, seconds: u64, field: &str) -> Result<f64> {
        let shape: Vec<String> = self.shape.iter().map(ToString::to_string).collect();
        let mut command = workspace.command(workspace.binary("ort-baseline"));
        command
            .arg("--library")
            .arg(tools::onnx_runtime_library(workspace)?)
            .arg("--model")
            .arg(self.model)
            .args(["--shape", &shape.join(","), "--threads", &self.threads.to_string()])
            .args(["--seconds", &seconds.to_string()]);
        let result: Value = serde_json::from_str(&shell::output(&mut command)?)?;
        result[field].as_f64().with_context(|| format!("ort-baseline gave no `{field}`"))
    }
}

/// An address that was free a moment ago, for servers that cannot be told to choose.
pub(crate) fn free_address() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}
