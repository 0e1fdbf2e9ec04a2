//! The verbs, one module each, and what they stand on. A library so that the bench harness finds the workspace and
//! starts scorers the same way as the demo.

pub mod bench;
pub mod check;
mod containers;
pub mod demo;
pub mod edge;
pub mod fpga;
pub mod grafana;
mod helm;
mod podman;
pub mod portal;
mod prometheus;
pub mod python;
pub mod scorer;
pub mod shell;
pub mod test;
pub mod tidy;
pub mod tools;
mod workspace;

pub use workspace::Workspace;
