//! One thread's scratch for running plans.

use std::{collections::VecDeque, sync::Arc};

use moorline_core::{DataType, EngineError, Session, Tensors, Value};
use tract_onnx::prelude::{IntoTValue, TValue, TVec, TypedSimplePlan, TypedSimpleState};

use super::{
    NAME,
    model::{PlanKey, Shared, text},
    source::Finish,
    values,
};
use crate::guard::guarded;

/// Exact plans whose scratch a session keeps.
const MOST_STATES: usize = 4;

pub(super) struct TractSession {
    shared: Arc<Shared>,
    any: Option<Scratch>,
    /// Most recently used first.
    exact: VecDeque<(PlanKey, Scratch)>,
}

/// A plan with its state, which is made anew where it must not be used again.
struct Scratch {
    plan: Arc<TypedSimplePlan>,
    state: Option<TypedSimpleState>,
}

impl Scratch {
    const fn new(plan: Arc<TypedSimplePlan>) -> Self {
        Self { plan, state: None }
    }

    fn run(&mut self, inputs: TVec<TValue>) -> Result<TVec<TValue>, String> {
        let plan = &self.plan;
        // Out of `self` while it runs: after an error or a panic it is lost, half done as it is.
        let state = self.state.take();
        let (outputs, state) = guarded(|| {
            let mut state = match state {
                Some(state) => state,
                None => spawn(plan)?,
            };
            state.run(inputs).map(|outputs| (outputs, state)).map_err(|error| text(&error))
        })??;
        // The operators of recurrent networks carry their state into the next run, which is another request.
        self.state = Some(state).filter(|state| state.op_states.iter().all(Option::is_none));
        Ok(outputs)
    }
}

impl TractSession {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let any = shared.any.clone().map(Scratch::new);
        Self { shared, any, exact: VecDeque::new() }
    }

    /// Runs the plan for any sizes; where there is none, or it fails, the one for these sizes.
    fn run_plans(&mut self, with_optional: bool, inputs: TVec<TValue>) -> Result<TVec<TValue>, String> {
        let key =
            || PlanKey { with_optional, shapes: inputs.iter().map(|input| input.shape().to_vec()).collect() };
        let any = self.any.as_mut().filter(|_| !with_optional);
        let (key, failure) = match any {
            Some(any) if self.exact.is_empty() => {
                if !self.shared.is_dynamic() {
                    return any.run(inputs);
                }
                match any.run(inputs.clone()) {
                    Ok(outputs) => return Ok(outputs),
                    Err(failure) => (key(), Some(failure)),
                }
            }
            Some(any) => {
                let key = key();
                if self.exact.iter().any(|(known, _)| *known == key) {
                    (key, None)
                } else {
                    match any.run(inputs.clone()) {
                        Ok(outputs) => return Ok(outputs),
                        Err(failure) => (key, Some(failure)),
                    }
                }
            }
            None => (key(), None),
        };
        // What the exact plan says of an input that both refuse is clearer, as there are no symbols in it.
        self.run_exact(key, inputs).map_err(|(reason, planned)| match failure {
            Some(failure) if !planned => failure,
            _ => reason,
        })
    }

    /// Runs the plan for exact sizes. An error says whether there was such a plan.
    fn run_exact(&mut self, key: PlanKey, inputs: TVec<TValue>) -> Result<TVec<TValue>, (String, bool)> {
        let known = self.exact.iter().position(|(known, _)| *known == key);
        let known = known.and_then(|position| self.exact.remove(position));
        let mut entry = if let Some(entry) = known {
            entry
        } else {
            let plan = self.shared.exact(&key).map_err(|reason| (reason, false))?;
            (key, Scratch::new(plan))
        };
        let result = entry.1.run(inputs).map_err(|reason| (reason, true));
        // A plan that failed says nothing for its sizes over the plan for any.
        if result.is_ok() || self.any.is_none() {
            self.exact.push_front(entry);
            self.exact.truncate(MOST_STATES);
        }
        result
    }
}

impl Session for TractSession {
    fn run(&mut self, inputs: Tensors) -> Result<Tensors, EngineError> {
        self.shared.signature.check_inputs(&inputs).map_err(EngineError::Input)?;
        let failed = |reason: String| EngineError::Run { engine: NAME, reason };
        let shared = Arc::clone(&self.shared);
        let specs = &shared.signature.inputs;
        let mut given: Vec<Option<TValue>> = vec![None; specs.len()];
        for (name, value) in inputs {
            let (Some(index), Value::Tensor(tensor)) =
                (specs.iter().position(|spec| spec.name == name), value)
            else {
                return Err(failed(format!("input `{name}` is not a tensor")));
            };
            let tensor = values::give(tensor).ok_or_else(|| failed(format!("input `{name}` is bf16")))?;
            given[index] = Some(tensor.map_err(|error| failed(text(&error)))?.into_tvalue());
        }
        let with_optional = specs.iter().zip(&given).any(|(spec, value)| spec.optional && value.is_some());
        let mut defaults = shared.defaults.iter();
        let inputs: TVec<TValue> = specs
            .iter()
            .zip(given)
            .filter_map(|(spec, value)| {
                let default = if spec.optional { defaults.next() } else { None };
                match value {
                    None if with_optional => default.map(|default| default.clone().into_tvalue()),
                    value => value,
                }
            })
            .collect();
        let outputs = self.run_plans(with_optional, inputs).map_err(failed)?;
        shared
            .signature
            .outputs
            .iter()
            .zip(&shared.finishes)
            .zip(outputs)
            .map(|((spec, finish), output)| {
                let value = finished(spec.data_type, finish, &output);
                value
                    .map(|value| (Arc::clone(&spec.name), value))
                    .map_err(|reason| failed(format!("output `{}` {reason}", spec.name)))
            })
            .collect()
    }
}

/// A fresh state.
///
/// tract guesses a scenario from every symbol of a plan, and fails where a rewrite made the symbol in a scope of its
/// own that is gone by then (`Slice` with computed bounds). Models from ONNX have no scenarios, so that any number is
/// the right one.
fn spawn(plan: &Arc<TypedSimplePlan>) -> Result<TypedSimpleState, String> {
    let mut state = plan.spawn().map_err(|error| text(&error))?;
    state.turn_state.scenario = Some(0);
    Ok(state)
}

/// An output as the outside knows it.
fn finished(data_type: DataType, finish: &Finish, output: &TValue) -> Result<Value, String> {
    match finish {
        Finish::Nothing => values::take(data_type, output).map(Value::Tensor),
        Finish::Labels(labels) => {
            values::take(DataType::I64, output).and_then(|tensor| labels.apply(tensor)).map(Value::Tensor)
        }
        Finish::ZipMap(zip_map) => {
            values::take(data_type, output).and_then(|tensor| zip_map.apply(tensor)).map(Value::Maps)
        }
    }
}
