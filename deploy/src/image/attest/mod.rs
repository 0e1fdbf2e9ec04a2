//! What is said about an image, kept beside it: what it is made of, how it was made, and who vouches for it.
//!
//! Each is a document in an OCI manifest of its own that names the image as its subject, so that a registry lists it
//! with the image: a [`sbom`] in SPDX, a [`provenance`] statement of in-toto, and signatures as cosign makes them.

mod installed;
mod provenance;
mod sbom;
mod signature;
mod store;
mod verify;

pub use provenance::{Made, Material, provenance};
pub use sbom::{Contents, sbom};
pub use signature::{KeyError, KeyPair, PublicKey, SigningKey, generate_key, sign};
pub use store::{Attachment, attach, keep_signature, referrers, signature_tag};
pub use verify::{Verified, VerifyError, check, verify};
