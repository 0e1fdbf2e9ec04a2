//! Post-training quantisation: a model of floats becomes one whose weights and tensors are codes of 8 bits, with the
//! ranges that samples have. The model is run by an engine that is handed in; what comes out is plain ONNX.

mod choose;
mod error;
mod fold;
mod npy;
mod ranges;
mod report;
mod rewrite;
mod samples;

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use moorline_core::{Engine, LoadedModel, ModelFiles, TensorData, Tensors, Value};
use prost::Message;
use tempfile::TempDir;

use self::{
    choose::Choice,
    ranges::Range,
    report::{Noise, agreeing, rounded},
    rewrite::{dequantized, rewrite},
};
pub use self::{
    error::QuantizeError,
    report::{ACCURACY_KEY, Accuracy, LayerAccuracy},
};
use crate::onnx::{
    Graph, Model, TensorId,
    proto::{StringEntry, TensorType, TypeKind, TypeProto, ValueInfo, element},
};

/// The oldest operator set with scales for each channel.
const LEAST_OPSET: i64 = 13;

/// How a range follows from the values of a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// All of them are within it.
    MinMax,
    /// This part of them is, in hundredths, at each end.
    Percentile(f32),
}

impl Method {
    const fn as_str(self) -> &'static str {
        match self {
            Self::MinMax => "minmax",
            Self::Percentile(_) => "percentile",
        }
    }
}

/// How a model is quantised.
#[derive(Clone, Copy, Debug)]
pub struct QuantizeOptions {
    pub method: Method,
    /// A scale for each output of a layer's weights, and not one for all.
    pub per_channel: bool,
    /// Of the engine.
    pub threads: usize,
}

/// A model that was quantised.
#[derive(Clone, Debug)]
pub struct Quantized {
    /// The ONNX file.
    pub model: Vec<u8>,
    pub accuracy: Accuracy,
}

/// What is being done, and how many of how many samples are behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub what: &'static str,
    pub done: usize,
    pub total: usize,
}

/// Quantises the model at `path` with the samples at `data`.
pub fn quantize(
    path: &Path,
    data: &Path,
    engine: &dyn Engine,
    options: &QuantizeOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Quantized, QuantizeError> {
    let mut model = Model::read(path)?;
    if model.opset < LEAST_OPSET {
        return Err(QuantizeError::Opset { version: model.opset });
    }
    let codes = |op: &str| matches!(op, "QuantizeLinear" | "QLinearConv" | "QLinearMatMul");
    if model.graph()?.node.iter().any(|node| codes(&node.op_type)) {
        return Err(QuantizeError::Already);
    }
    without_defaults(&mut model);
    fold::normalisations(&mut model)?;
    let graph = Graph::new(&model, 1)?;
    let choice = Choice::new(&graph);
    if choice.weighted.is_empty() {
        return Err(QuantizeError::Nothing);
    }
    let mut run = Runner { engine, threads: options.threads, samples: Vec::new(), progress };
    let names: Vec<String> = choice.tensors.iter().map(|&id| graph.tensor(id).name.clone()).collect();
    let floats = run.load(&model, &names, "float")?;
    run.samples = samples::read(data, floats.model.signature())?;
    let ranges = run.ranges(&*floats.model, &graph, &choice, options.method)?;
    let codes: HashMap<TensorId, ranges::Codes> =
        ranges.iter().map(|(&id, range)| (id, range.codes(options.method))).collect();
    let mut quantized = model.clone();
    rewrite(&mut quantized, &graph, &choice, &codes, options.per_channel);
    let taken: Vec<String> = names.iter().map(|name| dequantized(name)).collect();
    let integers = run.load(&quantized, &taken, "quantised")?;
    let accuracy = run.compare(&*floats.model, &*integers.model, &graph, &choice, options)?;
    let entry = StringEntry {
        key: ACCURACY_KEY.to_owned(),
        // Numbers, texts and lists of them: writing them as JSON cannot fail.
        value: serde_json::to_string(&accuracy).unwrap_or_default(),
    };
    quantized.proto.metadata.retain(|own| own.key != ACCURACY_KEY);
    quantized.proto.metadata.push(entry);
    Ok(Quantized { model: quantized.proto.encode_to_vec(), accuracy })
}

/// Older models list their weights among the inputs, of which some would have no value any more.
fn without_defaults(model: &mut Model) {
    let Some(graph) = model.proto.graph.as_mut() else { return };
    let held: HashSet<&str> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
    graph.input.retain(|input| !held.contains(input.name.as_str()));
    // From version 4 on, weights need be no inputs.
    model.proto.ir_version = model.proto.ir_version.map(|version| version.max(4));
}

/// What a model says of its own accuracy, if it was quantised by this.
pub fn accuracy(path: &Path) -> Result<Option<Accuracy>, QuantizeError> {
    Ok(accuracy_of(&Model::read(path)?))
}

/// The same of a model that was read; what is no report is none.
pub(crate) fn accuracy_of(model: &Model) -> Option<Accuracy> {
    let entry = model.proto.metadata.iter().find(|entry| entry.key == ACCURACY_KEY)?;
    serde_json::from_str(&entry.value).ok()
}

/// A model, and the file that its engine may read again.
struct Loaded {
    model: Arc<dyn LoadedModel>,
    _folder: TempDir,
}

/// Runs models over the samples.
struct Runner<'a> {
    engine: &'a dyn Engine,
    threads: usize,
    samples: Vec<Tensors>,
    progress: &'a mut dyn FnMut(Progress),
}

