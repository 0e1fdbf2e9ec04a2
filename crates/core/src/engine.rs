//! The engine seam: engine → loaded model → session. A session cannot exist before its model, nor a model before
//! its engine. Everything here is synchronous; whoever serves requests owns the threads.

use std::{error::Error, fmt::Debug, path::PathBuf, sync::Arc};

use thiserror::Error;

use crate::{error::ErrorClass, signature::Signature, tensor::Tensors};

/// A model on disk and how its sessions may use the machine.
#[derive(Clone, Debug)]
pub struct ModelFiles {
    /// The ONNX file; its external data lies beside it.
    pub path: PathBuf,
    /// Threads inside one run (intra-op). One is best for throughput with many sessions, all cores for latency.
    pub threads: usize,
}

/// A way of executing models.
pub trait Engine: Debug + Send + Sync {
    /// `ort`, `tract` or `opencl`.
    fn name(&self) -> &'static str;

    /// Whether this machine can run it; if not, the error says what is missing. Cheap after the first call.
    fn check(&self) -> Result<(), EngineError>;

    /// Reads and prepares a model. Fails with the reason of [`Engine::check`] where that fails. Called once per model.
    fn load(&self, model: &ModelFiles) -> Result<Arc<dyn LoadedModel>, EngineError>;
}

/// A model that is ready to be run, shared by its sessions.
pub trait LoadedModel: Debug + Send + Sync {
    fn signature(&self) -> &Signature;

    /// A new session. Called once per engine thread, possibly from several threads at once.
    fn session(&self) -> Result<Box<dyn Session>, EngineError>;
}

/// One thread's scratch. It is never used on an async runtime, since a run may take long.
pub trait Session: Send {
    /// Runs the model once. Inputs that do not fit the signature are [`EngineError::Input`], and an error of any kind
    /// leaves the session usable. Outputs come in the order of the signature.
    fn run(&mut self, inputs: Tensors) -> Result<Tensors, EngineError>;
}

/// What can go wrong in an engine. The source is never part of the text.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The engine cannot run on this machine.
    #[error("engine `{engine}` is not available: {reason}")]
    Missing { engine: &'static str, reason: String },
    /// The model cannot be loaded.
    #[error("could not load `{}` with engine `{engine}`: {reason}", path.display())]
    Load {
        engine: &'static str,
        path: PathBuf,
        reason: String,
        #[source]
        source: Option<Box<dyn Error + Send + Sync>>,
    },
    /// The inputs do not fit the model.
    #[error("{0}")]
    Input(String),
    /// The run failed although the inputs fit the signature.
    #[error("engine `{engine}` could not run the model: {reason}")]
    Run { engine: &'static str, reason: String },
}

impl EngineError {
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::Missing { .. } | Self::Load { .. } => ErrorClass::Unavailable,
            Self::Input(_) => ErrorClass::InvalidInput,
            Self::Run { .. } => ErrorClass::Script,
        }
    }
}
