//! The engine `tract`: pure Rust, always there.
//!
//! | module | stage |
//! | --- | --- |
//! | `source` | the file as a graph that tract can take, and its signature |
//! | `refusals` | operators that tract lacks, or computes wrongly |
//! | `labels` | string labels of classifiers, numbered in the graph and named here |
//! | `zip_map` | `ai.onnx.ml.ZipMap`, which tract lacks, cut off and done here |
//! | `plan` | a graph as a runnable plan, for any sizes or for exact ones |
//! | `model` | the loaded model, its plans |
//! | `session` | one run |
//! | `values` | tensors in and out |
//!
//! A run uses one thread, whatever [`ModelFiles::threads`] says: tract splits only large matrix products, and pays for
//! that with a thread pool of its own. Sessions run in parallel.

mod labels;
mod model;
mod plan;
mod refusals;
mod session;
mod source;
mod values;
mod zip_map;

use std::sync::Arc;

use moorline_core::{Engine, EngineError, LoadedModel, ModelFiles};

use self::model::TractModel;

/// The engine's name, in errors and settings.
const NAME: &str = "tract";

/// tract on the CPU.
#[derive(Clone, Copy, Debug, Default)]
pub struct TractEngine;

impl TractEngine {
    pub const fn new() -> Self {
        Self
    }
}

impl Engine for TractEngine {
    fn name(&self) -> &'static str {
        NAME
    }

    fn check(&self) -> Result<(), EngineError> {
        Ok(())
    }

    fn load(&self, model: &ModelFiles) -> Result<Arc<dyn LoadedModel>, EngineError> {
        Ok(Arc::new(TractModel::load(&model.path)?))
    }
}
