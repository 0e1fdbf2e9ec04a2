//! What is known of a deployment's containers, and what is to be done next: decided here, without a word to the Engine.

use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bollard::models::{ContainerSummary, ContainerSummaryStateEnum};
use moorline_core::{Digest, Failure, Observation, Phase, Placement, Probe, ReplicaAddress, ReplicaState};
use tokio::time::Instant;

use super::document::Identity;
use crate::{
    attempts::Attempts,
    plan::{Plan, Seen, plan},
    reason,
    routes::Routes,
};

/// Between two looks at a container that is starting.
const STARTING_POLL: Duration = Duration::from_millis(100);
/// Between two looks at what rests; the Engine's events come sooner.
const RESYNC: Duration = Duration::from_secs(30);
/// The least time between two rounds.
const LEAST_PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
pub(super) struct State {
    /// None for what was found running and was not applied since.
    pub(super) placement: Option<Arc<Placement>>,
    pub(super) attempts: Attempts,
    pub(super) removing: bool,
    pub(super) replicas: BTreeMap<String, Replica>,
    /// Containers that ended and were taken account of; they are kept for their logs until another one is ready.
    pub(super) ended: HashSet<String>,
    pub(super) restarts: u32,
    pub(super) published: Option<Observation>,
}

/// A container that runs.
#[derive(Clone, Debug)]
pub(super) struct Replica {
    pub(super) container: String,
    pub(super) revision: Digest,
    pub(super) routes: Routes,
    pub(super) created: i64,
    pub(super) state: ReplicaState,
    pub(super) was_ready: bool,
    pub(super) began: Instant,
    pub(super) next_probe: Instant,
    /// In a row.
    pub(super) not_ready: u32,
    pub(super) ready: u32,
    pub(super) not_alive: u32,
    pub(super) ports: BTreeMap<u16, SocketAddr>,
}

impl Replica {
    /// Of a container that no list of the Engine's has shown yet.
    pub(super) const JUST_MADE: i64 = i64::MAX;

    pub(super) fn new(container: String, identity: &Identity, created: i64) -> Self {
        let now = Instant::now();
        Self {
            container,
            revision: identity.revision,
            routes: identity.routes.clone(),
            created,
            state: ReplicaState::Starting,
            was_ready: false,
            began: now,
            next_probe: now,
            not_ready: 0,
            ready: 0,
            not_alive: 0,
            ports: BTreeMap::new(),
        }
    }

    pub(super) fn address(&self) -> Option<ReplicaAddress> {
        Some(ReplicaAddress {
            data: *self.ports.get(&self.routes.data_port)?,
            admin: *self.ports.get(&self.routes.ready.0)?,
        })
    }

    pub(super) fn stopping(&self) -> bool {
        self.state == ReplicaState::Draining
    }
}

/// What probes said of one container.
pub(super) struct Verdict {
    pub(super) replica: String,
    pub(super) ready: bool,
    pub(super) alive: bool,
    /// What the readiness route answered, if anything did.
    pub(super) answer: Option<u16>,
}

impl State {
    pub(super) fn revision(&self) -> Option<Digest> {
        match &self.placement {
            Some(placement) => Some(placement.revision()),
            None => {
                self.replicas.values().max_by_key(|replica| replica.created).map(|newest| newest.revision)
            }
        }
    }

    pub(super) fn wanted(&self) -> usize {
        self.placement.as_ref().map_or(self.replicas.len(), |placement| placement.replicas as usize)
    }

    pub(super) fn ready(&self) -> usize {
        let revision = self.revision();
        let ready =
            |replica: &&Replica| Some(replica.revision) == revision && replica.state == ReplicaState::Ready;
        self.replicas.values().filter(ready).count()
    }

    /// Of readiness and of liveness.
    pub(super) fn probes(&self) -> (Probe, Probe) {
        let placement = self.placement.as_ref();
        placement.map_or_else(Default::default, |placement| (placement.readiness, placement.liveness))
    }

