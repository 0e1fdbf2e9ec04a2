//! What matters of a pod: whether it is ready and where, and if it is not, why.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};
use kube::ResourceExt;
use moorline_core::{Digest, ReplicaState};

use super::{names::REVISION, objects::CONTAINER};
use crate::reason::Ended;

/// A pod of a deployment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct SeenPod {
    pub(super) name: String,
    pub(super) revision: Option<Digest>,
    /// Seconds since 1970.
    pub(super) created: Option<i64>,
    pub(super) ip: Option<IpAddr>,
    /// It was told to end.
    pub(super) deleting: bool,
    /// It ended for good, as one that was evicted did.
    pub(super) over: bool,
    pub(super) ready: bool,
    /// The container that the following is of: the scorer, or one before it that is not done yet.
    pub(super) container: Option<String>,
    /// Its startup probe succeeded.
    pub(super) started: bool,
    pub(super) running: bool,
    pub(super) restarts: u32,
    /// Why its container does not run: the kubelet's word for it, and its sentence.
    pub(super) waiting: Option<(String, String)>,
    /// How its container ended last.
    pub(super) ended: Option<Ended>,
    /// The container that ended is the one before the one that runs.
    pub(super) ended_before: bool,
    /// Why no node takes it.
    pub(super) unschedulable: Option<String>,
}

impl SeenPod {
    pub(super) fn of(pod: &Pod) -> Self {
        let status = pod.status.clone().unwrap_or_default();
        let condition =
            |kind: &str| status.conditions.iter().flatten().find(|condition| condition.type_ == kind);
        let all = || status.container_statuses.iter().flatten();
        let container = all().find(|status| status.name == CONTAINER).or_else(|| all().next());
        // One that runs before it and was not done yet is what there is to say something of.
        let before = status.init_container_statuses.iter().flatten().find(|before| !done(before));
        let container = before.or(container);
        let state = container.and_then(|container| container.state.clone()).unwrap_or_default();
        let last =
            container.and_then(|container| container.last_state.clone()).and_then(|last| last.terminated);
        let terminated = state.terminated.or_else(|| last.clone());
        let waiting =
            state.waiting.and_then(|waiting| Some((waiting.reason?, waiting.message.unwrap_or_default())));
        let unschedulable =
            condition("PodScheduled").filter(|condition| condition.status == "False").map(|condition| {
                condition.message.clone().or_else(|| condition.reason.clone()).unwrap_or_default()
            });
        Self {
            name: pod.name_any(),
            revision: pod.annotations().get(REVISION).and_then(|text| text.parse().ok()),
            created: pod.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second()),
            ip: status.pod_ip.as_deref().and_then(|ip| ip.parse().ok()),
            deleting: pod.metadata.deletion_timestamp.is_some(),
            over: matches!(status.phase.as_deref(), Some("Failed" | "Succeeded")),
            container: container.map(|container| container.name.clone()),
            ready: condition("Ready").is_some_and(|condition| condition.status == "True"),
            started: before.is_none()
                && container.and_then(|container| container.started).unwrap_or_default(),
            running: state.running.is_some(),
            restarts: container
                .map_or(0, |container| u32::try_from(container.restart_count).unwrap_or_default()),
            waiting,
            ended_before: last.is_some() && terminated == last,
            ended: terminated.as_ref().map(ended),
            unschedulable,
        }
    }

    pub(super) fn state(&self) -> ReplicaState {
        if self.deleting {
            ReplicaState::Draining
        } else if self.ready {
            ReplicaState::Ready
        } else if self.started {
            ReplicaState::Unready
        } else {
            ReplicaState::Starting
        }
    }

    /// Its container was started twice at least, and does not run.
    pub(super) fn keeps_ending(&self) -> bool {
        self.restarts >= 1 && !self.running && self.ended.is_some() && !self.ready
    }
}

/// Whether a container that runs before the others has done its work.
fn done(container: &ContainerStatus) -> bool {
    let terminated = container.state.as_ref().and_then(|state| state.terminated.as_ref());
    terminated.is_some_and(|terminated| terminated.exit_code == 0)
}

fn ended(terminated: &ContainerStateTerminated) -> Ended {
    let reason = terminated.reason.as_deref().unwrap_or_default();
    // These are said of a container that never ran.
    let not_run = matches!(reason, "ContainerCannotRun" | "StartError");
    Ended {
        code: Some(terminated.exit_code),
        error: not_run.then(|| terminated.message.clone()).flatten(),
        out_of_memory: reason == "OOMKilled",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn seen(before: &Value, own: &Value) -> SeenPod {
        let pod = json!({
            "metadata": { "name": "blue-1" },
            "status": { "phase": "Pending", "initContainerStatuses": [before], "containerStatuses": [own] },
        });
        SeenPod::of(&serde_json::from_value(pod).unwrap())
    }

    fn container(name: &str, state: &Value) -> Value {
        json!({ "name": name, "image": "i", "imageID": "", "ready": false, "restartCount": 2, "state": state })
    }

    /// Why a model does not come is said of the container that brings it.
    #[test]
    fn a_pod_is_judged_by_the_container_that_is_at_work() {
        let waits = container("scorer", &json!({ "waiting": { "reason": "PodInitializing" } }));
        let pull = json!({ "waiting": { "reason": "ImagePullBackOff", "message": "not found" } });
        let pod = seen(&container("model", &pull), &waits);
        assert_eq!(pod.waiting, Some(("ImagePullBackOff".to_owned(), "not found".to_owned())));
        assert_eq!(pod.container.as_deref(), Some("model"));
        let ended = json!({ "terminated": { "exitCode": 1, "reason": "Error" } });
        let pod = seen(&container("model", &ended), &waits);
        assert!(pod.keeps_ending() && !pod.started, "{pod:?}");
        let done = json!({ "terminated": { "exitCode": 0, "reason": "Completed" } });
        let pod = seen(&container("model", &done), &container("scorer", &json!({ "running": {} })));
        assert!(pod.running && !pod.keeps_ending(), "{pod:?}");
        assert_eq!(pod.container.as_deref(), Some("scorer"));
    }
}
