//! The interface crate: what every other crate of Moorline agrees on.
//!
//! It owns the nouns (tensors, signatures, releases, deployments), the seams ([`Engine`] and its ladder, [`Script`],
//! [`Target`]) and the closed set of error classes. It does no I/O, starts no thread, knows no runtime and no HTTP, and
//! depends on nothing else of ours, so that implementations can depend on it and never on one another.

mod backoff;
mod batch;
mod batcher;
mod collection;
mod correlation;
mod deployment;
mod digest;
mod engine;
mod environment;
mod error;
mod golden;
mod image;
mod release;
mod script;
mod secret;
mod signature;
mod target;
mod tensor;

pub use backoff::Backoff;
pub use batch::{BatchError, split, stack};
pub use batcher::{Batcher, Item, Take};
pub use collection::{CollectionSettings, MODEL_INPUTS, MODEL_OUTPUTS, REQUEST, RESPONSE, RollingRate};
pub use correlation::{is_of_request, trace_id};
pub use deployment::{
    Below, DeploymentId, Desired, Failure, MachineDevices, ModelImage, Observation, Phase, PinnedBitstream,
    Placement, Probe, Replica, ReplicaAddress, ReplicaState, Resources, Scale, Scheduling, Source,
    TargetKind, Toleration, Variable,
};
pub use digest::{Digest, DigestError};
pub use engine::{Engine, EngineError, LoadedModel, ModelFiles, Session};
pub use environment::{BuildContext, Environment, InferenceConfig, Route};
pub use error::ErrorClass;
pub use golden::Golden;
pub use image::{ColorOrder, ImageInput, ImageLayout, Resize};
pub use release::{
    BatchSettings, EngineName, EngineSettings, FileEntry, ModelType, Name, NameError, Release, ReleaseCode,
    ReleaseEnvironment, ReleaseError, ReleaseModel, RequestSettings,
};
pub use script::{Script, ScriptCall, ScriptError, ScriptInfo, ScriptReply, ScriptRoute, ScriptStyle};
pub use secret::Secret;
pub use signature::{Dim, Signature, TensorSpec, ValueKind};
pub use target::{LogOptions, LogStream, Manifest, Target, TargetError};
pub use tensor::{DataType, MapKeys, Maps, Tensor, TensorData, TensorError, Tensors, Value};
