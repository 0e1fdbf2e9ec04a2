//! ONNX on the CPU: the engines `ort` and `tract` behind the [`moorline_core::Engine`] ladder.
//!
//! `ort` is the fast one and needs ONNX Runtime's library, which it looks for at run time ([`OrtSearch`]); `tract` is
//! pure Rust and always there. Neither reads the environment: where to look is an argument. What both do alike lives
//! in [`guard`], [`files`] and [`warm_up`]; they share nothing else.

#[cfg(feature = "ort")]
mod ort;
mod tract;

mod files;
mod guard;
mod warm_up;

#[cfg(feature = "ort")]
pub use crate::ort::{OrtEngine, OrtSearch};
pub use crate::{tract::TractEngine, warm_up::zero_inputs};
