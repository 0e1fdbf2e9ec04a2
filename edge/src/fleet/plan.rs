//! What each device is to run, and how far each deployment has come: a function of what is wished for and of what is
//! seen, with no clock, no disk and no network.
//!
//! On a device, of the deployments that mean the same module the one with the highest priority wins; modules of different
//! names stand side by side. A deployment reaches its devices in stages: the next stage is told only when every connected
//! device that was told has answered, and none any more once too many have failed.

use std::collections::{BTreeMap, BTreeSet};

use moorline_core::{DeploymentId, Digest, Failure, Name, Observation, Phase, Replica, ReplicaState};
use serde_json::Value;

use super::{Reported, Share};
use crate::{
    desired::{Desired, DesiredModule, DesiredRoute},
    hub::DeviceCondition,
};

/// Devices that a note names.
const NAMED: usize = 3;
/// Characters of what a device says of itself: of what it was, and of the end of its log, where the cause is.
const BEGIN: usize = 200;
const END: usize = 300;

/// A device as it is seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Device {
    pub(super) name: String,
    pub(super) connected: bool,
    /// What conditions are about.
    pub(super) facts: Value,
    /// What its document says, without its serial.
    pub(super) told: Desired,
    pub(super) reported: Reported,
}

/// What a deployment wishes for.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) module_name: String,
    pub(super) module: DesiredModule,
    pub(super) routes: BTreeMap<String, DesiredRoute>,
    pub(super) condition: DeviceCondition,
    pub(super) priority: u32,
    pub(super) stages: Vec<Share>,
    /// From 0 to 1.
    pub(super) max_failure_rate: f64,
    pub(super) paused: bool,
    pub(super) revision: Digest,
    /// Every device was reached once: whoever comes later is told at once.
    pub(super) finished: bool,
}

impl Wish {
    /// By which a device says that it runs exactly this.
    fn version(&self) -> Option<&str> {
        self.module.version.as_deref()
    }
}

/// What follows.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Of the devices that are to be told something else than before.
    pub(super) documents: Vec<(String, Desired)>,
    pub(super) observations: BTreeMap<DeploymentId, Observation>,
    pub(super) finished: BTreeSet<DeploymentId>,
}

/// How far one device has come with one wish.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Progress {
    Untold,
    /// Told, and not done yet; with what keeps it.
    Waiting(String),
    Done,
    Failed(String),
}

/// Plans for the devices of a workspace. `pending` are deployments that are known to exist and have not said yet what they
/// wish for: what devices run of them is left alone.
pub(super) fn plan(
    devices: &[&Device],
    wishes: &BTreeMap<DeploymentId, Wish>,
    workspace: &Name,
    pending: &BTreeSet<DeploymentId>,
) -> Plan {
    let wishes: BTreeMap<&DeploymentId, &Wish> =
        wishes.iter().filter(|(id, _)| id.workspace == *workspace).collect();
    let winners: Vec<BTreeMap<&str, &DeploymentId>> =
        devices.iter().map(|device| winners(device, &wishes)).collect();
    let mut plan = Plan::default();
    // The devices that may have what each deployment wishes for.
    let mut allowed: BTreeMap<&DeploymentId, BTreeSet<usize>> = BTreeMap::new();
    for (id, wish) in &wishes {
        let name = wish.module_name.as_str();
        let members: Vec<usize> =
            (0..devices.len()).filter(|idx| winners[*idx].get(name) == Some(id)).collect();
        let rollout = Rollout::of(wish, &members, devices);
        if rollout.finished {
            plan.finished.insert((*id).clone());
        }
        let observation = rollout.observation(id, devices);
        plan.observations.insert((*id).clone(), observation);
        allowed.insert(id, rollout.allowed);
    }
    for (idx, device) in devices.iter().enumerate() {
        // What no deployment put there is a person's, and stays.
        let mut next = Desired {
            containers: device.told.containers.clone(),
            registries: device.told.registries.clone(),
            ..Desired::default()
        };
        for (name, module) in &device.told.modules {
            let owner = module.deployment.as_deref();
            let known = owner.is_none_or(|owner| pending.iter().any(|id| id.to_string() == owner));
            if known || winners[idx].contains_key(name.as_str()) {
                keep(&device.told, name, &mut next);
            }
        }
        for (name, route) in device.told.routes.iter().filter(|(name, _)| !name.contains('/')) {
            next.routes.insert(name.clone(), route.clone());
        }
        for (name, id) in &winners[idx] {
            if allowed.get(*id).is_some_and(|allowed| allowed.contains(&idx)) {
                let wish = wishes[*id];
                next.routes.retain(|route, _| owner_of(route) != Some(*name));
                next.modules.insert((*name).to_owned(), wish.module.clone());
                next.routes.extend(wish.routes.clone());
            }
        }
        if next != device.told {
            plan.documents.push((device.name.clone(), next));
        }
    }
    plan
}