impl Runner<'_> {
    /// The model, with more outputs than it has.
    fn load(&self, model: &Model, more: &[String], what: &'static str) -> Result<Loaded, QuantizeError> {
        let mut proto = model.proto.clone();
        if let Some(graph) = proto.graph.as_mut() {
            let inputs: Vec<String> = graph.input.iter().map(|input| input.name.clone()).collect();
            let there: Vec<String> = graph.output.iter().map(|output| output.name.clone()).collect();
            let new = more.iter().filter(|name| !there.contains(name) && !inputs.contains(name));
            graph.output.extend(new.map(|name| {
                let tensor = TensorType { elem_type: Some(element::FLOAT), shape: None };
                let kind = TypeProto { value: Some(TypeKind::Tensor(tensor)) };
                ValueInfo { name: name.clone(), r#type: Some(kind) }
            }));
        }
        let io = |path: PathBuf| move |source| QuantizeError::Io { path, source };
        let folder = tempfile::tempdir().map_err(io(std::env::temp_dir()))?;
        let path = folder.path().join("model.onnx");
        fs_err::write(&path, proto.encode_to_vec()).map_err(io(path.clone()))?;
        let files = ModelFiles { path, threads: self.threads };
        let loaded = self.engine.load(&files);
        let model = loaded.map_err(|source| QuantizeError::Engine { what, source })?;
        Ok(Loaded { model, _folder: folder })
    }

    fn ranges(
        &mut self,
        model: &dyn LoadedModel,
        graph: &Graph,
        choice: &Choice,
        method: Method,
    ) -> Result<HashMap<TensorId, Range>, QuantizeError> {
        let failed = |source| QuantizeError::Engine { what: "float", source };
        let mut session = model.session().map_err(failed)?;
        let roots: Vec<TensorId> =
            choice.tensors.iter().copied().filter(|&id| choice.root(id) == id).collect();
        let mut ranges: HashMap<TensorId, Range> = HashMap::new();
        // What is counted needs to know between which bounds.
        let passes: &[&'static str] = match method {
            Method::MinMax => &["looking for the ranges"],
            Method::Percentile(_) => &["looking for the ranges", "counting what is in them"],
        };
        let total = self.samples.len();
        for (pass, what) in passes.iter().copied().enumerate() {
            for (done, sample) in self.samples.iter().enumerate() {
                (self.progress)(Progress { what, done, total });
                let outputs = session.run(sample.clone()).map_err(failed)?;
                for &id in &roots {
                    let name = &graph.tensor(id).name;
                    let values = numbers(sample, &outputs, name)?;
                    let range = ranges.entry(id).or_default();
                    if pass > 0 {
                        range.count(values);
                    } else if !range.widen(values) {
                        return Err(QuantizeError::NotFinite { tensor: name.clone() });
                    }
                }
            }
        }
        Ok(ranges)
    }

    fn compare(
        &mut self,
        floats: &dyn LoadedModel,
        integers: &dyn LoadedModel,
        graph: &Graph,
        choice: &Choice,
        options: &QuantizeOptions,
    ) -> Result<Accuracy, QuantizeError> {
        let failed = |what| move |source| QuantizeError::Engine { what, source };
        let mut wanted = floats.session().map_err(failed("float"))?;
        let mut found = integers.session().map_err(failed("quantised"))?;
        let results: Vec<&str> = graph.outputs.iter().map(|&id| graph.tensor(id).name.as_str()).collect();
        let names: Vec<(TensorId, String)> =
            choice.tensors.iter().map(|&id| (id, dequantized(&graph.tensor(id).name))).collect();
        let mut noises = vec![Noise::default(); names.len() + results.len()];
        let (mut all, mut same, mut max_error) = (0, 0, 0.0_f32);
        let total = self.samples.len();
        for (done, sample) in self.samples.iter().enumerate() {
            (self.progress)(Progress { what: "comparing", done, total });
            let wanted = wanted.run(sample.clone()).map_err(failed("float"))?;
            let found = found.run(sample.clone()).map_err(failed("quantised"))?;
            for ((id, name), noise) in names.iter().zip(&mut noises) {
                let values = numbers(sample, &wanted, &graph.tensor(*id).name)?;
                noise.add(values, numbers(sample, &found, name)?);
            }
            for (index, name) in results.iter().enumerate() {
                let Some((values, classes)) = floats_of(&wanted, name) else { continue };
                let others = numbers(sample, &found, name)?;
                noises[names.len() + index].add(values, others);
                let errors = values.iter().zip(others).map(|(one, other)| (one - other).abs());
                max_error = errors.fold(max_error, f32::max);
                if index == 0 && classes > 1 {
                    let (rows, agree) = agreeing(values, others, classes);
                    (all, same) = (all + rows, same + agree);
                }
            }
        }
        let op = |id: TensorId| graph.tensor(id).producer.map(|node| graph.nodes[node].proto.op_type.clone());
        let tensors = choice.tensors.iter().chain(&graph.outputs);
        let layers = tensors.zip(&noises).map(|(&id, noise)| LayerAccuracy {
            tensor: graph.tensor(id).name.clone(),
            op: op(id),
            snr_db: noise.snr_db(),
        });
        Ok(Accuracy {
            samples: total,
            agreement: (all > 0).then(|| rounded(same as f64 / all as f64, 1e6)),
            max_error,
            method: options.method.as_str().to_owned(),
            per_channel: options.per_channel,
            layers: layers.collect(),
        })
    }
}

/// The floats under a name among the outputs, or else among the inputs.
fn numbers<'a>(inputs: &'a Tensors, outputs: &'a Tensors, name: &str) -> Result<&'a [f32], QuantizeError> {
    let found = floats_of(outputs, name).or_else(|| floats_of(inputs, name));
    found.map(|(values, _)| values).ok_or_else(|| QuantizeError::Missing { tensor: name.to_owned() })
}

fn floats_of<'a>(tensors: &'a Tensors, name: &str) -> Option<(&'a [f32], usize)> {
    match tensors.get(name)? {
        Value::Tensor(tensor) => match tensor.data() {
            TensorData::F32(values) => Some((values, tensor.shape().last().copied().unwrap_or(1))),
            _ => None,
        },
        Value::Sequence(_) | Value::Maps(_) => None,
    }
}
