//! Whether an image has a signature by a key that is trusted.

use moorline_core::{Digest, ErrorClass};
use oci_spec::image::ImageManifest;
use serde::Deserialize;
use thiserror::Error;

use super::{
    PublicKey,
    signature::{KEY, PAYLOAD_TYPE, SIGNATURE},
    store::{Attachment, referrers},
};
use crate::image::{Layout, LayoutError, digest_of};

/// Signatures that are looked at.
const MOST_SIGNATURES: usize = 256;

/// Who signed an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The fingerprint of the key.
    pub by: String,
}

/// Why an image is not taken for signed.
#[derive(Debug, Error)]
pub enum VerifyError {
    #[error("the signatures of image {subject} cannot be read")]
    Layout {
        subject: Digest,
        #[source]
        source: LayoutError,
    },
    #[error("image {subject} has no signature; sign it, or do not require signatures")]
    NotSigned { subject: Digest },
    #[error("the signature with image {subject} was made for another image, {signed}; sign this one")]
    OtherImage { subject: Digest, signed: String },
    #[error(
        "image {subject} is signed by a key that is not trusted; trust its public key, or sign the image with one that is"
    )]
    UnknownKey { subject: Digest },
    #[error(
        "a signature of image {subject} does not match what it signs; the image or its signature was changed"
    )]
    Mismatch { subject: Digest },
    #[error("what is signed with image {subject} is not the payload of a cosign signature")]
    Payload { subject: Digest },
}

impl VerifyError {
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::Layout { .. } => ErrorClass::Internal,
            _ => ErrorClass::Forbidden,
        }
    }
}

/// What is read of a payload.
#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    image: Image,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

/// Looks among the signatures of an image in the layout for one by any of `keys`. `subject` is the digest of a manifest,
/// or of an index, whose signature covers every image that it lists. Blocks.
pub fn verify(layout: &Layout, subject: &Digest, keys: &[PublicKey]) -> Result<Verified, VerifyError> {
    let failed = |source| VerifyError::Layout { subject: *subject, source };
    let mut best = VerifyError::NotSigned { subject: *subject };
    let mut looked_at = 0;
    for descriptor in referrers(layout, subject).map_err(failed)? {
        let Some(digest) = digest_of(&descriptor) else { continue };
        if Attachment::of(&descriptor) != Some(Attachment::Signature) {
            continue;
        }
        let manifest: ImageManifest = layout.document("manifest", &digest).map_err(failed)?;
        for layer in manifest.layers() {
            let annotation =
                |name| layer.annotations().as_ref().and_then(|all| all.get(name)).map(String::as_str);
            let of_signature = layer.media_type().to_string() == Attachment::Signature.media_type();
            let (true, Some(signature), Some(payload)) =
                (of_signature, annotation(SIGNATURE), digest_of(layer))
            else {
                continue;
            };
            looked_at += 1;
            if looked_at > MOST_SIGNATURES {
                return Err(best);
            }
            let payload = layout.read(&payload).map_err(failed)?;
            match check(subject, &payload, signature, annotation(KEY), keys) {
                Ok(verified) => return Ok(verified),
                Err(error) if rank(&error) > rank(&best) => best = error,
                Err(_) => {}
            }
        }
    }
    Err(best)
}

/// One signature, wherever it came from: `payload` is what is signed, `signature` its base64, and `named` the fingerprint
/// of the key by which it says that it was made.
pub fn check(
    subject: &Digest,
    payload: &[u8],
    signature: &str,
    named: Option<&str>,
    keys: &[PublicKey],
) -> Result<Verified, VerifyError> {
    let Some(key) = keys.iter().find(|key| key.is_of(payload, signature)) else {
        let known = named.is_some_and(|named| keys.iter().any(|key| key.fingerprint() == named));
        return Err(if known {
            VerifyError::Mismatch { subject: *subject }
        } else {
            VerifyError::UnknownKey { subject: *subject }
        });
    };
    let read: Option<Payload> = serde_json::from_slice(payload).ok();
    let Some(Payload { critical }) = read.filter(|read| read.critical.kind == PAYLOAD_TYPE) else {
        return Err(VerifyError::Payload { subject: *subject });
    };
    if critical.image.digest != subject.to_string() {
        let signed = critical.image.digest.chars().take(100).collect();
        return Err(VerifyError::OtherImage { subject: *subject, signed });
    }
    Ok(Verified { by: key.fingerprint() })
}

/// Of several signatures, the one that came closest tells most.
const fn rank(error: &VerifyError) -> u8 {
    match error {
        VerifyError::Layout { .. } | VerifyError::NotSigned { .. } => 0,
        VerifyError::UnknownKey { .. } => 1,
        VerifyError::Payload { .. } => 2,
        VerifyError::OtherImage { .. } => 3,
        VerifyError::Mismatch { .. } => 4,
    }
}
