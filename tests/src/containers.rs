//! What tests of images and containers need: an Engine, a registry of their own, and an image with Python.

use std::{
    env,
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    http::{Request, call},
    place::skip,
    process::eventually,
};

/// Longer than a registry takes to start.
const START_LIMIT: Duration = Duration::from_secs(20);

/// The address of the Engine that tests may use, as `DOCKER_HOST` has it.
pub fn engine() -> Option<String> {
    let host = env::var_os("MOORLINE_TEST_DOCKER").and_then(|host| host.into_string().ok());
    if host.is_none() {
        skip("no Docker Engine; `cargo xtask test` starts one where docker.io can be installed");
    }
    host
}

/// The address of Podman's service that tests may use.
pub fn podman() -> Option<String> {
    let host = env::var_os("MOORLINE_TEST_PODMAN").and_then(|host| host.into_string().ok());
    if host.is_none() {
        skip("no Podman; `cargo xtask test` starts it where podman, netavark and catatonit can be installed");
    }
    host
}

/// A port of this machine that nobody listens on.
pub fn free_port() -> u16 {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    free.expect("a port is free").port()
}

/// An image with Python, as `docker save` writes one.
pub fn base_image() -> Option<PathBuf> {
    let image = env::var_os("MOORLINE_TEST_BASE_IMAGE").map(PathBuf::from);
    if image.is_none() {
        skip("no base image; `cargo xtask test` makes one where mmdebstrap can be installed");
    }
    image
}

/// Runs a program that tests images from outside; its standard output.
pub fn tool(program: &str, arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } =
        Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        status.success(),
        "{program} {arguments:?} ended with {status}:\n{}",
        String::from_utf8_lossy(&stderr)
    );
    String::from_utf8_lossy(&stdout).into_owned()
}

/// Debian's client, against the Engine of the tests.
pub fn docker(host: &str, arguments: &[&str]) -> String {
    let client = if PathBuf::from("/usr/bin/docker").exists() { "/usr/bin/docker" } else { "docker" };
    tool(client, &[&["--host", host], arguments].concat())
}

/// What `docker inspect` says of one thing.
pub fn inspect(host: &str, name: &str) -> Value {
    serde_json::from_str::<Value>(&docker(host, &["inspect", name])).expect("docker prints JSON")[0].take()
}

/// Debian's registry, on a port of its own. It ends with the value, and its images with it.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    pub host: String,
    _folder: TempDir,
}

impl Registry {
    /// `None` where there is no such program, which was said.
    pub fn start() -> Option<Self> {
        Self::start_for(None)
    }

    /// One that lets in whoever has an entry in this file of `htpasswd`.
    pub fn start_locked(passwords: &str) -> Option<Self> {
        Self::start_for(Some(passwords))
    }

    fn start_for(passwords: Option<&str>) -> Option<Self> {
        let Some(program) = env::var_os("MOORLINE_TEST_REGISTRY_PROGRAM") else {
            skip("no registry; `cargo xtask test` installs docker-registry");
            return None;
        };
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let host = format!("127.0.0.1:{}", free_port());
        let config = folder.path().join("config.yml");
        let mut text = format!(
            "version: 0.1\nlog: {{level: warn}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  \
             delete: {{enabled: true}}\nhttp: {{addr: {host}}}\n",
            folder.path().join("images").display()
        );
        if let Some(passwords) = passwords {
            let file = folder.path().join("htpasswd");
            fs_err::write(&file, passwords).expect("a file can be written");
            let own = format!("auth: {{htpasswd: {{realm: moorings, path: {}}}}}\n", file.display());
            text.push_str(&own);
        }
        fs_err::write(&config, text).expect("a file can be written");
        let child = Command::new(program)
            .arg("serve")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the registry can be started");
        let registry = Self { child, host, _folder: folder };
        let address = registry.host.parse().expect("an address");
        let open = if passwords.is_some() { 401 } else { 200 };
        let answers =
            || TcpListener::bind(address).is_err() && call(address, &Request::get("/v2/")).status == open;
        assert!(eventually(START_LIMIT, answers), "the registry does not answer");
        Some(registry)
    }

    /// Puts an archive of `docker save` into it.
    pub fn take(&self, archive: &std::path::Path, repository_and_tag: &str) {
        let from = format!("docker-archive:{}", archive.display());
        let to = format!("docker://{}/{repository_and_tag}", self.host);
        tool("skopeo", &["copy", "--quiet", "--dest-tls-verify=false", &from, &to]);
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
