//! The container target: scorers as containers of a Docker or Podman Engine.
//!
//! [`EngineHost`] says where an Engine listens, and [`Engine`] is the connection to it.

mod build;
mod context;
mod deployment;
mod document;
mod engine;
mod errand;
mod error;
mod host;
mod ignore;
mod logs;
mod ssh;
mod state;
mod supply;
mod target;
mod tls;

pub use build::BuildRequest;
pub use engine::{Engine, EngineDescription};
pub use errand::{Done, Errand};
pub use error::EngineError;
pub use host::{EngineHost, HostError, TlsFiles};
pub use target::{ContainerConfig, ContainerTarget};
