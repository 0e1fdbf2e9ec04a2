//! Conformance suites for the seams, fakes that pass them, and fixtures; for tests only.
//!
//! A suite panics with the law that was broken. It takes a factory, so that it decides how many of the thing there are
//! and how long they live. Every implementation of a seam runs its suite, and so does every fake: a fake that passes
//! is one that tests of other crates can trust.

mod engine;
mod fake_engine;
mod fake_script;
mod fixtures;
mod onnx;
mod onnx_models;
mod target;
mod tensors;

pub use engine::{engine_conformance, missing_engine_conformance};
pub use fake_engine::{FakeEngine, FakeRuns, Gate};
pub use fake_script::FakeScript;
pub use fixtures::fixture;
pub use onnx::{OnnxSupport, onnx_conformance};
pub use target::{TestRelease, deployment, name, observed, target_conformance};
pub use tensors::{named, numbers, numbers_of, same};
