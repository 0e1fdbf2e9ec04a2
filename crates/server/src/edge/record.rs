//! What the store keeps of a device: how it proves itself, and which modules it has. Keys are secrets beside it.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use moorline_core::{Digest, Name, Secret};
use moorline_edge::hub::{ClientId, ClientIdError};
use moorline_store::{Store, StoreError};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// The record of a device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct DeviceBody {
    /// Of one that may not connect.
    #[serde(default)]
    pub(crate) disabled: bool,
    #[serde(default)]
    pub(crate) authentication: Authentication,
    #[serde(default)]
    pub(crate) modules: BTreeMap<String, ModuleBody>,
    /// The one enrolment that it may still make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) enrolment: Option<Enrolment>,
}

/// By which a device gets its first certificate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Enrolment {
    /// The sha256 of the token.
    pub(crate) token: Digest,
    pub(crate) expires: Timestamp,
}

/// What it keeps of one of its modules.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ModuleBody {
    #[serde(default)]
    pub(crate) authentication: Authentication,
}

/// How a device or module proves itself, in the words of Azure IoT Hub.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub(crate) enum Authentication {
    /// By a signature with one of two keys, which the server makes.
    #[default]
    Sas,
    /// By a certificate with one of these sha256 digests, in hexadecimal.
    SelfSigned {
        #[schema(value_type = String)]
        primary_thumbprint: Thumbprint,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(value_type = Option<String>)]
        secondary_thumbprint: Option<Thumbprint>,
    },
    /// By a certificate that this server issued for its name.
    CertificateAuthority,
}

/// The sha256 of a certificate: 64 hexadecimal digits, as `openssl x509 -fingerprint -sha256` prints them or without the
/// colons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Thumbprint(pub(crate) Digest);

impl TryFrom<String> for Thumbprint {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let digits: String = text.chars().filter(|c| *c != ':').collect::<String>().to_ascii_lowercase();
        let digest = format!("sha256:{digits}").parse();
        digest
            .map(Self)
            .map_err(|_| "a thumbprint is the sha256 of a certificate: 64 hexadecimal digits".into())
    }
}

impl From<Thumbprint> for String {
    fn from(thumbprint: Thumbprint) -> Self {
        thumbprint.0.hex()
    }
}

/// The two keys of a device or module, each good.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    pub(crate) primary: Secret,
    pub(crate) secondary: Secret,
}

impl Keys {
    /// Of 244 random bits each.
    pub(crate) fn make() -> Self {
        let key = || {
            let bytes = [Uuid::new_v4().into_bytes(), Uuid::new_v4().into_bytes()].concat();
            Secret::new(STANDARD.encode(bytes))
        };
        Self { primary: key(), secondary: key() }
    }

    /// Both, as one secret.
    pub(crate) fn to_secret(&self) -> Secret {
        Secret::new(format!("{} {}", self.primary.expose(), self.secondary.expose()))
    }

    fn of(secret: &Secret) -> Option<Self> {
        let (primary, secondary) = secret.expose().split_once(' ')?;
        Some(Self { primary: Secret::new(primary.to_owned()), secondary: Secret::new(secondary.to_owned()) })
    }
}

/// The secret that holds the keys of a device or module.
pub(crate) fn secret_name(client: &ClientId) -> String {
    format!("devices/{client}")
}

/// The keys of a device or module, if it has any.
pub(crate) async fn keys_of(
    store: &Store,
    workspace: &Name,
    client: &ClientId,
) -> Result<Option<Keys>, StoreError> {
    let secret = store.secret(workspace, &secret_name(client)).await?;
    Ok(secret.and_then(|(_, secret)| Keys::of(&secret)))
}

/// A device, or a module of it, as the hub knows it.
pub(crate) fn client(device: &str, module: Option<&str>) -> Result<ClientId, ClientIdError> {
    match module {
        None => ClientId::device(device),
        Some(module) => ClientId::module(device, module),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thumbprint_is_read_as_openssl_writes_it() {
        let digest = Digest::of(b"certificate");
        let pairs: Vec<String> = digest
            .hex()
            .to_uppercase()
            .as_bytes()
            .chunks(2)
            .map(|pair| String::from_utf8_lossy(pair).into())
            .collect();
        let read = Thumbprint::try_from(pairs.join(":")).unwrap();
        assert_eq!(read, Thumbprint(digest));
        assert_eq!(Thumbprint::try_from(String::from(read)).unwrap(), read);
        assert!(Thumbprint::try_from("abc".to_owned()).is_err());
    }

    #[test]
    fn keys_are_kept_and_read_again() {
        let keys = Keys::make();
        let again = Keys::of(&keys.to_secret()).unwrap();
        assert_eq!(again.primary.expose(), keys.primary.expose());
        assert_eq!(again.secondary.expose(), keys.secondary.expose());
        assert_ne!(keys.primary.expose(), keys.secondary.expose());
    }
}
