//! What is true of a deployment in a cluster, and whether its rollout goes well: decided here, without a word to the
//! cluster.

use std::sync::Arc;

use moorline_core::{Digest, Failure, Observation, Phase, Placement, Replica, ReplicaAddress, ReplicaState};
use serde_json::Value;

use super::{names::REVISION, pods::SeenPod, served::Served};
use crate::failure::one_line;

/// Words of a registry that mean that a pull will fail again however often it is tried.
const NO_SUCH_IMAGE: [&str; 6] =
    ["not found", "manifest unknown", "name unknown", "unauthorized", "denied", "authentication required"];
/// Words of the kubelet for a container that cannot be made as it is described.
const NOT_MADE: [&str; 3] = ["InvalidImageName", "CreateContainerConfigError", "ErrImageNeverPull"];
const NOT_PULLED: [&str; 3] = ["ErrImagePull", "ImagePullBackOff", "RegistryUnavailable"];
const PENDING: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// What the target knows of a deployment beyond what the cluster has.
#[derive(Debug, Default)]
pub(super) struct State {
    /// None for what was found and was not applied since.
    pub(super) placement: Option<Arc<Placement>>,
    pub(super) failure: Option<Failure>,
    /// As many as were asked for have been ready at one time: what fails now is the cluster's business.
    pub(super) completed: bool,
    /// A first revision that failed is not started again and again.
    pub(super) halted: bool,
    pub(super) removing: bool,
    pub(super) published: Option<Observation>,
}

/// What of the cluster it is judged by.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) served: &'a Served,
    /// The oldest first.
    pub(super) pods: &'a [SeenPod],
    pub(super) deployment: Option<&'a Value>,
}

/// What went wrong with a rollout.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// For this reason.
    Failed(String),
    /// The container of this pod ended again and again: its log says why.
    Ended(SeenPod),
}

impl State {
    /// Another placement is asked for, or the same again.
    pub(super) fn ask(&mut self, placement: Arc<Placement>) {
        let same = self.placement.as_ref().is_some_and(|known| known.revision() == placement.revision());
        self.completed &= same;
        self.failure = None;
        self.halted = false;
        self.placement = Some(placement);
    }

    pub(super) fn revision(&self, facts: &Facts<'_>) -> Option<Digest> {
        match &self.placement {
            Some(placement) => Some(placement.revision()),
            None => annotated(facts.deployment?),
        }
    }

    /// How many are wanted: as many as were asked for, or as the cluster's own scaling asks for.
    fn wanted(&self, facts: &Facts<'_>) -> usize {
        let live = || facts.deployment.and_then(|live| live["spec"]["replicas"].as_u64());
        match &self.placement {
            Some(_) if self.halted => 0,
            Some(placement) if !super::objects::scaled_by_cluster(facts.served, placement) => {
                placement.replicas as usize
            }
            _ => live().unwrap_or_default() as usize,
        }
    }

    /// Whether everything that was asked for is there and nothing else is.
    fn settled(&self, facts: &Facts<'_>) -> bool {
        let (Some(live), Some(placement)) = (facts.deployment, &self.placement) else { return false };
        let revision = placement.revision();
        let wanted = self.wanted(facts);
        let seen = live["status"]["observedGeneration"].as_u64();
        let ready = |pod: &&SeenPod| pod.revision == Some(revision) && pod.state() == ReplicaState::Ready;
        seen.is_some()
            && seen == live["metadata"]["generation"].as_u64()
            && annotated(live) == Some(revision)
            && live["spec"]["replicas"].as_u64() == Some(wanted as u64)
            && facts.pods.iter().filter(ready).count() == wanted
            && facts.pods.iter().filter(|pod| !pod.over).count() == wanted
    }

