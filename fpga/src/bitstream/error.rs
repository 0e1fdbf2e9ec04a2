//! Why a bitstream is refused.

use std::io;

use jiff::Timestamp;
use moorline_core::{Digest, ErrorClass};
use thiserror::Error;

/// What is wrong with a bitstream, a key, or the choice of one for a device.
#[derive(Debug, Error)]
pub enum BitstreamError {
    #[error("could not read or write the bitstream")]
    Io {
        #[from]
        source: io::Error,
    },
    #[error("the file is not a bitstream: {reason}; build one with `cargo xtask fpga build`")]
    Archive { reason: String },
    #[error("the bitstream has {what} beyond {limit} bytes, which is more than is taken")]
    TooLarge { what: String, limit: u64 },
    #[error(
        "the bitstream's manifest cannot be read; it was written for another version of Moorline or is damaged"
    )]
    Manifest {
        #[source]
        source: serde_json::Error,
    },
    #[error("the bitstream's manifest is wrong: {reason}; build the bitstream anew")]
    Contradiction { reason: String },
    #[error(
        "the bitstream is of schema {found}, and this version of Moorline reads {expected}; build it anew with this version"
    )]
    Schema { expected: u32, found: u32 },
    #[error(
        "the bitstream's kernels are of ABI {found}, and this version of Moorline calls those of {expected}; build it anew with this version"
    )]
    Abi { expected: u32, found: u32 },
    #[error(
        "the bitstream is signed by the key {key}, which is not trusted here; trust that key, or take a bitstream signed by {trusted}"
    )]
    Foreign { key: String, trusted: String },
    #[error(
        "the bitstream's signature does not fit its manifest: it was changed after it was signed; fetch it again"
    )]
    Signature,
    #[error("the bitstream expired at {at}; take a newer version")]
    Expired { at: Timestamp },
    #[error(
        "`{file}` of the bitstream is damaged: its digest is {found} and not {expected}; fetch the bitstream again"
    )]
    Damaged { file: String, expected: Digest, found: Digest },
    #[error(
        "the model was lowered for architecture {expected}, and the bitstream has {found}; lower it for this bitstream"
    )]
    Fingerprint { expected: String, found: String },
    #[error(
        "the bitstream has no image for the device `{device}` (platform `{platform}`, driver `{driver}`); it has images for {images}; build one for this device with `cargo xtask fpga build`"
    )]
    NoImage { platform: String, driver: String, device: String, images: String },
    #[error(
        "the key is not an Ed25519 key in PEM: {reason}; make one with `openssl genpkey -algorithm ed25519`"
    )]
    Key { reason: &'static str },
}

impl BitstreamError {
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::Io { .. } => ErrorClass::Internal,
            Self::TooLarge { .. } => ErrorClass::TooLarge,
            Self::Foreign { .. } | Self::Signature | Self::Expired { .. } => ErrorClass::Forbidden,
            Self::NoImage { .. } => ErrorClass::Unavailable,
            Self::Archive { .. }
            | Self::Manifest { .. }
            | Self::Contradiction { .. }
            | Self::Schema { .. }
            | Self::Abi { .. }
            | Self::Damaged { .. }
            | Self::Fingerprint { .. }
            | Self::Key { .. } => ErrorClass::InvalidInput,
        }
    }
}