    /// Until the next round, if nothing happens before.
    pub(super) fn pause(&self) -> Duration {
        let now = Instant::now();
        let busy = self.replicas.values().any(|replica| replica.state == ReplicaState::Starting);
        if busy {
            return STARTING_POLL;
        }
        let probes = self.replicas.values().filter(|replica| !replica.stopping()).map(|own| own.next_probe);
        let next = probes.chain(self.attempts.not_before()).min();
        next.map_or(RESYNC, |next| next.saturating_duration_since(now)).clamp(LEAST_PAUSE, RESYNC)
    }

    /// Compares what was known with what the Engine has. Gives the containers that ended by themselves.
    pub(super) fn take_in(
        &mut self,
        found: &[(Identity, ContainerSummary)],
        reached_at: IpAddr,
    ) -> Vec<(Identity, String)> {
        let mut over = Vec::new();
        let mut seen = HashSet::new();
        for (identity, container) in found {
            let Some(id) = container.id.clone() else { continue };
            seen.insert(identity.replica.clone());
            match container.state {
                Some(
                    ContainerSummaryStateEnum::RUNNING
                    | ContainerSummaryStateEnum::PAUSED
                    | ContainerSummaryStateEnum::RESTARTING
                    // What Podman says of one that was told to end and has not yet.
                    | ContainerSummaryStateEnum::STOPPING,
                ) => {
                    let ports = ports(container, reached_at);
                    let created = container.created.unwrap_or_default();
                    let replica = self.replicas.entry(identity.replica.clone()).or_insert_with(|| {
                        tracing::info!(container = id, "found a container that runs");
                        Replica::new(id.clone(), identity, created)
                    });
                    replica.created = created;
                    replica.ports = ports;
                }
                // Made and not started yet: by us just now, or by a server that ended in between.
                Some(ContainerSummaryStateEnum::CREATED) if self.replicas.contains_key(&identity.replica) => {
                }
                Some(ContainerSummaryStateEnum::REMOVING) => {
                    self.replicas.remove(&identity.replica);
                }
                _ => {
                    if self.ended.insert(id.clone()) && self.replicas.contains_key(&identity.replica) {
                        over.push((identity.clone(), id));
                    }
                }
            }
        }
        // Removed by somebody's hand.
        let before = self.replicas.len();
        self.replicas.retain(|id, replica| {
            seen.contains(id) || replica.stopping() || replica.created == Replica::JUST_MADE
        });
        self.restarts += (before - self.replicas.len()) as u32;
        self.ended.retain(|id| found.iter().any(|(_, container)| container.id.as_ref() == Some(id)));
        over
    }

    /// Takes what the probes of one container said. Gives the failure of one that is not ready in time, which is stopped.
    pub(super) fn hear(&mut self, verdict: &Verdict) -> Option<(Digest, String, Failure)> {
        let (readiness, liveness) = self.probes();
        let replica = self.replicas.get_mut(&verdict.replica)?;
        let now = Instant::now();
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        let starting = replica.state == ReplicaState::Starting;
        let period = if liveness.period < readiness.period { liveness.period } else { readiness.period };
        replica.next_probe = now + if starting && !verdict.ready { STARTING_POLL } else { seconds(period) };
        if verdict.ready {
            replica.not_ready = 0;
            replica.not_alive = 0;
            replica.ready += 1;
            if starting || replica.ready >= readiness.success_threshold {
                replica.state = ReplicaState::Ready;
                replica.was_ready = true;
            }
            return None;
        }
        replica.ready = 0;
        replica.not_ready += 1;
        if starting {
            let limit =
                seconds(readiness.initial_delay) + seconds(readiness.period) * readiness.failure_threshold;
            if replica.began.elapsed() < limit {
                return None;
            }
            replica.state = ReplicaState::Unready;
            let reason = reason::of_lateness(limit, &replica.routes.ready, verdict.answer);
            return Some((replica.revision, replica.container.clone(), Failure { reason, log: Vec::new() }));
        }
        if replica.not_ready >= readiness.failure_threshold {
            replica.state = ReplicaState::Unready;
        }
        if verdict.alive {
            replica.not_alive = 0;
        } else {
            replica.not_alive += 1;
        }
        None
    }

