//! Targets: places that run deployments, and the environments that they need there.
//!
//! [`local`] runs scorers as processes of this machine; [`environment`] makes the Python environments of their scoring
//! scripts. Neither knows the workspace: they are told a [`Placement`](moorline_core::Placement) or an
//! [`Environment`](moorline_core::Environment) and say what came of it.

pub mod environment;
pub mod local;
