//! The monitor: looks at every deployment every few seconds, asks its replicas for their metrics, and writes down what
//! it saw.
//!
//! It watches from the side. What it asks is bounded in time and length, nothing waits for it, and a replica that hangs,
//! floods or lies costs only its own numbers. Requests are counted by the gateways in front of a deployment; what runs
//! without one of ours in front of it is taken at its own word.

mod facts;
mod look;

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use moorline_core::{DeploymentId, TargetKind};
use moorline_monitor::{FINE_STEP, HistoryError, Monitor, Range, Sample};
use moorline_store::{Record, RecordKind, Store};
use prometheus::Registry;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    facts::{Facts, Scrapes},
    look::Before,
};
use crate::{
    edge::EdgeHub,
    problem::chain,
    reconcile::Reconciler,
    status::{DeploymentState, split_record_name},
    targets::Targets,
};

/// The history, in the home.
const FILE: &str = "monitor.db";
/// Deployments looked at, and replicas asked, at one time.
const LOOKS: usize = 32;
const SCRAPES: usize = 64;
/// Looks between two writes of the history: what is newer is lost with the process.
const LOOKS_PER_WRITE: u32 = 12;

/// Watches until it is shut down. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Monitoring(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    targets: Targets,
    reconciler: Reconciler,
    /// By which devices tell what they measure, where this server has a hub.
    edge: Option<EdgeHub>,
    history: Monitor,
    /// What was seen of each deployment at the last look.
    before: Mutex<HashMap<DeploymentId, Before>>,
    /// It has looked at everything once.
    looked: AtomicBool,
    facts: Facts,
    scrapes: Scrapes,
    /// Held while a replica is asked.
    turns: tokio::sync::Semaphore,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A replica that can be asked for its metrics.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) id: DeploymentId,
    pub(crate) target: TargetKind,
    pub(crate) replica: String,
    pub(crate) admin: SocketAddr,
    /// It keeps what it is asked and answers.
    pub(crate) collects: bool,
}

/// What the monitor looks at and with.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    pub(crate) home: &'a std::path::Path,
    pub(crate) store: Store,
    pub(crate) targets: Targets,
    pub(crate) reconciler: Reconciler,
    pub(crate) edge: Option<EdgeHub>,
    pub(crate) metrics: &'a Registry,
}

/// Why there is no monitor.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MonitorError {
    #[error(transparent)]
    History(#[from] HistoryError),
    #[error("its metrics could not be registered")]
    Metrics(#[from] prometheus::Error),
}

/// Why a replica did not say its metrics.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Silent {
    #[error("there is no such replica, or it cannot be asked")]
    Unknown,
    #[error("the replica does not say its metrics")]
    Failed { source: std::io::Error },
}

impl Monitoring {
    pub(crate) async fn open(parts: Parts<'_>) -> Result<Self, MonitorError> {
        let Parts { home, store, targets, reconciler, edge, metrics } = parts;
        Ok(Self(Arc::new(Inner {
            history: Monitor::open(&home.join(FILE)).await?,
            facts: Facts::register(metrics)?,
            scrapes: Scrapes::register(metrics)?,
            store,
            targets,
            reconciler,
            edge,
            before: Mutex::default(),
            looked: AtomicBool::new(false),
            turns: tokio::sync::Semaphore::new(SCRAPES),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        })))
    }

    /// Begins to watch.
    pub(crate) fn start(&self) {
        let this = self.clone();
        self.0.tasks.spawn(Box::pin(async move { this.watch().await }));
    }

    /// Stops watching, and writes what is not written yet.
    pub(crate) async fn shutdown(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
        if let Err(error) = self.0.history.close(now().as_secs()).await {
            tracing::warn!(error = chain(&error), "the last of the monitor's history could not be written");
        }
    }

    /// The newest time that can be asked about: the step before it is seen already.
    pub(crate) fn newest() -> u64 {
        now().as_secs().saturating_sub(FINE_STEP)
    }

    /// What a deployment did, for each step of the range.
    pub(crate) async fn read(
        &self,
        id: &DeploymentId,
        range: &Range,
    ) -> Result<Vec<Option<Sample>>, HistoryError> {
        self.0.history.read(id, range).await
    }

