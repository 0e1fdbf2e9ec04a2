//! The targets and environments as they are used: with real scorers, real processes and a real `uv`.

mod adoption;
mod attest;
mod cluster;
mod conformance;
mod container;
mod environment_layer;
mod environments;
mod failures;
mod http;
mod image;
mod logs;
mod place;
mod registry;
mod rollout;
mod schema;
mod secrets;