    /// Whether the rollout failed. Who was complete once is not judged any more.
    pub(super) fn judge(&mut self, facts: &Facts<'_>) -> Option<Verdict> {
        if self.settled(facts) && !self.halted {
            self.completed = true;
        }
        let placement = self.placement.as_ref()?;
        if self.completed || self.failure.is_some() || self.removing {
            return None;
        }
        let revision = placement.revision();
        let own: Vec<&SeenPod> = current(facts.pods, revision).collect();
        for pod in &own {
            if let Some((word, sentence)) = &pod.waiting {
                let not_made = NOT_MADE.contains(&word.as_str());
                let lowered = sentence.to_ascii_lowercase();
                let no_image = NOT_PULLED.contains(&word.as_str())
                    && NO_SUCH_IMAGE.iter().any(|words| lowered.contains(words));
                if not_made || no_image {
                    return Some(Verdict::Failed(one_line(&format!("{word}: {sentence}"))));
                }
            }
        }
        if let Some(pod) = own.iter().find(|pod| pod.keeps_ending()) {
            return Some(Verdict::Ended((*pod).clone()));
        }
        let live = facts.deployment?;
        let progress = condition(live, "Progressing")?;
        let late = annotated(live) == Some(revision)
            && progress["reason"] == "ProgressDeadlineExceeded"
            && live["status"]["observedGeneration"] == live["metadata"]["generation"];
        late.then(|| {
            let seconds = &live["spec"]["progressDeadlineSeconds"];
            let why = self.notes(facts).pop().unwrap_or_else(|| "no pod became ready".to_owned());
            Verdict::Failed(one_line(&format!("it made no progress within {seconds} s: {why}")))
        })
    }

    /// Whether pods of another revision serve, which a failed rollout leaves alone.
    pub(super) fn others_serve(&self, facts: &Facts<'_>) -> bool {
        let revision = self.revision(facts);
        facts.pods.iter().any(|pod| pod.revision != revision && pod.state() == ReplicaState::Ready)
    }

    /// What a rollout waits for, each in a sentence.
    fn notes(&self, facts: &Facts<'_>) -> Vec<String> {
        let Some(placement) = self.placement.as_ref().filter(|_| !self.completed && !self.halted) else {
            return Vec::new();
        };
        let mut notes = Vec::new();
        let mut note = |text: String| {
            let text = one_line(&text);
            if !notes.contains(&text) {
                notes.push(text);
            }
        };
        for pod in current(facts.pods, placement.revision()) {
            if let Some(why) = &pod.unschedulable {
                note(format!("no node takes a pod (Unschedulable): {why}"));
            }
            match &pod.waiting {
                Some((word, sentence)) if word == "CrashLoopBackOff" => {
                    note(format!(
                        "a container ended and is started again after a pause ({word}): {sentence}"
                    ));
                }
                Some((word, sentence)) if !PENDING.contains(&word.as_str()) => {
                    note(format!("a container cannot be started yet ({word}): {sentence}"));
                }
                _ => {}
            }
        }
        let refused = facts.deployment.and_then(|live| condition(live, "ReplicaFailure"));
        if let Some(refused) = refused.filter(|refused| refused["status"] == "True") {
            let why = refused["message"].as_str().unwrap_or_default();
            note(format!("the cluster refuses to make a pod: {why}"));
        }
        notes
    }

    pub(super) fn observation(
        &self,
        facts: &Facts<'_>,
        address: impl Fn(&SeenPod) -> Option<ReplicaAddress>,
    ) -> Observation {
        let replicas: Vec<Replica> = facts
            .pods
            .iter()
            .filter(|pod| !pod.over)
            .filter_map(|pod| {
                Some(Replica {
                    id: pod.name.clone(),
                    revision: pod.revision?,
                    state: pod.state(),
                    address: address(pod),
                    restarts: pod.restarts,
                })
            })
            .collect();
        let phase = if self.placement.is_none() && facts.deployment.is_none() && replicas.is_empty() {
            Phase::Absent
        } else if self.failure.is_some() {
            Phase::Failed
        } else if !self.removing && self.settled(facts) {
            Phase::Ready
        } else {
            Phase::Progressing
        };
        let notes = if phase == Phase::Progressing { self.notes(facts) } else { Vec::new() };
        Observation { phase, revision: self.revision(facts), replicas, notes, failure: self.failure.clone() }
    }
}

fn current(pods: &[SeenPod], revision: Digest) -> impl Iterator<Item = &SeenPod> {
    pods.iter().filter(move |pod| pod.revision == Some(revision) && !pod.deleting && !pod.over)
}

fn annotated(deployment: &Value) -> Option<Digest> {
    deployment["metadata"]["annotations"][REVISION].as_str()?.parse().ok()
}

fn condition<'a>(deployment: &'a Value, kind: &str) -> Option<&'a Value> {
    deployment["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}
