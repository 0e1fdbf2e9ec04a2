//! Fetches what scorers collected into the workspace's store, and forgets what is too old or too much.
//!
//! A scorer knows no control plane: it is asked, as it is for its metrics. A segment is acknowledged once it is stored and
//! listed, so that a crash of either side at any instant loses nothing, and one that is fetched twice is listed once.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use moorline_core::{DeploymentId, Name};
use moorline_store::{NewCollectedFile, Store, StoreError};
use serde::Deserialize;
use thiserror::Error;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    monitor::{Asked, Monitoring},
    problem::chain,
};

const INTERVAL: Duration = Duration::from_secs(5);
/// Rounds between two that forget.
const ROUNDS_PER_SWEEP: u32 = 120;
/// Scorers that are asked at one time.
const FETCHES: usize = 16;
/// Segments of one scorer in one round: the others wait for the next.
const MOST_SEGMENTS: usize = 64;
/// A scorer's segments are 8 MiB and a batch of lines long at most.
const MOST_BYTES: usize = 16 * 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(10);
/// How long, and how much of it in a workspace, what was collected is kept.
const KEPT: Duration = Duration::from_hours(30 * 24);
const KEPT_BYTES: u64 = 10 * 1024 * 1024 * 1024;
/// Of a segment's id.
const MOST_ID: usize = 64;

/// Fetches until it is shut down. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Collecting(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    monitor: Monitoring,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What a scorer says of a segment, in a line before its records.
#[derive(Debug, Deserialize)]
struct Segment {
    #[serde(rename = "segment")]
    id: String,
    collection: Name,
    /// When its period began, in seconds since 1970.
    period: i64,
}

/// Why a segment was not stored.
#[derive(Debug, Error)]
pub(crate) enum FetchError {
    #[error("the replica does not give what it collected")]
    Silent(#[from] std::io::Error),
    #[error("what the replica gave is no segment")]
    Unreadable,
    #[error("what was collected could not be stored")]
    Store(#[from] StoreError),
}

impl Collecting {
    pub(crate) fn new(store: Store, monitor: Monitoring) -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        Self(Arc::new(Inner { store, monitor, tasks, stop }))
    }

    pub(crate) fn start(&self) {
        let this = self.clone();
        self.0.tasks.spawn(Box::pin(async move { this.work().await }));
    }

    pub(crate) async fn shutdown(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    async fn work(&self) {
        let mut rounds = 0_u32;
        loop {
            if rounds.is_multiple_of(ROUNDS_PER_SWEEP) {
                self.forget().await;
            }
            rounds = rounds.wrapping_add(1);
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = self.0.stop.cancelled() => return,
            }
            // A segment that is stored and not acknowledged when this ends is listed once all the same.
            tokio::select! {
                () = self.round() => {}
                () = self.0.stop.cancelled() => return,
            }
        }
    }

    async fn round(&self) {
        let replicas = self.0.monitor.replicas().unwrap_or_default();
        let fetches = replicas.into_iter().filter(|replica| replica.collects).map(|replica| async move {
            if let Err(error) = self.fetch_all(&replica, false).await {
                tracing::debug!(deployment = %replica.id, error = chain(&error), "nothing was fetched");
            }
        });
        stream::iter(fetches).buffer_unordered(FETCHES).collect::<()>().await;
    }

    /// Fetches what the replicas of a deployment have, what they are writing included.
    pub(crate) async fn fetch_now(&self, of: &DeploymentId) -> Result<(), FetchError> {
        let replicas = self.0.monitor.replicas().unwrap_or_default();
        for replica in replicas.iter().filter(|replica| replica.collects && replica.id == *of) {
            self.fetch_all(replica, true).await?;
        }
        Ok(())
    }

    async fn fetch_all(&self, replica: &Asked, mut seal: bool) -> Result<(), FetchError> {
        let mut stored = None;
        for _ in 0..MOST_SEGMENTS {
            let answer = ask(replica.admin, stored.as_deref(), seal).await?;
            if answer.is_empty() {
                break;
            }
            seal = false;
            stored = Some(self.store(&replica.id, answer).await?);
        }
        Ok(())
    }

    /// Stores and lists what a replica gave; the segment's id.
    async fn store(&self, of: &DeploymentId, answer: Bytes) -> Result<String, FetchError> {
        let end = answer.iter().position(|byte| *byte == b'\n').ok_or(FetchError::Unreadable)?;
        let segment: Segment = serde_json::from_slice(&answer[..end]).map_err(|_| FetchError::Unreadable)?;
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if segment.id.len() > MOST_ID || !segment.id.bytes().all(fits) {
            return Err(FetchError::Unreadable);
        }
        let begins_at = Timestamp::from_second(segment.period).map_err(|_| FetchError::Unreadable)?;
        let lines = answer.slice(end + 1..);
        let records = lines.split(|byte| *byte == b'\n').count() as u64 - 1;
        let size = lines.len() as u64;
        let digest = self.0.store.blobs().put(lines).await?;
        let new = NewCollectedFile {
            collection: segment.collection,
            segment: segment.id.clone(),
            begins_at,
            records,
            size,
            digest,
        };
        self.0.store.add_collected(of, new).await?;
        Ok(segment.id)
    }

    async fn forget(&self) {
        let before = Timestamp::try_from(SystemTime::now() - KEPT).unwrap_or(Timestamp::UNIX_EPOCH);
        match self.0.store.forget_collected(before, KEPT_BYTES).await {
            Ok(0) => {}
            Ok(files) => {
                tracing::info!(files, "what was collected long ago, or beyond the bound, was forgotten");
            }
            Err(error) => tracing::warn!(error = chain(&error), "what was collected long ago is still there"),
        }
    }
}

async fn ask(admin: SocketAddr, acknowledged: Option<&str>, seal: bool) -> Result<Bytes, std::io::Error> {
    let acknowledged = acknowledged.map(|id| format!("&acknowledged={id}")).unwrap_or_default();
    let path = format!("/collected?seal={seal}{acknowledged}");
    moorline_deploy::read_admin(admin, &path, PATIENCE, MOST_BYTES).await
}
