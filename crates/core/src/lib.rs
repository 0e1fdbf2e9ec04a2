//! The interface crate: what every other crate of Moorline agrees on.
//!
//! It owns the nouns (tensors, signatures, releases), the seams ([`Engine`] and its ladder, [`Script`]) and the
//! closed set of error classes. It does no I/O, starts no thread, knows no runtime and no HTTP, and depends on
//! nothing else of ours, so that implementations can depend on it and never on one another.

mod batch;
mod batcher;
mod digest;
mod engine;
mod error;
mod release;
mod script;
mod signature;
mod tensor;

pub use batch::{BatchError, split, stack};
pub use batcher::{Batcher, Item, Take};
pub use digest::{Digest, DigestError};
pub use engine::{Engine, EngineError, LoadedModel, ModelFiles, Session};
pub use error::ErrorClass;
pub use release::{
    BatchSettings, EngineName, EngineSettings, FileEntry, ModelType, Name, NameError, Release, ReleaseCode,
    ReleaseEnvironment, ReleaseError, ReleaseModel, RequestSettings,
};
pub use script::{Script, ScriptCall, ScriptError, ScriptInfo, ScriptReply, ScriptRoute, ScriptStyle};
pub use signature::{Dim, Signature, TensorSpec, ValueKind};
pub use tensor::{DataType, MapKeys, Maps, Tensor, TensorData, TensorError, Tensors, Value};
