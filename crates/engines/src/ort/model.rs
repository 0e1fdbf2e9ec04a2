//! A model loaded by ONNX Runtime.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use moorline_core::{EngineError, LoadedModel, ModelFiles, Session, Signature};
use ort::{
    environment::Environment,
    session::{Session as RawSession, builder::GraphOptimizationLevel},
};

use super::{NAME, header, session::OrtSession, signature};
use crate::{
    files::{check_model_file, load_error, load_error_from},
    guard::guarded,
};

/// What sessions are made of. ONNX Runtime reads a model only into a session, so the session that `load` needs for
/// the signature is kept for the first caller.
#[derive(Debug)]
pub(super) struct OrtModel {
    environment: Environment,
    path: PathBuf,
    threads: usize,
    signature: Arc<Signature>,
    first: Mutex<Option<RawSession>>,
}

impl OrtModel {
    pub(super) fn load(environment: &Environment, model: &ModelFiles) -> Result<Self, EngineError> {
        check_model_file(NAME, &model.path)?;
        let session = open(environment, model)?;
        // A file that is not protobuf (ONNX Runtime has a format of its own) has no header, and needs none.
        let header = header::read(&model.path).ok();
        let signature = guarded(|| signature::read(&session, header.as_ref()))
            .and_then(|result| result)
            .map_err(|reason| load_error(NAME, &model.path, reason))?;
        Ok(Self {
            environment: environment.clone(),
            path: model.path.clone(),
            threads: model.threads,
            signature: Arc::new(signature),
            first: Mutex::new(Some(session)),
        })
    }
}

impl LoadedModel for OrtModel {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn session(&self) -> Result<Box<dyn Session>, EngineError> {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        let session = match first {
            Some(session) => session,
            None => open(&self.environment, &ModelFiles { path: self.path.clone(), threads: self.threads })?,
        };
        Ok(Box::new(OrtSession::new(session, Arc::clone(&self.signature))))
    }
}

/// Reads the model into a new session.
///
/// With one thread ONNX Runtime starts none of its own: the caller's thread does the work, and nothing spins while
/// it waits. Weights are kept outside the arena, whose blocks grow by doubling.
///
/// Every session has its own copy of the weights. ONNX Runtime shares prepacked weights between sessions only for
/// initializers that the caller hands over as values, so that we would have to read every model's weights ourselves,
/// in all the forms that the format has. Fewer sessions with more threads are the way to save memory.
fn open(environment: &Environment, model: &ModelFiles) -> Result<RawSession, EngineError> {
    guarded(|| {
        RawSession::builder(environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_parallel_execution(false)?
            .with_inter_threads(1)?
            .with_intra_threads(model.threads.max(1))?
            .with_config_entry("session.use_device_allocator_for_initializers", "1")?
            .commit_from_file(&model.path)
    })
    .map_err(|reason| load_error(NAME, &model.path, reason))?
    .map_err(|error| {
        let reason = error.message().to_owned();
        load_error_from(NAME, &model.path, reason, error)
    })
}
