//! What runs of one version of a module, a process or a container: started, asked whether it works, and ended.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde::Deserialize;
use serde_json::Value;
use tokio::{process::Child, time::Instant};

use super::{About, ModuleError, ModulesConfig, Version, container::Container};
use crate::{
    desired::{Golden, Variable},
    secrets,
};

/// By which a process that a killed agent left is known.
const MARK: &str = "MOORLINE_EDGE_MODULE";
const POLL: Duration = Duration::from_millis(25);
const POLL_ENGINE: Duration = Duration::from_millis(200);
/// Characters of a log that are told.
const LOG: usize = 2000;
/// An answer to a golden request is not longer.
const LONGEST_ANSWER: usize = 1024 * 1024;

/// A scorer that runs. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Process {
    body: Body,
    /// Where it takes requests and where it tells its metrics, once it has proved itself.
    addresses: Option<(SocketAddr, SocketAddr)>,
}

#[derive(Debug)]
enum Body {
    Child(Scorer),
    Container(Container),
}

/// A process of this machine, in a group of its own.
#[derive(Debug)]
struct Scorer {
    child: Child,
    pid: Option<Pid>,
    log: PathBuf,
    /// Where it writes its addresses.
    told: PathBuf,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Addresses {
    data: SocketAddr,
    admin: SocketAddr,
    pid: u32,
}

/// What the version's environment is: by which it finds its hub, and what the module says itself, with its secrets.
fn environment(version: &Version, about: &About) -> Result<BTreeMap<String, String>, ModuleError> {
    let mut environment = version.environment.clone();
    for (name, variable) in &version.module.env {
        let value = match variable {
            Variable::Plain { value } => value.clone(),
            Variable::Secret { secret, version } => {
                secrets::read(&about.secrets, secret, *version)?.expose().to_owned()
            }
        };
        environment.insert(name.clone(), value);
    }
    Ok(environment)
}

impl Process {
    pub(super) async fn start(
        name: &str,
        version: &Version,
        (config, about): (&ModulesConfig, &About),
        folder: &Path,
    ) -> Result<Self, ModuleError> {
        let environment = environment(version, about)?;
        let body = match (&version.module.settings.image, &about.host) {
            (None, _) => Body::Child(Scorer::start(name, version, environment, config, folder)?),
            (Some(_), None) => return Err(ModuleError::NoHost),
            (Some(image), Some(host)) => {
                let environment = scorers_own(name, version, config).chain(environment).collect();
                let started = Container::start(name, version, image, environment, host);
                Body::Container(started.await?)
            }
        };
        Ok(Self { body, addresses: None })
    }

    /// Waits until it is ready and has answered its golden request.
    pub(super) async fn prove(
        &mut self,
        version: &Version,
        config: &ModulesConfig,
        client: &reqwest::Client,
    ) -> Result<(), ModuleError> {
        let deadline = Instant::now() + config.start_timeout;
        let pause = match &self.body {
            Body::Child(_) => POLL,
            Body::Container(_) => POLL_ENGINE,
        };
        let addresses = loop {
            if Instant::now() >= deadline {
                let log = self.last_words().await;
                return Err(ModuleError::NotReady { within: config.start_timeout, log });
            }
            if let Some((data, admin)) = self.told_addresses().await {
                let ready = client.get(format!("http://{admin}/ready")).timeout(config.start_timeout);
                if ready.send().await.is_ok_and(|answer| answer.status().is_success()) {
                    break (data, admin);
                }
            }
            tokio::select! {
                (how, _) = self.wait() => {
                    return Err(ModuleError::Ended { how, log: self.last_words().await });
                }
                () = tokio::time::sleep(pause) => {}
            }
        };
        if let Some(golden) = &version.module.settings.golden {
            let within = deadline.saturating_duration_since(Instant::now()).max(POLL);
            ask_golden(client, addresses.0, golden, within).await?;
        }
        self.addresses = Some(addresses);
        Ok(())
    }

    async fn told_addresses(&self) -> Option<(SocketAddr, SocketAddr)> {
        match &self.body {
            Body::Child(scorer) => {
                let told: Addresses = serde_json::from_slice(&fs_err::read(&scorer.told).ok()?).ok()?;
                (Some(told.pid) == scorer.child.id()).then_some((told.data, told.admin))
            }
            Body::Container(container) => container.addresses().await,
        }
    }

    /// Where it takes requests and where it tells its metrics, once it has proved itself.
    pub(super) fn addresses(&self) -> Option<(SocketAddr, SocketAddr)> {
        self.addresses
    }

    /// Of a process of this machine.
    pub(super) fn id(&self) -> Option<u32> {
        match &self.body {
            Body::Child(scorer) => scorer.child.id(),
            Body::Container(_) => None,
        }
    }

    /// The Engine's id, of a container.
    pub(super) fn container(&self) -> Option<String> {
        match &self.body {
            Body::Child(_) => None,
            Body::Container(container) => Some(container.id().to_owned()),
        }
    }

    /// How it ended, once it has. May be asked again.
    pub(super) async fn wait(&mut self) -> (String, Option<i32>) {
        match &mut self.body {
            Body::Child(scorer) => match scorer.child.wait().await {
                Ok(status) => (ended(status), status.code()),
                Err(error) => (error.to_string(), None),
            },
            Body::Container(container) => container.wait().await,
        }
    }

