//! What containers are tested with beside Docker: Podman's service, with everything of its own below one folder.

use std::{
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::{Workspace, containers::system_program, shell};

/// Podman raises the number of processes of its containers, which the root of a small virtual machine may not do: such a
/// machine's own number is put in its place.
const RUNTIME: &str = r#"#!/bin/sh
own=$(awk '/^Max processes/ && $4 != "unlimited" {print "RLIMIT_NPROC\",\"hard\":" $4 ",\"soft\":" $3}' /proc/self/limits)
for word; do
  if [ "$before" = --bundle ] && [ -n "$own" ]; then
    sed -i "s/RLIMIT_NPROC\",\"hard\":[0-9]*,\"soft\":[0-9]*/$own/" "$word/config.json"
  fi
  before=$word
done
exec runc "$@"
"#;
/// Whatever else there may be on the machine that makes networks.
const SETTINGS: &str = "[network]\nnetwork_backend = \"netavark\"\n";
const START_LIMIT: Duration = Duration::from_secs(30);
const SOCKET: &str = "podman.sock";
const SETTINGS_FILE: &str = "containers.conf";
const POLL: Duration = Duration::from_millis(20);

/// A Podman service. It ends when it is dropped, and its containers with it.
#[derive(Debug)]
pub(crate) struct Podman {
    program: PathBuf,
    folder: TempDir,
    child: Child,
}

impl Podman {
    /// Starts one; `None` where there is none to be started, which is said.
    pub(crate) fn start(workspace: &Workspace) -> Result<Option<Self>> {
        let root = shell::output(Command::new("id").arg("-u"))?.trim() == "0";
        let lacking = ["podman", "conmon", "runc", "catatonit"]
            .into_iter()
            .filter(|name| system_program(name).is_none())
            .collect::<Vec<_>>();
        let Some(program) = system_program("podman").filter(|_| root && lacking.is_empty()) else {
            let lacking = if root { lacking.join(", ") } else { "the rights of root".to_owned() };
            shell::warn(&format!("Podman is not tested for want of {lacking}"));
            return Ok(None);
        };
        // A socket's path has to be short.
        let folder = tempfile::Builder::new().prefix("moorline-podman-").tempdir()?;
        let runtime = folder.path().join("runtime");
        fs_err::write(&runtime, RUNTIME)?;
        fs_err::write(folder.path().join(SETTINGS_FILE), SETTINGS)?;
        fs_err::set_permissions(&runtime, PermissionsExt::from_mode(0o755))?;
        let log = fs_err::File::create(workspace.target().join("podman.log"))?;
        let mut command = podman(&program, folder.path());
        command.args(["system", "service", "--time", "0"]).arg(host(folder.path()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.into_parts().0);
        let child =
            command.spawn().with_context(|| format!("could not start `{}`", shell::line(&command)))?;
        let mut podman = Self { program, folder, child };
        let deadline = Instant::now() + START_LIMIT;
        while UnixStream::connect(podman.folder.path().join(SOCKET)).is_err() {
            if let Some(status) = podman.child.try_wait()? {
                bail!(
                    "Podman's service ended with {status}; see {}/podman.log",
                    workspace.target().display()
                );
            }
            if Instant::now() > deadline {
                bail!("Podman's service did not answer within {} s", START_LIMIT.as_secs());
            }
            thread::sleep(POLL);
        }
        shell::say(&format!("Podman listens on {}", podman.host()));
        Ok(Some(podman))
    }

    /// As `DOCKER_HOST` has it.
    pub(crate) fn host(&self) -> String {
        host(self.folder.path())
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // What a test left; without containers these say so, which is as good.
        for rest in [&["rm", "--all", "--force", "--time", "0"][..], &["network", "prune", "--force"]] {
            let mut command = podman(&self.program, self.folder.path());
            let _ = command.args(rest).stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        // It keeps its folder of layers mounted on itself.
        let layers = self.folder.path().join("data/overlay");
        let _ = Command::new("umount").arg(layers).stderr(Stdio::null()).status();
    }
}

fn host(folder: &Path) -> String {
    format!("unix://{}", folder.join(SOCKET).display())
}

/// The program with everything of its own in a folder, and nothing that wants systemd.
fn podman(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("CONTAINERS_CONF", folder.join(SETTINGS_FILE));
    for (option, place) in [
        ("--root", "data"),
        ("--runroot", "run"),
        ("--tmpdir", "tmp"),
        ("--network-config-dir", "networks"),
        ("--runtime", "runtime"),
    ] {
        command.arg(option).arg(folder.join(place));
    }
    command.args(["--cgroup-manager", "cgroupfs", "--events-backend", "file"]);
    command
}
