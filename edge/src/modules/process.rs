//! One process of a module: started, asked whether it works, and ended.

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

use super::{ModuleError, ModulesConfig, Version};
use crate::desired::Golden;

/// By which a process that a killed agent left is known.
const MARK: &str = "MOORLINE_EDGE_MODULE";
const POLL: Duration = Duration::from_millis(25);
/// Characters of a log that are told.
const LOG: usize = 2000;
/// An answer to a golden request is not longer.
const LONGEST_ANSWER: usize = 1024 * 1024;

/// A scorer that runs, in a group of its own. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    pid: Option<Pid>,
    log: PathBuf,
    addresses: Option<Addresses>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Addresses {
    data: SocketAddr,
    admin: SocketAddr,
    pid: u32,
}

impl Process {
    pub(super) fn start(
        name: &str,
        version: &Version,
        config: &ModulesConfig,
        folder: &Path,
    ) -> Result<Self, ModuleError> {
        let error = |path: &Path| {
            let path = path.to_owned();
            move |source| ModuleError::Io { path, source }
        };
        let address = folder.join("address.json");
        // Of the version before: one starts at a time.
        if address.exists() {
            fs_err::remove_file(&address).map_err(error(&address))?;
        }
        let log = folder.join(format!("{}.log", &version.module.settings.release.hex()[..12]));
        fs_err::File::create(&log).map_err(error(&log))?;
        // Where the same version is started beside itself, both write to its end.
        let mut options = fs_err::OpenOptions::new();
        let output = options.append(true).open(&log).map_err(error(&log))?;
        let second = output.try_clone().map_err(error(&log))?;
        let mut environment: BTreeMap<&str, &str> =
            config.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        environment.extend(version.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        environment
            .extend(version.module.env.iter().map(|(name, entry)| (name.as_str(), entry.value.as_str())));
        let mark = config.folder.display().to_string();
        environment.insert(MARK, &mark);
        let mut command = tokio::process::Command::new(&config.scorer);
        command
            .arg("--release")
            .arg(&version.folder)
            .args(["--host", "127.0.0.1", "--port", "0", "--admin-port", "0", "--endpoint", name])
            .args(["--deployment", version.module.version.as_deref().unwrap_or("module")])
            .arg("--address-file")
            .arg(&address)
            .env_clear()
            .envs(environment)
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
        Ok(Self { child, pid, log, addresses: None })
    }

    /// Waits until it is ready and has answered its golden request.
    pub(super) async fn prove(
        &mut self,
        version: &Version,
        config: &ModulesConfig,
        folder: &Path,
        client: &reqwest::Client,
    ) -> Result<(), ModuleError> {
        let deadline = Instant::now() + config.start_timeout;
        let addresses = loop {
            if Instant::now() >= deadline {
                return Err(ModuleError::NotReady { within: config.start_timeout, log: self.last_words() });
            }
            if let Some(addresses) = self.addresses(&folder.join("address.json")) {
                let ready =
                    client.get(format!("http://{}/ready", addresses.admin)).timeout(config.start_timeout);
                if ready.send().await.is_ok_and(|answer| answer.status().is_success()) {
                    break addresses;
                }
            }
            tokio::select! {
                status = self.child.wait() => {
                    let how = status.map_or_else(|error| error.to_string(), ended);
                    return Err(ModuleError::Ended { how, log: self.last_words() });
                }
                () = tokio::time::sleep(POLL) => {}
            }
        };
        if let Some(golden) = &version.module.settings.golden {
            let within = deadline.saturating_duration_since(Instant::now()).max(POLL);
            ask_golden(client, addresses.data, golden, within).await?;
        }
        self.addresses = Some(addresses);
        Ok(())
    }

    fn addresses(&self, path: &Path) -> Option<Addresses> {
        let addresses: Addresses = serde_json::from_slice(&fs_err::read(path).ok()?).ok()?;
        (Some(addresses.pid) == self.child.id()).then_some(addresses)
    }

    /// Where it takes requests, once it has proved itself.
    pub(super) fn data(&self) -> Option<SocketAddr> {
        self.addresses.map(|addresses| addresses.data)
    }

    /// Where it tells its metrics, once it has proved itself.
    pub(super) fn admin(&self) -> Option<SocketAddr> {
        self.addresses.map(|addresses| addresses.admin)
    }

    pub(super) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// How it ended, once it has. May be asked again.
    pub(super) async fn wait(&mut self) -> (String, Option<i32>) {
        match self.child.wait().await {
            Ok(status) => (ended(status), status.code()),
            Err(error) => (error.to_string(), None),
        }
    }

    /// The end of its log, to be told with an error.
    pub(super) fn last_words(&self) -> String {
        let text = fs_err::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text[text.len().saturating_sub(LOG)..]);
        let text = text.trim();
        if text.is_empty() { String::new() } else { format!("; it said:\n{text}") }
    }

    /// Lets it finish its requests, then ends it.
    pub(super) async fn end(mut self, within: Duration) {
        if let Some(pid) = self.pid.filter(|_| self.child.id().is_some()) {
            // It may end in this very moment.
            let _ = kill_process(pid, Signal::TERM);
        }
        if tokio::time::timeout(within, self.child.wait()).await.is_err() {
            tracing::warn!("a module did not end in time and is killed");
        }
    }
}

impl Drop for Process {
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
