//! What the pod of a server says of it, so that a Service finds the one that leads: a label.

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{Patch, PatchParams},
    core::PartialObjectMeta,
};
use moorline_core::ErrorClass;
use serde_json::json;

use super::{cluster::Cluster, error::ClusterError};

const LABEL: &str = "moorline.io/role";

/// Whether a server leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodRole {
    Leader,
    Follower,
}

impl PodRole {
    fn as_str(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
        }
    }
}

/// Labels a pod of the cluster's namespace.
pub async fn mark_pod(cluster: &Cluster, pod: &str, role: PodRole) -> Result<(), ClusterError> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let patch = json!({ "metadata": { "labels": { LABEL: role.as_str() } } });
    let patched: kube::Result<PartialObjectMeta<Pod>> =
        pods.patch_metadata(pod, &PatchParams::default(), &Patch::Merge(patch)).await;
    let what = format!("could not label the pod `{}/{pod}`", cluster.namespace);
    match patched {
        Ok(_) => Ok(()),
        // No right of a target: only the server's own pod is ever labelled.
        Err(kube::Error::Api(status)) if status.code == 403 => {
            let message = crate::failure::one_line(&status.message);
            let reason = format!("{message}; the Role of the Helm chart grants that, or leave --pod out");
            Err(ClusterError::new(ErrorClass::Forbidden, what, reason))
        }
        Err(error) => Err(ClusterError::of(what, error)),
    }
}