    /// A container did not start. It need not be for its `own` fault: the Engine may be out of order.
    pub(super) fn not_started(&mut self, revision: &Digest, failure: Failure, own: bool) {
        if Some(*revision) == self.revision() && !self.removing && self.placement.is_some() {
            let proven = !own || self.ready() > 0;
            self.attempts.failed(failure, proven);
        }
    }

    /// What to start, of which placement, and whom to stop; those are marked.
    pub(super) fn decide(&mut self) -> (Option<Arc<Placement>>, usize, Vec<String>) {
        if self.placement.is_some() && self.attempts.failure().is_none() && self.ready() >= self.wanted() {
            self.attempts.reached();
        }
        let (_, liveness) = self.probes();
        let dead = |replica: &Replica| {
            replica.not_alive >= liveness.failure_threshold
                && replica.began.elapsed() >= Duration::from_secs(liveness.initial_delay.into())
        };
        let late = |replica: &Replica| !replica.was_ready && replica.state == ReplicaState::Unready;
        let mut stop: Vec<String> = self
            .replicas
            .iter()
            .filter(|(_, replica)| !replica.stopping() && (dead(replica) || late(replica)))
            .map(|(id, _)| id.clone())
            .collect();
        let mut start = 0;
        let mut live: Vec<(&String, &Replica)> =
            self.replicas.iter().filter(|(id, replica)| !replica.stopping() && !stop.contains(id)).collect();
        live.sort_by_key(|(_, replica)| replica.created);
        if self.removing {
            stop.extend(live.iter().map(|(id, _)| (*id).clone()));
        } else if let Some(placement) = &self.placement {
            let revision = placement.revision();
            let seen: Vec<Seen> = live
                .iter()
                .map(|(_, replica)| Seen { current: replica.revision == revision, state: replica.state })
                .collect();
            let decided: Plan = plan(placement.replicas as usize, self.attempts.failure().is_some(), &seen);
            stop.extend(decided.stop.iter().map(|index| live[*index].0.clone()));
            start = decided.start;
        }
        if !self.attempts.may_start() {
            start = 0;
        }
        for id in &stop {
            if let Some(replica) = self.replicas.get_mut(id) {
                replica.state = ReplicaState::Draining;
            }
        }
        (self.placement.clone().filter(|_| !self.removing), start, stop)
    }

    pub(super) fn observation(&self) -> Observation {
        let replicas: Vec<_> = self
            .replicas
            .iter()
            .map(|(id, replica)| moorline_core::Replica {
                id: id.clone(),
                revision: replica.revision,
                state: replica.state,
                address: replica.address(),
                restarts: self.restarts,
            })
            .collect();
        let wanted = self.wanted();
        let phase = if self.placement.is_none() && replicas.is_empty() {
            Phase::Absent
        } else if self.attempts.failure().is_some() {
            Phase::Failed
        } else if self.placement.is_some()
            && !self.removing
            && self.ready() == wanted
            && replicas.len() == wanted
        {
            Phase::Ready
        } else {
            Phase::Progressing
        };
        Observation {
            phase,
            revision: self.revision(),
            replicas,
            notes: Vec::new(),
            failure: self.attempts.failure().cloned(),
        }
    }
}

/// The container's ports and where they are found from here.
fn ports(container: &ContainerSummary, reached_at: IpAddr) -> BTreeMap<u16, SocketAddr> {
    let published = container.ports.iter().flatten();
    let found = published
        .filter_map(|port| Some((port.private_port, SocketAddr::new(reached_at, port.public_port?))));
    found.collect()
}
