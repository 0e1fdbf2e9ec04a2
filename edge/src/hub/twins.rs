//! The twins of a hub: read, changed one change at a time, and durable before anybody is told.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
};

use serde_json::Value;
use tokio::sync::{Mutex, MutexGuard};

use super::{
    error::HubError,
    identity::ClientId,
    twin::{Section, Twin, TwinError},
};
use crate::disk::Documents;

const PREFIX: &str = "twin/";
/// Twins of one stripe are changed one after the other.
const STRIPES: usize = 64;

#[derive(Debug)]
pub(crate) struct Twins {
    documents: Arc<Documents>,
    changing: Vec<Mutex<()>>,
    stripe: RandomState,
}

/// Which side of a twin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Desired,
    Reported,
}

impl Twins {
    pub(crate) fn new(documents: Arc<Documents>) -> Self {
        let changing = (0..STRIPES).map(|_| Mutex::new(())).collect();
        Self { documents, changing, stripe: RandomState::new() }
    }

    /// The twin; an empty one where nothing was said yet.
    pub(crate) fn get(&self, id: &ClientId) -> Result<Twin, HubError> {
        match self.documents.get(&key(id)) {
            None => Ok(Twin::default()),
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|_| HubError::DamagedTwin(id.clone())),
        }
    }

    /// The same, behind every change that was asked for before.
    pub(crate) async fn read(&self, id: &ClientId) -> Result<Twin, HubError> {
        let _changing = self.lock(id).await;
        self.get(id)
    }

    pub(crate) fn all(&self) -> Vec<(ClientId, Twin)> {
        let documents = self.documents.below(PREFIX).into_iter();
        documents
            .filter_map(|(key, bytes)| {
                Some((key.strip_prefix(PREFIX)?.parse().ok()?, serde_json::from_slice(&bytes).ok()?))
            })
            .collect()
    }

    /// Changes one side; gives its new version.
    pub(crate) async fn patch(
        &self,
        id: &ClientId,
        side: Side,
        patch: &Value,
        if_version: Option<u64>,
    ) -> Result<u64, HubError> {
        self.change(id, |twin| {
            let section = side_of(twin, side);
            section.patch(patch, if_version)?;
            Ok(section.version)
        })
        .await
    }

    /// Makes the desired properties those of `properties`; gives the difference.
    pub(crate) async fn replace_desired(
        &self,
        id: &ClientId,
        properties: &Value,
        version: u64,
    ) -> Result<Option<Value>, HubError> {
        self.change(id, |twin| twin.desired.replace(properties, version)).await
    }

    pub(crate) async fn patch_tags(&self, id: &ClientId, patch: &Value) -> Result<(), HubError> {
        self.change(id, |twin| twin.patch_tags(patch)).await
    }

    pub(crate) async fn remove(&self, id: &ClientId) -> Result<(), HubError> {
        let _changing = self.lock(id).await;
        Ok(self.documents.put(&key(id), None).await?)
    }

    async fn change<T>(
        &self,
        id: &ClientId,
        change: impl FnOnce(&mut Twin) -> Result<T, TwinError>,
    ) -> Result<T, HubError> {
        let _changing = self.lock(id).await;
        let mut twin = self.get(id)?;
        let before = twin.clone();
        let given = change(&mut twin).map_err(|source| HubError::Twin { id: id.clone(), source })?;
        if twin != before {
            let bytes = serde_json::to_vec(&twin).map_err(|_| HubError::DamagedTwin(id.clone()))?;
            self.documents.put(&key(id), Some(bytes)).await?;
        }
        Ok(given)
    }

    async fn lock(&self, id: &ClientId) -> MutexGuard<'_, ()> {
        self.changing[self.stripe.hash_one(id) as usize % STRIPES].lock().await
    }
}

fn side_of(twin: &mut Twin, side: Side) -> &mut Section {
    match side {
        Side::Desired => &mut twin.desired,
        Side::Reported => &mut twin.reported,
    }
}

fn key(id: &ClientId) -> String {
    format!("{PREFIX}{id}")
}
