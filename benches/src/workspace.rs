//! A workspace for measuring: a home below the stage, the real `moorline up` on it, and the real command line.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use xtask::{Workspace as Checkout, shell};

/// Longer than any start that is worth waiting for.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Between two looks at something that becomes true.
const LOOK: Duration = Duration::from_millis(2);

/// A home and its server, which is killed with it.
#[derive(Debug)]
pub struct Home<'a> {
    checkout: &'a Checkout,
    pub folder: PathBuf,
    server: Option<Child>,
    /// Of `moorline up`.
    arguments: Vec<String>,
    pub address: String,
}

impl<'a> Home<'a> {
    /// An empty home with a server.
    pub fn new(checkout: &'a Checkout, folder: PathBuf) -> Result<Self> {
        Self::with(checkout, folder, &[])
    }

    /// The same with more arguments of `moorline up`.
    pub fn with(checkout: &'a Checkout, folder: PathBuf, arguments: &[&str]) -> Result<Self> {
        if folder.exists() {
            fs_err::remove_dir_all(&folder)?;
        }
        fs_err::create_dir_all(&folder)?;
        let mut home = Self {
            checkout,
            folder,
            server: None,
            arguments: arguments.iter().map(ToString::to_string).collect(),
            address: String::new(),
        };
        home.start()?;
        Ok(home)
    }

    /// Starts the server and waits until it says where it listens.
    pub fn start(&mut self) -> Result<()> {
        let mut up = self.command(&["up", "--listen", "127.0.0.1:0"]);
        up.args(&self.arguments);
        up.stdout(Stdio::null()).stderr(fs_err::File::create(self.folder.join("up.log"))?.into_parts().0);
        let mut server = up.spawn().context("could not start `moorline up`")?;
        let pid = server.id();
        let deadline = Instant::now() + START_LIMIT;
        let told = self.folder.join("home/server.json");
        while Instant::now() < deadline && server.try_wait()?.is_none() {
            let text = fs_err::read_to_string(&told).unwrap_or_default();
            let value: Value = serde_json::from_str(&text).unwrap_or_default();
            if value["pid"].as_u64() == Some(u64::from(pid)) {
                value["address"].as_str().unwrap_or_default().clone_into(&mut self.address);
                self.server = Some(server);
                return Ok(());
            }
            thread::sleep(LOOK);
        }
        let _ = server.kill();
        bail!("`moorline up` did not start:\n{}", fs_err::read_to_string(self.folder.join("up.log"))?)
    }

    /// Kills the server, and leaves its replicas.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut server) = self.server.take() {
            server.kill()?;
            server.wait()?;
        }
        Ok(())
    }

    pub fn server_id(&self) -> Result<u32> {
        Ok(self.server.as_ref().context("the server does not run")?.id())
    }

    /// A command of this home, not run yet.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.checkout.command(self.checkout.binary("moorline"));
        command.args(arguments).env("MOORLINE_HOME", self.folder.join("home")).stdin(Stdio::null());
        command
    }

    /// What a command of this home prints.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        Ok(shell::output(&mut self.command(arguments))?.trim().to_owned())
    }

    /// An endpoint's primary key.
    pub fn key(&self, endpoint: &str) -> Result<String> {
        let get =
            ["online-endpoint", "get-credentials", "-n", endpoint, "--query", "primaryKey", "-o", "tsv"];
        self.run(&get)
    }

    /// Where the only replica of this home listens, past the gateway.
    pub fn replica_address(&self) -> Result<String> {
        let is_told = |path: &Path| Ok(path.file_name().is_some_and(|name| name == "address.json"));
        let file = find(self.folder.join("home/local"), is_told)?;
        let file = file.context("no replica says where it listens")?;
        let told: Value = serde_json::from_slice(&fs_err::read(file)?)?;
        told["data"].as_str().map(str::to_owned).context("a scorer says where it listens")
    }

    /// The only blob of this size in the home's store.
    pub fn blob_of_size(&self, bytes: u64) -> Result<PathBuf> {
        let found = find(self.folder.join("home/blobs"), |path| Ok(fs_err::metadata(path)?.len() == bytes))?;
        found.with_context(|| format!("the store has no blob of {bytes} bytes"))
    }

    /// Seconds that one request takes, a new connection included; its answer must be a success.
    pub fn seconds_of(&self, path: &str, more: &[String]) -> Result<f64> {
        let mut curl = self.checkout.command("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--fail",
            "--output",
            "/dev/null",
            "--write-out",
            "%{time_total}",
        ]);
        curl.arg(format!("http://{}{path}", self.address)).args(more);
        shell::output(&mut curl)?.trim().parse().context("curl prints seconds")
    }

    /// Waits until this many scorers run for this home.
    pub fn wait_for_scorers(&self, count: usize) -> Result<()> {
        let deadline = Instant::now() + Duration::from_mins(2);
        let release = format!("--release {}", self.folder.join("home").display());
        while Instant::now() < deadline {
            let found = shell::output(Command::new("pgrep").args(["-f", "--", &release])).unwrap_or_default();
            if found.lines().count() == count {
                return Ok(());
            }
            thread::sleep(LOOK * 10);
        }
        bail!("there were never {count} scorers")
    }
}

impl Drop for Home<'_> {
    fn drop(&mut self) {
        // In order, so that no replica is left; a server that was killed is started once more for it.
        if self.server.is_none() {
            let _ = self.start();
        }
        let _ = self.run(&["down", "--everything"]);
        let _ = self.kill();
    }
}

/// The first file below a folder that is accepted.
fn find(folder: PathBuf, accept: impl Fn(&Path) -> Result<bool>) -> Result<Option<PathBuf>> {
    let mut folders = vec![folder];
    while let Some(folder) = folders.pop() {
        for entry in fs_err::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if accept(&path)? {
                return Ok(Some(path));
            }
        }
    }
    Ok(None)
}
