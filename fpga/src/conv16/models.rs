//! The models of the golden tests: small, and together they call a kernel of each kind.

use prost::{Message as _, bytes::Bytes};

use crate::{
    onnx::proto::{
        AttributeProto, Dimension, DimensionValue, GraphProto, ModelProto, NodeProto, OperatorSet,
        TensorProto, TensorShape, TensorType, TypeKind, TypeProto, ValueInfo, element,
    },
    plan::Numerics,
};

use super::{
    codes,
    reference::{Map, Numbers, dense, weights_in_blocks},
};

/// A model, and the values of its inputs and outputs.
pub(super) struct Model {
    pub(super) name: &'static str,
    pub(super) onnx: Vec<u8>,
    pub(super) values: Vec<(String, Vec<f32>)>,
    /// The contract that it is planned for; nothing for what the model itself asks.
    pub(super) numerics: Option<Numerics>,
}

pub(super) fn all() -> [Model; 4] {
    [residual(), depthwise(), codes::model(), shared_exponents()]
}

/// An image through convolutions with a residual between them, a pool, a mean and a dense layer.
fn residual() -> Model {
    let mut numbers = Numbers::new(1);
    let image = Map { values: numbers.take(3 * 12 * 12), channels: 3, side: 12 };
    let (stem, stem_bias) = (numbers.take(32 * 3 * 9), numbers.take(32));
    let (conv, conv_bias) = (numbers.take(32 * 32 * 9), numbers.take(32));
    let (head, head_bias) = (numbers.take(10 * 32), numbers.take(10));
    let relu = |value: f32| if value < 0.0 { 0.0 } else { value };

    let first = image.conv(&stem, &stem_bias, false).map(relu);
    let second = first.conv(&conv, &conv_bias, false).zip(&first, |a, b| a + b).map(relu);
    let pooled = second.max_pool();
    let scores = dense(&pooled.average_pool(6).values, &head, &head_bias);

    let mut graph = Graph::default();
    graph.input("image", &[1, 3, 12, 12]);
    graph.constant("stem", &[32, 3, 3, 3], &stem);
    graph.constant("stem_bias", &[32], &stem_bias);
    graph.constant("conv", &[32, 32, 3, 3], &conv);
    graph.constant("conv_bias", &[32], &conv_bias);
    graph.constant("head", &[10, 32], &head);
    graph.constant("head_bias", &[10], &head_bias);
    graph.node("Conv", &["image", "stem", "stem_bias"], "a", &[("pads", &[1, 1, 1, 1])]);
    graph.node("Relu", &["a"], "first", &[]);
    graph.node("Conv", &["first", "conv", "conv_bias"], "b", &[("pads", &[1, 1, 1, 1])]);
    graph.node("Add", &["b", "first"], "c", &[]);
    graph.node("Relu", &["c"], "second", &[]);
    graph.node("MaxPool", &["second"], "pooled", &[("kernel_shape", &[2, 2]), ("strides", &[2, 2])]);
    graph.node("GlobalAveragePool", &["pooled"], "mean", &[]);
    graph.node("Flatten", &["mean"], "flat", &[]);
    graph.node("Gemm", &["flat", "head", "head_bias"], "scores", &[("transB", &[1])]);
    graph.output("pooled", &[1, 32, 6, 6]);
    graph.output("scores", &[1, 10]);
    let values = [("image", image.values), ("pooled", pooled.values), ("scores", scores)];
    graph.model("residual", values.into())
}

/// A depthwise convolution, and what is computed element by element.
fn depthwise() -> Model {
    let mut numbers = Numbers::new(2);
    let input = Map { values: numbers.take(24 * 8 * 8), channels: 24, side: 8 };
    let (conv, bias) = (numbers.take(24 * 9), numbers.take(24));

    let clipped = input.conv(&conv, &bias, true).map(|value| value.clamp(-0.5, 0.75));
    let product = clipped.zip(&input, |a, b| a * b);
    // The second map begins within a block of channels.
    let joined = product.concat(&input).average_pool(2);

    let mut graph = Graph::default();
    graph.input("input", &[1, 24, 8, 8]);
    graph.constant("conv", &[24, 1, 3, 3], &conv);
    graph.constant("bias", &[24], &bias);
    graph.constant("low", &[], &[-0.5]);
    graph.constant("high", &[], &[0.75]);
    graph.node("Conv", &["input", "conv", "bias"], "a", &[("pads", &[1, 1, 1, 1]), ("group", &[24])]);
    graph.node("Clip", &["a", "low", "high"], "clipped", &[]);
    graph.node("Mul", &["clipped", "input"], "product", &[]);
    graph.node("Concat", &["product", "input"], "both", &[("axis", &[1])]);
    graph.node("AveragePool", &["both"], "joined", &[("kernel_shape", &[2, 2]), ("strides", &[2, 2])]);
    graph.output("joined", &[1, 48, 4, 4]);
    graph.model("depthwise", [("input", input.values), ("joined", joined.values)].into())
}

