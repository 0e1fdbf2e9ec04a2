//! Writes the quantised model: a pair of `QuantizeLinear` and `DequantizeLinear` at each chosen tensor, codes for weights,
//! integers for biases. Any runtime reads it.

use std::collections::HashMap;

use prost::bytes::Bytes;

use super::{choose::Choice, fold::floats, ranges::Codes};
use crate::onnx::{
    Constant, Graph, Model, TensorId,
    proto::{AttributeProto, GraphProto, NodeProto, TensorProto, element},
};

/// The type of an attribute that is one integer, in ONNX.
const INT: i32 = 2;

/// The name under which a tensor is taken once it was quantised.
pub(super) fn dequantized(name: &str) -> String {
    format!("{name}_dequantized")
}

/// The model with `codes` for each root of the choice's tensors.
pub(super) fn rewrite(
    model: &mut Model,
    graph: &Graph,
    choice: &Choice,
    codes: &HashMap<TensorId, Codes>,
    per_channel: bool,
) {
    let Some(proto) = model.proto.graph.as_mut() else { return };
    let mut writer = Writer { constants: Vec::new(), nodes: Vec::new() };
    let of = |id: TensorId| codes.get(&choice.root(id)).copied();
    let quantized = |id: &TensorId| choice.tensors.binary_search(id).is_ok();
    for &id in graph.inputs.iter().filter(|id| quantized(id)) {
        writer.pair(&graph.tensor(id).name, of(id));
    }
    for (index, node) in std::mem::take(&mut proto.node).into_iter().enumerate() {
        let own = &graph.nodes[index];
        let mut node = node;
        for (name, id) in node.input.iter_mut().zip(&own.inputs) {
            if id.as_ref().is_some_and(quantized) {
                *name = dequantized(name);
            }
        }
        if let (Some(&(_, axis)), Some(input)) = (
            choice.weighted.iter().find(|(weighted, _)| *weighted == index),
            own.inputs.first().copied().flatten().and_then(of),
        ) {
            let place = if per_channel { Some(axis) } else { None };
            writer.weights(graph, index, &mut node, input.scale, place);
        }
        writer.nodes.push(node);
        for &id in own.outputs.iter().flatten().filter(|id| quantized(id)) {
            writer.pair(&graph.tensor(id).name, of(id));
        }
    }
    proto.node = writer.nodes;
    proto.initializer.extend(writer.constants);
    drop_unused(proto);
}

struct Writer {
    constants: Vec<TensorProto>,
    nodes: Vec<NodeProto>,
}

impl Writer {
    fn node(&mut self, op: &str, input: Vec<String>, output: String, axis: Option<usize>) {
        let attribute = axis.map(|axis| AttributeProto {
            name: "axis".to_owned(),
            i: Some(axis as i64),
            r#type: Some(INT),
            ..AttributeProto::default()
        });
        self.nodes.push(NodeProto {
            name: format!("{output}_{op}"),
            input,
            output: vec![output],
            op_type: op.to_owned(),
            attribute: attribute.into_iter().collect(),
            ..NodeProto::default()
        });
    }

    fn raw(&mut self, name: &str, data_type: i32, shape: &[usize], raw: Vec<u8>) {
        self.constants.push(TensorProto {
            name: name.to_owned(),
            dims: shape.iter().map(|&size| size as i64).collect(),
            data_type: Some(data_type),
            raw_data: Some(Bytes::from(raw)),
            ..TensorProto::default()
        });
    }

    /// A tensor as codes, and those again as numbers.
    fn pair(&mut self, name: &str, codes: Option<Codes>) {
        let Some(Codes { scale, zero }) = codes else { return };
        let names = |part: &str| format!("{name}_{part}");
        self.constants.push(floats(&names("scale"), &[], &[scale]));
        self.raw(&names("zero"), element::U8, &[], vec![zero]);
        let parameters = [names("scale"), names("zero")];
        let held = names("quantized");
        let with = |first: String| [&[first][..], &parameters].concat();
        self.node("QuantizeLinear", with(name.to_owned()), held.clone(), None);
        self.node("DequantizeLinear", with(held), dequantized(name), None);
    }

