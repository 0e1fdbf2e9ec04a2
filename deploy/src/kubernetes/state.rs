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
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    /// None for what was found and was not applied since.
    pub(super) placement: Option<Arc<Placement>>,
    pub(super) failure: Option<Failure>,
    /// As many as were asked for have been ready at one time: what fails now is the cluster's business.
    pub(super) completed: bool,
    /// Some revision was complete: what fails after it is not taken away.
    pub(super) proven: bool,
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
    Ended(Box<SeenPod>),
}

impl State {
    /// Another placement is asked for, or the same again; or what another server rolled out, which need not be rolled
    /// out again.
    pub(super) fn ask(&mut self, placement: Arc<Placement>, facts: &Facts<'_>) {
        let revision = placement.revision();
        self.completed = match &self.placement {
            Some(known) => self.completed && known.revision() == revision,
            None => facts.deployment.is_some_and(|live| rolled_out(live, revision)),
        };
        self.proven |= self.completed;
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
            self.proven = true;
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
            return Some(Verdict::Ended(Box::new((*pod).clone())));
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

/// Whether the cluster says that it completed this revision at some time.
fn rolled_out(live: &Value, revision: Digest) -> bool {
    annotated(live) == Some(revision)
        && live["status"]["observedGeneration"] == live["metadata"]["generation"]
        && condition(live, "Progressing").is_some_and(|told| told["reason"] == "NewReplicaSetAvailable")
}

fn condition<'a>(deployment: &'a Value, kind: &str) -> Option<&'a Value> {
    deployment["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

#[cfg(test)]
mod tests {
    use moorline_testkit::{TestRelease, deployment};
    use serde_json::json;

    use super::*;
    use crate::reason::Ended;

    fn placement() -> Arc<Placement> {
        let source = moorline_core::Source::image("registry.example.org/double:1");
        Arc::new(TestRelease::double(1).with_source(source).placement(&deployment("judged", "blue"), 1))
    }

    fn live(placement: &Placement, reason: &str) -> Value {
        json!({
            "metadata": { "generation": 3, "annotations": { REVISION: placement.revision().to_string() } },
            "spec": { "replicas": 1, "progressDeadlineSeconds": 640 },
            "status": { "observedGeneration": 3, "conditions": [{ "type": "Progressing", "status": "True", "reason": reason }] },
        })
    }

    fn pod(placement: &Placement) -> SeenPod {
        SeenPod { name: "judged".to_owned(), revision: Some(placement.revision()), ..SeenPod::default() }
    }

    fn waiting(placement: &Placement, word: &str, sentence: &str) -> SeenPod {
        SeenPod { waiting: Some((word.to_owned(), sentence.to_owned())), ..pod(placement) }
    }

    /// What is decided of these, by a state that was just asked for the placement, and what people are told.
    fn judged(
        placement: &Arc<Placement>,
        pods: &[SeenPod],
        live: Option<&Value>,
    ) -> (Option<Verdict>, Vec<String>) {
        let served = Served::default();
        let facts = Facts { served: &served, pods, deployment: live };
        let mut state = State::default();
        state.ask(Arc::clone(placement), &Facts { served: &served, pods: &[], deployment: None });
        (state.judge(&facts), state.observation(&facts, |_| None).notes)
    }

    #[test]
    fn a_rollout_fails_at_once_where_waiting_changes_nothing() {
        let own = placement();
        let going = live(&own, "ReplicaSetUpdated");
        let verdict = |pod: SeenPod| judged(&own, &[pod], Some(&going)).0;
        let failed = |text: &str| Some(Verdict::Failed(text.to_owned()));
        assert_eq!(
            verdict(waiting(&own, "ImagePullBackOff", "rpc error: x/y:1: not found")),
            failed("ImagePullBackOff: rpc error: x/y:1: not found")
        );
        assert_eq!(
            verdict(waiting(&own, "CreateContainerConfigError", "image will run as root")),
            failed("CreateContainerConfigError: image will run as root")
        );
        assert_eq!(verdict(waiting(&own, "ErrImagePull", "dial tcp: i/o timeout")), None);
        let ended = SeenPod { ended: Some(Ended { code: Some(1), ..Ended::default() }), ..pod(&own) };
        assert_eq!(verdict(ended.clone()), None, "once may be an accident");
        let again = SeenPod { restarts: 1, ..ended };
        assert_eq!(verdict(again.clone()), Some(Verdict::Ended(Box::new(again.clone()))));
        let other = SeenPod { revision: Some(Digest::of(b"another")), ..again };
        assert_eq!(verdict(other), None, "that is not this rollout's");
    }

    #[test]
    fn what_is_waited_for_is_told_and_is_the_reason_in_the_end() {
        let own = placement();
        let stuck = SeenPod {
            unschedulable: Some("0/1 nodes are available: 1 Insufficient cpu.".to_owned()),
            ..pod(&own)
        };
        let told = "no node takes a pod (Unschedulable): 0/1 nodes are available: 1 Insufficient cpu.";
        let (verdict, notes) =
            judged(&own, std::slice::from_ref(&stuck), Some(&live(&own, "ReplicaSetUpdated")));
        assert_eq!((verdict, notes), (None, vec![told.to_owned()]));
        let (verdict, _) = judged(&own, &[stuck], Some(&live(&own, "ProgressDeadlineExceeded")));
        let late = format!("it made no progress within 640 s: {told}");
        assert_eq!(verdict, Some(Verdict::Failed(late)));
        let mut refused = live(&own, "ReplicaSetUpdated");
        refused["status"]["conditions"] =
            json!([{ "type": "ReplicaFailure", "status": "True", "message": "exceeded quota: few" }]);
        let (_, notes) = judged(&own, &[], Some(&refused));
        assert_eq!(notes, ["the cluster refuses to make a pod: exceeded quota: few"]);
        let (_, notes) = judged(&own, &[waiting(&own, "ContainerCreating", "")], None);
        assert!(notes.is_empty(), "{notes:?}");
    }

    /// A server that is started anew must not take away what has served for months because it ends just now.
    #[test]
    fn what_another_server_rolled_out_is_not_judged_again() {
        let own = placement();
        let served = Served::default();
        let ended = Ended { code: Some(1), ..Ended::default() };
        let pods = [SeenPod { restarts: 7, ended: Some(ended), ..pod(&own) }];
        for (reason, is_judged) in [("NewReplicaSetAvailable", false), ("ReplicaSetUpdated", true)] {
            let live = live(&own, reason);
            let facts = Facts { served: &served, pods: &pods, deployment: Some(&live) };
            let mut state = State::default();
            state.ask(Arc::clone(&own), &facts);
            assert_eq!(state.judge(&facts).is_some(), is_judged, "{reason}");
            assert_eq!(state.proven, !is_judged);
        }
    }
}
