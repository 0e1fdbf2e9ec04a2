//! One worker process from its start to the moment when its script is ready.

use std::{
    collections::BTreeMap,
    io::{self, PipeWriter},
    os::{fd::OwnedFd, unix::net::UnixStream as StdStream},
    path::Path,
    process::Stdio,
    sync::Arc,
};

use bytes::BytesMut;
use moorline_core::{ScriptInfo, ScriptStyle};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use tokio::{
    io::AsyncReadExt,
    net::{UnixStream, unix::OwnedReadHalf, unix::OwnedWriteHalf},
    process::{Child, Command},
    task::JoinHandle,
    time::timeout,
};

use crate::{
    config::ScriptConfig,
    error::StartError,
    frame::{Message, decode},
    handover::{Handover, Page},
    output::{Stream, Tail, pump},
    worker_files::WorkerFiles,
};

/// Requests of usual size go into the socket in one piece.
const SOCKET_BUFFER: usize = 1 << 20;
/// What a worker may say of itself while it starts: its OpenAPI documents are in it.
const LONGEST_GREETING: usize = 64 << 20;

/// The settings that the worker is sent first.
#[derive(Serialize)]
struct Settings<'a> {
    app_root: &'a Path,
    source_dir: Option<&'a Path>,
    entry_script: Option<&'a str>,
    mlflow_model: Option<&'a Path>,
    model_dir: Option<&'a Path>,
    memory_limit: Option<u64>,
    batching: bool,
    max_reply_bytes: u32,
}

/// What a ready worker says of its script.
#[derive(Deserialize)]
pub(crate) struct Ready {
    style: Style,
    needs_headers: bool,
    swagger: BTreeMap<String, String>,
    python: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Style {
    Plain,
    Schema,
    RawHttp,
    Mlflow,
}

impl From<Ready> for ScriptInfo {
    fn from(ready: Ready) -> Self {
        let style = match ready.style {
            Style::Plain => ScriptStyle::Plain,
            Style::Schema => ScriptStyle::Schema,
            Style::RawHttp => ScriptStyle::RawHttp,
            Style::Mlflow => ScriptStyle::Mlflow,
        };
        Self { style, needs_headers: ready.needs_headers, swagger: ready.swagger, python: ready.python }
    }
}

/// Why a worker's script did not start.
#[derive(Deserialize)]
pub(crate) struct Failed {
    reason: String,
    model_dir: String,
}

/// A worker whose script is ready.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) pid: Pid,
    pub(crate) reader: OwnedReadHalf,
    pub(crate) buffer: BytesMut,
    pub(crate) writer: OwnedWriteHalf,
    pub(crate) page: Page,
    pub(crate) lifeline: PipeWriter,
    pub(crate) info: ScriptInfo,
}

/// A worker whose script is not ready yet. Dropping it ends it.
struct Starting {
    child: Child,
    pid: Pid,
    reader: OwnedReadHalf,
    buffer: BytesMut,
    writer: OwnedWriteHalf,
    page: Page,
    lifeline: PipeWriter,
    tail: Arc<Tail>,
    pumps: [JoinHandle<()>; 2],
}

/// Starts worker `index` and waits until its script is ready, or says why it is not. `current` tells which request
/// the worker runs, for the log.
pub(crate) async fn start(
    config: &ScriptConfig,
    files: &WorkerFiles,
    index: usize,
    current: impl Fn() -> Option<String> + Clone + Send + 'static,
) -> Result<Running, StartError> {
    let mut starting = spawn(config, files, index, current)?;
    let greeting = timeout(config.start_timeout, greeting(&mut starting.reader, &mut starting.buffer)).await;
    match greeting {
        Ok(Some(Message::Ready(json))) => {
            if let Ok(ready) = serde_json::from_slice::<Ready>(&json) {
                let Starting { child, pid, reader, buffer, writer, page, lifeline, .. } = starting;
                return Ok(Running {
                    child,
                    pid,
                    reader,
                    buffer,
                    writer,
                    page,
                    lifeline,
                    info: ready.into(),
                });
            }
            Err(starting.ended().await)
        }
        Ok(Some(Message::Failed(json))) => match serde_json::from_slice::<Failed>(&json) {
            Ok(Failed { reason, model_dir }) => {
                starting.end().await;
                Err(StartError::Script { reason, model_dir })
            }
            Err(_) => Err(starting.ended().await),
        },
        Ok(_) => Err(starting.ended().await),
        Err(_) => {
            let tail = Arc::clone(&starting.tail);
            starting.end().await;
            Err(StartError::Late { limit: config.start_timeout, output: tail.text() })
        }
    }
}

/// The first message, or `None` where the worker ended or spoke garbage instead.
async fn greeting(reader: &mut OwnedReadHalf, buffer: &mut BytesMut) -> Option<Message> {
    loop {
        match decode(buffer, LONGEST_GREETING) {
            Ok(Some(message)) => return Some(message),
            Ok(None) => {}
            Err(_) => return None,
        }
        if !matches!(reader.read_buf(buffer).await, Ok(read) if read > 0) {
            return None;
        }
    }
}

