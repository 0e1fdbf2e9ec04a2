//! Rollouts: a deployment gets more and more of its endpoint's traffic and is judged at each step. Here is what that
//! means, without a clock, a store or a network: what was asked for, how traffic is split, what breaks a bound. The
//! reconciler goes through the steps, and the endpoint's record remembers where it is.

mod bounds;
mod judge;
mod span;
mod split;
mod steps;

use moorline_core::Name;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use bounds::{ErrorRate, Latency, PlanError};
pub(crate) use judge::{Breach, Judge, Measured};
pub(crate) use span::shown as span;
pub(crate) use split::{Traffic, shown, split};
pub use steps::{Step, Steps};

/// Requests that a judgement takes where nobody says another number: with fewer, one that failed would be more than one
/// in a hundred.
pub(crate) const MIN_REQUESTS: u64 = 100;
/// Nobody waits for more.
pub(crate) const MAX_MIN_REQUESTS: u64 = 1_000_000_000;

/// A rollout as its endpoint's record has it: the last one of the endpoint, under way or ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Rollout {
    pub(crate) operation: String,
    pub(crate) to: Name,
    pub(crate) steps: Steps,
    pub(crate) judge: Judge,
    /// The traffic as it was, and as it is again after a rollout that was not carried through.
    pub(crate) before: Traffic,
    /// The step that it is at, from 0.
    pub(crate) step: usize,
    /// How it ended; nothing while it is under way.
    #[serde(default)]
    pub(crate) outcome: Option<Outcome>,
}

/// How a rollout ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// The deployment has all of the traffic.
    Promoted,
    /// A bound was broken, and the traffic is as it was.
    RolledBack { reason: String },
    /// Somebody ended it.
    Aborted { reason: String },
}

impl Rollout {
    pub(crate) fn under_way(&self) -> bool {
        self.outcome.is_none()
    }

    /// The step that it is at; the last one where the record says nonsense.
    pub(crate) fn current(&self) -> Step {
        self.steps.get(self.step)
    }

    /// Whether the rollout, or the way back, needs this deployment.
    pub(crate) fn needs(&self, deployment: &str) -> bool {
        let shares = self.before.iter().filter(|(_, share)| **share > 0).map(|(name, _)| name);
        shares.chain([&self.to]).any(|name| name.as_str().eq_ignore_ascii_case(deployment))
    }

    /// Whether the step that it is at is the last, and nobody asked to watch it: then it ends with being reached.
    pub(crate) fn is_final(&self) -> bool {
        self.current().watched.is_none()
    }

    pub(crate) fn is_last(&self) -> bool {
        self.step + 1 >= self.steps.count()
    }

    /// The endpoint's traffic at the step that it is at.
    pub(crate) fn traffic(&self) -> Traffic {
        split(&self.before, &self.to, self.current().percent)
    }

    /// `step 2 of 3 (50 %)`.
    pub(crate) fn place(&self) -> String {
        format!("step {} of {} ({} %)", self.step + 1, self.steps.count(), self.current().percent)
    }

    /// As the API shows it.
    pub(crate) fn show(&self) -> Value {
        let (state, message) = match &self.outcome {
            None => ("Running", None),
            Some(Outcome::Promoted) => ("Promoted", None),
            Some(Outcome::RolledBack { reason }) => ("RolledBack", Some(reason)),
            Some(Outcome::Aborted { reason }) => ("Aborted", Some(reason)),
        };
        json!({
            "to": self.to,
            "state": state,
            "message": message,
            "steps": self.steps,
            "step": self.step + 1,
            "max_error_rate": self.judge.max_error_rate,
            "max_p99": self.judge.max_p99,
            "min_requests": self.judge.min_requests,
            "traffic_before": self.before,
            "operation": self.operation,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let rollout = Rollout {
            operation: "1".to_owned(),
            to: "green".parse().unwrap(),
            steps: "10:5m,50:90s,100".parse().unwrap(),
            judge: Judge {
                max_error_rate: "0.5%".parse().unwrap(),
                max_p99: Some("1.5s".parse().unwrap()),
                min_requests: 7,
            },
            before: Traffic::from([("blue".parse().unwrap(), 90), ("green".parse().unwrap(), 5)]),
            step: 1,
            outcome: Some(Outcome::RolledBack { reason: "slow".to_owned() }),
        };
        let written = serde_json::to_value(&rollout).unwrap();
        assert_eq!(serde_json::from_value::<Rollout>(written).unwrap(), rollout);
        assert_eq!(rollout.place(), "step 2 of 3 (50 %)");
        assert!(!rollout.is_last() && !rollout.is_final());
        let shown = rollout.show();
        assert_eq!((&shown["steps"], &shown["max_p99"]), (&json!("10:5m,50:90s,100"), &json!("1.5s")));
        assert_eq!(shown["traffic_before"], json!({"blue": 90, "green": 5}));
    }
}
