//! Images: a release becomes an OCI image, without an Engine.

mod layout;

pub use layout::{Layout, LayoutError};