impl Starting {
    /// Ends what is left of the process and says how it ended.
    async fn ended(self) -> StartError {
        let tail = Arc::clone(&self.tail);
        let status = self.end().await;
        StartError::Ended { status, output: tail.text() }
    }

    async fn end(mut self) -> String {
        // A process that is on its way out by itself tells more by its own status than one that is killed.
        let grace = std::time::Duration::from_secs(2);
        if timeout(grace, self.child.wait()).await.is_err()
            && let Err(error) = kill_process_group(self.pid, Signal::KILL)
        {
            tracing::debug!(%error, "could not kill a worker that did not start");
        }
        let status = self.child.wait().await;
        drop(self.lifeline);
        for pump in self.pumps {
            // What it printed last is in the pipe still; a process that it left behind may hold the pipe open.
            if timeout(grace, pump).await.is_err() {
                tracing::debug!("a worker's output stayed open after its end");
            }
        }
        describe(status)
    }
}

/// How a process ended, for people.
pub(crate) fn describe(status: io::Result<std::process::ExitStatus>) -> String {
    use std::os::unix::process::ExitStatusExt;
    match status {
        Err(error) => format!("its end is not known: {error}"),
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("it exited with code {code}"),
            (None, Some(9)) => "it was killed by signal 9, as by `kill -9` or for want of memory".to_owned(),
            (None, Some(11)) => "it was killed by signal 11, a segmentation fault".to_owned(),
            (None, Some(signal)) => format!("it was killed by signal {signal}"),
            (None, None) => status.to_string(),
        },
    }
}

/// Where a worker runs: with its code, or with the model that needs none. Looked at before, since a process that
/// cannot enter its folder fails in the same words as one whose program is not there.
fn working_folder(config: &ScriptConfig) -> Result<&Path, StartError> {
    let model = config.mlflow_model.as_deref().filter(|_| config.entry_script.is_none());
    [Some(config.app_root.as_path()), model]
        .into_iter()
        .flatten()
        .find(|folder| folder.is_dir())
        .ok_or_else(|| StartError::NoFolder { folder: model.unwrap_or(&config.app_root).to_owned() })
}

fn spawn(
    config: &ScriptConfig,
    files: &WorkerFiles,
    index: usize,
    current: impl Fn() -> Option<String> + Clone + Send + 'static,
) -> Result<Starting, StartError> {
    let folder = working_folder(config)?;
    let (ours, theirs) = StdStream::pair()?;
    for socket in [&ours, &theirs] {
        // As much as the system allows; less only costs more system calls.
        if let Err(error) = rustix::net::sockopt::set_socket_send_buffer_size(socket, SOCKET_BUFFER) {
            tracing::debug!(%error, "could not enlarge a worker's socket buffer");
        }
    }
    ours.set_nonblocking(true)?;
    let mut command = Command::new(&config.python);
    command
        .arg("-u")
        .arg(files.start())
        .current_dir(folder)
        .env("AML_APP_ROOT", &config.app_root)
        .env("MOORLINE_SCRIPT_WORKER", index.to_string())
        .envs(config.model_dir.iter().map(|folder| ("AZUREML_MODEL_DIR", folder)))
        .envs(&config.env)
        // The socket is the standard input: inherited without a word of unsafe code.
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A group of its own: signals from the terminal do not reach it, and it ends with all that it started.
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|source| match source.kind() {
        // Also said of a file that is no program, or one whose `#!` names nothing.
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => {
            StartError::Interpreter { python: config.python.clone(), source }
        }
        _ if source.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => {
            StartError::Interpreter { python: config.python.clone(), source }
        }
        _ => StartError::Spawn { source },
    })?;
    let pid = child.id().and_then(|id| Pid::from_raw(id as i32));
    let pid = pid.ok_or_else(|| io::Error::other("the process ended at once"))?;
    let tail = Arc::new(Tail::default());
    let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(io::Error::other("the process has no output").into());
    };
    let pumps = [
        tokio::spawn(pump(out, index, Stream::Out, Arc::clone(&tail), current.clone())),
        tokio::spawn(pump(err, index, Stream::Err, Arc::clone(&tail), current)),
    ];
    let settings = Settings {
        app_root: &config.app_root,
        source_dir: config.source_dir.as_deref(),
        entry_script: config.entry_script.as_deref(),
        mlflow_model: config.mlflow_model.as_deref(),
        model_dir: config.model_dir.as_deref(),
        memory_limit: config.memory_limit,
        batching: config.batching.is_some(),
        max_reply_bytes: config.max_reply_bytes,
    };
    let (page, lifeline) =
        Handover::new()?.send(&ours, &serde_json::to_vec(&settings).map_err(io::Error::from)?)?;
    let (reader, writer) = UnixStream::from_std(ours)?.into_split();
    let buffer = BytesMut::with_capacity(64 * 1024);
    Ok(Starting { child, pid, reader, buffer, writer, page, lifeline, tail, pumps })
}
