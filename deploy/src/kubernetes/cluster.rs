//! The way into a cluster: a kubeconfig's context, or the account of the pod that this runs in.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use moorline_core::ErrorClass;

use super::{error::ClusterError, served::Served};

/// An API server that takes longer to accept a connection is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// No request but a watch takes longer.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// What the kubelet tells every pod.
const IN_CLUSTER: &str = "KUBERNETES_SERVICE_HOST";

/// Which cluster is meant, as a compute says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterAddress {
    /// Where it is left out: the files of `KUBECONFIG`, `~/.kube/config`, and in a pod its own account.
    pub kubeconfig: Option<PathBuf>,
    pub context: Option<String>,
    pub namespace: Option<String>,
}

/// A namespace of a cluster that answers.
#[derive(Clone)]
pub struct Cluster {
    pub(super) client: Client,
    pub(super) namespace: String,
    pub(super) served: Served,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Connects and asks what is served. `environment` has the variables that `kubectl` would look at.
    pub async fn connect(
        address: &ClusterAddress,
        environment: &BTreeMap<String, String>,
    ) -> Result<Self, ClusterError> {
        let mut config = configuration(address, environment).await?;
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        let namespace = address.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let url = config.cluster_url.clone();
        let what = || format!("the cluster at {url} cannot be used");
        let client = Client::try_from(config).map_err(|error| ClusterError::of(what(), error))?;
        let served = tokio::time::timeout(REQUEST_TIMEOUT, Served::discover(&client)).await;
        let served = served.map_err(|_| ClusterError::late(what()))?;
        let served = served.map_err(|error| ClusterError::new(error.class(), what(), error.to_string()))?;
        tracing::info!(%url, namespace, version = served.version, autoscaling = served.autoscaling, disruption = served.disruption, pod_monitors = served.pod_monitors, "a cluster");
        Ok(Self { client, namespace, served })
    }

    pub fn served(&self) -> &Served {
        &self.served
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }
}

async fn configuration(
    address: &ClusterAddress,
    environment: &BTreeMap<String, String>,
) -> Result<Config, ClusterError> {
    let invalid = |reason: String| {
        ClusterError::new(ErrorClass::InvalidInput, "the cluster's kubeconfig cannot be used", reason)
    };
    let files = files(address, environment);
    if files.is_empty() {
        if environment.contains_key(IN_CLUSTER) && address.context.is_none() {
            return Config::incluster().map_err(|error| invalid(error.to_string()));
        }
        // Not `NotFound`: that would mean that nothing can be left there.
        return Err(ClusterError::new(
            ErrorClass::InvalidInput,
            "no cluster is known",
            "there is neither KUBECONFIG nor ~/.kube/config on the server's machine: give the compute a `kubeconfig`",
        ));
    }
    let mut merged = Kubeconfig::default();
    for file in files {
        let read = tokio::task::spawn_blocking({
            let file = file.clone();
            move || Kubeconfig::read_from(file)
        });
        let read = read.await.map_err(|error| invalid(error.to_string()))?;
        let read = read.map_err(|error| invalid(format!("{}: {}", file.display(), crate::chain(&error))))?;
        merged = merged.merge(read).map_err(|error| invalid(crate::chain(&error)))?;
    }
    if let Some(context) = &address.context
        && !merged.contexts.iter().any(|known| known.name == *context)
    {
        let known: Vec<&str> = merged.contexts.iter().map(|context| context.name.as_str()).collect();
        return Err(ClusterError::new(
            ErrorClass::InvalidInput,
            format!("the kubeconfig has no context `{context}`"),
            format!("it has {}", if known.is_empty() { "none".to_owned() } else { known.join(", ") }),
        ));
    }
    let options = KubeConfigOptions { context: address.context.clone(), ..KubeConfigOptions::default() };
    Config::from_custom_kubeconfig(merged, &options).await.map_err(|error| invalid(crate::chain(&error)))
}

/// The files that are read, as `kubectl` finds them: those of `KUBECONFIG` that are there, else the one in the home.
fn files(address: &ClusterAddress, environment: &BTreeMap<String, String>) -> Vec<PathBuf> {
    if let Some(file) = &address.kubeconfig {
        return vec![file.clone()];
    }
    let named = environment.get("KUBECONFIG").filter(|value| !value.is_empty());
    let candidates: Vec<PathBuf> = match named {
        Some(list) => std::env::split_paths(list).collect(),
        None => {
            environment.get("HOME").map(|home| Path::new(home).join(".kube/config")).into_iter().collect()
        }
    };
    candidates.into_iter().filter(|path| path.is_file()).collect()
}
