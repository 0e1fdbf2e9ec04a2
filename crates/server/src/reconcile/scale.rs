//! Scaling by load: who is scaled, how many replicas each has now, and the loop that asks the rule.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use moorline_core::{DeploymentId, Desired, Scale};
use moorline_gateway::Answers;

use super::Reconciler;
use crate::autoscale::{Rule, Scaler};

/// Between two looks at who is due.
const TICK: Duration = Duration::from_millis(500);

/// The deployments whose replicas the load decides.
#[derive(Debug, Default)]
pub(super) struct Scalers(Mutex<HashMap<DeploymentId, Entry>>);

/// Requests of a deployment that have a place, and that wait for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) in_flight: u64,
    pub(crate) waiting: u64,
}

#[derive(Debug)]
struct Entry {
    scaler: Scaler,
    due: Instant,
}

impl Scalers {
    /// Begins or goes on to scale a deployment, by the settings of `desired`.
    pub(super) fn take_up(&self, id: &DeploymentId, desired: &Desired) {
        let mut entries = self.lock();
        let Some(rule) = rule(desired) else {
            entries.remove(id);
            return;
        };
        let now = Instant::now();
        let current = entries.get(id).map(|entry| entry.scaler.current());
        if entries.get(id).is_none_or(|entry| *entry.scaler.rule() != rule) {
            // One at least to begin with: a load that waits is served sooner than the rule would see it.
            let scaler = Scaler::new(rule, current.unwrap_or(rule.min.max(1)), now);
            entries.insert(id.clone(), Entry { scaler, due: now + rule.polling_interval });
        }
    }

    pub(super) fn forget(&self, id: &DeploymentId) {
        self.lock().remove(id);
    }

    pub(super) fn replicas(&self, id: &DeploymentId, scale: Scale) -> u32 {
        let (min, max) = scale.bounds();
        match scale {
            Scale::Fixed { instances } => instances,
            Scale::TargetUtilization { .. } => self
                .lock()
                .get(id)
                .map_or(min.max(1), |entry| entry.scaler.current())
                .clamp(min, max.max(min)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<DeploymentId, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn rule(desired: &Desired) -> Option<Rule> {
    let Scale::TargetUtilization {
        min_instances,
        max_instances,
        target_utilization_percentage,
        polling_interval,
        scale_down_delay,
    } = desired.scale
    else {
        return None;
    };
    let concurrency = desired.release.request_settings.max_concurrent_requests_per_instance;
    Some(Rule {
        min: min_instances,
        max: max_instances,
        target_percentage: target_utilization_percentage,
        // Azure ML's default, which is what its users' percentages mean.
        concurrency: concurrency.map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
        polling_interval: Duration::from_secs(u64::from(polling_interval.max(1))),
        scale_down_delay: Duration::from_secs(u64::from(scale_down_delay)),
    })
}

impl Reconciler {
    /// What a deployment has answered, at whatever gateway it was asked.
    pub(crate) fn answers(&self, id: &DeploymentId) -> Answers {
        let elsewhere = self.0.targets.gateway_report(id);
        self.0.gateway.answers(id).with(&Answers {
            requests: elsewhere.requests,
            failed: elsewhere.failed,
            within: elsewhere.within,
        })
    }

    /// What is asked of a deployment now, at all gateways.
    pub(crate) fn load(&self, id: &DeploymentId) -> Load {
        let (own, elsewhere) = (self.0.gateway.load(id), self.0.targets.gateway_report(id));
        Load {
            in_flight: own.in_flight as u64 + elsewhere.in_flight,
            waiting: own.waiting as u64 + elsewhere.waiting,
        }
    }

    /// A request waits for a deployment that has no replica.
    pub(crate) fn wake(&self, id: &DeploymentId) {
        self.measure(id, Instant::now());
    }

    /// Asks the rule of every deployment that is due, until the reconciler stops.
    pub(super) async fn scale(&self) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(TICK) => {}
                () = self.0.stop.cancelled() => return,
            }
            let now = Instant::now();
            let due: Vec<DeploymentId> = {
                let entries = self.0.scalers.lock();
                entries.iter().filter(|(_, entry)| entry.due <= now).map(|(id, _)| id.clone()).collect()
            };
            for id in due {
                self.measure(&id, now);
            }
        }
    }

    /// Asks the rule, and nudges the deployment where the answer is another than before.
    fn measure(&self, id: &DeploymentId, now: Instant) {
        let load = self.load(id);
        let requests = load.in_flight + load.waiting;
        let mut entries = self.0.scalers.lock();
        let Some(entry) = entries.get_mut(id) else { return };
        let before = entry.scaler.current();
        let after = entry.scaler.next(requests, now);
        entry.due = now + entry.scaler.rule().polling_interval;
        drop(entries);
        if before != after {
            tracing::info!(deployment = %id, before, after, "scaling");
            self.nudge(id.clone());
        }
    }
}
