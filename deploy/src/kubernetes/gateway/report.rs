//! What the gateways of a namespace have counted: the server scales and judges by it.

use std::collections::{HashMap, HashSet};

use moorline_core::DeploymentId;
use serde::{Deserialize, Serialize};

/// The answer of one gateway to `GET /report`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GatewayReport {
    pub deployments: Vec<(DeploymentId, DeploymentReport)>,
}

/// What is asked of a deployment now, and what it has answered since the gateway's start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeploymentReport {
    /// Requests that have a place.
    pub in_flight: u64,
    /// Requests that wait for a place or a first replica.
    pub waiting: u64,
    pub requests: u64,
    pub failed: u64,
    /// How many took at most so many seconds, for rising bounds.
    pub within: Vec<(f64, u64)>,
}

impl DeploymentReport {
    fn add(&mut self, other: &Self) {
        self.in_flight += other.in_flight;
        self.waiting += other.waiting;
        self.requests += other.requests;
        self.failed += other.failed;
        if self.within.is_empty() {
            self.within.clone_from(&other.within);
        } else {
            // Gateways of two versions may have other bounds: counts of the same ones are added.
            for (bound, count) in &mut self.within {
                let same = other.within.iter().find(|(own, _)| own == bound);
                *count += same.map_or(0, |(_, count)| *count);
            }
        }
    }

    /// What is left of it when its gateway is gone: its counts.
    fn past(&self) -> Self {
        Self { in_flight: 0, waiting: 0, ..self.clone() }
    }
}

/// The reports of all gateways: sums that only grow, though gateways come and go.
#[derive(Debug, Default)]
pub(super) struct Reports {
    /// By gateway.
    now: HashMap<String, HashMap<DeploymentId, DeploymentReport>>,
    /// Of gateways that are gone, or began anew.
    past: HashMap<DeploymentId, DeploymentReport>,
}

impl Reports {
    pub(super) fn take(&mut self, gateway: &str, report: GatewayReport) {
        let before = self.now.remove(gateway).unwrap_or_default();
        let now: HashMap<DeploymentId, DeploymentReport> = report.deployments.into_iter().collect();
        for (id, before) in before {
            if now.get(&id).is_none_or(|now| now.requests < before.requests) {
                self.past.entry(id).or_default().add(&before.past());
            }
        }
        self.now.insert(gateway.to_owned(), now);
    }

    /// Forgets gateways that are gone.
    pub(super) fn keep(&mut self, there: &HashSet<&str>) {
        let gone: Vec<String> =
            self.now.keys().filter(|name| !there.contains(name.as_str())).cloned().collect();
        for gateway in gone {
            for (id, before) in self.now.remove(&gateway).unwrap_or_default() {
                self.past.entry(id).or_default().add(&before.past());
            }
        }
    }

    /// Forgets deployments that nobody asks for any more.
    pub(super) fn retain(&mut self, known: impl Fn(&DeploymentId) -> bool) {
        self.past.retain(|id, _| known(id));
    }

    pub(super) fn of(&self, id: &DeploymentId) -> DeploymentReport {
        let mut sum = self.past.get(id).cloned().unwrap_or_default();
        self.now.values().filter_map(|report| report.get(id)).for_each(|report| sum.add(report));
        sum
    }

    /// Those for which requests wait.
    pub(super) fn waited_for(&self) -> HashSet<DeploymentId> {
        let all = self.now.values().flatten();
        all.filter(|(_, report)| report.waiting > 0).map(|(id, _)| id.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(deployment: &str) -> DeploymentId {
        let name = |text: &str| text.parse().unwrap();
        DeploymentId { workspace: name("w"), endpoint: name("e"), deployment: name(deployment) }
    }

    fn report(requests: u64, waiting: u64) -> GatewayReport {
        let report = DeploymentReport {
            in_flight: 1,
            waiting,
            requests,
            failed: requests / 10,
            within: vec![(0.1, requests / 2), (1.0, requests)],
        };
        GatewayReport { deployments: vec![(id("blue"), report)] }
    }

    #[test]
    fn counts_of_several_gateways_are_added_and_never_shrink() {
        let mut reports = Reports::default();
        reports.take("a", report(100, 0));
        reports.take("b", report(50, 2));
        let sum = reports.of(&id("blue"));
        assert_eq!((sum.requests, sum.failed, sum.in_flight, sum.waiting), (150, 15, 2, 2));
        assert_eq!(sum.within, [(0.1, 75), (1.0, 150)]);
        assert_eq!(reports.waited_for(), HashSet::from([id("blue")]));
        // One began anew.
        reports.take("a", report(10, 0));
        assert_eq!(reports.of(&id("blue")).requests, 160);
        // One is gone, with what it was doing.
        reports.keep(&HashSet::from(["a"]));
        let sum = reports.of(&id("blue"));
        assert_eq!((sum.requests, sum.in_flight, sum.waiting), (160, 1, 0));
        assert!(reports.waited_for().is_empty());
        assert_eq!(reports.of(&id("green")), DeploymentReport::default());
        reports.retain(|_| false);
        assert_eq!(reports.of(&id("blue")).requests, 10);
    }
}
