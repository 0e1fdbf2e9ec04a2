//! What a device can do at most with the kernels of its bitstream, measured on it: multiplications and additions by a
//! convolution whose shape suits the kernels, bytes by an operation that reads each element once and writes it. On
//! hardware no other kernels can be loaded than those that will run, so their best is what there is to reach.

use moorline_core::EngineError;
use prost::{Message as _, bytes::Bytes};
use serde::Serialize;

use crate::{
    engine::{load_error, run_error},
    onnx::proto::{
        AttributeProto, Dimension, DimensionValue, GraphProto, ModelProto, NodeProto, OperatorSet,
        TensorProto, TensorShape, TensorType, TypeKind, TypeProto, ValueInfo, element,
    },
    plan::{Costs, Plan, PlanOptions},
    program::Launch,
    runtime::Span,
    worker::Executor,
};

/// The best of so many runs.
const RUNS: usize = 5;

/// The most that was seen of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Ceilings {
    /// Thousand millions of multiplications and additions a second; nothing where the bitstream has no convolution.
    pub gflops: Option<f64>,
    /// Thousand millions of bytes a second, read and written, of more memory than processors have caches; nothing where the
    /// bitstream has no `Relu`.
    pub gbytes: Option<f64>,
}

impl Ceilings {
    pub(super) fn measure(executor: &Executor) -> Result<Self, EngineError> {
        // 128 channels of 56 x 56: each weight is used often, and there is a lot of them.
        let product = model("Conv", 128, 56);
        // 64 MiB in and 64 MiB out, unless that is much for the device.
        let side = if executor.device().memory >= 4 << 30 { 512 } else { 128 };
        let copy = model("Relu", 64, side);
        Ok(Self {
            gflops: best(executor, &product, |launch| launch.operations)?,
            gbytes: best(executor, &copy, |launch| launch.bytes)?,
        })
    }
}

/// What `of` counts, in thousand millions a second of the launch that does most of it.
fn best(
    executor: &Executor,
    model: &ModelProto,
    of: impl Fn(&Launch) -> u64,
) -> Result<Option<f64>, EngineError> {
    let unwritten = |error| load_error("ceiling.onnx".as_ref(), "it could not be written", error);
    let folder = tempfile::tempdir().map_err(unwritten)?;
    let path = folder.path().join("ceiling.onnx");
    fs_err::write(&path, model.encode_to_vec()).map_err(unwritten)?;
    let options = PlanOptions { costs: Costs::NOTHING, ..PlanOptions::default() };
    let plan = Plan::new(&path, executor.bitstream().manifest(), &options)
        .map_err(|error| load_error(&path, "it could not be planned", error))?;
    let Some(lowered) = plan.device_islands().next() else { return Ok(None) };
    let refused = |error| run_error(&error);
    let program = executor
        .load(lowered.program.clone().into(), lowered.constants.as_slice().into())
        .map_err(refused)?;
    let inputs = vec![0; lowered.program.inputs.iter().map(|port| port.bytes as usize).sum()];
    let mut best: Option<f64> = None;
    for _ in 0..RUNS {
        let (_, profile) = executor.profile(program, &inputs).map_err(refused)?;
        for (launch, span) in lowered.program.launches.iter().zip(&profile.launches) {
            if let Some(rate) = rate(of(launch), span) {
                best = Some(best.map_or(rate, |best| best.max(rate)));
            }
        }
    }
    executor.unload(program).map_err(refused)?;
    Ok(best)
}

/// Thousand millions a second.
fn rate(count: u64, span: &Span) -> Option<f64> {
    let nanos = span.end.saturating_sub(span.start);
    (count > 0 && nanos > 0).then(|| count as f64 / nanos as f64)
}

/// One node from `x` to `y`, which have as many channels.
fn model(op: &str, channels: i64, side: i64) -> ModelProto {
    let shape = [1, channels, side, side];
    let mut node = NodeProto {
        input: vec!["x".to_owned()],
        output: vec!["y".to_owned()],
        name: op.to_owned(),
        op_type: op.to_owned(),
        ..NodeProto::default()
    };
    let mut graph = GraphProto {
        name: "ceiling".to_owned(),
        input: vec![value("x", &shape)],
        output: vec![value("y", &shape)],
        ..GraphProto::default()
    };
    if op == "Conv" {
        const INTS: i32 = 7;
        node.input.push("w".to_owned());
        node.attribute.push(AttributeProto {
            name: "pads".to_owned(),
            ints: vec![1; 4],
            r#type: Some(INTS),
            ..AttributeProto::default()
        });
        graph.initializer.push(TensorProto {
            dims: vec![channels, channels, 3, 3],
            data_type: Some(element::FLOAT),
            name: "w".to_owned(),
            raw_data: Some(Bytes::from(vec![0; (4 * channels * channels * 9) as usize])),
            ..TensorProto::default()
        });
    }
    graph.node.push(node);
    ModelProto {
        ir_version: Some(8),
        graph: Some(graph),
        opset_import: vec![OperatorSet { domain: String::new(), version: 13 }],
        ..ModelProto::default()
    }
}

fn value(name: &str, shape: &[i64]) -> ValueInfo {
    let dim = |size: &i64| Dimension { value: Some(DimensionValue::Fixed(*size)) };
    let tensor = TensorType {
        elem_type: Some(element::FLOAT),
        shape: Some(TensorShape { dim: shape.iter().map(dim).collect() }),
    };
    ValueInfo { name: name.to_owned(), r#type: Some(TypeProto { value: Some(TypeKind::Tensor(tensor)) }) }
}
