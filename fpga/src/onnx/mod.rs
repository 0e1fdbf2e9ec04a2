//! ONNX files: read within bounds, understood as far as a plan needs it, and cut into smaller models for the CPU.

mod constant;
mod error;
mod infer;
mod infer_shape;
pub(crate) mod proto;
mod read;
mod submodel;

pub(crate) use constant::Constant;
pub use error::OnnxError;
pub(crate) use infer::{Batch, Graph, Node, TensorId};
pub(crate) use infer_shape::Window;
pub(crate) use read::Model;
pub(crate) use submodel::submodel;
