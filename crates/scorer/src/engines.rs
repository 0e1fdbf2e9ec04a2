//! Choosing the engine: one `match`, nothing registered.

use std::{path::PathBuf, sync::Arc};

use moorline_core::{Engine, EngineError, EngineName};
use moorline_engines::TractEngine;
#[cfg(feature = "ort")]
use moorline_engines::{OrtEngine, OrtSearch};

use crate::settings::{EngineChoice, Environment};

impl From<EngineName> for EngineChoice {
    fn from(name: EngineName) -> Self {
        match name {
            EngineName::Ort => Self::Ort,
            EngineName::Tract => Self::Tract,
        }
    }
}

/// The engine that `choice` stands for on this machine.
pub(crate) fn choose(
    choice: EngineChoice,
    environment: &Environment,
    python: Option<PathBuf>,
) -> Result<Arc<dyn Engine>, EngineError> {
    match choice {
        EngineChoice::Tract => Ok(Arc::new(TractEngine::new())),
        EngineChoice::Ort => {
            let engine = ort(environment, python);
            engine.check()?;
            Ok(engine)
        }
        EngineChoice::Auto => {
            let engine = ort(environment, python);
            match engine.check() {
                Ok(()) => Ok(engine),
                Err(reason) => {
                    tracing::info!(
                        %reason,
                        "engine tract is used; for the faster engine install ONNX Runtime (pip install onnxruntime) or \
                         set ORT_DYLIB_PATH to its libonnxruntime.so"
                    );
                    Ok(Arc::new(TractEngine::new()))
                }
            }
        }
    }
}

#[cfg(feature = "ort")]
fn ort(environment: &Environment, python: Option<PathBuf>) -> Arc<dyn Engine> {
    let binary_dir = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.to_owned()));
    Arc::new(OrtEngine::new(OrtSearch { dylib_path: environment.path("ORT_DYLIB_PATH"), binary_dir, python }))
}

/// A build without the feature says so where the engine would be.
#[cfg(not(feature = "ort"))]
fn ort(_environment: &Environment, _python: Option<PathBuf>) -> Arc<dyn Engine> {
    #[derive(Debug)]
    struct Absent;
    impl Absent {
        fn error() -> EngineError {
            EngineError::Missing { engine: "ort", reason: "this build is without it".to_owned() }
        }
    }
    impl Engine for Absent {
        fn name(&self) -> &'static str {
            "ort"
        }
        fn check(&self) -> Result<(), EngineError> {
            Err(Self::error())
        }
        fn load(
            &self,
            _: &moorline_core::ModelFiles,
        ) -> Result<Arc<dyn moorline_core::LoadedModel>, EngineError> {
            Err(Self::error())
        }
    }
    Arc::new(Absent)
}
