//! What can be wrong with a model as a file.

use std::path::PathBuf;

use moorline_core::ErrorClass;
use thiserror::Error;

/// A model that cannot be read. The source is never part of the text.
#[derive(Debug, Error)]
pub enum OnnxError {
    #[error("could not read `{}`", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("`{}` is larger than {limit} bytes: keep its weights beside it as external data", path.display())]
    TooLarge { path: PathBuf, limit: u64 },
    #[error("`{}` is not an ONNX model: export it again, or check that the whole file was copied", path.display())]
    Protobuf {
        path: PathBuf,
        #[source]
        source: prost::DecodeError,
    },
    #[error("the model has no graph: export it again")]
    NoGraph,
    #[error(
        "the model's operator set is version {version}, and {least} to {most} are understood: convert it with `onnx.version_converter`"
    )]
    Opset { version: i64, least: i64, most: i64 },
    #[error("the model imports no version of ONNX's own operator set: export it again")]
    NoOpset,
    #[error("the model has {count} nodes, and at most {limit} are taken")]
    TooManyNodes { count: usize, limit: usize },
    #[error(
        "node `{node}` takes `{tensor}`, which no earlier node and no input gives: check the model with `onnx.checker`"
    )]
    Dangling { node: String, tensor: String },
    #[error("tensor `{tensor}` is given twice: check the model with `onnx.checker`")]
    Duplicate { tensor: String },
    #[error("initializer `{tensor}` is malformed: {reason}")]
    Initializer { tensor: String, reason: String },
    #[error("could not read the external data of initializer `{tensor}` in `{}`: copy it with the model", path.display())]
    External {
        tensor: String,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("tensor `{tensor}` has shape {shape:?}, which is more than any memory holds: check the model")]
    Shape { tensor: String, shape: Vec<usize> },
    #[error("input `{input}` is not a tensor, and only tensors can be planned: run this model on the CPU")]
    NotATensor { input: String },
    #[error(
        "input `{input}` has a dimension `{dimension}` that is not fixed: only the first may be; export the model with fixed sizes"
    )]
    DynamicDimension { input: String, dimension: String },
    #[error(
        "the model's batch is not fixed, and `{tensor}` does not follow it: export the model with a fixed batch"
    )]
    Batch { tensor: String },
}

impl OnnxError {
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::Io { .. } | Self::External { .. } => ErrorClass::Unavailable,
            _ => ErrorClass::InvalidInput,
        }
    }
}
