//! Who may connect to the hub: the devices of the store, whatever workspace they are of.

use async_trait::async_trait;
use moorline_edge::hub::{ClientId, Identities, IdentitiesError, Identity, Proof, SharedKey};
use moorline_store::Store;

use super::record::{Authentication, DeviceBody, keys_of};

#[derive(Debug)]
pub(super) struct StoreIdentities(Store);

impl StoreIdentities {
    pub(super) fn new(store: Store) -> Self {
        Self(store)
    }
}

#[async_trait]
impl Identities for StoreIdentities {
    async fn find(&self, id: &ClientId) -> Result<Option<Identity>, IdentitiesError> {
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| IdentitiesError(error);
        let record = self.0.find_device(id.device_name()).await.map_err(|error| failed(error.into()))?;
        // The store finds names whatever their case, and a client is who it says to the letter.
        let Some(record) = record.filter(|record| record.name == id.device_name()) else { return Ok(None) };
        let body: DeviceBody = serde_json::from_value(record.body).map_err(|error| failed(error.into()))?;
        let authentication = match id.module_name() {
            None => &body.authentication,
            Some(module) => match body.modules.get(module) {
                Some(module) => &module.authentication,
                None => return Ok(None),
            },
        };
        let proof = match authentication {
            Authentication::SelfSigned { primary_thumbprint, secondary_thumbprint } => Proof::Thumbprint {
                primary: primary_thumbprint.0,
                secondary: secondary_thumbprint.map(|thumbprint| thumbprint.0),
            },
            Authentication::CertificateAuthority => Proof::Authority,
            Authentication::Sas => {
                let keys = keys_of(&self.0, &record.workspace, id).await;
                // Between a device and its keys a server may have ended; its keys are made when they are asked for.
                let Some(keys) = keys.map_err(|error| failed(error.into()))? else { return Ok(None) };
                let key = |secret: &moorline_core::Secret| SharedKey::new(secret.expose());
                Proof::Sas {
                    primary: key(&keys.primary).map_err(|error| failed(error.into()))?,
                    secondary: Some(key(&keys.secondary).map_err(|error| failed(error.into()))?),
                }
            }
        };
        Ok(Some(Identity { proof, enabled: !body.disabled }))
    }
}
