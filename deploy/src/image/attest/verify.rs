//! Whether an image has a signature by a key that is trusted.

use moorline_core::{Digest, ErrorClass};
use thiserror::Error;

use super::PublicKey;
use crate::image::{Layout, LayoutError};

/// Who signed an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The fingerprint of the key.
    pub by: String,
}

/// Why an image is not taken for signed.
#[derive(Debug, Error)]
pub enum VerifyError {
    #[error("the store of images could not be read")]
    Layout(#[from] LayoutError),
}

impl VerifyError {
    pub const fn class(&self) -> ErrorClass {
        ErrorClass::Internal
    }
}

/// Looks among the signatures of an image in the layout for one by any of `keys`. `subject` is the digest of a manifest,
/// or of an index, whose signature covers every image that it lists. Blocks.
pub fn verify(layout: &Layout, subject: &Digest, keys: &[PublicKey]) -> Result<Verified, VerifyError> {
    let _ = (layout, subject, keys);
    unimplemented!()
}