    /// The end of its log, to be told with an error.
    pub(super) async fn last_words(&self) -> String {
        let text = match &self.body {
            Body::Child(scorer) => {
                let text = fs_err::read(&scorer.log).unwrap_or_default();
                String::from_utf8_lossy(&text[text.len().saturating_sub(LOG)..]).into_owned()
            }
            Body::Container(container) => container.last_words(LOG).await,
        };
        let text = text.trim();
        if text.is_empty() { String::new() } else { format!("; it said:\n{text}") }
    }

    /// Lets it finish its requests, then ends it.
    pub(super) async fn end(self, within: Duration) {
        match self.body {
            Body::Child(scorer) => scorer.end(within).await,
            Body::Container(container) => container.end().await,
        }
    }
}

/// What a scorer in a container is told of itself by its environment; one that is a process is told by its arguments.
fn scorers_own<'a>(
    name: &'a str,
    version: &'a Version,
    config: &ModulesConfig,
) -> impl Iterator<Item = (String, String)> {
    [
        ("MOORLINE_ENDPOINT", name.to_owned()),
        ("MOORLINE_DEPLOYMENT", deployment(version).to_owned()),
        ("MOORLINE_DRAIN_TIMEOUT_MS", config.drain_timeout.as_millis().to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into_iter()
}

fn deployment(version: &Version) -> &str {
    version.module.version.as_deref().unwrap_or("module")
}

impl Scorer {
    fn start(
        name: &str,
        version: &Version,
        environment: BTreeMap<String, String>,
        config: &ModulesConfig,
        folder: &Path,
    ) -> Result<Self, ModuleError> {
        let error = |path: &Path| {
            let path = path.to_owned();
            move |source| ModuleError::Io { path, source }
        };
        let told = folder.join("address.json");
        // Of the version before: one starts at a time.
        if told.exists() {
            fs_err::remove_file(&told).map_err(error(&told))?;
        }
        let log = folder.join(format!("{}.log", &version.module.settings.release.hex()[..12]));
        fs_err::File::create(&log).map_err(error(&log))?;
        // Where the same version is started beside itself, both write to its end.
        let mut options = fs_err::OpenOptions::new();
        let output = options.append(true).open(&log).map_err(error(&log))?;
        let second = output.try_clone().map_err(error(&log))?;
        let mut command = tokio::process::Command::new(&config.scorer);
        command
            .arg("--release")
            .arg(&version.folder)
            .args(["--host", "127.0.0.1", "--port", "0", "--admin-port", "0", "--endpoint", name])
            .args(["--deployment", deployment(version)])
            .arg("--address-file")
            .arg(&told)
            .env_clear()
            .envs(&config.environment)
            .envs(environment)
            .env(MARK, &config.folder)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(second.into_parts().0)
            .stderr(output.into_parts().0)
            .process_group(0)
            .kill_on_drop(true);
        let child = command
            .spawn()
            .map_err(|source| ModuleError::Start { program: config.scorer.clone(), source })?;
        let pid = child.id().and_then(|pid| Pid::from_raw(pid as i32));
        Ok(Self { child, pid, log, told })
    }

    async fn end(mut self, within: Duration) {
        if let Some(pid) = self.pid.filter(|_| self.child.id().is_some()) {
            // It may end in this very moment.
            let _ = kill_process(pid, Signal::TERM);
        }
        if tokio::time::timeout(within, self.child.wait()).await.is_err() {
            tracing::warn!("a module did not end in time and is killed");
        }
    }
}

impl Drop for Scorer {
    fn drop(&mut self) {
        // Its workers are of its group; as long as it was not waited for, nobody else can have its id.
        if let Some(pid) = self.pid.filter(|_| self.child.id().is_some()) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

/// Asks a golden request, and checks the answer.
pub(super) async fn ask_golden(
    client: &reqwest::Client,
    address: SocketAddr,
    golden: &Golden,
    within: Duration,
) -> Result<(), ModuleError> {
    let asked = client.post(format!("http://{address}/score")).json(&golden.request).timeout(within);
    let answer = asked.send().await.map_err(ModuleError::NoAnswer)?;
    let status = answer.status();
    let body = read_some(answer).await.map_err(ModuleError::NoAnswer)?;
    let shown = || String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
    if !status.is_success() {
        return Err(ModuleError::Status { status: status.as_u16(), answer: shown() });
    }
    if !serde_json::from_slice::<Value>(&body).is_ok_and(|answer| golden.is_met_by(&answer)) {
        return Err(ModuleError::OtherAnswer { answer: shown() });
    }
    Ok(())
}

async fn read_some(mut answer: reqwest::Response) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > LONGEST_ANSWER {
            break;
        }
    }
    Ok(body)
}

fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// Kills the processes of modules of this folder, which a killed agent left; gives how many.
pub(super) fn end_orphans(folder: &Path) -> usize {
    let mark = format!("{MARK}={}", folder.display());
    let mut killed = 0;
    for entry in fs_err::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        let Some(pid) = pid else { continue };
        let Ok(environment) = fs_err::read(entry.path().join("environ")) else { continue };
        if environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
            && kill_process(pid, Signal::KILL).is_ok()
        {
            killed += 1;
        }
    }
    killed
}
