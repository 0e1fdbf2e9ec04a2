//! The server on this machine: found by what it left in its home folder, or started in the background.

use std::{
    io::{Read, Seek, SeekFrom},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context;
use moorline_server::Announcement;
use rustix::fs::FlockOperation;
use serde_json::Value;

use crate::{exit::Explained, screen::Screen};

/// How long a server may take to say that it is there.
const ANSWER: Duration = Duration::from_secs(2);
/// From its start to its first answer: it opens its store and takes up what ran before.
const START: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(20);
/// Held while a server is being started, so that two programs that need one start one.
const START_LOCK: &str = "start.lock";
/// Where a server in the background writes.
const LOG: &str = "server.log";
/// Of the log, what is shown when a start failed.
const SHOWN_BYTES: u64 = 4096;

/// The address of the home's server. Starts one, and says so, if none answers.
pub(crate) async fn find_or_start(home: &Path, screen: &Screen) -> anyhow::Result<SocketAddr> {
    if let Some(address) = find(home).await {
        return Ok(address);
    }
    fs_err::create_dir_all(home)?;
    let home = &fs_err::canonicalize(home)?;
    let lock =
        fs_err::OpenOptions::new().write(true).create(true).truncate(false).open(home.join(START_LOCK))?;
    let lock = tokio::task::spawn_blocking(move || {
        rustix::fs::flock(lock.file(), FlockOperation::LockExclusive).map(|()| lock)
    })
    .await?
    .with_context(|| format!("could not lock `{}`", home.join(START_LOCK).display()))?;
    // Another program may have started it while this one waited for the lock.
    if let Some(address) = find(home).await {
        return Ok(address);
    }
    let log = home.join(LOG);
    let begun = fs_err::metadata(&log).map(|found| found.len()).unwrap_or_default();
    let child = start(home, &log)?;
    let address = until_it_answers(home, child, &log, begun).await?;
    drop(lock);
    screen.note(format_args!(
        "started a server at http://{address} in the background (its log: {}; `moorline up` runs one in the foreground)",
        log.display()
    ));
    Ok(address)
}

/// The address of the home's server, if one answers there.
pub(crate) async fn find(home: &Path) -> Option<SocketAddr> {
    let announced = Announcement::read(home).ok().flatten()?;
    answers(announced.address).await.then_some(announced.address)
}

/// Whether a server of ours is at this address.
async fn answers(address: SocketAddr) -> bool {
    let ask = async {
        let client = reqwest::Client::builder().no_proxy().build()?;
        client.get(format!("http://{address}/api/v1")).timeout(ANSWER).send().await?.json::<Value>().await
    };
    ask.await.is_ok_and(|body| body.get("name").and_then(Value::as_str) == Some("moorline"))
}

/// Starts this same program as a server. It leaves the terminal's session by itself, as its first act.
fn start(home: &Path, log: &Path) -> anyhow::Result<Child> {
    let program = std::env::current_exe().context("could not find this program's own file")?;
    let out = fs_err::OpenOptions::new().create(true).append(true).open(log)?.into_parts().0;
    let errors = out.try_clone()?;
    Command::new(&program)
        .arg("--home")
        .arg(home)
        .args(["up", "--detached"])
        .current_dir(home)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(errors)
        .spawn()
        .with_context(|| format!("could not start `{}`", program.display()))
}

async fn until_it_answers(
    home: &Path,
    mut child: Child,
    log: &Path,
    begun: u64,
) -> anyhow::Result<SocketAddr> {
    let deadline = Instant::now() + START;
    loop {
        if let Some(address) = find(home).await {
            return Ok(address);
        }
        let ended = child.try_wait()?;
        if ended.is_some() || Instant::now() > deadline {
            // A server in the foreground may have taken the home meanwhile.
            if let Some(address) = find(home).await {
                return Ok(address);
            }
            let message = match ended {
                Some(status) => format!("the server in the background ended at once ({status})"),
                None => format!("the server in the background did not answer within {} s", START.as_secs()),
            };
            return Err(Explained::new(message)
                .detail(tail(log, begun))
                .hint(format!("its log is {}; `moorline up` runs it in the foreground", log.display()))
                .into());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The end of what was written to the log since `begun`.
fn tail(log: &Path, begun: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = fs_err::File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(begun.max(length.saturating_sub(SHOWN_BYTES))))?;
        let mut bytes = Vec::new();
        file.take(SHOWN_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}
