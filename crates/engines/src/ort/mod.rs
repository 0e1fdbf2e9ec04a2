//! The engine `ort`: ONNX Runtime, loaded at run time.
//!
//! | module | stage |
//! | --- | --- |
//! | `library` | where the library is looked for, and loading it once per process |
//! | `header` | what only the model file says: declared order and ranks |
//! | `signature` | ONNX Runtime's types as a [`Signature`](moorline_core::Signature) |
//! | `model` | the loaded model, which makes sessions |
//! | `session` | one run |
//! | `values` | tensors in and out |

mod header;
mod library;
mod model;
mod session;
mod signature;
mod values;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use moorline_core::{Engine, EngineError, LoadedModel, ModelFiles};
use ort::environment::Environment;

pub use self::library::OrtSearch;
use self::model::OrtModel;

/// The engine's name, in errors and settings.
const NAME: &str = "ort";

/// ONNX Runtime on the CPU.
///
/// The library is loaded by the first [`Engine::check`] or [`Engine::load`], and once per process: a second engine
/// uses the library that the first one loaded.
#[derive(Debug)]
pub struct OrtEngine {
    search: OrtSearch,
    loaded: OnceLock<Result<(PathBuf, Environment), String>>,
}

impl OrtEngine {
    pub const fn new(search: OrtSearch) -> Self {
        Self { search, loaded: OnceLock::new() }
    }

    /// The library in use; `None` when there is none.
    pub fn library(&self) -> Option<&Path> {
        self.loaded().as_ref().ok().map(|(path, _)| path.as_path())
    }

    fn loaded(&self) -> &Result<(PathBuf, Environment), String> {
        self.loaded.get_or_init(|| library::load(&self.search))
    }

    fn environment(&self) -> Result<&Environment, EngineError> {
        match self.loaded() {
            Ok((_, environment)) => Ok(environment),
            Err(reason) => Err(EngineError::Missing { engine: NAME, reason: reason.clone() }),
        }
    }
}

impl Engine for OrtEngine {
    fn name(&self) -> &'static str {
        NAME
    }

    fn check(&self) -> Result<(), EngineError> {
        self.environment().map(|_| ())
    }

    fn load(&self, model: &ModelFiles) -> Result<Arc<dyn LoadedModel>, EngineError> {
        Ok(Arc::new(OrtModel::load(self.environment()?, model)?))
    }
}
