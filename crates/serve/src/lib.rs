//! One scoring request from socket to socket: protocols, admission, batching, metrics, and what is kept of it.
//!
//! A request is decoded once and encoded once. Whatever runs the model sits behind core's seams; this crate knows no
//! engine and no Python.

mod admission;
mod app;
pub mod codec;
mod collection;
mod config;
mod grpc;
mod image;
mod metrics;
mod problem;
mod routes;
mod server;
mod sessions;
pub mod swagger;
#[cfg(target_os = "linux")]
mod workers;

pub use app::{App, ModelServing, Served, ServedName};
pub use collection::{CollectConfig, Recorder, ScriptCollector};
pub use config::ServeConfig;
pub use image::{ImageInputError, ImagePreparation};
pub use metrics::{Metrics, Protocol};
pub use server::{BindError, Server};