/// The module that a route belongs to: its name is `MODULE/ROUTE`.
fn owner_of(route: &str) -> Option<&str> {
    route.split_once('/').map(|(module, _)| module)
}

fn keep(told: &Desired, name: &str, next: &mut Desired) {
    if let Some(module) = told.modules.get(name) {
        next.modules.insert(name.to_owned(), module.clone());
    }
    let own = told.routes.iter().filter(|(route, _)| owner_of(route) == Some(name));
    next.routes.extend(own.map(|(route, value)| (route.clone(), value.clone())));
}

/// The deployment that each module of a device is to be of. A module that somebody named himself is of none.
fn winners<'a>(
    device: &Device,
    wishes: &BTreeMap<&'a DeploymentId, &'a Wish>,
) -> BTreeMap<&'a str, &'a DeploymentId> {
    let mut winners: BTreeMap<&str, (&DeploymentId, u32)> = BTreeMap::new();
    for (id, wish) in wishes {
        // In the order of names, so that of two with the same priority the later name wins.
        let best = winners.get(wish.module_name.as_str()).is_none_or(|(_, best)| *best <= wish.priority);
        let own = device.told.containers.contains_key(&wish.module_name);
        if best && !own && wish.condition.holds(&device.facts) {
            winners.insert(&wish.module_name, (id, wish.priority));
        }
    }
    winners.into_iter().map(|(name, (id, _))| (name, id)).collect()
}

fn progress(device: &Device, wish: &Wish) -> Progress {
    if device.told.modules.get(&wish.module_name) != Some(&wish.module) {
        return Progress::Untold;
    }
    let status = &device.reported.status;
    if status.code >= 400 && status.code != 406 && !status.description.is_empty() {
        return Progress::Failed(shortened(&status.description));
    }
    let Some(module) = device.reported.modules.get(&wish.module_name) else {
        return Progress::Waiting(String::new());
    };
    let said = || shortened(&module.status_description);
    let version = wish.version();
    if module.version.as_deref() == version && module.runtime_status == "running" {
        return Progress::Done;
    }
    if module.refused_version.as_deref() == version {
        return Progress::Failed(said());
    }
    if module.desired_version.as_deref() != version {
        return Progress::Waiting(String::new());
    }
    if module.runtime_status == "failed" { Progress::Failed(said()) } else { Progress::Waiting(said()) }
}

fn shortened(text: &str) -> String {
    let length = text.chars().count();
    if length <= BEGIN + END {
        return text.to_owned();
    }
    let (begin, end) = (text.chars().take(BEGIN), text.chars().skip(length - END));
    begin.chain(" … ".chars()).chain(end).collect()
}

/// A rollout of one wish over the devices that it is for.
struct Rollout<'a> {
    wish: &'a Wish,
    members: Vec<(usize, Progress)>,
    allowed: BTreeSet<usize>,
    finished: bool,
    failure: Option<String>,
    notes: Vec<String>,
}

impl<'a> Rollout<'a> {
    fn of(wish: &'a Wish, members: &[usize], devices: &[&Device]) -> Self {
        let members: Vec<(usize, Progress)> =
            members.iter().map(|idx| (*idx, progress(devices[*idx], wish))).collect();
        let mut rollout = Self {
            wish,
            members,
            allowed: BTreeSet::new(),
            finished: wish.finished,
            failure: None,
            notes: Vec::new(),
        };
        rollout.judge(devices);
        rollout
    }

