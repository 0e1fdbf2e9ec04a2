//! One leader among several: a Lease of the cluster, which its holder renews and which the others take when it is not
//! renewed any more.
//!
//! No other machine's clock is trusted. Whoever waits counts from when it saw the record change last, by its own clock;
//! the holder gives up by its own clock before the others' time is over. Every write names the version that it changes,
//! so that of two that write at once the API server takes one.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::coordination::v1::{Lease as Record, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};
use moorline_core::ErrorClass;
use thiserror::Error;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{cluster::Cluster, error::ClusterError};

/// How long a lease is good for, and how it is kept.
#[derive(Clone, Copy, Debug)]
pub struct LeaseTimes {
    /// Others wait for so long after the last change that they saw: whole seconds, and longer than `renew`.
    pub lease: Duration,
    /// A holder whose last renewal is older gives up.
    pub renew: Duration,
    /// From one attempt to the next.
    pub retry: Duration,
}

impl Default for LeaseTimes {
    /// Those of Kubernetes' own components.
    fn default() -> Self {
        Self { lease: Duration::from_secs(15), renew: Duration::from_secs(10), retry: Duration::from_secs(2) }
    }
}

/// Why a lease that was held is not any more.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LeaseLost {
    #[error("`{holder}` has taken the lease `{lease}`")]
    Taken { lease: String, holder: String },
    #[error("the lease `{lease}` could not be renewed within {} s: {reason}", after.as_secs_f32())]
    NotRenewed { lease: String, after: Duration, reason: String },
    /// A defect of ours, which must not let two lead.
    #[error("nothing renews the lease any more")]
    NobodyRenews,
}

/// A lease that may be had. Its name is that of the object, in the cluster's namespace.
#[derive(Clone)]
pub struct Lease {
    api: Api<Record>,
    namespace: String,
    name: String,
    identity: String,
    times: LeaseTimes,
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("name", &self.path())
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// What was seen of somebody else's record, and since when it has not changed.
struct Seen {
    spec: Option<LeaseSpec>,
    since: Instant,
}

impl Lease {
    /// `identity` is nobody else's: not even that of the process that was here before.
    pub fn new(
        cluster: &Cluster,
        name: impl Into<String>,
        identity: impl Into<String>,
        times: LeaseTimes,
    ) -> Self {
        Self {
            api: Api::namespaced(cluster.client.clone(), &cluster.namespace),
            namespace: cluster.namespace.clone(),
            name: name.into(),
            identity: identity.into(),
            times,
        }
    }

