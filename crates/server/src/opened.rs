//! The targets of computes: each is opened when it is first needed, and opened anew when what its compute says changes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use moorline_core::{ErrorClass, Name, TargetError};
use moorline_spec::{Compute, from_json};
use moorline_store::{RecordKind, Store};

use crate::problem::chain;

/// So long one that could not be opened is not tried again.
const FAILED_FOR: Duration = Duration::from_secs(5);

/// What a compute means, once it is opened.
pub(crate) trait Place {
    /// What its compute says.
    type Settings: Clone + PartialEq;

    fn settings(&self) -> &Self::Settings;
}

/// Those that are open, by the names of their workspace and compute.
#[derive(Debug)]
pub(crate) struct Opened<P: Place> {
    open: Mutex<HashMap<Key, Arc<P>>>,
    /// Held while one is opened, so that it is opened once.
    opening: tokio::sync::Mutex<()>,
    failed: Mutex<HashMap<Key, Failed<P::Settings>>>,
}

type Key = (Name, Name);

/// Why one could not be opened, when, and with which settings.
#[derive(Debug)]
struct Failed<S> {
    when: Instant,
    settings: S,
    class: ErrorClass,
    reason: String,
}

impl<P: Place> Default for Opened<P> {
    fn default() -> Self {
        Self { open: Mutex::default(), opening: tokio::sync::Mutex::default(), failed: Mutex::default() }
    }
}

impl<P: Place> Opened<P> {
    /// The place of a compute with these settings. `close` is given the one with former settings.
    pub(crate) async fn get<F: Future<Output = Result<P, TargetError>>, C: Future<Output = ()>>(
        &self,
        workspace: &Name,
        compute: &Name,
        settings: &P::Settings,
        close: impl FnOnce(Arc<P>) -> C,
        open: impl FnOnce() -> F,
    ) -> Result<Arc<P>, TargetError> {
        let key = (lower(workspace), lower(compute));
        if let Some(place) = self.known(&key, settings) {
            return Ok(place);
        }
        let _turn = self.opening.lock().await;
        if let Some(place) = self.known(&key, settings) {
            return Ok(place);
        }
        if let Some((class, reason)) = self.failed_lately(&key, settings) {
            return Err(TargetError::new(class, reason));
        }
        let before = self.open().remove(&key);
        if let Some(before) = before {
            close(before).await;
        }
        let opened = open().await.inspect_err(|error| {
            let failed = Failed {
                when: Instant::now(),
                settings: settings.clone(),
                class: error.class,
                reason: chain(error),
            };
            self.failed().insert(key.clone(), failed);
        })?;
        let place = Arc::new(opened);
        self.open().insert(key, Arc::clone(&place));
        Ok(place)
    }

    pub(crate) fn all(&self) -> Vec<Arc<P>> {
        self.open().values().map(Arc::clone).collect()
    }

    pub(crate) fn of_workspace(&self, workspace: &Name) -> Vec<Arc<P>> {
        let open = self.open();
        open.iter().filter(|((own, _), _)| same(own, workspace)).map(|(_, place)| Arc::clone(place)).collect()
    }

    fn known(&self, key: &Key, settings: &P::Settings) -> Option<Arc<P>> {
        self.open().get(key).filter(|place| place.settings() == settings).map(Arc::clone)
    }

    /// Why it could not be opened a moment ago: one that does not answer makes every asker wait only once.
    fn failed_lately(&self, key: &Key, settings: &P::Settings) -> Option<(ErrorClass, String)> {
        let mut failed = self.failed();
        failed.retain(|_, failed| failed.when.elapsed() < FAILED_FOR);
        let failed = failed.get(key).filter(|failed| failed.settings == *settings)?;
        Some((failed.class, failed.reason.clone()))
    }

    fn failed(&self) -> MutexGuard<'_, HashMap<Key, Failed<P::Settings>>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Key, Arc<P>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a compute says now.
pub(crate) async fn compute(store: &Store, workspace: &Name, compute: &Name) -> Result<Compute, TargetError> {
    let record = store.record(workspace, RecordKind::Compute, compute.as_str()).await;
    let record = record.map_err(|error| {
        TargetError::caused(error.class(), format!("compute `{compute}` cannot be used"), error)
    })?;
    let mut body = record.body;
    body["name"] = record.name.into();
    let read = from_json::<Compute>(&body).map_err(|error| {
        TargetError::caused(ErrorClass::Internal, format!("compute `{compute}` cannot be read"), error)
    })?;
    Ok(read.document)
}

/// Every compute of this type. None where the store cannot be read, which is told in the log.
pub(crate) async fn computes(store: &Store, kind: &str) -> Vec<(Name, Name)> {
    let computes = match store.records(RecordKind::Compute, None).await {
        Ok(computes) => computes,
        Err(error) => {
            tracing::warn!(%error, kind, "the computes could not be read, and none is looked at");
            return Vec::new();
        }
    };
    let of_kind = computes.iter().filter(|record| record.body["type"] == kind);
    of_kind.filter_map(|record| Some((record.workspace.clone(), record.name.parse().ok()?))).collect()
}

/// Names are the same whatever their case.
pub(crate) fn same(one: &Name, other: &Name) -> bool {
    one.as_str().eq_ignore_ascii_case(other.as_str())
}

fn lower(name: &Name) -> Name {
    name.as_str().to_ascii_lowercase().parse().unwrap_or_else(|_| name.clone())
}
