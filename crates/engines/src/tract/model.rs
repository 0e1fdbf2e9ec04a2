//! A model loaded by tract, and the plans that its sessions share.

use std::{
    collections::VecDeque,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use moorline_core::{DataType, Dim, EngineError, LoadedModel, Session, Signature, TensorSpec};
use tract_onnx::{
    Onnx,
    prelude::{Tensor as RawTensor, TypedSimplePlan},
    tensor::load_tensor,
};

use super::{
    NAME,
    plan::{Blueprint, Sizes},
    session::TractSession,
    source::{self, Finish, Source},
};
use crate::{
    files::load_error,
    guard::{guarded, shortened},
};

/// Plans for exact sizes that are kept, which bounds what a client can make us remember by sending ever new shapes.
const MOST_EXACT_PLANS: usize = 8;

/// What an exact plan is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PlanKey {
    /// Whether the plan takes the optional inputs too.
    pub(super) with_optional: bool,
    /// The shapes of the inputs that it takes, in the order of the graph.
    pub(super) shapes: Vec<Vec<usize>>,
}

type Planned = Result<Arc<TypedSimplePlan>, String>;

/// What the sessions of a model share.
pub(super) struct Shared {
    path: PathBuf,
    onnx: Onnx,
    pub(super) signature: Signature,
    pub(super) finishes: Vec<Finish>,
    /// The defaults of the optional inputs, in the order of the signature's optional inputs.
    pub(super) defaults: Vec<RawTensor>,
    /// The plan for any sizes, without optional inputs; `None` when tract needs exact sizes.
    pub(super) any: Option<Arc<TypedSimplePlan>>,
    /// Most recently used first. Failures are kept too, so that one is not paid for twice.
    exact: Mutex<VecDeque<(PlanKey, Planned)>>,
}

/// The loaded model.
#[derive(Debug)]
pub(super) struct TractModel(Arc<Shared>);

impl TractModel {
    pub(super) fn load(path: &Path) -> Result<Self, EngineError> {
        guarded(|| Shared::load(path))
            .unwrap_or_else(|reason| Err(load_error(NAME, path, reason)))
            .map(|shared| Self(Arc::new(shared)))
    }
}

impl LoadedModel for TractModel {
    fn signature(&self) -> &Signature {
        &self.0.signature
    }

    fn session(&self) -> Result<Box<dyn Session>, EngineError> {
        Ok(Box::new(TractSession::new(Arc::clone(&self.0))))
    }
}

impl Shared {
    fn load(path: &Path) -> Result<Self, EngineError> {
        let onnx = tract_onnx::onnx();
        let Source { proto, signature, finishes } = source::read(&onnx, path)?;
        let refuse = |error: tract_onnx::prelude::TractError| load_error(NAME, path, text(&error));
        let optional = || signature.inputs.iter().filter(|spec| spec.optional);
        let initializers = proto.graph.iter().flat_map(|graph| &graph.initializer);
        let defaults = optional()
            .filter_map(|spec| initializers.clone().find(|initializer| initializer.name == *spec.name))
            .map(|initializer| load_tensor(&*onnx.provider, initializer, source::folder(path)))
            .collect::<Result<_, _>>()
            .map_err(refuse)?;
        let required: Vec<&TensorSpec> = signature.inputs.iter().filter(|spec| !spec.optional).collect();
        let blueprint = Blueprint {
            onnx: &onnx,
            proto: &proto,
            folder: source::folder(path),
            inputs: &required,
            outputs: &output_types(&signature),
        };
        // A panic is one more way in which a plan cannot be made.
        let any = guarded(|| blueprint.plan(Sizes::Any).map_err(|error| text(&error))).and_then(|plan| plan);
        if any.is_err() {
            blueprint.check().map_err(refuse)?;
        }
        let any = match any {
            Ok(plan) => Some(plan),
            // Without dynamic sizes there is nothing that a later attempt could know better.
            Err(reason) if !required.iter().any(|spec| is_dynamic(spec)) => {
                return Err(load_error(NAME, path, reason));
            }
            Err(reason) => {
                tracing::debug!(model = %path.display(), reason, "tract plans this model for each shape anew");
                None
            }
        };
        Ok(Self { path: path.to_owned(), onnx, signature, finishes, defaults, any, exact: Mutex::default() })
    }

    /// Whether another plan than the one for any sizes could exist.
    pub(super) fn is_dynamic(&self) -> bool {
        self.signature.inputs.iter().any(is_dynamic)
    }

    /// The plan for exact sizes, made when it is not known. Other sessions that need a new plan wait meanwhile, so
    /// that one shape is never planned twice.
    pub(super) fn exact(&self, key: &PlanKey) -> Planned {
        let mut plans = self.exact.lock().unwrap_or_else(PoisonError::into_inner);
        let known =
            plans.iter().position(|(known, _)| known == key).and_then(|position| plans.remove(position));
        let (key, planned) = known.unwrap_or_else(|| (key.clone(), self.make_exact(key)));
        plans.push_front((key, planned.clone()));
        plans.truncate(MOST_EXACT_PLANS);
        planned
    }

    /// The file is read again: most models never need this, and would keep their weights twice for it.
    fn make_exact(&self, key: &PlanKey) -> Planned {
        guarded(|| {
            let mut source = source::read(&self.onnx, &self.path).map_err(|error| error.to_string())?;
            let inputs: Vec<&TensorSpec> =
                self.signature.inputs.iter().filter(|spec| key.with_optional || !spec.optional).collect();
            if let Some(graph) = source.proto.graph.as_mut().filter(|_| key.with_optional) {
                // Without its initializer an optional input is an input like any other.
                graph
                    .initializer
                    .retain(|initializer| !inputs.iter().any(|spec| *spec.name == initializer.name));
            }
            let blueprint = Blueprint {
                onnx: &self.onnx,
                proto: &source.proto,
                folder: source::folder(&self.path),
                inputs: &inputs,
                outputs: &output_types(&self.signature),
            };
            blueprint.plan(Sizes::Exact(&key.shapes)).map_err(|error| text(&error))
        })
        .and_then(|planned| planned)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("path", &self.path)
            .field("signature", &self.signature)
            .finish_non_exhaustive()
    }
}

fn output_types(signature: &Signature) -> Vec<DataType> {
    signature.outputs.iter().map(|spec| spec.data_type).collect()
}

fn is_dynamic(spec: &TensorSpec) -> bool {
    spec.shape.as_ref().is_none_or(|shape| shape.iter().any(|dim| matches!(dim, Dim::Dynamic(_))))
}

/// An error of tract with its causes, in a length that can be shown.
pub(super) fn text(error: &tract_onnx::prelude::TractError) -> String {
    shortened(format!("{error:#}"))
}
