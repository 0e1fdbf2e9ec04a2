//! Targets: places that run deployments, and the environments that they need there.
//!
//! [`local`] runs scorers as processes of this machine and [`container`] as containers of an Engine; [`environment`]
//! makes the Python environments of their scoring scripts, [`image`] their images, and [`registry`] carries images to and
//! from registries. None knows the workspace: they are told a [`Placement`](moorline_core::Placement) or an
//! [`Environment`](moorline_core::Environment) and say what came of it.

pub mod container;
pub mod environment;
pub mod image;
pub mod local;
mod progress;
pub mod registry;

pub use progress::{Direction, Progress, Step};
