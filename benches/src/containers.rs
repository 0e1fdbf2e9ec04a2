//! What the rows of images stand on, as far as xtask found it: an Engine, a registry's program, and an image with Python.

use std::{
    env,
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use xtask::shell;

use crate::peers::free_address;

/// Longer than a registry takes to start.
const START_LIMIT: Duration = Duration::from_secs(20);
/// The name in the archive of the base image.
pub(crate) const BASE: &str = "moorline-test-python:1";
/// Of every image that has a release in it.
const OURS: &str = "label=org.moorline.release";

/// Docker's client and the Engine that it speaks to.
#[derive(Debug)]
pub(crate) struct Docker {
    pub(crate) host: String,
}

impl Docker {
    pub(crate) fn find() -> Option<Self> {
        let host = env::var_os("MOORLINE_TEST_DOCKER")?.into_string().ok()?;
        Some(Self { host })
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut docker = Command::new("docker");
        Ok(shell::output(docker.args(["--host", &self.host]).args(arguments))?.trim().to_owned())
    }

    /// What a container wrote, and how it is.
    pub(crate) fn story_of(&self, container: &str) -> Result<String> {
        let mut docker = Command::new("docker");
        docker.args(["--host", &self.host, "logs", container]);
        // A scorer logs to its error output, and `docker logs` keeps the two apart.
        let logs = docker.stdin(Stdio::null()).output().context("could not start `docker`")?;
        let state = self.run(&["inspect", "--format", "{{json .State}}", container])?;
        let said = [&logs.stdout[..], &logs.stderr, state.as_bytes()].concat();
        Ok(String::from_utf8_lossy(&said).into_owned())
    }

    /// Gives the Engine an image that lies in a layout's archive, under the name `to`.
    pub(crate) fn take(&self, archive: &Path, to: &str) -> Result<()> {
        let mut copy = Command::new("skopeo");
        copy.args(["copy", "--quiet", "--dest-daemon-host", &self.host]);
        copy.arg(format!("oci-archive:{}", archive.display())).arg(format!("docker-daemon:{to}"));
        shell::output(&mut copy).map(drop)
    }

    /// Takes away the images of releases: large ones would fill the disk.
    pub(crate) fn forget_images(&self) -> Result<()> {
        let listed = self.run(&["image", "ls", "--quiet", "--no-trunc", "--filter", OURS])?;
        let images: Vec<&str> = listed.lines().collect();
        if images.is_empty() {
            return Ok(());
        }
        self.run(&[&["image", "rm", "--force"][..], &images].concat()).map(drop)
    }
}

/// A container that is removed with it.
#[derive(Debug)]
pub(crate) struct Container<'a> {
    docker: &'a Docker,
    pub(crate) id: String,
}

impl<'a> Container<'a> {
    /// `docker run --detach` with these, or `docker create`.
    pub(crate) fn new(docker: &'a Docker, verb: &[&str], arguments: &[&str]) -> Result<Self> {
        Ok(Self { docker, id: docker.run(&[verb, arguments].concat())? })
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        // It ends with the Engine otherwise.
        let _ = self.docker.run(&["rm", "--force", "--volumes", &self.id]);
    }
}

/// A network that is removed with it. Its addresses are ones that nothing on this machine has, which those of the Engine's
/// own need not be where another Engine left a bridge behind.
#[derive(Debug)]
pub(crate) struct Network<'a> {
    docker: &'a Docker,
    pub(crate) id: String,
}

impl<'a> Network<'a> {
    pub(crate) fn new(docker: &'a Docker) -> Result<Self> {
        let name = format!("moorline-bench-{}", process::id());
        Ok(Self { docker, id: docker.run(&["network", "create", &name])? })
    }
}

impl Drop for Network<'_> {
    fn drop(&mut self) {
        // Left behind otherwise, where nothing uses it.
        let _ = self.docker.run(&["network", "rm", &self.id]);
    }
}

/// The image with Python, as `docker save` writes one.
pub(crate) fn base_image() -> Option<PathBuf> {
    env::var_os("MOORLINE_TEST_BASE_IMAGE").map(PathBuf::from)
}

/// A registry on a port of its own, which ends when dropped.
#[derive(Debug)]
pub(crate) struct Registry {
    child: Child,
    pub(crate) host: String,
    folder: PathBuf,
}

impl Registry {
    /// An empty one, which keeps what it has in `folder`; `None` where its program is not there.
    pub(crate) fn start(folder: PathBuf) -> Result<Option<Self>> {
        let Some(program) = env::var_os("MOORLINE_TEST_REGISTRY_PROGRAM") else { return Ok(None) };
        fs_err::create_dir_all(&folder)?;
        let host = free_address()?;
        let config = folder.join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: warn}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\nhttp: {{addr: {host}}}\n",
            folder.join("images").display()
        );
        fs_err::write(&config, text)?;
        let mut serve = Command::new(program);
        serve.arg("serve").arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = serve.spawn().context("could not start the registry")?;
        let registry = Self { child, host, folder };
        let deadline = Instant::now() + START_LIMIT;
        let url = format!("http://{}/v2/", registry.host);
        while !shell::succeeds(Command::new("curl").args(["--silent", "--fail", &url])) {
            if Instant::now() > deadline {
                bail!("the registry did not answer within {} s", START_LIMIT.as_secs());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(Some(registry))
    }

    /// Puts an archive of `docker save` into it; the reference there.
    pub(crate) fn take(&self, archive: &Path) -> Result<String> {
        let reference = format!("{}/base/python:1", self.host);
        let mut copy = Command::new("skopeo");
        copy.args(["copy", "--quiet", "--dest-tls-verify=false"]);
        copy.arg(format!("docker-archive:{}", archive.display())).arg(format!("docker://{reference}"));
        shell::output(&mut copy)?;
        Ok(reference)
    }

    /// Bytes of all the blobs that it has.
    pub(crate) fn bytes(&self) -> Result<u64> {
        let (mut folders, mut bytes) = (vec![self.folder.join("images")], 0);
        while let Some(folder) = folders.pop() {
            for entry in fs_err::read_dir(folder)? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.file_name().is_some_and(|name| name == "data") {
                    bytes += fs_err::metadata(&path)?.len();
                }
            }
        }
        Ok(bytes)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended already; there is nobody left to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
