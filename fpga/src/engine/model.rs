//! A model whose parts are on the device and in the engine on the CPU.

use std::sync::Arc;

use moorline_core::{Dim, EngineError, LoadedModel, Session, Signature, TensorSpec, ValueKind};
use tempfile::TempDir;

use super::session::PlannedSession;
use crate::{
    onnx::{Batch, TensorId},
    plan::{Plan, Value},
    worker::{Executor, ProgramId},
};

/// One island, ready to be run.
#[derive(Debug)]
pub(super) enum Step {
    Device {
        program: ProgramId,
        inputs: Vec<TensorId>,
        outputs: Vec<Value>,
    },
    Host {
        model: Arc<dyn LoadedModel>,
        inputs: Vec<TensorId>,
        outputs: Vec<(TensorId, String)>,
        /// The engine may read its file again.
        _folder: TempDir,
    },
}

/// Everything that sessions need, which outlive the model that they are of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) steps: Vec<Step>,
    pub(super) signature: Signature,
    pub(super) inputs: Vec<TensorId>,
    pub(super) outputs: Vec<TensorId>,
    /// The rows of one run, where the model leaves them open.
    pub(super) rows: Option<usize>,
    pub(super) executor: Arc<Executor>,
}

impl Parts {
    pub(super) fn new(plan: &Plan, executor: Arc<Executor>) -> Self {
        let spec = |value: &Value| {
            let mut shape: Vec<Dim> = value.shape.iter().map(|&size| Dim::Fixed(size)).collect();
            if let (Batch::Open { name }, Some(first)) = (&plan.batch, shape.first_mut()) {
                *first = Dim::Dynamic(name.as_deref().map(Into::into));
            }
            TensorSpec {
                name: value.name.as_str().into(),
                data_type: value.data_type,
                shape: Some(shape),
                kind: ValueKind::Tensor,
                optional: false,
            }
        };
        let signature = Signature {
            inputs: plan.inputs.iter().map(spec).collect(),
            outputs: plan.outputs.iter().map(spec).collect(),
        };
        Self {
            steps: Vec::new(),
            signature,
            inputs: plan.inputs.iter().map(|value| value.id).collect(),
            outputs: plan.outputs.iter().map(|value| value.id).collect(),
            rows: (plan.batch != Batch::Fixed).then_some(plan.rows),
            executor,
        }
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        for step in &self.steps {
            let Step::Device { program, .. } = step else { continue };
            if let Err(error) = self.executor.unload(*program) {
                tracing::debug!(%error, "a program was not taken off the device");
            }
        }
    }
}

/// A model that was planned and loaded.
#[derive(Debug)]
pub(crate) struct PlannedModel(pub(super) Arc<Parts>);

impl PlannedModel {
    /// A session that remembers when each part ran.
    pub(crate) fn recording(&self) -> Result<PlannedSession, EngineError> {
        PlannedSession::new(Arc::clone(&self.0), true)
    }
}

impl LoadedModel for PlannedModel {
    fn signature(&self) -> &Signature {
        &self.0.signature
    }

    fn session(&self) -> Result<Box<dyn Session>, EngineError> {
        Ok(Box::new(PlannedSession::new(Arc::clone(&self.0), false)?))
    }
}
