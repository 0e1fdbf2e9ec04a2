//! Targets: places that run deployments, and the environments that they need there.
//!
//! [`local`] runs scorers as processes of this machine, [`container`] as containers of an Engine and [`kubernetes`] as
//! pods of a cluster; [`environment`] makes the Python environments of their scoring scripts, [`image`] their images, and [`registry`] carries images to and
//! from registries. None knows the workspace: they are told a [`Placement`](moorline_core::Placement) or an
//! [`Environment`](moorline_core::Environment) and say what came of it.

mod attempts;
mod checks;
pub mod container;
pub mod environment;
mod failure;
pub mod image;
pub mod kubernetes;
mod lines;
pub mod local;
mod plan;
mod probe;
mod progress;
mod reason;
pub mod registry;
mod routes;

pub use probe::read as read_admin;
pub use progress::{Direction, Progress, Step};

/// An error and what caused it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
