//! The protocol codecs: pure functions between the bytes of a request or an answer and core's tensors.
//!
//! Nothing here does I/O, awaits or names HTTP. A body is read once, straight into the typed vector that the engine
//! will borrow, and an answer is written once into one buffer.

mod element;
mod error;
#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod golden;
pub mod grpc;
mod grpc_convert;
mod json;
#[cfg(test)]
mod laws;
mod nested;
mod number;
pub mod oip;
mod oip_binary;
mod oip_metadata;
mod oip_tensor;
pub mod score;
mod table;

pub use error::CodecError;
pub use oip_metadata::ModelIdentity;

/// Bounds on what a request may make the codecs do. The size of a body is bounded where it is received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How deep JSON may nest; also the highest rank of a tensor.
    pub max_depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_depth: 64 }
    }
}