    /// Waits until the lease is held. What cannot heal by waiting is an error: a right that is missing, a namespace that
    /// is not there. `following` is told who holds it, each time that another one does.
    pub async fn acquire(self, mut following: impl FnMut(&str)) -> Result<HeldLease, ClusterError> {
        let mut seen = None;
        let mut complaint = None;
        let mut leader = None;
        loop {
            let begun = Instant::now();
            let attempt = tokio::time::timeout(self.times.renew, self.try_to_take(&mut seen)).await;
            match attempt.unwrap_or_else(|_| Err(self.no_answer(self.times.renew))) {
                Ok(Attempt::Taken(record)) => return Ok(self.hold(*record, begun)),
                Ok(Attempt::Held(holder)) => {
                    complaint = None;
                    if leader.as_ref() != Some(&holder) {
                        following(&holder);
                        leader = Some(holder);
                    }
                }
                Err(error) if heals(error.class()) => {
                    let text = error.to_string();
                    if complaint.as_ref() != Some(&text) {
                        tracing::warn!(error = text, "no answer about the lease, trying on");
                        complaint = Some(text);
                    }
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(self.times.retry).await;
        }
    }

    async fn try_to_take(&self, seen: &mut Option<Seen>) -> Result<Attempt, ClusterError> {
        let Some(found) = self.get().await? else {
            let created = self.api.create(&PostParams::default(), &self.record(None)).await;
            return self.unless_another_was_faster("create", &[409], created);
        };
        let changed = seen.as_ref().is_none_or(|seen| seen.spec != found.spec);
        if changed {
            *seen = Some(Seen { spec: found.spec.clone(), since: Instant::now() });
        }
        if let Some(holder) = holder(&found).filter(|holder| *holder != self.identity) {
            let seconds = found.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
            let valid =
                seconds.map_or(self.times.lease, |seconds| Duration::from_secs(seconds.max(0) as u64));
            if seen.as_ref().is_none_or(|seen| seen.since.elapsed() < valid) {
                return Ok(Attempt::Held(holder.to_owned()));
            }
        }
        let replaced = self.api.replace(&self.name, &PostParams::default(), &self.record(Some(&found))).await;
        self.unless_another_was_faster("update", &[409, 404], replaced)
    }

    /// `refused` are the codes with which the API server says that the record is not as it was seen any more.
    fn unless_another_was_faster(
        &self,
        verb: &str,
        refused: &[u16],
        written: kube::Result<Record>,
    ) -> Result<Attempt, ClusterError> {
        match written {
            Ok(record) => Ok(Attempt::Taken(Box::new(record))),
            Err(error) if is(&error, refused) => Ok(Attempt::Held("another candidate".to_owned())),
            Err(error) => Err(self.failure(verb, error)),
        }
    }

    async fn get(&self) -> Result<Option<Record>, ClusterError> {
        self.api.get_opt(&self.name).await.map_err(|error| self.failure("get", error))
    }

    /// The record with which `from` becomes ours.
    fn record(&self, from: Option<&Record>) -> Record {
        let now = MicroTime(Timestamp::now());
        let transitions = from.and_then(|from| from.spec.as_ref()?.lease_transitions);
        let metadata = from.map(|from| from.metadata.clone());
        Record {
            metadata: metadata.unwrap_or_else(|| ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(self.namespace.clone()),
                ..ObjectMeta::default()
            }),
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: Some(self.times.lease.as_secs().max(1) as i32),
                acquire_time: Some(now.clone()),
                renew_time: Some(now),
                lease_transitions: Some(transitions.map_or(0, |before| before.saturating_add(1))),
                ..LeaseSpec::default()
            }),
        }
    }

    /// Renews from now on. `renewed` is when the last write was begun: what others saw is not older.
    fn hold(self, record: Record, renewed: Instant) -> HeldLease {
        let (tell, lost) = watch::channel(None);
        let release = CancellationToken::new();
        let released = release.clone();
        let task = tokio::spawn(async move {
            tokio::select! {
                why = self.keep(record, renewed) => {
                    tell.send_replace(Some(Arc::new(why)));
                    // Whoever waits for a loss has heard of this one.
                    released.cancelled().await;
                }
                () = released.cancelled() => self.let_go().await,
            }
        });
        HeldLease { lost, release, task }
    }

    /// Renews until that fails.
    async fn keep(&self, mut record: Record, mut renewed: Instant) -> LeaseLost {
        let mut reason = "the API server does not answer".to_owned();
        loop {
            tokio::time::sleep(self.times.retry).await;
            let begun = Instant::now();
            let left = self.times.renew.saturating_sub(renewed.elapsed());
            match tokio::time::timeout(left, self.renew(&record)).await {
                Ok(Ok(Renewal::Done(new))) => {
                    record = *new;
                    renewed = begun;
                }
                Ok(Ok(Renewal::Taken(holder))) => return LeaseLost::Taken { lease: self.path(), holder },
                Ok(Err(error)) => {
                    reason = error.to_string();
                    tracing::warn!(error = reason, "could not renew the lease");
                }
                Err(_) => {}
            }
            if renewed.elapsed() >= self.times.renew {
                return LeaseLost::NotRenewed { lease: self.path(), after: self.times.renew, reason };
            }
        }
    }

    async fn renew(&self, record: &Record) -> Result<Renewal, ClusterError> {
        match self.write_again(record).await {
            Err(error) if is(&error, &[409, 404]) => {}
            written => return written.map(done).map_err(|error| self.failure("update", error)),
        }
        // It was changed, by somebody who is not a candidate perhaps, or deleted.
        let Some(found) = self.get().await? else {
            let created = self.api.create(&PostParams::default(), &self.record(None)).await;
            return created.map(done).map_err(|error| self.failure("create", error));
        };
        match holder(&found) {
            Some(holder) if holder != self.identity => Ok(Renewal::Taken(holder.to_owned())),
            _ => self.write_again(&found).await.map(done).map_err(|error| self.failure("update", error)),
        }
    }

