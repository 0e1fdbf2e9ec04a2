//! Images: a release becomes an OCI image, without an Engine.

mod layout;

pub(crate) use layout::{LONGEST_DOCUMENT, digest_of};
pub use layout::{Layout, LayoutError};
