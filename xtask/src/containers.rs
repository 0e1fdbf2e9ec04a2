//! What images and containers are tested with: a Docker Engine of the tests' own, a registry's program, a base image with
//! Python, and the scorer that needs no library.

use std::{
    ffi::OsString,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::{Workspace, podman::Podman, shell, tools};

/// Debian's packages, and what shows that one of them is there. `iptables` is what the Engine publishes ports with;
/// Podman has the makers of its networks and its containers' init apart.
const PACKAGES: [(&str, &str); 12] = [
    ("docker.io", "dockerd"),
    ("iptables", "iptables"),
    ("docker-registry", "docker-registry"),
    ("skopeo", "skopeo"),
    ("umoci", "umoci"),
    ("mmdebstrap", "mmdebstrap"),
    ("openssl", "openssl"),
    ("openssh-server", "sshd"),
    ("podman", "podman"),
    ("netavark", "/usr/lib/podman/netavark"),
    ("aardvark-dns", "/usr/lib/podman/aardvark-dns"),
    ("catatonit", "catatonit"),
];
/// The distribution that the base image is made of.
const SUITE: &str = "bookworm";
/// What is left out of it, run in its root.
const CLEAN: &str = "cd \"$1\" && rm -rf usr/share/doc usr/share/man usr/share/locale usr/share/i18n \
                     usr/lib/*/gconv var/lib/apt var/cache var/lib/dpkg/info && mkdir -p tmp && chmod 1777 tmp";
/// Longer than an Engine takes to start.
const START_LIMIT: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(50);

/// Installs what is missing. Nothing that came with the packages is left running.
pub(crate) fn install() -> Result<()> {
    let missing: Vec<&str> = PACKAGES
        .iter()
        .filter(|(_, program)| system_program(program).is_none())
        .map(|(package, _)| *package)
        // Where systemd runs, its installation would let the whole network in.
        .filter(|package| *package != "openssh-server" || !Path::new("/run/systemd/system").exists())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !tools::can_install()? {
        // Not a failure: the tests that want them say that they are skipped.
        shell::say(&format!(
            "images and containers are not tested for want of {} (Debian: `apt-get install {}`)",
            missing.join(", "),
            missing.join(" ")
        ));
        return Ok(());
    }
    tools::apt(&missing)
}

/// A program of the system, also where only root looks.
pub(crate) fn system_program(name: &str) -> Option<PathBuf> {
    let of_root = Path::new("/usr/sbin").join(name);
    shell::find(name).or_else(|| of_root.exists().then_some(of_root))
}

/// Where the base image lies, as `docker save` writes one.
pub(crate) fn base_image_path(workspace: &Workspace) -> PathBuf {
    workspace.target().join("base-image").join(format!("{SUITE}-python.tar"))
}

/// Makes a small Debian with Python, once.
pub(crate) fn base_image(workspace: &Workspace) -> Result<()> {
    let image = base_image_path(workspace);
    if image.exists() {
        return Ok(());
    }
    let Some(mmdebstrap) = system_program("mmdebstrap").filter(|_| Path::new("/etc/debian_version").exists())
    else {
        shell::say("no base image: images with scoring scripts are not tested for want of mmdebstrap");
        return Ok(());
    };
    let folder = image.parent().context("the base image lies in a folder")?;
    fs_err::create_dir_all(folder)?;
    shell::step("a base image with Python", || {
        let mut make = Command::new(mmdebstrap);
        // Without what makes a shell comfortable: it is a place for Python to run in.
        make.args(["--quiet", "--variant=extract", "--include=python3,libstdc++6"]);
        for documentation in ["doc", "man", "locale"] {
            make.arg(format!("--dpkgopt=path-exclude=/usr/share/{documentation}/*"));
        }
        make.arg(format!("--customize-hook={CLEAN}"));
        make.arg(SUITE).arg(folder.join("layer.tar")).args(sources()).env("SOURCE_DATE_EPOCH", "1700000000");
        shell::run(&mut make)?;
        pack(folder, &image)
    })
}

/// Wraps the one layer in `folder` as `docker save` does.
fn pack(folder: &Path, image: &Path) -> Result<()> {
    let layer = shell::output(Command::new("sha256sum").arg(folder.join("layer.tar")))?;
    let layer = layer.split_whitespace().next().context("sha256sum prints a digest")?;
    let config = json!({
        "architecture": match std::env::consts::ARCH { "aarch64" => "arm64", _ => "amd64" },
        "os": "linux",
        "config": { "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"], "Cmd": ["/usr/bin/python3"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer}")] },
    });
    let manifest =
        json!([{ "Config": "config.json", "Layers": ["layer.tar"], "RepoTags": ["moorline-test-python:1"] }]);
    fs_err::write(folder.join("config.json"), config.to_string())?;
    fs_err::write(folder.join("manifest.json"), manifest.to_string())?;
    let draft = folder.join("draft.tar");
    let mut tar = Command::new("tar");
    tar.arg("--create").arg("--file").arg(&draft).arg("--directory").arg(folder);
    shell::run(tar.args(["config.json", "layer.tar", "manifest.json"]))?;
    fs_err::remove_file(folder.join("layer.tar"))?;
    Ok(fs_err::rename(draft, image)?)
}

/// Where this machine has its packages from; the default of mmdebstrap where that is not found.
fn sources() -> Option<PathBuf> {
    let candidates = ["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"];
    candidates.iter().map(PathBuf::from).find(|path| path.exists())
}

/// The scorer that needs no library: the same crate with other flags for its last step alone, so that what it stands on
/// is not compiled again.
pub(crate) fn static_scorer(workspace: &Workspace) -> Result<PathBuf> {
    let place = workspace.binary("moorline-scorer-static");
    let ordinary = workspace.binary("moorline-scorer");
    shell::step("the scorer without libraries", || {
        let mut build = workspace.cargo(&["rustc", "--release", "--package", "moorline-scorer"]);
        build.args(["--bin", "moorline-scorer", "--no-default-features", "--"]);
        build.args(["-C", "target-feature=+crt-static", "-C", "strip=symbols"]);
        // Cargo gives both the same name, and puts there only what is missing or new.
        if ordinary.exists() {
            fs_err::remove_file(&ordinary)?;
        }
        shell::run(&mut build)?;
        fs_err::copy(&ordinary, place.with_extension("new"))?;
        fs_err::rename(place.with_extension("new"), &place)?;
        Ok(fs_err::remove_file(&ordinary)?)
    })?;
    Ok(place)
}

/// A Docker Engine of our own. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Engine {
    child: Child,
    socket: PathBuf,
}

