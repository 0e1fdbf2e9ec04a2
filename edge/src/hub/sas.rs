//! Shared access signatures, as Azure IoT Hub defines them:
//! `SharedAccessSignature sr={resource}&sig={HMAC-SHA256 of sr and se}&se={expiry}`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use percent_encoding::percent_decode_str;
use ring::hmac;
use thiserror::Error;

use super::identity::{ClientId, SharedKey};

/// The longest token that is looked at.
const LONGEST: usize = 4096;

/// Why a token is not accepted. What is in it is not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum SasError {
    #[error("the token is not `SharedAccessSignature sr=…&sig=…&se=…`")]
    Malformed,
    #[error("the token is for another resource")]
    OtherResource,
    #[error("the token has expired")]
    Expired,
    #[error("the token is signed with another key")]
    Signature,
}

/// Checks `token` for `id` on the hub `hub`; gives when it expires, in seconds since 1970. `now` is the same.
pub(crate) fn verify(
    token: &str,
    hub: &str,
    id: &ClientId,
    keys: (&SharedKey, Option<&SharedKey>),
    now: u64,
) -> Result<u64, SasError> {
    let fields = token.strip_prefix("SharedAccessSignature ").filter(|_| token.len() <= LONGEST);
    let (mut resource, mut signature, mut expiry) = (None, None, None);
    for field in fields.ok_or(SasError::Malformed)?.split('&') {
        let (name, value) = field.split_once('=').ok_or(SasError::Malformed)?;
        let place = match name.trim() {
            "sr" => &mut resource,
            "sig" => &mut signature,
            "se" => &mut expiry,
            // The name of the key: both are tried.
            "skn" => continue,
            _ => return Err(SasError::Malformed),
        };
        if place.replace(value).is_some() {
            return Err(SasError::Malformed);
        }
    }
    let (Some(resource), Some(signature), Some(expiry)) = (resource, signature, expiry) else {
        return Err(SasError::Malformed);
    };
    let expires: u64 = expiry.parse().map_err(|_| SasError::Malformed)?;
    let named = percent_decode_str(resource).decode_utf8().map_err(|_| SasError::Malformed)?;
    let (named_hub, named_id) = named.split_once('/').ok_or(SasError::OtherResource)?;
    if !named_hub.eq_ignore_ascii_case(hub) || named_id != id.resource() {
        return Err(SasError::OtherResource);
    }
    let signature = percent_decode_str(signature).collect::<Vec<u8>>();
    let signature = STANDARD.decode(signature).map_err(|_| SasError::Malformed)?;
    // Both are always computed, and compared in constant time: how long it takes says nothing about either.
    let signed = format!("{resource}\n{expiry}");
    let matches = |key: &SharedKey| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key.bytes());
        hmac::verify(&key, signed.as_bytes(), &signature).is_ok()
    };
    let primary = matches(keys.0);
    let secondary = keys.1.is_some_and(matches);
    if !primary && !secondary {
        return Err(SasError::Signature);
    }
    if expires <= now { Err(SasError::Expired) } else { Ok(expires) }
}

#[cfg(test)]
mod tests {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

    use super::*;

    fn token(key: &[u8], resource: &str, expiry: &str) -> String {
        let resource = utf8_percent_encode(resource, NON_ALPHANUMERIC).to_string();
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        let signature = STANDARD.encode(hmac::sign(&key, format!("{resource}\n{expiry}").as_bytes()));
        let signature = utf8_percent_encode(&signature, NON_ALPHANUMERIC);
        format!("SharedAccessSignature sr={resource}&sig={signature}&se={expiry}")
    }

    #[test]
    fn a_token_is_for_one_resource_one_key_and_a_time() {
        let (first, second) = (b"0123456789abcdef", b"fedcba9876543210");
        let primary = SharedKey::new(&STANDARD.encode(first)).unwrap();
        let secondary = SharedKey::new(&STANDARD.encode(second)).unwrap();
        let id: ClientId = "dev1/m1".parse().unwrap();
        let check = |token: &str| verify(token, "hub.local", &id, (&primary, Some(&secondary)), 1_000);
        let own = "hub.local/devices/dev1/modules/m1";
        assert_eq!(check(&token(first, own, "2000")), Ok(2000));
        assert_eq!(check(&token(second, "HUB.local/devices/dev1/modules/m1", "1001")), Ok(1001));
        assert_eq!(check(&format!("{}&skn=", token(first, own, "2000"))), Ok(2000));
        assert_eq!(check(&token(first, own, "1000")), Err(SasError::Expired));
        assert_eq!(check(&token(b"another key, long", own, "2000")), Err(SasError::Signature));
        for other in [
            "hub.local/devices/dev1",
            "hub.local/devices/dev1/modules/m2",
            "hub.local/devices/dev2/modules/m1",
            "other.local/devices/dev1/modules/m1",
            "hub.local/devices/dev1/modules/m1/x",
        ] {
            assert_eq!(check(&token(first, other, "2000")), Err(SasError::OtherResource), "{other}");
        }
        // A later expiry than the one that was signed.
        let stretched = token(first, own, "1001").replace("se=1001", "se=9999");
        assert_eq!(check(&stretched), Err(SasError::Signature));
        let twice = format!("{}&se=9999", token(first, own, "1001"));
        for bad in ["", "SharedAccessSignature ", "SharedAccessSignature sr=a&se=1", "Bearer x", &twice] {
            assert_eq!(check(bad), Err(SasError::Malformed), "{bad}");
        }
    }
}
