//! Who talks to a hub: devices and their modules, and what they prove it by.

use std::{fmt, str::FromStr, sync::Arc};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use moorline_core::{Digest, Secret};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The longest name of a device or a module.
const LONGEST_NAME: usize = 128;
/// What names are made of besides letters and digits: what Azure IoT Hub allows. Nothing that has a meaning in a topic.
const PUNCTUATION: &[u8] = b"-._:?!(),=@$'*%";

/// A device, or a module of one: `device` or `device/module`, as in an MQTT client id.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClientId {
    device: Arc<str>,
    module: Option<Arc<str>>,
}

/// A text that names neither a device nor a module.
#[derive(Debug, Error)]
#[error(
    "`{0}` names no device and no module; expected `device` or `device/module`, each of 1 to 128 letters, digits or \
     any of -._:?!(),=@$'*%"
)]
pub struct ClientIdError(String);

impl ClientId {
    pub fn device(name: &str) -> Result<Self, ClientIdError> {
        Ok(Self { device: checked(name)?, module: None })
    }

    pub fn module(device: &str, name: &str) -> Result<Self, ClientIdError> {
        Ok(Self { device: checked(device)?, module: Some(checked(name)?) })
    }

    pub fn device_name(&self) -> &str {
        &self.device
    }

    pub fn module_name(&self) -> Option<&str> {
        self.module.as_deref()
    }

    /// `devices/d` or `devices/d/modules/m`: what its topics and the resource of its tokens begin with.
    pub(crate) fn resource(&self) -> String {
        match &self.module {
            None => format!("devices/{}", self.device),
            Some(module) => format!("devices/{}/modules/{module}", self.device),
        }
    }
}

fn checked(name: &str) -> Result<Arc<str>, ClientIdError> {
    let fits = (1..=LONGEST_NAME).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || PUNCTUATION.contains(&byte));
    if fits { Ok(name.into()) } else { Err(ClientIdError(shortened(name))) }
}

/// For messages: what a client sent may be long.
pub(crate) fn shortened(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(LONGEST_NAME + 1).collect()
}

impl FromStr for ClientId {
    type Err = ClientIdError;

    fn from_str(text: &str) -> Result<Self, ClientIdError> {
        match text.split_once('/') {
            None => Self::device(text),
            Some((device, module)) => {
                Self::module(device, module).map_err(|_| ClientIdError(shortened(text)))
            }
        }
    }
}

impl TryFrom<String> for ClientId {
    type Error = ClientIdError;

    fn try_from(text: String) -> Result<Self, ClientIdError> {
        text.parse()
    }
}

impl From<ClientId> for String {
    fn from(id: ClientId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.device)?;
        self.module.as_ref().map_or(Ok(()), |module| write!(f, "/{module}"))
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The key of a shared access signature.
#[derive(Clone, Debug)]
pub struct SharedKey(Secret);

/// A text that is no key. It is not repeated here.
#[derive(Clone, Copy, Debug, Error)]
#[error("a shared access key is base64 of 16 to 64 bytes")]
pub struct SharedKeyError;

impl SharedKey {
    pub fn new(base64: &str) -> Result<Self, SharedKeyError> {
        let bytes = STANDARD.decode(base64).map_err(|_| SharedKeyError)?;
        if !(16..=64).contains(&bytes.len()) {
            return Err(SharedKeyError);
        }
        Ok(Self(Secret::new(base64.to_owned())))
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        // Was decoded once.
        STANDARD.decode(self.0.expose()).unwrap_or_default()
    }
}

/// What a device or module proves itself by.
#[derive(Clone, Debug)]
pub enum Proof {
    /// A shared access signature by either key.
    Sas { primary: SharedKey, secondary: Option<SharedKey> },
    /// A certificate with one of these sha256 digests, whoever issued it.
    Thumbprint { primary: Digest, secondary: Option<Digest> },
    /// A certificate that a trusted authority issued for this name: as its common name or as a DNS name.
    Authority,
}

/// What a hub is told of a device or module.
#[derive(Clone, Debug)]
pub struct Identity {
    pub proof: Proof,
    /// Whether it may connect.
    pub enabled: bool,
}

/// Where a hub looks identities up, at each connection and each call: the server's store on its side, the agent's list
/// of modules on a device.
#[async_trait]
pub trait Identities: fmt::Debug + Send + Sync {
    /// `None` for whoever is not known. An error refuses the connection, and the client will come again.
    async fn find(&self, id: &ClientId) -> Result<Option<Identity>, IdentitiesError>;
}

/// Identities could not be looked up.
#[derive(Debug, Error)]
#[error("could not look identities up")]
pub struct IdentitiesError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_reach_into_other_topics() {
        for good in ["dev1", "dev-1/m_1", "a.b:c/$edgeAgent", "%2F", "x(1)"] {
            assert_eq!(good.parse::<ClientId>().unwrap().to_string(), good);
        }
        let long = "x".repeat(129);
        for bad in ["", "/", "a/", "/a", "a/b/c", "a+", "#", "a b", "ä", "a\0", "a\"", "a/b#", long.as_str()]
        {
            assert!(bad.parse::<ClientId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_are_checked_and_hidden() {
        let key = SharedKey::new("MDEyMzQ1Njc4OWFiY2RlZg==").unwrap();
        assert_eq!(key.bytes(), b"0123456789abcdef");
        assert!(!format!("{key:?}").contains("MDEy"));
        assert!(SharedKey::new("!").is_err());
        assert!(SharedKey::new("YWI=").is_err());
    }
}
