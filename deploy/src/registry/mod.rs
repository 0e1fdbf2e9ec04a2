//! Registries: images are pulled and pushed by the OCI distribution protocol.

mod reference;

pub use reference::{Reference, ReferenceError};
