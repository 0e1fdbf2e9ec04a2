//! One thread's way through the islands of a model.

use std::{borrow::Cow, collections::HashMap, sync::Arc, time::Instant};

use bytemuck::{cast_slice, cast_slice_mut};
use moorline_core::{DataType, EngineError, Session, Tensor, TensorData, Tensors, Value};

use super::{
    NAME,
    model::{Parts, Step},
    rows::{joined, rows},
    run_error,
};
use crate::{onnx::TensorId, plan::Value as Edge, program::Program, runtime::Profile};

pub(crate) struct PlannedSession {
    parts: Arc<Parts>,
    /// Those of the steps on the CPU, in their order.
    hosts: Vec<Box<dyn Session>>,
    /// When each step ran, where somebody wants to know.
    steps: Option<Vec<StepTime>>,
}

/// When a part of a model ran.
#[derive(Debug)]
pub(crate) struct StepTime {
    pub(crate) island: usize,
    pub(crate) from: Instant,
    pub(crate) to: Instant,
    /// What was launched when, on the device's clock; nothing of a part on the CPU.
    pub(crate) device: Option<(Arc<Program>, Profile)>,
}

impl PlannedSession {
    pub(super) fn new(parts: Arc<Parts>, record: bool) -> Result<Self, EngineError> {
        let hosts = parts.steps.iter().filter_map(|step| match step {
            Step::Host { model, .. } => Some(model.session()),
            Step::Device { .. } => None,
        });
        let hosts = hosts.collect::<Result<_, _>>()?;
        Ok(Self { parts, hosts, steps: record.then(Vec::new) })
    }

