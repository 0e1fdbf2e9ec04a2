//! Folds each `BatchNormalization` into the convolution before it: what is quantised are the weights that count.

use std::{collections::HashSet, sync::Arc};

use prost::bytes::Bytes;

use super::QuantizeError;
use crate::onnx::{
    Constant, Graph, Model, Node,
    proto::{NodeProto, TensorProto, element},
};

/// An initializer of floats.
pub(super) fn floats(name: &str, shape: &[usize], values: &[f32]) -> TensorProto {
    let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    TensorProto {
        name: name.to_owned(),
        dims: shape.iter().map(|&size| size as i64).collect(),
        data_type: Some(element::FLOAT),
        raw_data: Some(Bytes::from(raw)),
        ..TensorProto::default()
    }
}

/// What is written anew of a convolution.
struct Folded {
    conv: usize,
    norm: usize,
    weights: TensorProto,
    bias: TensorProto,
}

/// The same model with fewer nodes.
pub(super) fn normalisations(model: &mut Model) -> Result<(), QuantizeError> {
    let graph = Graph::new(model, 1)?;
    let folded: Vec<Folded> = (0..graph.nodes.len()).filter_map(|index| folded(&graph, index)).collect();
    let Some(proto) = model.proto.graph.as_mut() else { return Ok(()) };
    let mut gone = HashSet::new();
    for Folded { conv, norm, weights, bias } in folded {
        let output = proto.node[norm].output[0].clone();
        let NodeProto { input, output: outputs, .. } = &mut proto.node[conv];
        input.truncate(1);
        input.extend([weights.name.clone(), bias.name.clone()]);
        *outputs = vec![output];
        proto.initializer.extend([weights, bias]);
        gone.insert(norm);
    }
    let mut index = 0;
    proto.node.retain(|_| (!gone.contains(&index), index += 1).0);
    // What is stated of tensors that are gone would only mislead.
    proto.value_info.clear();
    Ok(())
}

fn constant(graph: &Graph, node: &Node, input: usize) -> Option<Arc<[f32]>> {
    let id = node.inputs.get(input).copied().flatten()?;
    graph.tensor(id).facts.constant.as_ref().and_then(Constant::floats).cloned()
}

fn folded(graph: &Graph, norm: usize) -> Option<Folded> {
    let node = &graph.nodes[norm];
    let single = node.proto.output.iter().filter(|name| !name.is_empty()).count() == 1;
    if !node.proto.is_standard() || node.proto.op_type != "BatchNormalization" || !single {
        return None;
    }
    let input = node.inputs.first().copied().flatten()?;
    let conv = graph.tensor(input).producer?;
    let before = &graph.nodes[conv];
    let taken = graph.nodes.iter().flat_map(Node::needs).filter(|&id| id == input).count();
    if !before.proto.is_standard()
        || before.proto.op_type != "Conv"
        || taken != 1
        || graph.outputs.contains(&input)
    {
        return None;
    }
    let (weights, own) = (constant(graph, before, 1)?, constant(graph, before, 2));
    if before.inputs.get(2).copied().flatten().is_some() != own.is_some() {
        return None;
    }
    let shape = graph.shape(before.inputs.get(1).copied().flatten()?)?;
    let [gamma, beta, mean, variance] = [1, 2, 3, 4].map(|input| constant(graph, node, input));
    let (gamma, beta, mean, variance) = (gamma?, beta?, mean?, variance?);
    let outputs = *shape.first()?;
    if outputs == 0 || [&gamma, &beta, &mean, &variance].iter().any(|values| values.len() != outputs) {
        return None;
    }
    let epsilon = f64::from(node.proto.float("epsilon", 1e-5));
    let factors: Vec<f64> = gamma
        .iter()
        .zip(variance.iter())
        .map(|(&gamma, &variance)| f64::from(gamma) / (f64::from(variance) + epsilon).sqrt())
        .collect();
    let each = (weights.len() / outputs).max(1);
    let scaled: Vec<f32> = weights
        .iter()
        .enumerate()
        .map(|(index, &weight)| (f64::from(weight) * factors[(index / each).min(outputs - 1)]) as f32)
        .collect();
    let moved: Vec<f32> = (0..outputs)
        .map(|output| {
            let own = own.as_ref().and_then(|own| own.get(output)).copied().unwrap_or_default();
            let centred = f64::from(own) - f64::from(mean[output]);
            centred.mul_add(factors[output], f64::from(beta[output])) as f32
        })
        .collect();
    let label = &node.proto.output[0];
    Some(Folded {
        conv,
        norm,
        weights: floats(&format!("{label}_weights"), shape, &scaled),
        bias: floats(&format!("{label}_bias"), &[outputs], &moved),
    })
}