impl Engine {
    /// Starts one with everything of its own below the target folder; `None` where there is none to be started.
    pub(crate) fn start(workspace: &Workspace) -> Result<Option<Self>> {
        let root = shell::output(Command::new("id").arg("-u"))?.trim() == "0";
        let Some(dockerd) = system_program("dockerd").filter(|_| root) else {
            shell::warn(
                "no Docker Engine can be started here (Debian: docker.io, as root): containers are not tested",
            );
            return Ok(None);
        };
        let data = workspace.target().join("docker");
        fs_err::create_dir_all(&data)?;
        // A socket's path has to be short.
        let run = tempfile::Builder::new().prefix("moorline-docker-").tempdir()?.keep();
        let socket = run.join("docker.sock");
        let log = fs_err::File::create(data.join("dockerd.log"))?;
        let mut command = Command::new(dockerd);
        command.arg("--host").arg(format!("unix://{}", socket.display()));
        command.arg("--data-root").arg(data.join("data")).arg("--exec-root").arg(run.join("exec"));
        command.arg("--pidfile").arg(run.join("pid"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.into_parts().0);
        let child =
            command.spawn().with_context(|| format!("could not start `{}`", shell::line(&command)))?;
        let mut engine = Self { child, socket };
        let deadline = Instant::now() + START_LIMIT;
        while !engine.answers() {
            if let Some(status) = engine.child.try_wait()? {
                let log = fs_err::read_to_string(data.join("dockerd.log"))?;
                let tail: Vec<&str> = log.lines().rev().take(10).collect();
                let tail: Vec<&str> = tail.into_iter().rev().collect();
                bail!("the Docker Engine ended with {status}:\n{}", tail.join("\n"));
            }
            if Instant::now() > deadline {
                bail!("the Docker Engine did not answer within {} s", START_LIMIT.as_secs());
            }
            thread::sleep(POLL);
        }
        shell::say(&format!("a Docker Engine listens on {}", engine.socket.display()));
        Ok(Some(engine))
    }

    fn answers(&self) -> bool {
        let Ok(mut stream) = UnixStream::connect(&self.socket) else { return false };
        let asked = std::io::Write::write_all(&mut stream, b"GET /_ping HTTP/1.0\r\nhost: docker\r\n\r\n");
        let mut answer = [0; 12];
        asked.is_ok()
            && std::io::Read::read_exact(&mut stream, &mut answer).is_ok()
            && answer.ends_with(b"200")
    }

    /// As `DOCKER_HOST` has it.
    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // It ends its containers when it is asked to; a signal that does not arrive finds it ended.
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let _ = pid.map(|pid| kill_process(pid, Signal::TERM));
        let _ = self.child.wait();
        if let Some(run) = self.socket.parent() {
            let _ = fs_err::remove_dir_all(run);
        }
    }
}

/// What tests of images and containers are told.
pub(crate) fn variables(
    workspace: &Workspace,
    engine: Option<&Engine>,
    podman: Option<&Podman>,
    static_scorer: &Path,
) -> Vec<(String, OsString)> {
    let mut variables: Vec<(String, OsString)> =
        vec![("MOORLINE_TEST_STATIC_SCORER".to_owned(), static_scorer.into())];
    if let Some(engine) = engine {
        variables.push(("MOORLINE_TEST_DOCKER".to_owned(), engine.host().into()));
    }
    if let Some(podman) = podman {
        variables.push(("MOORLINE_TEST_PODMAN".to_owned(), podman.host().into()));
    }
    if let Some(program) = system_program("docker-registry") {
        variables.push(("MOORLINE_TEST_REGISTRY_PROGRAM".to_owned(), program.into()));
    }
    let base = base_image_path(workspace);
    if base.exists() {
        variables.push(("MOORLINE_TEST_BASE_IMAGE".to_owned(), base.into()));
    }
    variables
}
