//! A part of a model as a model of its own, for the parts that run on the CPU.

use prost::Message;

use super::{
    infer::{Graph, TensorId},
    proto::{
        Dimension, DimensionValue, GraphProto, ModelProto, TensorProto, TensorShape, TensorType, TypeKind,
        TypeProto, ValueInfo,
    },
    read::Model,
};

/// The nodes `nodes` of a model, by their places, as the bytes of an ONNX file that takes `inputs` and gives
/// `outputs`. A tensor whose element type is not known cannot be an input; its name is the error.
pub(crate) fn submodel(
    model: &Model,
    graph: &Graph,
    nodes: &[usize],
    inputs: &[TensorId],
    outputs: &[TensorId],
) -> Result<Vec<u8>, String> {
    let mut initializer = Vec::new();
    let originals = model.proto.graph.as_ref().map_or(&[][..], |graph| &graph.initializer);
    let mut used: Vec<TensorId> = nodes.iter().flat_map(|&node| graph.nodes[node].needs()).collect();
    used.extend(outputs);
    used.sort_unstable();
    used.dedup();
    for &id in used.iter().filter(|&&id| graph.is_constant(id)) {
        initializer.push(constant(graph, originals, id).ok_or_else(|| graph.tensor(id).name.clone())?);
    }
    let describe = |&id: &TensorId| {
        let tensor = graph.tensor(id);
        let elem_type = tensor.facts.element.ok_or_else(|| tensor.name.clone())?;
        let dimension = |&size: &usize| Dimension { value: Some(DimensionValue::Fixed(size as i64)) };
        let shape = tensor.facts.shape.as_ref();
        let shape = shape.map(|shape| TensorShape { dim: shape.iter().map(dimension).collect() });
        let kind = TypeKind::Tensor(TensorType { elem_type: Some(elem_type), shape });
        Ok(ValueInfo { name: tensor.name.clone(), r#type: Some(TypeProto { value: Some(kind) }) })
    };
    let part = GraphProto {
        name: "part".to_owned(),
        node: nodes.iter().map(|&node| graph.nodes[node].proto.clone()).collect(),
        initializer,
        input: inputs.iter().map(describe).collect::<Result<_, String>>()?,
        // What an engine gives says itself of what type it is.
        output: outputs
            .iter()
            .map(|id| describe(id).unwrap_or_else(|name| ValueInfo { name, r#type: None }))
            .collect(),
        ..GraphProto::default()
    };
    let part = ModelProto {
        // Versions 4 and later let initializers be no inputs.
        ir_version: model.proto.ir_version.map(|version| version.max(4)),
        producer_name: "moorline".to_owned(),
        graph: Some(part),
        opset_import: model.proto.opset_import.clone(),
        functions: model.proto.functions.clone(),
        ..ModelProto::default()
    };
    Ok(part.encode_to_vec())
}

fn constant(graph: &Graph, originals: &[TensorProto], id: TensorId) -> Option<TensorProto> {
    let tensor = graph.tensor(id);
    if let Some(original) = originals.iter().find(|original| original.name == tensor.name) {
        return Some(original.clone());
    }
    let node = &graph.nodes[tensor.producer?].proto;
    let facts = &tensor.facts;
    let value = facts.constant.as_ref()?.write(&tensor.name, facts.shape.as_ref()?, facts.element?);
    // A `Constant` of a type that nothing is computed with is passed on as the model has it.
    value.or_else(|| {
        let mut value = node.attribute("value")?.t.clone()?;
        value.name.clone_from(&tensor.name);
        Some(value)
    })
}