    /// What was recorded since this was last called.
    pub(crate) fn take_steps(&mut self) -> Vec<StepTime> {
        self.steps.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// One run of the plan: as many rows as it was made for.
    fn run_once(&mut self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, EngineError> {
        let mut values: HashMap<TensorId, Tensor> = self.parts.inputs.iter().copied().zip(inputs).collect();
        let mut hosts = self.hosts.iter_mut();
        for (island, step) in self.parts.steps.iter().enumerate() {
            let from = Instant::now();
            let mut device = None;
            match step {
                Step::Device { program, inputs, outputs } => {
                    let mut given: Vec<&[u8]> = Vec::with_capacity(inputs.len());
                    for id in inputs {
                        match values.get(id).map(Tensor::data) {
                            Some(TensorData::F32(floats)) => given.push(cast_slice(floats)),
                            Some(TensorData::U8(codes)) => given.push(codes),
                            Some(TensorData::I8(codes)) => given.push(cast_slice(codes)),
                            _ => return Err(broken("an island's input is not there")),
                        }
                    }
                    // One input is not copied.
                    let bytes = match &given[..] {
                        [one] => Cow::Borrowed(*one),
                        more => Cow::Owned(more.concat()),
                    };
                    let executor = &self.parts.executor;
                    let results = if self.steps.is_some() {
                        let (results, profile) =
                            executor.profile(*program, &bytes).map_err(|error| run_error(&error))?;
                        device = executor.program(*program).map(|program| (program, profile));
                        results
                    } else {
                        executor.run(*program, &bytes).map_err(|error| run_error(&error))?
                    };
                    for (value, bytes) in outputs.iter().zip(results) {
                        values.insert(value.id, tensor_of(value, bytes)?);
                    }
                }
                Step::Host { model, inputs, outputs, .. } => {
                    let host = hosts.next().ok_or_else(|| broken("a part has no session"))?;
                    let mut given = Tensors::with_capacity(inputs.len());
                    for (spec, id) in model.signature().inputs.iter().zip(inputs) {
                        let tensor = values.get(id).cloned();
                        given.push(
                            Arc::clone(&spec.name),
                            tensor.ok_or_else(|| broken("a part's input is not there"))?,
                        );
                    }
                    for (name, value) in host.run(given)? {
                        let id = outputs.iter().find(|(_, own)| **own == *name).map(|(id, _)| *id);
                        if let (Some(id), Value::Tensor(tensor)) = (id, value) {
                            values.insert(id, tensor);
                        }
                    }
                }
            }
            if let Some(steps) = &mut self.steps {
                steps.push(StepTime { island, from, to: Instant::now(), device });
            }
        }
        let output =
            |id: &TensorId| values.get(id).cloned().ok_or_else(|| broken("an output is not a tensor"));
        self.parts.outputs.iter().map(output).collect()
    }

    /// A request with any number of rows: runs one after the other.
    fn run_rows(&mut self, inputs: &[Tensor], step: usize) -> Result<Vec<Tensor>, EngineError> {
        let count = inputs.first().and_then(|input| input.shape().first()).copied().unwrap_or(0);
        if inputs.iter().any(|input| input.shape().first() != Some(&count)) {
            return Err(EngineError::Input("the inputs have different numbers of rows".to_owned()));
        }
        let mut parts: Vec<Vec<Tensor>> = vec![Vec::new(); self.parts.outputs.len()];
        for first in (0..count).step_by(step) {
            let some: Option<Vec<Tensor>> = inputs.iter().map(|input| rows(input, first, step)).collect();
            let some = some.ok_or_else(|| broken("its rows could not be told apart"))?;
            for (parts, part) in parts.iter_mut().zip(self.run_once(some)?) {
                parts.push(part);
            }
        }
        let specs = self.parts.signature.outputs.clone();
        let join = |(parts, spec): (Vec<Tensor>, &moorline_core::TensorSpec)| {
            let mut shape: Vec<usize> = spec
                .shape
                .iter()
                .flatten()
                .map(|dim| match dim {
                    moorline_core::Dim::Fixed(size) => *size,
                    moorline_core::Dim::Dynamic(_) => 0,
                })
                .collect();
            if let Some(first) = shape.first_mut() {
                *first = 0;
            }
            let empty = Tensor::new(shape, TensorData::with_capacity(spec.data_type, 0)).ok()?;
            joined(parts, empty, count)
        };
        let outputs: Option<Vec<Tensor>> = parts.into_iter().zip(&specs).map(join).collect();
        outputs.ok_or_else(|| broken("its rows could not be joined"))
    }
}

impl Session for PlannedSession {
    fn run(&mut self, inputs: Tensors) -> Result<Tensors, EngineError> {
        let parts = Arc::clone(&self.parts);
        parts.signature.check_inputs(&inputs).map_err(EngineError::Input)?;
        let mut given: HashMap<Arc<str>, Value> = inputs.into_iter().collect();
        let mut ordered = Vec::with_capacity(given.len());
        for spec in &parts.signature.inputs {
            match given.remove(&spec.name) {
                Some(Value::Tensor(tensor)) => ordered.push(tensor),
                _ => return Err(EngineError::Input(format!("input `{}` is missing", spec.name))),
            }
        }
        let outputs = match parts.rows {
            Some(step) => self.run_rows(&ordered, step)?,
            None => self.run_once(ordered)?,
        };
        let named = parts.signature.outputs.iter().zip(outputs);
        Ok(named.map(|(spec, tensor)| (Arc::clone(&spec.name), tensor.into())).collect())
    }
}

/// What a plan excludes.
fn broken(what: &str) -> EngineError {
    EngineError::Run { engine: NAME, reason: what.to_owned() }
}

/// What the device wrote for a value.
fn tensor_of(value: &Edge, bytes: Vec<u8>) -> Result<Tensor, EngineError> {
    let data: TensorData = match value.data_type {
        DataType::U8 => bytes.into(),
        DataType::I8 => cast_slice::<u8, i8>(&bytes).to_vec().into(),
        _ => {
            let mut floats = vec![0.0_f32; value.shape.iter().product()];
            if 4 * floats.len() != bytes.len() {
                return Err(broken("the device gave too much or too little"));
            }
            cast_slice_mut(&mut floats).copy_from_slice(&bytes);
            floats.into()
        }
    };
    Tensor::new(value.shape.clone(), data).map_err(|error| broken(&error.to_string()))
}
