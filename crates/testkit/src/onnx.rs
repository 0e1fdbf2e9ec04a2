//! The contract of an engine that runs ONNX, beyond the seam's own: data types, shapes, kinds of values, bad files.

use std::{path::Path, sync::Arc};

use moorline_core::{
    DataType, Engine, EngineError, LoadedModel, ModelFiles, Tensor, TensorData, Tensors, Value,
};

use crate::{
    fixture, onnx_models,
    tensors::{named, numbers, numbers_of, same},
};

/// What an engine is known not to run. It must refuse that when it loads a model, and say what it is.
#[derive(Clone, Copy, Debug)]
pub struct OnnxSupport {
    pub data_types_missing: &'static [DataType],
    /// Sequences of tensors as outputs.
    pub sequences: bool,
    /// Inputs of type `optional(…)`.
    pub optional_types: bool,
}

/// Holds the engines that `make` makes to the ONNX contract, over the fixtures.
pub fn onnx_conformance(make: impl Fn() -> Arc<dyn Engine>, support: OnnxSupport) {
    let engine = make();
    let subject = Subject { engine: &*engine };
    every_data_type_comes_back(&subject, support);
    onnx_models::run_as_known(&subject, support);
    bad_files_say_why(&subject);
    a_failing_run_leaves_the_session_usable(&subject);
}

/// The engine under test, with what tests do all the time.
pub(crate) struct Subject<'a> {
    engine: &'a dyn Engine,
}

impl Subject<'_> {
    pub(crate) fn load(&self, name: &str) -> Arc<dyn LoadedModel> {
        self.try_load(&fixture(name)).unwrap_or_else(|error| panic!("{name} loads: {error}"))
    }

    fn try_load(&self, path: &Path) -> Result<Arc<dyn LoadedModel>, EngineError> {
        self.engine.load(&ModelFiles { path: path.to_owned(), threads: 1 })
    }

    pub(crate) fn run(&self, name: &str, inputs: Tensors) -> Tensors {
        let mut session =
            self.load(name).session().unwrap_or_else(|error| panic!("{name} has sessions: {error}"));
        session.run(inputs).unwrap_or_else(|error| panic!("{name} runs: {error}"))
    }

    /// Asserts that `name` is refused when it is loaded, and that the error speaks of `what`.
    pub(crate) fn refuses(&self, name: &str, what: &str) {
        self.refuses_file(&fixture(name), what);
    }

    fn refuses_file(&self, path: &Path, what: &str) {
        match self.try_load(path) {
            Err(error @ EngineError::Load { .. }) => {
                let text = error.to_string();
                assert!(text.contains(&path.display().to_string()), "the error names the file: {text}");
                assert!(text.contains(what), "the error speaks of `{what}`: {text}");
            }
            other => panic!("{} is refused, not {other:?}", path.display()),
        }
    }
}

fn every_data_type_comes_back(subject: &Subject<'_>, support: OnnxSupport) {
    for data_type in DataType::ALL {
        let name = format!("identity_{}.onnx", data_type.oip_name().to_lowercase());
        if support.data_types_missing.contains(&data_type) {
            subject.refuses(&name, "data type");
            continue;
        }
        let model = subject.load(&name);
        assert_eq!(model.signature().inputs[0].data_type, data_type, "{name}");
        assert_eq!(model.signature().outputs[0].data_type, data_type, "{name}");
        let mut session = model.session().unwrap_or_else(|error| panic!("{name} has sessions: {error}"));
        let empty = numbers(&[0, 2], TensorData::with_capacity(data_type, 0));
        for tensor in [numbers(&[2, 2], samples(data_type)), empty, numbers(&[4, 1], samples(data_type))] {
            let shape = tensor.shape().to_vec();
            match session.run(named([("x", tensor.clone())])) {
                Ok(outputs) => assert_tensor(&outputs, "y", &tensor),
                // Some engines have no tensors without elements; they say so.
                Err(EngineError::Run { .. } | EngineError::Input(_)) if shape[0] == 0 => {}
                Err(error) => panic!("{name} runs for shape {shape:?}: {error}"),
            }
        }
    }
}

/// Four elements at the ends of what the type holds.
fn samples(data_type: DataType) -> TensorData {
    use half::{bf16, f16};
    macro_rules! integers {
        ($type:ty) => {
            vec![<$type>::MIN, <$type>::MAX, 0, 1].into()
        };
    }
    macro_rules! reals {
        ($type:ty) => {
            vec![<$type>::MIN, <$type>::NAN, <$type>::INFINITY, <$type>::MIN_POSITIVE].into()
        };
    }
    match data_type {
        DataType::Bool => vec![true, false, false, true].into(),
        DataType::U8 => integers!(u8),
        DataType::U16 => integers!(u16),
        DataType::U32 => integers!(u32),
        DataType::U64 => integers!(u64),
        DataType::I8 => integers!(i8),
        DataType::I16 => integers!(i16),
        DataType::I32 => integers!(i32),
        DataType::I64 => integers!(i64),
        DataType::F16 => reals!(f16),
        DataType::Bf16 => reals!(bf16),
        DataType::F32 => reals!(f32),
        DataType::F64 => reals!(f64),
        DataType::String => ["", "plain", "grün 🌲", "line\nbreak"].map(str::to_owned).to_vec().into(),
    }
}

/// Asserts that output `name` is `expected` to the bit.
pub(crate) fn assert_tensor(outputs: &Tensors, name: &str, expected: &Tensor) {
    match outputs.get(name) {
        Some(Value::Tensor(tensor)) => {
            assert!(same(tensor, expected), "`{name}` is {tensor:?}, not {expected:?}");
        }
        other => panic!("`{name}` is {other:?}, not a tensor"),
    }
}

fn bad_files_say_why(subject: &Subject<'_>) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        fs_err::write(&path, content).expect("a temporary file");
        path
    };
    subject.refuses_file(&folder.path().join("missing.onnx"), "no such file");
    subject.refuses_file(folder.path(), "folder");
    subject.refuses_file(&file("empty.onnx", b""), "empty");
    subject.refuses_file(&file("text.onnx", b"this is no model, however long it gets"), "");
    subject.refuses_file(&file("noise.onnx", &[0xff; 4096]), "");
    let classifier = fs_err::read(fixture("classifier_10.onnx")).expect("a fixture");
    for length in [1, classifier.len() / 3, classifier.len() - 1] {
        subject.refuses_file(&file("cut.onnx", &classifier[..length]), "");
    }
    let alone = fs_err::read(fixture("external_data.onnx")).expect("a fixture");
    subject.refuses_file(&file("alone.onnx", &alone), "external_data.bin");
    subject.refuses("unknown_operator.onnx", "Frobnicate");
}

fn a_failing_run_leaves_the_session_usable(subject: &Subject<'_>) {
    let model = subject.load("lookup.onnx");
    let mut session = model.session().expect("lookup.onnx has sessions");
    let index = |index: i64| named([("index", numbers(&[1], vec![index]))]);
    for _ in 0..3 {
        match session.run(index(99)) {
            Err(EngineError::Input(reason) | EngineError::Run { reason, .. }) => assert!(!reason.is_empty()),
            other => panic!("an index beyond the table is an error, not {other:?}"),
        }
        let outputs = session.run(index(2)).expect("the session stays usable");
        assert_eq!(numbers_of(&outputs, "y"), [30.0]);
    }
}
