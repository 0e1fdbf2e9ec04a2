//! The engine `opencl`: a plan at load, islands on a leased device through its worker, and the rest through an engine on
//! the CPU that is handed in.

mod model;
mod rows;
mod session;

pub(crate) use self::rows::rows;

use std::{error::Error, path::Path, sync::Arc};

use moorline_core::{Engine, EngineError, ErrorClass, LoadedModel, ModelFiles};

use self::model::{Parts, Step};
pub(crate) use self::{model::PlannedModel, session::StepTime};
use crate::{
    plan::{Island, Plan, PlanOptions},
    worker::{Executor, WorkerError},
};

/// As in settings, errors and labels.
const NAME: &str = "opencl";

/// Executes models on a device and, as far as its bitstream does not go, on the CPU.
#[derive(Debug)]
pub struct OpenClEngine {
    executor: Arc<Executor>,
    host: Arc<dyn Engine>,
    options: PlanOptions,
}

impl OpenClEngine {
    /// `host` runs what the device does not. Without a bound of memory in `options`, that of the device holds.
    pub fn new(executor: Arc<Executor>, host: Arc<dyn Engine>, mut options: PlanOptions) -> Self {
        options.device_memory.get_or_insert(executor.device().memory);
        Self { executor, host, options }
    }

    fn step(&self, island: &Island, threads: usize, path: &Path) -> Result<Step, EngineError> {
        match island {
            Island::Device { lowered, inputs, outputs } => {
                let program = Arc::new(lowered.program.clone());
                let program = self
                    .executor
                    .load(program, lowered.constants.as_slice().into())
                    .map_err(|error| load_error(path, "the device did not take its part", error))?;
                Ok(Step::Device {
                    program,
                    inputs: inputs.iter().map(|value| value.id).collect(),
                    outputs: outputs.clone(),
                })
            }
            Island::Host { model, inputs, outputs } => {
                let failed = |error| load_error(path, "the part for the CPU could not be written", error);
                let folder = tempfile::tempdir().map_err(failed)?;
                let part = folder.path().join("part.onnx");
                fs_err::write(&part, model).map_err(failed)?;
                let model = self.host.load(&ModelFiles { path: part, threads }).map_err(|error| {
                    load_error(path, "the engine on the CPU did not take its part", error)
                })?;
                Ok(Step::Host { model, inputs: inputs.clone(), outputs: outputs.clone(), _folder: folder })
            }
        }
    }
}

impl Engine for OpenClEngine {
    fn name(&self) -> &'static str {
        NAME
    }

    /// The device is leased already; what may be missing is the engine beside it.
    fn check(&self) -> Result<(), EngineError> {
        self.host.check()
    }

    fn load(&self, model: &ModelFiles) -> Result<Arc<dyn LoadedModel>, EngineError> {
        Ok(Arc::new(self.place(model)?))
    }
}

impl OpenClEngine {
    pub(crate) fn executor(&self) -> &Executor {
        &self.executor
    }

    /// Plans a model and loads its parts.
    pub(crate) fn place(&self, model: &ModelFiles) -> Result<PlannedModel, EngineError> {
        self.check()?;
        let plan = Plan::new(&model.path, self.executor.bitstream().manifest(), &self.options)
            .map_err(|error| load_error(&model.path, "it could not be planned", error))?;
        let mut parts = Parts::new(&plan, Arc::clone(&self.executor));
        for island in &plan.islands {
            // What was loaded before is given back where a later part fails.
            parts.steps.push(self.step(island, model.threads, &model.path)?);
        }
        if let Some(metrics) = self.executor.metrics() {
            let name = model.path.file_name().unwrap_or_default().to_string_lossy();
            metrics.set_coverage(self.executor.device().class, &name, plan.report().coverage);
        }
        Ok(PlannedModel(Arc::new(parts)))
    }
}

pub(crate) fn load_error(path: &Path, what: &str, error: impl Error + Send + Sync + 'static) -> EngineError {
    let reason = format!("{what}: {}", chain(&error));
    EngineError::Load { engine: NAME, path: path.to_owned(), reason, source: Some(Box::new(error)) }
}

/// A device that is gone for the moment is not the model's fault.
pub(crate) fn run_error(error: &WorkerError) -> EngineError {
    let reason = chain(error);
    match error.class() {
        ErrorClass::Unavailable | ErrorClass::Timeout => EngineError::Missing { engine: NAME, reason },
        _ => EngineError::Run { engine: NAME, reason },
    }
}

/// An error with everything that caused it, since an engine's reason is all that its caller shows.
fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |error| (*error).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
