//! Why a model was not quantised.

use std::path::PathBuf;

use moorline_core::{EngineError, ErrorClass};
use thiserror::Error;

use crate::onnx::OnnxError;

/// A model or samples that nothing comes of. The source is never part of the text.
#[derive(Debug, Error)]
pub enum QuantizeError {
    #[error("could not understand the model")]
    Onnx(#[from] OnnxError),
    #[error("the engine did not run the {what} model")]
    Engine {
        what: &'static str,
        #[source]
        source: EngineError,
    },
    #[error("could not read or write `{}`", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("`{}` holds no samples: {reason}", path.display())]
    Samples { path: PathBuf, reason: String },
    #[error(
        "the model's operator set is version {version}, and scales for each channel need 13: convert it with `onnx.version_converter`"
    )]
    Opset { version: i64 },
    #[error("the model is quantised already: give the model of floats that it was made of")]
    Already,
    #[error(
        "nothing of the model can be quantised: it has no convolution and no product with a constant matrix"
    )]
    Nothing,
    #[error(
        "`{tensor}` was not a number in some sample: look at the model and at the samples' preprocessing"
    )]
    NotFinite { tensor: String },
    #[error("the engine gave no `{tensor}`: take another engine with `--engine`")]
    Missing { tensor: String },
}

impl QuantizeError {
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::Onnx(error) => error.class(),
            Self::Io { .. } => ErrorClass::Unavailable,
            _ => ErrorClass::InvalidInput,
        }
    }
}
