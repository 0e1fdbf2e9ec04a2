//! Signatures of images as cosign makes them, and the keys for them: ECDSA on P-256 with SHA-256.

use moorline_core::Secret;
use oci_spec::image::Descriptor;
use thiserror::Error;

use crate::image::{Layout, LayoutError};

/// Why a text is no key that can be used.
#[derive(Debug, Error)]
pub enum KeyError {}

/// A key that signs.
#[derive(Clone)]
pub struct SigningKey(p256::ecdsa::SigningKey);

/// A key that tells whether a signature is of its other half.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey(p256::ecdsa::VerifyingKey);

/// A new key.
#[derive(Clone, Debug)]
pub struct KeyPair {
    /// PEM, PKCS#8: for the store of secrets.
    pub private: Secret,
    /// PEM, as `cosign verify --key` reads it.
    pub public: String,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey(…)")
    }
}

impl SigningKey {
    /// Reads a private key in PEM: PKCS#8 (`PRIVATE KEY`) or SEC 1 (`EC PRIVATE KEY`).
    pub fn parse(pem: &Secret) -> Result<Self, KeyError> {
        let _ = pem;
        unimplemented!()
    }

    pub fn public(&self) -> PublicKey {
        PublicKey(*self.0.verifying_key())
    }
}

impl PublicKey {
    /// Reads a public key in PEM (`PUBLIC KEY`).
    pub fn parse(pem: &str) -> Result<Self, KeyError> {
        let _ = pem;
        unimplemented!()
    }

    /// PEM, as `cosign verify --key` reads it.
    pub fn to_pem(&self) -> String {
        unimplemented!()
    }

    /// What people compare: `sha256:` of the key's DER.
    pub fn fingerprint(&self) -> String {
        unimplemented!()
    }
}

/// A new key, of the machine's randomness.
pub fn generate_key() -> KeyPair {
    unimplemented!()
}

/// Signs an image: adds a signature of the manifest or index `subject`, and gives the signature's manifest for
/// `Registries::push`. `reference` is where the image is or will be, without tag and digest: `registry/repository`.
/// Blocks.
pub fn sign(
    layout: &Layout,
    subject: &Descriptor,
    reference: &str,
    key: &SigningKey,
) -> Result<Descriptor, LayoutError> {
    let _ = (layout, subject, reference, key);
    unimplemented!()
}