    /// The replicas that the last look found, by name; nothing before the first one.
    pub(crate) fn replicas(&self) -> Option<Vec<Asked>> {
        if !self.0.looked.load(Ordering::Relaxed) {
            return None;
        }
        let mut found = Vec::new();
        for (id, before) in self.before().iter() {
            found.extend(before.replicas.iter().filter_map(|(replica, of)| {
                let (id, replica) = (id.clone(), replica.clone());
                let collects = before.collects;
                Some(Asked { id, target: before.target, replica, admin: of.admin?, collects })
            }));
        }
        found.sort_by(|one, other| (&one.id, &one.replica).cmp(&(&other.id, &other.replica)));
        Some(found)
    }

    /// What this replica says of itself, within the bounds of a look.
    pub(crate) async fn metrics_of(&self, id: &DeploymentId, replica: &str) -> Result<Bytes, Silent> {
        let same = |own: &DeploymentId| own.to_string().eq_ignore_ascii_case(&id.to_string());
        let admin = {
            let before = self.before();
            let of = before.iter().find(|(own, _)| same(own)).map(|(_, before)| before);
            of.and_then(|before| before.replicas.get(replica)?.admin).ok_or(Silent::Unknown)?
        };
        let _turn = self.0.turns.acquire().await.map_err(|_| Silent::Unknown)?;
        let read = moorline_deploy::read_admin(admin, "/metrics", look::PATIENCE, look::MOST_BYTES).await;
        read.map_err(|source| Silent::Failed { source })
    }

    async fn watch(&self) {
        let mut looks = 0_u32;
        loop {
            tokio::select! {
                () = tokio::time::sleep(until_next_step(now())) => {}
                () = self.0.stop.cancelled() => return,
            }
            looks = looks.wrapping_add(1);
            tokio::select! {
                () = self.look_at_all(looks.is_multiple_of(LOOKS_PER_WRITE)) => {}
                () = self.0.stop.cancelled() => return,
            }
        }
    }

    async fn look_at_all(&self, write: bool) {
        let records = match self.0.store.records(RecordKind::Deployment, None).await {
            Ok(records) => records,
            Err(error) => {
                return tracing::warn!(
                    error = chain(&error),
                    "the monitor could not read the deployments; this look is left out"
                );
            }
        };
        let deployments: Vec<(DeploymentId, DeploymentState)> = records.iter().filter_map(read).collect();
        let known: HashSet<DeploymentId> = deployments.iter().map(|(id, _)| id.clone()).collect();
        self.before().retain(|id, _| known.contains(id));
        // One that cannot be read is no reason to forget what it did.
        let write = write && deployments.len() == records.len();
        let looks = stream::iter(deployments).map(|(id, state)| async move { self.look(&id, &state).await });
        let seen: Vec<_> = looks.buffer_unordered(LOOKS).collect().await;
        self.0.facts.set(&seen);
        self.0.looked.store(true, Ordering::Relaxed);
        if write {
            self.write(&known).await;
        }
    }

    async fn write(&self, known: &HashSet<DeploymentId>) {
        let written = async {
            self.0.history.keep_only(known).await?;
            self.0.history.flush(now().as_secs()).await
        };
        if let Err(error) = written.await {
            tracing::warn!(
                error = chain(&error),
                "the monitor's history could not be written; it is tried again in a minute"
            );
        }
    }

    fn before(&self) -> MutexGuard<'_, HashMap<DeploymentId, Before>> {
        self.0.before.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Steps begin at whole multiples of their length, so that looks do too.
fn until_next_step(now: Duration) -> Duration {
    let step = Duration::from_secs(FINE_STEP).as_millis();
    let rest = step - now.as_millis() % step;
    Duration::from_millis(u64::try_from(rest).unwrap_or(FINE_STEP * 1000))
}

/// Since 1970.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn read(record: &Record) -> Option<(DeploymentId, DeploymentState)> {
    let (endpoint, deployment) = split_record_name(&record.name)?;
    let state = DeploymentState::read(record).ok()?;
    Some((DeploymentId { workspace: record.workspace.clone(), endpoint, deployment }, state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_at_the_ends_of_steps() {
        let next = |millis: u64| until_next_step(Duration::from_millis(millis)).as_millis();
        assert_eq!([next(10_000), next(10_001), next(14_999)], [5000, 4999, 1]);
    }
}