    /// The same record with a new time, and ours if it was nobody's.
    async fn write_again(&self, record: &Record) -> kube::Result<Record> {
        let mut next = record.clone();
        let spec = next.spec.get_or_insert_default();
        spec.holder_identity = Some(self.identity.clone());
        spec.lease_duration_seconds = Some(self.times.lease.as_secs().max(1) as i32);
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        self.api.replace(&self.name, &PostParams::default(), &next).await
    }

    /// Makes the lease nobody's, so that the next one need not wait. One that cannot be let go ends by itself.
    async fn let_go(&self) {
        let give = async {
            let Some(mut found) = self.get().await? else { return Ok(()) };
            if holder(&found) != Some(&self.identity) {
                return Ok(());
            }
            let spec = found.spec.get_or_insert_default();
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(MicroTime(Timestamp::now()));
            let written = self.api.replace(&self.name, &PostParams::default(), &found).await;
            written.map(drop).map_err(|error| self.failure("update", error))
        };
        let given = tokio::time::timeout(self.times.renew, give).await;
        if let Err(error) = given.unwrap_or_else(|_| Err(self.no_answer(self.times.renew))) {
            tracing::warn!(%error, "could not let go of the lease, it ends by itself");
        }
    }

    fn path(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    fn failure(&self, verb: &str, error: kube::Error) -> ClusterError {
        ClusterError::of(format!("could not {verb} the lease `{}`", self.path()), error)
    }

    fn no_answer(&self, limit: Duration) -> ClusterError {
        ClusterError::new(
            ErrorClass::Timeout,
            format!("could not get the lease `{}`", self.path()),
            format!("the API server did not answer within {} s", limit.as_secs_f32()),
        )
    }
}

/// What came of an attempt to have it.
enum Attempt {
    Taken(Box<Record>),
    Held(String),
}

/// What came of an attempt to keep it.
enum Renewal {
    Done(Box<Record>),
    Taken(String),
}

fn done(record: Record) -> Renewal {
    Renewal::Done(Box::new(record))
}

/// Who has it; nobody where the name is empty.
fn holder(record: &Record) -> Option<&str> {
    record.spec.as_ref()?.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

fn is(error: &kube::Error, codes: &[u16]) -> bool {
    matches!(error, kube::Error::Api(status) if codes.contains(&status.code))
}

/// Whether waiting may be enough.
fn heals(class: ErrorClass) -> bool {
    matches!(
        class,
        ErrorClass::Unavailable | ErrorClass::Timeout | ErrorClass::Conflict | ErrorClass::Overloaded
    )
}

/// A lease that is held and renewed. One that is dropped is not renewed any more, and ends when its time is over.
#[derive(Debug)]
pub struct HeldLease {
    lost: watch::Receiver<Option<Arc<LeaseLost>>>,
    release: CancellationToken,
    task: JoinHandle<()>,
}

impl HeldLease {
    /// Done when the lease is held no more; never after it was released.
    pub fn lost(&self) -> impl Future<Output = Arc<LeaseLost>> + Send + 'static {
        let (mut lost, release) = (self.lost.clone(), self.release.clone());
        async move {
            let heard = lost.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
            match heard {
                Some(why) => why,
                None if release.is_cancelled() => std::future::pending().await,
                None => Arc::new(LeaseLost::NobodyRenews),
            }
        }
    }

    /// Lets the next one have it at once.
    pub async fn release(mut self) {
        self.release.cancel();
        // It fails only where the task panicked, and then nothing is held.
        let _ = (&mut self.task).await;
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_gives_up_before_others_may_take_over() {
        let times = LeaseTimes::default();
        assert!(times.renew + times.retry < times.lease);
    }

    #[test]
    fn an_empty_name_is_nobody() {
        let held_by = |name: Option<&str>| Record {
            spec: Some(LeaseSpec { holder_identity: name.map(ToOwned::to_owned), ..LeaseSpec::default() }),
            ..Record::default()
        };
        assert_eq!(holder(&held_by(Some("a"))), Some("a"));
        assert_eq!(holder(&held_by(Some(""))), None);
        assert_eq!(holder(&held_by(None)), None);
        assert_eq!(holder(&Record::default()), None);
    }
}
