//! Keys: whoever builds a bitstream signs it, whoever loads it names the keys that it trusts. Both are read as OpenSSL
//! writes them (`openssl genpkey -algorithm ed25519`, `openssl pkey -pubout`).

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use moorline_core::Digest;
use ring::{
    rand::{SecureRandom as _, SystemRandom},
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};

use super::BitstreamError;

/// What stands before the 32 bytes of a private key in PKCS #8.
const PRIVATE: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
/// What stands before the 32 bytes of a public key in SubjectPublicKeyInfo.
const PUBLIC: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];

/// Signs bitstreams. Never printed.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    seed: [u8; 32],
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("public", &self.public()).finish_non_exhaustive()
    }
}

impl SigningKey {
    pub fn generate() -> Result<Self, BitstreamError> {
        let mut seed = [0; 32];
        let none = |_| BitstreamError::Key { reason: "the system gave no random numbers" };
        SystemRandom::new().fill(&mut seed).map_err(none)?;
        Self::from_seed(seed)
    }

    fn from_seed(seed: [u8; 32]) -> Result<Self, BitstreamError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed)
            .map_err(|_| BitstreamError::Key { reason: "its bytes are no key" })?;
        Ok(Self { pair, seed })
    }

    pub fn from_pem(pem: &str) -> Result<Self, BitstreamError> {
        let der = decode(pem, "PRIVATE KEY")?;
        let seed = der.strip_prefix(&PRIVATE).and_then(|rest| rest.try_into().ok());
        Self::from_seed(seed.ok_or(BitstreamError::Key { reason: "it is a key of another kind" })?)
    }

    /// For the file that only its owner may read.
    pub fn to_pem(&self) -> String {
        encode(&[&PRIVATE[..], &self.seed].concat(), "PRIVATE KEY")
    }

    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.pair.public_key().as_ref());
        PublicKey(bytes)
    }

    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }
}

/// A key that is trusted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.id())
    }
}

impl PublicKey {
    pub fn from_pem(pem: &str) -> Result<Self, BitstreamError> {
        let der = decode(pem, "PUBLIC KEY")?;
        let bytes = der.strip_prefix(&PUBLIC).and_then(|rest| rest.try_into().ok());
        bytes.map(Self).ok_or(BitstreamError::Key { reason: "it is a key of another kind" })
    }

    pub fn to_pem(&self) -> String {
        encode(&[&PUBLIC[..], &self.0].concat(), "PUBLIC KEY")
    }

    /// By which people and messages know it: the first half of the SHA-256 of its bytes.
    pub fn id(&self) -> String {
        let mut hex = Digest::of(&self.0).hex();
        hex.truncate(32);
        hex
    }

    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), BitstreamError> {
        let key = UnparsedPublicKey::new(&ED25519, &self.0);
        key.verify(message, signature).map_err(|_| BitstreamError::Signature)
    }
}

fn decode(pem: &str, label: &str) -> Result<Vec<u8>, BitstreamError> {
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let body = pem.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end)).map(|(body, _)| body);
    let body = body.ok_or(BitstreamError::Key { reason: "it has no such section" })?;
    let text: String = body.split_whitespace().collect();
    STANDARD.decode(text).map_err(|_| BitstreamError::Key { reason: "it is not base64" })
}

fn encode(der: &[u8], label: &str) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with `openssl genpkey -algorithm ed25519` and `openssl pkey -pubout`, for this test alone.
    const OPENSSL_PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIE2XX9l08Pv16R+l4axMAfPgOIt8Px+5ziSyEprmcebC\n-----END PRIVATE KEY-----\n";
    const OPENSSL_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAU7IEj0quH/uEWpGLsleOJb4VtKCODAfi4m4B33G55io=\n-----END PUBLIC KEY-----\n";

    #[test]
    fn keys_are_read_as_openssl_writes_them() {
        let key = SigningKey::from_pem(OPENSSL_PRIVATE).unwrap();
        assert_eq!(key.public(), PublicKey::from_pem(OPENSSL_PUBLIC).unwrap());
        assert_eq!(key.to_pem(), OPENSSL_PRIVATE);
        assert_eq!(key.public().to_pem(), OPENSSL_PUBLIC);
        assert!(!format!("{key:?}").contains("seed"), "a key is never printed");
    }

    #[test]
    fn a_signature_fits_one_message_and_one_key() {
        let (key, other) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        let signature = key.sign(b"manifest");
        key.public().verify(b"manifest", &signature).unwrap();
        assert!(key.public().verify(b"manifesto", &signature).is_err());
        assert!(other.public().verify(b"manifest", &signature).is_err());
        assert!(key.public().verify(b"manifest", &signature[..63]).is_err());
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let swapped = OPENSSL_PUBLIC.replace("PUBLIC", "PRIVATE");
        for bad in ["", "-----BEGIN PRIVATE KEY-----", &swapped, OPENSSL_PUBLIC] {
            assert!(matches!(SigningKey::from_pem(bad), Err(BitstreamError::Key { .. })), "{bad}");
        }
    }
}
