//! Signatures of images as cosign makes them, and the keys for them: ECDSA on P-256 with SHA-256.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use moorline_core::{Digest, Secret};
use oci_spec::image::{Descriptor, ImageManifest};
use p256::{
    ecdsa::{DerSignature, VerifyingKey, signature::Signer as _},
    elliptic_curve::rand_core::OsRng,
    pkcs8::{
        DecodePrivateKey as _, DecodePublicKey as _, EncodePrivateKey as _, EncodePublicKey as _, LineEnding,
    },
};
use serde_json::{Value, json};
use thiserror::Error;

use super::store::{self, Attachment, signature_tag};
use crate::image::{Layout, LayoutError, digest_of};

/// Where cosign keeps a signature: at the descriptor of what was signed.
pub(super) const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// Which key made it, for messages; nothing is decided by it.
pub(super) const KEY: &str = "org.moorline.key";
/// What a payload says that it is.
pub(super) const PAYLOAD_TYPE: &str = "cosign container image signature";

/// Why a text is no key that can be used.
#[derive(Debug, Error)]
pub enum KeyError {
    #[error(
        "the signing key is encrypted by cosign; give a key that is not, as `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256` makes one: the store of secrets encrypts it"
    )]
    OfCosign,
    #[error(
        "the signing key is encrypted; give it as `openssl pkey -in KEY` prints it: the store of secrets encrypts it"
    )]
    Encrypted,
    #[error(
        "the signing key is no private key in PEM; one begins with `-----BEGIN PRIVATE KEY-----` or `-----BEGIN EC PRIVATE KEY-----`"
    )]
    NotPrivate,
    #[error("the signing key cannot be read; it must be an ECDSA key on the curve P-256")]
    Unreadable,
    #[error(
        "the public key cannot be read; it must be PEM (`-----BEGIN PUBLIC KEY-----`) of an ECDSA key on the curve P-256"
    )]
    Public,
}

/// A key that signs.
#[derive(Clone)]
pub struct SigningKey(p256::ecdsa::SigningKey);

/// A key that tells whether a signature is of its other half.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

/// A new key.
#[derive(Clone, Debug)]
pub struct KeyPair {
    /// PEM, PKCS#8: for the store of secrets.
    pub private: Secret,
    /// PEM, as `cosign verify --key` reads it.
    pub public: String,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(…)")
    }
}

impl SigningKey {
    /// Reads a private key in PEM: PKCS#8 (`PRIVATE KEY`) or SEC 1 (`EC PRIVATE KEY`).
    pub fn parse(pem: &Secret) -> Result<Self, KeyError> {
        const SEC1: &str = "-----BEGIN EC PRIVATE KEY-----";
        const PKCS8: &str = "-----BEGIN PRIVATE KEY-----";
        let text = pem.expose();
        let is = |label: &str| text.contains(&format!("-----BEGIN {label}-----"));
        if is("ENCRYPTED COSIGN PRIVATE KEY") || is("ENCRYPTED SIGSTORE PRIVATE KEY") {
            return Err(KeyError::OfCosign);
        }
        if is("ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") {
            return Err(KeyError::Encrypted);
        }
        // openssl writes the curve's parameters before such a key.
        let key = match (text.find(PKCS8), text.find(SEC1)) {
            (Some(start), _) => p256::SecretKey::from_pkcs8_pem(text[start..].trim()).ok(),
            (None, Some(start)) => p256::SecretKey::from_sec1_pem(text[start..].trim()).ok(),
            (None, None) => return Err(KeyError::NotPrivate),
        };
        Ok(Self(key.ok_or(KeyError::Unreadable)?.into()))
    }

    pub fn public(&self) -> PublicKey {
        PublicKey(*self.0.verifying_key())
    }

    /// The DER of a signature, in base64.
    fn sign(&self, payload: &[u8]) -> String {
        let signature: DerSignature = self.0.sign(payload);
        STANDARD.encode(signature.as_bytes())
    }
}

