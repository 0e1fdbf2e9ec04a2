//! Whether a client is who it says: the user name of its CONNECT, then a shared access signature or a certificate.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rumqttc::mqttbytes::v4::ConnectReturnCode;
use thiserror::Error;

use super::{
    certificate::Presented,
    identity::{ClientId, Identities, IdentitiesError, Identity, Proof, shortened},
    sas::{self, SasError},
};

/// Why a client is not let in. For the hub's log: the client learns a number.
#[derive(Debug, Error)]
pub(crate) enum LoginError {
    #[error("the user name is not `HUB/DEVICE[/MODULE]/?api-version=…`")]
    UserName,
    #[error("the user name is for another hub, `{0}`")]
    OtherHub(String),
    #[error("the client id is not that of the user name")]
    OtherClient,
    #[error("nobody is known by this name")]
    Unknown,
    #[error("the identity is disabled")]
    Disabled,
    #[error("neither a token nor a certificate was presented")]
    NoProof,
    #[error("the token is not accepted")]
    Token(#[source] SasError),
    #[error("the certificate is not accepted")]
    Certificate,
    #[error("identities could not be looked up")]
    Identities(#[source] IdentitiesError),
}

impl LoginError {
    pub(crate) const fn code(&self) -> ConnectReturnCode {
        match self {
            Self::UserName => ConnectReturnCode::BadUserNamePassword,
            Self::OtherClient => ConnectReturnCode::BadClientId,
            Self::Identities(_) => ConnectReturnCode::ServiceUnavailable,
            _ => ConnectReturnCode::NotAuthorized,
        }
    }

    /// For the metrics.
    pub(crate) const fn label(&self) -> &'static str {
        match self {
            Self::UserName | Self::OtherHub(_) | Self::OtherClient => "user_name",
            Self::Unknown | Self::Disabled => "identity",
            Self::NoProof => "no_proof",
            Self::Token(SasError::Expired) => "expired",
            Self::Token(_) => "token",
            Self::Certificate => "certificate",
            Self::Identities(_) => "unavailable",
        }
    }
}

/// How long a client that proved itself may stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// Its token expires.
    In(Duration),
    Whenever,
}

/// Who a CONNECT says that it is from, for the hub `hub`.
pub(crate) fn named(hub: &str, client_id: &str, user_name: &str) -> Result<ClientId, LoginError> {
    let (own_hub, rest) = user_name.split_once('/').ok_or(LoginError::UserName)?;
    // `?` is left out by some clients.
    let bare = || rest.find("/api-version=").map(|at| (&rest[..at], &rest[at + 1..]));
    let (name, query) = rest.split_once("/?").or_else(bare).ok_or(LoginError::UserName)?;
    if !query.split('&').any(|pair| pair.starts_with("api-version=")) {
        return Err(LoginError::UserName);
    }
    let id: ClientId = name.parse().map_err(|_| LoginError::UserName)?;
    if !own_hub.eq_ignore_ascii_case(hub) {
        return Err(LoginError::OtherHub(shortened(own_hub)));
    }
    if id.to_string() == client_id { Ok(id) } else { Err(LoginError::OtherClient) }
}

/// Checks what `id` proves itself by.
pub(crate) async fn prove(
    identities: &dyn Identities,
    hub: &str,
    id: &ClientId,
    token: Option<&str>,
    presented: Option<&Presented>,
) -> Result<Until, LoginError> {
    let found = identities.find(id).await.map_err(LoginError::Identities)?;
    let Identity { proof, enabled } = found.ok_or(LoginError::Unknown)?;
    if !enabled {
        return Err(LoginError::Disabled);
    }
    match (&proof, token, presented) {
        (Proof::Sas { primary, secondary }, Some(token), _) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let expires = sas::verify(token, hub, id, (primary, secondary.as_ref()), now);
            expires.map(|at| Until::In(Duration::from_secs(at - now))).map_err(LoginError::Token)
        }
        (Proof::Sas { .. }, None, _) => Err(LoginError::NoProof),
        (_, _, Some(presented)) if presented.proves(id, &proof) => Ok(Until::Whenever),
        (_, _, Some(_)) => Err(LoginError::Certificate),
        (_, _, None) => Err(LoginError::NoProof),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_names_of_real_clients_are_understood() {
        let agent = "api-version=2019-10-01&DeviceClientType=azure-iot-device%2F2.14.0%20%28a%2Fb%29";
        for (client_id, user_name) in [
            ("d1", format!("hub.local/d1/?{agent}")),
            ("d1/m1", format!("HUB.local/d1/m1/?{agent}&model-id=dtmi:a:b;1")),
            ("d1/m1", format!("hub.local/d1/m1/{agent}")),
        ] {
            assert_eq!(named("hub.local", client_id, &user_name).unwrap().to_string(), client_id);
        }
        for (client_id, user_name, label) in [
            ("d2", format!("hub.local/d1/?{agent}"), "user_name"),
            ("d1", format!("other/d1/?{agent}"), "user_name"),
            ("d1", "hub.local/d1".to_owned(), "user_name"),
            ("d1", "hub.local/d1/?x=1".to_owned(), "user_name"),
            ("d1/m1/x", format!("hub.local/d1/m1/x/?{agent}"), "user_name"),
            ("", String::new(), "user_name"),
        ] {
            assert_eq!(named("hub.local", client_id, &user_name).unwrap_err().label(), label, "{user_name}");
        }
    }
}
