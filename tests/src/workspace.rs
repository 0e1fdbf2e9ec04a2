//! A workspace under test: a `$MOORLINE_HOME` of its own, the real `moorline up` on a free port, and the real command
//! line speaking to it.

use std::{
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    http::{Reply, Request, call},
    place::{binary, ort_library, own_folder, uv},
    process::{eventually, processes_with},
};

/// How long a server may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Written for tests by what a server logs.
const SERVER_LOG: &str = "server-under-test.log";

/// A home, and the server that runs on it; both are gone with it.
#[derive(Debug)]
pub struct Workspace {
    folder: TempDir,
    server: Option<Child>,
    address: SocketAddr,
    /// The host and port that it is to listen on.
    listen: String,
    arguments: Vec<String>,
    variables: Vec<(String, OsString)>,
}

/// What a command said, and how it ended.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    /// The standard output as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error} in:\n{}\n{}", self.stdout, self.stderr))
    }

    /// The standard output, where the command succeeded.
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "the command failed:\n{}\n{}", self.stdout, self.stderr);
        self
    }
}

impl Workspace {
    /// A new home with a server on it.
    pub fn up() -> Self {
        Self::up_with(&[])
    }

    /// The same with more arguments of `moorline up`.
    pub fn up_with(arguments: &[&str]) -> Self {
        let mut workspace = Self::down();
        workspace.arguments = arguments.iter().map(ToString::to_string).collect();
        workspace.start();
        workspace
    }

