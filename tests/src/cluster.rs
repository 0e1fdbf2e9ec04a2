//! The cluster that tests may work on, and namespaces of their own in it.

use std::{
    env,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::Value;

use crate::{Said, place::skip};

/// A real cluster, as a kubeconfig names it.
#[derive(Clone, Debug)]
pub struct Cluster {
    kubeconfig: PathBuf,
}

impl Cluster {
    /// The one of `MOORLINE_TEST_KUBECONFIG`. `None` (and `SKIPPED` in the output) where none was given.
    pub fn given() -> Option<Self> {
        let kubeconfig = env::var_os("MOORLINE_TEST_KUBECONFIG").map(PathBuf::from);
        if kubeconfig.is_none() {
            skip("no cluster; `cargo xtask test` hands on the one that KUBECONFIG names");
        }
        Some(Self { kubeconfig: kubeconfig? })
    }

    /// Where tests push images that its nodes pull; `None` (and `SKIPPED`) where that was not said.
    pub fn registry(&self) -> Option<String> {
        let registry = env::var_os("MOORLINE_TEST_CLUSTER_REGISTRY").and_then(|host| host.into_string().ok());
        if registry.is_none() {
            skip("no registry that the cluster pulls from: MOORLINE_TEST_CLUSTER_REGISTRY names none");
        }
        registry
    }

    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Runs `kubectl` with this on its standard input.
    pub fn kubectl(&self, arguments: &[&str], input: &str) -> Said {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("`kubectl` can be started");
        let written = child.stdin.take().expect("it has a standard input").write_all(input.as_bytes());
        let output = child.wait_with_output().expect("a child can be waited for");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let said =
            Said { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) };
        // One that refused its arguments has read nothing.
        assert!(written.is_ok() || said.code != Some(0), "kubectl read nothing: {said:?}");
        said
    }

    /// A namespace that goes away with the value.
    pub fn namespace(&self, purpose: &str) -> Namespace {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{purpose}-{}-{count}", std::process::id());
        self.kubectl(&["create", "namespace", &name], "").ok();
        Namespace { cluster: self.clone(), name }
    }
}

/// A namespace of a test's own.
#[derive(Debug)]
pub struct Namespace {
    cluster: Cluster,
    pub name: String,
}

impl Namespace {
    /// Runs `kubectl` in it.
    pub fn kubectl(&self, arguments: &[&str], input: &str) -> Said {
        self.cluster.kubectl(&[&["--namespace", &self.name], arguments].concat(), input)
    }

    /// An object as it is now.
    pub fn get(&self, kind: &str, name: &str) -> Option<Value> {
        let said = self.kubectl(&["get", kind, name, "--output", "json"], "");
        (said.code == Some(0)).then(|| said.json())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // It is gone when its objects are; nobody waits for that.
        let _ = self.cluster.kubectl(&["delete", "namespace", &self.name, "--wait=false"], "");
    }
}
