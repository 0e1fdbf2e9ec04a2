//! Identities out of a list: those of a hub that is started by hand, and of modules on a device.

use std::{
    collections::HashMap,
    sync::{PoisonError, RwLock},
};

use async_trait::async_trait;

use super::identity::{ClientId, Identities, IdentitiesError, Identity};

/// A list that can be changed while a hub asks it.
#[derive(Debug, Default)]
pub struct Listed(RwLock<HashMap<ClientId, Identity>>);

impl Listed {
    /// Adds an identity, or changes it.
    pub fn set(&self, id: ClientId, identity: Identity) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(id, identity);
    }

    /// `false` if it was not there.
    pub fn remove(&self, id: &ClientId) -> bool {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(id).is_some()
    }
}

#[async_trait]
impl Identities for Listed {
    async fn find(&self, id: &ClientId) -> Result<Option<Identity>, IdentitiesError> {
        Ok(self.0.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned())
    }
}
