//! What the monitor adds to the server's own metrics: what is true of deployments, and how asking replicas went.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{
    GaugeVec, IntCounterVec, IntGaugeVec, Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::look::{Observed, STATES, Seen};

const LABELS: [&str; 2] = ["endpoint", "deployment"];

/// Facts of deployments: those of the last look, all at once, and none of a deployment that is gone.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// What the registry knows the metrics by.
    described: Arc<Vectors>,
    newest: Arc<Mutex<Arc<Vectors>>>,
}

#[derive(Debug)]
struct Vectors {
    state: IntGaugeVec,
    timeout: GaugeVec,
    capacity: IntGaugeVec,
    replicas: IntGaugeVec,
    restarts: IntCounterVec,
}

impl Vectors {
    fn new() -> Result<Self, prometheus::Error> {
        let gauge =
            |name, help, more: &[&str]| IntGaugeVec::new(Opts::new(name, help), &[&LABELS, more].concat());
        Ok(Self {
            state: gauge(
                "moorline_deployment_state",
                "1 for the provisioning state that a deployment has",
                &["workspace", "target", "state"],
            )?,
            timeout: GaugeVec::new(
                Opts::new(
                    "moorline_deployment_request_timeout_seconds",
                    "The time in which a deployment has to answer a request, in seconds",
                ),
                &LABELS,
            )?,
            capacity: gauge(
                "moorline_deployment_capacity_requests",
                "Requests that the ready replicas of a deployment take at one time",
                &[],
            )?,
            replicas: gauge(
                "moorline_deployment_replicas",
                "Replicas of a deployment, by what they do",
                &["state"],
            )?,
            restarts: IntCounterVec::new(
                Opts::new(
                    "moorline_deployment_restarts_total",
                    "Times that replicas of a deployment, or the workers of their scripts, were started again",
                ),
                &LABELS,
            )?,
        })
    }

    fn all(&self) -> [&dyn Collector; 5] {
        [&self.state, &self.timeout, &self.capacity, &self.replicas, &self.restarts]
    }
}

impl Facts {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let facts = Self {
            described: Arc::new(Vectors::new()?),
            newest: Arc::new(Mutex::new(Arc::new(Vectors::new()?))),
        };
        registry.register(Box::new(facts.clone()))?;
        Ok(facts)
    }

    pub(super) fn set(&self, seen: &[Seen]) {
        // The same was made before without an error.
        let Ok(vectors) = Vectors::new() else { return };
        for deployment in seen {
            let own = [deployment.id.endpoint.as_str(), deployment.id.deployment.as_str()];
            let state = format!("{:?}", deployment.state);
            let facts =
                [own[0], own[1], deployment.id.workspace.as_str(), deployment.target.as_str(), &state];
            vectors.state.with_label_values(&facts).set(1);
            vectors.timeout.with_label_values(&own).set(deployment.request_timeout.as_secs_f64());
            let Some(Observed { capacity, replicas, restarts }) = &deployment.observed else { continue };
            vectors.capacity.with_label_values(&own).set(signed(*capacity));
            for ((_, state), count) in STATES.iter().zip(replicas) {
                vectors.replicas.with_label_values(&[own[0], own[1], state]).set(signed(*count));
            }
            vectors.restarts.with_label_values(&own).inc_by(*restarts);
        }
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(vectors);
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl Collector for Facts {
    fn desc(&self) -> Vec<&Desc> {
        self.described.all().into_iter().flat_map(|vector| vector.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let newest = Arc::clone(&self.newest.lock().unwrap_or_else(PoisonError::into_inner));
        newest.all().into_iter().flat_map(Collector::collect).collect()
    }
}

/// How asking a replica went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Read,
    TimedOut,
    Unreadable,
    /// Not reached, too long, or no answer to the question.
    Failed,
}

impl Outcome {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Read, "read"),
        (Self::TimedOut, "timed_out"),
        (Self::Unreadable, "unreadable"),
        (Self::Failed, "failed"),
    ];
}

/// Counts of them.
#[derive(Clone, Debug)]
pub(super) struct Scrapes(IntCounterVec);

impl Scrapes {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counts = IntCounterVec::new(
            Opts::new("moorline_monitor_scrapes_total", "Times that replicas were asked for their metrics"),
            &["outcome"],
        )?;
        registry.register(Box::new(counts.clone()))?;
        for (_, name) in Outcome::ALL {
            counts.with_label_values(&[name]);
        }
        Ok(Self(counts))
    }

    pub(super) fn count(&self, outcome: Outcome) {
        if let Some((_, name)) = Outcome::ALL.iter().find(|(own, _)| *own == outcome) {
            self.0.with_label_values(&[*name]).inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use moorline_core::TargetKind;
    use prometheus::TextEncoder;

    use super::*;
    use crate::status::ProvisioningState;

    #[test]
    fn facts_are_those_of_the_last_look() {
        let registry = Registry::new();
        let facts = Facts::register(&registry).unwrap();
        let seen = |deployment: &str, state| Seen {
            id: moorline_core::DeploymentId {
                workspace: "default".parse().unwrap(),
                endpoint: "iris".parse().unwrap(),
                deployment: deployment.parse().unwrap(),
            },
            target: TargetKind::Local,
            state,
            request_timeout: Duration::from_millis(1500),
            observed: Some(Observed { capacity: 512, replicas: [0, 2, 0, 0, 1], restarts: 4 }),
        };
        facts.set(&[seen("blue", ProvisioningState::Failed), seen("green", ProvisioningState::Updating)]);
        facts.set(&[seen("blue", ProvisioningState::Succeeded)]);
        let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        for line in [
            r#"moorline_deployment_state{deployment="blue",endpoint="iris",state="Succeeded",target="local",workspace="default"} 1"#,
            r#"moorline_deployment_request_timeout_seconds{deployment="blue",endpoint="iris"} 1.5"#,
            r#"moorline_deployment_capacity_requests{deployment="blue",endpoint="iris"} 512"#,
            r#"moorline_deployment_replicas{deployment="blue",endpoint="iris",state="ready"} 2"#,
            r#"moorline_deployment_restarts_total{deployment="blue",endpoint="iris"} 4"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("green") && !text.contains("Failed"), "{text}");
    }
}