    fn judge(&mut self, devices: &[&Device]) {
        let total = self.members.len();
        let told = || self.members.iter().filter(|(_, progress)| *progress != Progress::Untold);
        self.allowed = told().map(|(idx, _)| *idx).collect();
        if self.finished {
            self.allowed = self.members.iter().map(|(idx, _)| *idx).collect();
            return;
        }
        if total == 0 {
            self.finished = true;
            self.notes.push("no enrolled device meets the condition".to_owned());
            return;
        }
        let of = |which: fn(&Progress) -> bool| told().filter(|(_, progress)| which(progress)).count();
        let done = of(|progress| *progress == Progress::Done);
        let failed = of(|progress| matches!(progress, Progress::Failed(_)));
        let answered = done + failed;
        if failed > 0 && failed as f64 / answered as f64 > self.wish.max_failure_rate {
            self.failure = Some(format!(
                "{failed} of {answered} devices failed, {} of {total} were told; the others go on with what they have",
                self.allowed.len()
            ));
            return;
        }
        let awaited: Vec<(&str, &str)> = told()
            .filter(|(idx, _)| devices[*idx].connected)
            .filter_map(|(idx, progress)| match progress {
                Progress::Waiting(why) => Some((devices[*idx].name.as_str(), why.as_str())),
                _ => None,
            })
            .collect();
        let complete = answered > 0 && awaited.is_empty();
        let number = self.allowed.len();
        if number == total && complete {
            self.finished = true;
            return;
        }
        let mut sizes = self.wish.stages.iter().map(|stage| stage.of(total)).chain([total]);
        let size = if complete {
            sizes.find(|size| *size > number).unwrap_or(total)
        } else {
            sizes.find(|size| *size >= number.max(1)).unwrap_or(total)
        };
        let paused = self.wish.paused && number < total;
        let note = if paused {
            format!("paused; {number} of {total} devices were told")
        } else if number > 0 && answered == 0 && awaited.is_empty() {
            format!("none of the {number} devices that were told is connected")
        } else if !awaited.is_empty() {
            format!("{answered} of {total} devices answered; waits for {}", named(&awaited))
        } else {
            format!("{answered} of {total} devices answered")
        };
        self.notes.push(note);
        if paused {
            return;
        }
        let mut untold: Vec<usize> = self
            .members
            .iter()
            .filter(|(_, progress)| *progress == Progress::Untold)
            .map(|(idx, _)| *idx)
            .collect();
        untold.sort_by_key(|idx| (!devices[*idx].connected, *idx));
        self.allowed.extend(untold.into_iter().take(size.saturating_sub(number)));
    }

    fn observation(&self, id: &DeploymentId, devices: &[&Device]) -> Observation {
        let owner = id.to_string();
        let own = |(idx, progress): &&(usize, Progress)| {
            let module = devices[*idx].told.modules.get(&self.wish.module_name);
            *progress != Progress::Untold
                || module.is_some_and(|module| module.deployment.as_deref() == Some(&owner))
        };
        let replica = |(idx, progress): &(usize, Progress)| {
            let device = devices[*idx];
            let module = device.reported.modules.get(&self.wish.module_name);
            let runs = module.and_then(|module| module.version.as_deref());
            let revision = match runs {
                Some(version) if Some(version) != self.wish.version() => Digest::of(version.as_bytes()),
                _ => self.wish.revision,
            };
            let running = module.is_some_and(|module| module.runtime_status == "running");
            let state = match progress {
                _ if running && device.connected => ReplicaState::Ready,
                // It serves on where it is, as far as anybody knows.
                _ if running => ReplicaState::Unready,
                Progress::Failed(_) => ReplicaState::BackingOff,
                _ => ReplicaState::Starting,
            };
            Replica {
                id: device.name.clone(),
                revision,
                state,
                address: None,
                restarts: module.map_or(0, |module| module.restart_count),
            }
        };
        let failed = self.members.iter().filter_map(|(idx, progress)| match progress {
            Progress::Failed(why) => Some(format!("{}: {why}", devices[*idx].name)),
            _ => None,
        });
        let failed: Vec<String> = failed.take(NAMED).collect();
        let (phase, failure) = match &self.failure {
            Some(reason) => (Phase::Failed, Some(Failure { reason: reason.clone(), log: failed })),
            None if self.finished => (Phase::Ready, None),
            None => (Phase::Progressing, None),
        };
        Observation {
            phase,
            revision: Some(self.wish.revision),
            replicas: self.members.iter().filter(own).map(replica).collect(),
            notes: self.notes.clone(),
            failure,
        }
    }
}

/// Some of the devices, and what keeps them.
fn named(awaited: &[(&str, &str)]) -> String {
    let one = |(name, why): &(&str, &str)| {
        if why.is_empty() { format!("`{name}`") } else { format!("`{name}` ({why})") }
    };
    let names: Vec<String> = awaited.iter().take(NAMED).map(one).collect();
    let more = awaited.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    names.join(", ") + &more
}

#[cfg(test)]
mod tests;