/// A convolution of operands that share exponents.
fn shared_exponents() -> Model {
    let mut numbers = Numbers::new(4);
    let input = Map { values: numbers.take(20 * 8 * 8), channels: 20, side: 8 };
    let (conv, bias) = (numbers.take(16 * 20 * 9), numbers.take(16));
    let result = input.in_blocks(64).conv(&weights_in_blocks(&conv, 20, 9), &bias, false);

    let mut graph = Graph::default();
    graph.input("input", &[1, 20, 8, 8]);
    graph.constant("conv", &[16, 20, 3, 3], &conv);
    graph.constant("bias", &[16], &bias);
    graph.node("Conv", &["input", "conv", "bias"], "result", &[("pads", &[1, 1, 1, 1])]);
    graph.output("result", &[1, 16, 8, 8]);
    let values = [("input", input.values), ("result", result.values)];
    Model { numerics: Some(Numerics::Bfp9), ..graph.model("shared-exponents", values.into()) }
}

/// A graph that is being written.
#[derive(Default)]
pub(super) struct Graph(GraphProto);

/// Attributes that are one number in ONNX, and not a list of them.
const SINGLE: [&str; 3] = ["axis", "group", "transB"];

impl Graph {
    pub(super) fn input(&mut self, name: &str, shape: &[i64]) {
        self.0.input.push(value(name, shape));
    }

    pub(super) fn output(&mut self, name: &str, shape: &[i64]) {
        self.0.output.push(value(name, shape));
    }

    pub(super) fn constant(&mut self, name: &str, shape: &[i64], values: &[f32]) {
        let raw = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.raw(name, element::FLOAT, shape, raw);
    }

    pub(super) fn bytes(&mut self, name: &str, shape: &[i64], values: &[u8]) {
        self.raw(name, element::U8, shape, values.to_vec());
    }

    pub(super) fn signed_bytes(&mut self, name: &str, shape: &[i64], values: &[i8]) {
        self.raw(name, element::I8, shape, values.iter().map(|value| value.cast_unsigned()).collect());
    }

    pub(super) fn ints(&mut self, name: &str, values: &[i32]) {
        let raw = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.raw(name, element::INT32, &[values.len() as i64], raw);
    }

    fn raw(&mut self, name: &str, data_type: i32, shape: &[i64], raw: Vec<u8>) {
        self.0.initializer.push(TensorProto {
            dims: shape.to_vec(),
            data_type: Some(data_type),
            name: name.to_owned(),
            raw_data: Some(Bytes::from(raw)),
            ..TensorProto::default()
        });
    }

    pub(super) fn node(&mut self, op: &str, inputs: &[&str], output: &str, attributes: &[(&str, &[i64])]) {
        const INT: i32 = 2;
        const INTS: i32 = 7;
        let attribute = |(name, values): &(&str, &[i64])| {
            let single = SINGLE.contains(name);
            AttributeProto {
                name: (*name).to_owned(),
                i: if single { values.first().copied() } else { None },
                ints: if single { Vec::new() } else { values.to_vec() },
                r#type: Some(if single { INT } else { INTS }),
                ..AttributeProto::default()
            }
        };
        self.0.node.push(NodeProto {
            input: inputs.iter().map(|input| (*input).to_owned()).collect(),
            output: vec![output.to_owned()],
            name: format!("{op}_{output}"),
            op_type: op.to_owned(),
            attribute: attributes.iter().map(attribute).collect(),
            ..NodeProto::default()
        });
    }

    pub(super) fn model(mut self, name: &'static str, values: Vec<(&str, Vec<f32>)>) -> Model {
        name.clone_into(&mut self.0.name);
        let model = ModelProto {
            ir_version: Some(8),
            graph: Some(self.0),
            opset_import: vec![OperatorSet { domain: String::new(), version: 13 }],
            ..ModelProto::default()
        };
        let values = values.into_iter().map(|(name, values)| (name.to_owned(), values)).collect();
        Model { name, onnx: model.encode_to_vec(), values, numerics: None }
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