impl PublicKey {
    /// Reads a public key in PEM (`PUBLIC KEY`).
    pub fn parse(pem: &str) -> Result<Self, KeyError> {
        let key = p256::PublicKey::from_public_key_pem(pem.trim()).map_err(|_| KeyError::Public)?;
        Ok(Self(key.into()))
    }

    /// PEM, as `cosign verify --key` reads it.
    pub fn to_pem(&self) -> String {
        let key = p256::PublicKey::from(&self.0);
        key.to_public_key_pem(LineEnding::LF).expect("every key on the curve can be written")
    }

    /// What people compare: `sha256:` of the key's DER.
    pub fn fingerprint(&self) -> String {
        let key = p256::PublicKey::from(&self.0);
        let der = key.to_public_key_der().expect("every key on the curve can be written");
        Digest::of(der.as_bytes()).to_string()
    }

    pub(super) fn is_of(&self, payload: &[u8], signature: &str) -> bool {
        use p256::ecdsa::signature::Verifier as _;
        STANDARD
            .decode(signature.trim())
            .ok()
            .and_then(|der| DerSignature::try_from(der.as_slice()).ok())
            .is_some_and(|signature| self.0.verify(payload, &signature).is_ok())
    }
}

/// A new key, of the machine's randomness.
pub fn generate_key() -> KeyPair {
    let key = p256::SecretKey::random(&mut OsRng);
    let pem = key.to_pkcs8_pem(LineEnding::LF).expect("every key on the curve can be written");
    let public = PublicKey(key.public_key().into()).to_pem();
    KeyPair { private: Secret::new(pem.to_string()), public }
}

/// Signs an image: adds a signature of the manifest or index `subject`, beside those that it has, and gives the manifest
/// of all its signatures. That is to be pushed under [`signature_tag`], where cosign looks. `reference` is where the
/// image is or will be, without tag and digest: `registry/repository`. Blocks.
pub fn sign(
    layout: &Layout,
    subject: &Descriptor,
    reference: &str,
    key: &SigningKey,
) -> Result<Descriptor, LayoutError> {
    let digest = digest_of(subject).ok_or_else(|| LayoutError::Foreign(subject.digest().to_string()))?;
    let payload = json!({
        "critical": {
            "identity": { "docker-reference": reference },
            "image": { "docker-manifest-digest": digest },
            "type": PAYLOAD_TYPE,
        },
        "optional": null,
    })
    .to_string();
    let mut signed = store::document(layout, Attachment::Signature, payload.as_bytes())?;
    signed["annotations"] =
        json!({ SIGNATURE: key.sign(payload.as_bytes()), KEY: key.public().fingerprint() });
    let tag = signature_tag(&digest);
    let mut documents = present(layout, &tag)?;
    if !documents.contains(&signed) {
        documents.push(signed);
    }
    let manifest = store::manifest(layout, subject, Attachment::Signature, &documents)?;
    layout.name(&tag, &manifest)?;
    Ok(manifest)
}

/// The signatures that an image has already.
fn present(layout: &Layout, tag: &str) -> Result<Vec<Value>, LayoutError> {
    let Some(digest) = layout.named(tag)?.as_ref().and_then(digest_of) else { return Ok(Vec::new()) };
    let manifest: ImageManifest = layout.document("manifest", &digest)?;
    let signed = |layer: &Descriptor| {
        let annotations = layer.annotations().clone().unwrap_or_default();
        let mut sorted: Vec<(String, String)> = annotations.into_iter().collect();
        // The signature before the name of its key, as it is made.
        sorted.sort_unstable();
        let annotations: serde_json::Map<String, Value> =
            sorted.into_iter().map(|(name, value)| (name, Value::String(value))).collect();
        json!({
            "mediaType": layer.media_type(),
            "digest": layer.digest().to_string(),
            "size": layer.size(),
            "annotations": annotations,
        })
    };
    Ok(manifest.layers().iter().map(signed).collect())
}
