//! An engine that doubles numbers, with knobs for what goes wrong in real ones.

use std::{
    fmt,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::Duration,
};

use moorline_core::{
    DataType, Dim, Engine, EngineError, LoadedModel, ModelFiles, Session, Signature, Tensor, TensorData,
    TensorSpec, Tensors, Value, ValueKind,
};

const NAME: &str = "fake";

/// Doubles numbers: output *i* is twice input *i* (booleans and strings are given back as they are).
///
/// Without further ado it is the model of `double.onnx`: `y = x + x`, FP32 `[batch, 3]`, whatever the file says.
#[derive(Clone, Debug)]
pub struct FakeEngine {
    signature: Signature,
    behaviour: Arc<Behaviour>,
}

#[derive(Clone, Debug, Default)]
struct Behaviour {
    delay: Duration,
    gate: Option<Gate>,
    fail_on: Option<f32>,
    panic_on: Option<f32>,
    unavailable: Option<String>,
    runs: FakeRuns,
}

/// The runs of a fake engine, in all its sessions.
#[derive(Clone, Default)]
pub struct FakeRuns(Arc<Mutex<Vec<usize>>>);

impl FakeRuns {
    /// The rows of each run so far, in the order in which the runs began; a scalar counts as one row.
    pub fn rows(&self) -> Vec<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn record(&self, rows: usize) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(rows);
    }
}

impl fmt::Debug for FakeRuns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FakeRuns").field(&self.rows()).finish()
    }
}

/// Holds runs until it is opened, so that a test decides when they end without sleeping.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// A closed gate.
    pub fn closed() -> Self {
        Self::default()
    }

    /// Lets through all who wait and all who come.
    pub fn open(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let open = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.0.1.wait_while(open, |open| !*open);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gate")
    }
}

impl Default for FakeEngine {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeEngine {
    pub fn new() -> Self {
        let spec = |name: &str| TensorSpec {
            name: name.into(),
            data_type: DataType::F32,
            shape: Some(vec![Dim::Dynamic(Some("batch".into())), Dim::Fixed(3)]),
            kind: ValueKind::Tensor,
            optional: false,
        };
        Self::with_signature(Signature { inputs: vec![spec("x")], outputs: vec![spec("y")] })
    }

    /// Of another signature; it must have as many outputs as inputs, all of them tensors, none optional.
    pub fn with_signature(signature: Signature) -> Self {
        assert_eq!(signature.inputs.len(), signature.outputs.len(), "a fake model doubles each input");
        Self { signature, behaviour: Arc::default() }
    }

    /// Every run takes this long.
    pub fn delay(self, delay: Duration) -> Self {
        self.change(|behaviour| behaviour.delay = delay)
    }

    /// Every run waits for this gate.
    pub fn gate(self, gate: Gate) -> Self {
        self.change(|behaviour| behaviour.gate = Some(gate))
    }

    /// A run whose inputs hold this FP32 number fails.
    pub fn fail_on(self, number: f32) -> Self {
        self.change(|behaviour| behaviour.fail_on = Some(number))
    }

    /// A run whose inputs hold this FP32 number panics, which no engine of ours does.
    pub fn panic_on(self, number: f32) -> Self {
        self.change(|behaviour| behaviour.panic_on = Some(number))
    }

    /// This machine cannot run it.
    pub fn unavailable(self, reason: &str) -> Self {
        self.change(|behaviour| behaviour.unavailable = Some(reason.to_owned()))
    }

    /// The runs of all sessions.
    pub fn runs(&self) -> FakeRuns {
        self.behaviour.runs.clone()
    }

    fn change(mut self, change: impl FnOnce(&mut Behaviour)) -> Self {
        change(Arc::make_mut(&mut self.behaviour));
        self
    }
}

impl Engine for FakeEngine {
    fn name(&self) -> &'static str {
        NAME
    }

    fn check(&self) -> Result<(), EngineError> {
        match &self.behaviour.unavailable {
            None => Ok(()),
            Some(reason) => Err(EngineError::Missing { engine: NAME, reason: reason.clone() }),
        }
    }

    fn load(&self, model: &ModelFiles) -> Result<Arc<dyn LoadedModel>, EngineError> {
        self.check()?;
        if model.path.is_file() {
            return Ok(Arc::new(self.clone()));
        }
        let reason = "there is no such file".to_owned();
        Err(EngineError::Load { engine: NAME, path: model.path.clone(), reason, source: None })
    }
}