    /// Codes for the weights and the bias of a node whose input has that scale; one scale for each output along `axis`,
    /// or one for all.
    fn weights(
        &mut self,
        graph: &Graph,
        index: usize,
        node: &mut NodeProto,
        input: f32,
        axis: Option<usize>,
    ) {
        let own = &graph.nodes[index];
        let constant = |input: usize| {
            let id = own.inputs.get(input).copied().flatten()?;
            Some((graph.tensor(id).facts.constant.as_ref().and_then(Constant::floats)?, graph.shape(id)?))
        };
        let Some((weights, shape)) = constant(1) else { return };
        let outputs = axis.map_or(1, |axis| shape[axis]);
        let inner: usize = axis.map_or(weights.len(), |axis| shape[axis + 1..].iter().product());
        let place = |at: usize| at / inner.max(1) % outputs.max(1);
        let mut scales = vec![0.0_f32; outputs];
        for (at, weight) in weights.iter().enumerate() {
            let scale = &mut scales[place(at)];
            *scale = scale.max(weight.abs() / 127.0);
        }
        // An output without weights has any scale.
        scales.iter_mut().filter(|scale| **scale < 1e-30).for_each(|scale| *scale = 1.0);
        let code = |(at, &weight): (usize, &f32)| {
            let code = (weight / scales[place(at)]).round_ties_even().clamp(-127.0, 127.0) as i8;
            code.cast_unsigned()
        };
        let codes: Vec<u8> = weights.iter().enumerate().map(code).collect();
        let name = |part: &str| format!("{}_{part}", node.output[0]);
        let dims: &[usize] = if axis.is_some() { &[outputs] } else { &[] };
        let [held, scale, zero] = ["weights_quantized", "weights_scale", "weights_zero"].map(name);
        self.raw(&held, element::I8, shape, codes);
        self.constants.push(floats(&scale, dims, &scales));
        self.raw(&zero, element::I8, dims, vec![0; outputs]);
        let taken = name("weights_dequantized");
        self.node("DequantizeLinear", vec![held, scale, zero], taken.clone(), axis);
        if let Some((bias, _)) = constant(2) {
            let units: Vec<f32> = scales.iter().map(|scale| input * scale).collect();
            let int = |(at, &value): (usize, &f32)| {
                let steps = f64::from(value) / f64::from(units[at % outputs]);
                steps.round_ties_even().clamp(f64::from(i32::MIN), f64::from(i32::MAX)) as i32
            };
            let ints: Vec<u8> = bias.iter().enumerate().flat_map(|bias| int(bias).to_le_bytes()).collect();
            let [held, scale] = ["bias_quantized", "bias_scale"].map(name);
            let as_numbers = name("bias_dequantized");
            self.raw(&held, element::INT32, &[bias.len()], ints);
            self.constants.push(floats(&scale, dims, &units));
            self.node("DequantizeLinear", vec![held, scale], as_numbers.clone(), axis.map(|_| 0));
            node.input[2] = as_numbers;
        }
        node.input[1] = taken;
    }
}

/// Initializers that nothing takes any more.
fn drop_unused(graph: &mut GraphProto) {
    let mut used: std::collections::HashSet<String> =
        graph.output.iter().map(|output| output.name.clone()).collect();
    let inner = graph.node.iter().flat_map(|node| &node.attribute);
    // Graphs inside of nodes may take anything from outside: then all is kept.
    if inner.flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs)).next().is_some() {
        return;
    }
    used.extend(graph.node.iter().flat_map(|node| &node.input).cloned());
    graph.initializer.retain(|tensor| used.contains(&tensor.name));
}
