//! A workspace whose deployments run on a Kubernetes cluster, and a look at that cluster with `kubectl`.

use std::{
    env,
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::Value;

use crate::{BODY, Said, Workspace, documents::endpoint, place::lack};

/// A cluster that runs pods, as the environment names it.
#[derive(Clone, Debug)]
pub struct GivenCluster {
    pub kubeconfig: PathBuf,
    /// A registry that this machine pushes to and the nodes pull from, by one name.
    pub registry: String,
}

impl GivenCluster {
    /// Says that the test is skipped where there is none.
    pub fn find() -> Option<Self> {
        let named = |name| env::var_os(name).and_then(|value| value.into_string().ok());
        let (Some(kubeconfig), Some(registry)) =
            (named("MOORLINE_TEST_KUBECONFIG"), named("MOORLINE_TEST_CLUSTER_REGISTRY"))
        else {
            lack(
                "kubernetes",
                "no Kubernetes: MOORLINE_TEST_KUBECONFIG names no cluster, or MOORLINE_TEST_CLUSTER_REGISTRY no registry that it pulls from",
            );
            return None;
        };
        Some(Self { kubeconfig: kubeconfig.into(), registry })
    }

    /// `kubectl` with what it reads from its standard input.
    pub fn kubectl_with(&self, arguments: &[&str], input: &str) -> Said {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("kubectl: {error}"));
        child.stdin.take().expect("it is piped").write_all(input.as_bytes()).expect("kubectl reads");
        let output = child.wait_with_output().expect("kubectl ends");
        Said {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    pub fn kubectl(&self, arguments: &[&str]) -> String {
        self.kubectl_with(arguments, "").ok().stdout
    }

    /// A namespace of this test's own, in which only what is restricted may run.
    pub fn namespace(&self) -> Namespace {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("moorline-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        self.kubectl(&["create", "namespace", &name]);
        self.kubectl(&["label", "namespace", &name, "pod-security.kubernetes.io/enforce=restricted"]);
        Namespace { cluster: self.clone(), name }
    }
}

/// A namespace, which is gone with everything in it some time after this is dropped.
#[derive(Debug)]
pub struct Namespace {
    pub cluster: GivenCluster,
    pub name: String,
}

impl Namespace {
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        self.cluster.kubectl(&[&["--namespace", &self.name], arguments].concat())
    }

    /// The same with what it reads from its standard input, whatever comes of it.
    pub fn kubectl_with(&self, arguments: &[&str], input: &str) -> Said {
        self.cluster.kubectl_with(&[&["--namespace", &self.name], arguments].concat(), input)
    }

    /// An object as it is now.
    pub fn get(&self, kind: &str, name: &str) -> Option<Value> {
        let said = self.kubectl_with(&["get", kind, name, "--output", "json"], "");
        (said.code == Some(0)).then(|| said.json())
    }

    /// The items of a kind that are ours, with these labels more.
    pub fn items(&self, kind: &str) -> Vec<Value> {
        let listed =
            self.kubectl(&["get", kind, "-l", "app.kubernetes.io/managed-by=moorline", "-o", "json"]);
        let list: Value = serde_json::from_str(&listed).expect("kubectl prints JSON");
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// The names of the pods that were not told to end.
    pub fn pods(&self) -> Vec<String> {
        let living = |pod: &Value| pod["metadata"]["deletionTimestamp"].is_null();
        let name = |pod: &Value| pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        self.items("pods").iter().filter(|pod| living(pod)).map(name).collect()
    }

    /// The lines of a compute's document that mean this namespace.
    pub fn lines(&self) -> String {
        format!(
            "type: kubernetes\nkubeconfig: {}\nnamespace: {}\nregistry: {}/{}\n",
            self.cluster.kubeconfig.display(),
            self.name,
            self.cluster.registry,
            self.name
        )
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.cluster.kubectl_with(&["delete", "namespace", &self.name, "--wait=false"], "");
    }
}

/// A workspace with a compute `cluster`, which means a namespace of its own.
#[derive(Debug)]
pub struct Clustered {
    pub workspace: Workspace,
    pub namespace: Namespace,
}

impl Clustered {
    /// `settings` are lines of the compute's document.
    pub fn up(settings: &str) -> Option<Self> {
        Some(Self::on(Workspace::down(), GivenCluster::find()?.namespace(), settings))
    }

    pub fn on(mut workspace: Workspace, namespace: Namespace, settings: &str) -> Self {
        workspace.start();
        workspace.write("cluster.yml", format!("name: cluster\n{}{settings}", namespace.lines()));
        workspace.moorline(&["compute", "create", "-f", "cluster.yml"]).ok();
        Self { workspace, namespace }
    }

    /// An endpoint and a deployment `blue` of it on the cluster; the endpoint's key.
    pub fn deploy(&self, name: &str, document: &str) -> String {
        self.workspace.write("endpoint.yml", endpoint(name));
        self.workspace.write("blue.yml", document);
        self.workspace.moorline(&["online-endpoint", "create", "-f", "endpoint.yml"]).ok();
        self.create(&["-f", "blue.yml", "--all-traffic"]).ok();
        self.workspace.key(name)
    }

    pub fn create(&self, arguments: &[&str]) -> Said {
        let all = [&["online-deployment", "create", "--compute", "cluster"], arguments].concat();
        self.workspace.moorline(&all)
    }

    pub fn update(&self, endpoint: &str, arguments: &[&str]) -> Said {
        let which = ["online-deployment", "update", "-n", "blue", "-e", endpoint];
        self.workspace.moorline(&[&which, arguments].concat())
    }

    pub fn score(&self, endpoint: &str, key: &str) -> (u16, String) {
        let reply = self.workspace.call(&Workspace::scoring(endpoint, key, BODY));
        (reply.status, reply.text().replace(", ", ","))
    }
}