/// The engine is its own model: there is nothing to load.
impl LoadedModel for FakeEngine {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn session(&self) -> Result<Box<dyn Session>, EngineError> {
        Ok(Box::new(FakeSession { engine: self.clone() }))
    }
}

struct FakeSession {
    engine: FakeEngine,
}

impl Session for FakeSession {
    fn run(&mut self, inputs: Tensors) -> Result<Tensors, EngineError> {
        let FakeEngine { signature, behaviour } = &self.engine;
        signature.check_inputs(&inputs).map_err(EngineError::Input)?;
        behaviour.runs.record(inputs.iter().next().map_or(0, |(_, value)| rows(value)));
        if let Some(gate) = &behaviour.gate {
            gate.pass();
        }
        if !behaviour.delay.is_zero() {
            thread::sleep(behaviour.delay);
        }
        let holds = |number: Option<f32>| {
            number.is_some_and(|number| inputs.iter().any(|(_, value)| has(value, number)))
        };
        assert!(!holds(behaviour.panic_on), "the fake was told to panic");
        if holds(behaviour.fail_on) {
            return Err(EngineError::Run { engine: NAME, reason: "the fake was told to fail".to_owned() });
        }
        signature
            .inputs
            .iter()
            .zip(&signature.outputs)
            .map(|(input, output)| match inputs.get(&input.name) {
                Some(Value::Tensor(tensor)) => Ok((output.name.clone(), double(tensor.clone()).into())),
                _ => Err(EngineError::Input(format!("input `{}` is not a tensor", input.name))),
            })
            .collect()
    }
}

fn rows(value: &Value) -> usize {
    match value {
        Value::Tensor(tensor) => tensor.shape().first().copied().unwrap_or(1),
        Value::Sequence(_) | Value::Maps(_) => 1,
    }
}

fn has(value: &Value, number: f32) -> bool {
    match value {
        Value::Tensor(tensor) => {
            matches!(tensor.data(), TensorData::F32(elements) if elements.contains(&number))
        }
        Value::Sequence(_) | Value::Maps(_) => false,
    }
}

fn double(tensor: Tensor) -> Tensor {
    let (shape, mut data) = tensor.into_parts();
    macro_rules! double {
        (integers $($integer:ident)*; floats $($float:ident)*) => {
            match &mut data {
                TensorData::Bool(_) | TensorData::String(_) => {}
                $(TensorData::$integer(elements) => {
                    for element in elements {
                        *element = element.wrapping_mul(2);
                    }
                })*
                $(TensorData::$float(elements) => {
                    for element in elements {
                        *element = *element + *element;
                    }
                })*
            }
        };
    }
    double!(integers U8 U16 U32 U64 I8 I16 I32 I64; floats F16 Bf16 F32 F64);
    Tensor::new(shape, data).expect("doubling changes no shape")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{engine_conformance, fixture, missing_engine_conformance, named, numbers, numbers_of};

    fn session(engine: &FakeEngine) -> Box<dyn Session> {
        let files = ModelFiles { path: fixture("double.onnx"), threads: 1 };
        engine.load(&files).unwrap().session().unwrap()
    }

    fn row(number: f32) -> Tensors {
        named([("x", numbers(&[1, 3], vec![number; 3]))])
    }

    #[test]
    fn the_fake_keeps_the_contract() {
        engine_conformance(|| Arc::new(FakeEngine::new()));
        missing_engine_conformance(&FakeEngine::new().unavailable("there is no such device"));
    }

    #[test]
    fn a_failure_that_was_asked_for_leaves_the_session_usable() {
        let mut session = session(&FakeEngine::new().fail_on(13.0));
        assert!(matches!(session.run(row(13.0)), Err(EngineError::Run { .. })));
        assert_eq!(numbers_of(&session.run(row(1.0)).unwrap(), "y"), [2.0; 3]);
    }

    #[test]
    fn a_closed_gate_holds_a_run_and_runs_are_counted() {
        let gate = Gate::closed();
        let engine = FakeEngine::new().gate(gate.clone());
        let mut session = session(&engine);
        let worker = thread::spawn(move || session.run(row(1.0)).map(|_| ()));
        while engine.runs().rows().is_empty() {
            thread::yield_now();
        }
        assert!(!worker.is_finished());
        gate.open();
        worker.join().unwrap().unwrap();
        assert_eq!(engine.runs().rows(), [1]);
    }
}