    /// A new home and no server.
    pub fn down() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        fs_err::create_dir(folder.path().join("work")).expect("a folder can be made");
        Self {
            folder,
            server: None,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            listen: "127.0.0.1:0".to_owned(),
            arguments: Vec::new(),
            variables: Vec::new(),
        }
    }

    /// Sets a variable of the server and of every command.
    pub fn set_variable(&mut self, name: &str, value: impl Into<OsString>) {
        self.variables.push((name.to_owned(), value.into()));
    }

    /// Has the next server listen here, as the last one did not.
    pub fn set_listen(&mut self, address: &str) {
        address.clone_into(&mut self.listen);
    }

    pub fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// A folder for documents, in which commands run.
    pub fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn server_pid(&self) -> u32 {
        self.server.as_ref().expect("the server runs").id()
    }

    /// Starts the server, and returns when it answers.
    pub fn start(&mut self) {
        let log = fs_err::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.path().join(SERVER_LOG))
            .expect("a log can be opened");
        let (log, _) = log.into_parts();
        let mut command = self.command(&[]);
        command.args(["up", "--listen", &self.listen]).args(&self.arguments);
        command.stdout(Stdio::null()).stderr(log);
        self.server = Some(command.spawn().expect("`moorline` can be started"));
        let told = self.home().join("server.json");
        let pid = self.server_pid();
        let answers = eventually(START_LIMIT, || {
            let Ok(text) = fs_err::read_to_string(&told) else { return false };
            let Ok(value) = serde_json::from_str::<Value>(&text) else { return false };
            if value["pid"].as_u64() != Some(u64::from(pid)) {
                return false;
            }
            self.address = value["address"].as_str().and_then(|text| text.parse().ok()).expect("an address");
            true
        });
        assert!(answers, "the server did not start; its log:\n{}", self.server_log());
    }

    /// Kills the server as a power cut would.
    pub fn kill(&mut self) {
        let mut server = self.server.take().expect("the server runs");
        server.kill().expect("a process can be killed");
        server.wait().expect("a child can be waited for");
    }

    /// Asks the server to end, waits until it has, and gives its exit code.
    pub fn stop(&mut self) -> Option<i32> {
        let mut server = self.server.take().expect("the server runs");
        let pid = Pid::from_child(&server);
        kill_process(pid, Signal::TERM).expect("a process can be sent a signal");
        server.wait().expect("a child can be waited for").code()
    }

    /// Waits until a server that was told to end has, and gives its exit code.
    pub fn ended(&mut self) -> Option<i32> {
        let mut server = self.server.take().expect("the server ran");
        server.wait().expect("a child can be waited for").code()
    }

    pub fn server_log(&self) -> String {
        fs_err::read_to_string(self.folder.path().join(SERVER_LOG)).unwrap_or_default()
    }

    /// Runs the command line in the folder of documents.
    pub fn moorline(&self, arguments: &[&str]) -> Said {
        self.run(self.command(arguments))
    }

    /// A command line that succeeds and prints JSON.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let mut arguments = arguments.to_vec();
        arguments.extend(["-o", "json"]);
        self.moorline(&arguments).ok().json()
    }

    /// Runs a command of the caller's making.
    pub fn run(&self, mut command: Command) -> Said {
        let Output { status, stdout, stderr } = command.output().expect("a command can be started");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Said { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
    }

    /// A command line, not run yet.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary("moorline"));
        command.args(arguments);
        self.set(&mut command);
        command
    }

    /// Gives a command this home, this folder and the tools that tests have.
    pub fn set(&self, command: &mut Command) {
        let beside = binary("moorline").parent().expect("a binary lies in a folder").to_owned();
        let mut paths = vec![beside];
        if let Some(uv) = uv() {
            paths.extend(uv.parent().map(Path::to_owned));
        }
        paths.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        command
            .current_dir(self.work())
            .env("MOORLINE_HOME", self.home())
            .env("PATH", std::env::join_paths(paths).expect("paths without colons"))
            .env_remove("MOORLINE_SERVER")
            .stdin(Stdio::null());
        if let Some(library) = ort_library() {
            command.env("ORT_DYLIB_PATH", library);
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
    }

    /// Writes a document or another file below the folder of documents.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.work().join(name);
        fs_err::create_dir_all(path.parent().expect("a file has a folder")).expect("a folder can be made");
        fs_err::write(path, content).expect("a file can be written");
    }

    /// Copies a folder of `tests/scenarios` into the folder of documents.
    pub fn copy_scenario(&self, name: &str) {
        copy(&own_folder().join("scenarios").join(name), &self.work());
    }

    /// Makes an endpoint and, from `document`, a deployment `blue` with all of its traffic; gives the endpoint's key. The
    /// documents stay as `endpoint.yml` and `blue.yml`.
    pub fn deploy(&self, endpoint: &str, document: &str) -> String {
        self.write("endpoint.yml", crate::documents::endpoint(endpoint));
        self.write("blue.yml", document);
        self.moorline(&["online-endpoint", "create", "-f", "endpoint.yml"]).ok();
        self.moorline(&["online-deployment", "create", "-f", "blue.yml", "--all-traffic"]).ok();
        self.key(endpoint)
    }

    /// One request to the server.
    pub fn call(&self, request: &Request) -> Reply {
        let mut request = request.clone();
        if !request.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            request = request.header("host", &self.address.to_string());
        }
        call(self.address, &request)
    }

    /// The primary key of an endpoint.
    pub fn key(&self, endpoint: &str) -> String {
        let keys = self.json(&["online-endpoint", "get-credentials", "-n", endpoint]);
        keys["primaryKey"].as_str().expect("an endpoint has a key").to_owned()
    }

    /// A request to an endpoint's `/score`, with its key.
    pub fn scoring(endpoint: &str, key: &str, body: &str) -> Request {
        Request::post(&format!("/endpoints/{endpoint}/score"), body)
            .header("content-type", "application/json")
            .header("authorization", &format!("Bearer {key}"))
    }

    /// The scorers that run for this home.
    pub fn scorers(&self) -> Vec<u32> {
        processes_with("moorline-scorer", &self.home())
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
        // What a killed server left, and what it would have adopted.
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let left = self.scorers();
            if left.is_empty() || Instant::now() > deadline {
                break;
            }
            for pid in left {
                if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
        }
    }
}

fn copy(from: &Path, to: &Path) {
    fs_err::create_dir_all(to).expect("a folder can be made");
    for entry in fs_err::read_dir(from).expect("a scenario has a folder") {
        let entry = entry.expect("a folder can be read");
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs_err::copy(entry.path(), &to).expect("a file can be copied");
        }
    }
}
