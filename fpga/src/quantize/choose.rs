//! Chooses what of a model is quantised: convolutions and products with constant matrices, and what lies between them and
//! can pass codes on.

use std::collections::{HashMap, HashSet};

use crate::onnx::{Constant, Graph, Node, TensorId, proto::element};

/// What is quantised of a graph.
pub(super) struct Choice {
    /// Tensors that are held as codes, in the order in which they are computed.
    pub(super) tensors: Vec<TensorId>,
    /// Those whose codes are those of another one, because an operation passes them on as they are.
    roots: HashMap<TensorId, TensorId>,
    /// Nodes with weights, and the axis of the weights' outputs.
    pub(super) weighted: Vec<(usize, usize)>,
}

impl Choice {
    pub(super) fn root(&self, id: TensorId) -> TensorId {
        self.roots.get(&id).copied().unwrap_or(id)
    }

    pub(super) fn new(graph: &Graph) -> Self {
        let mut takers: HashMap<TensorId, Vec<usize>> = HashMap::new();
        for (index, node) in graph.nodes.iter().enumerate() {
            for id in node.needs() {
                takers.entry(id).or_default().push(index);
            }
        }
        let mut weighted = Vec::new();
        // What gives codes, or would if what follows took them.
        let mut given: HashSet<TensorId> = HashSet::new();
        // Results whose bounds are computed with them.
        let mut open: HashSet<TensorId> = HashSet::new();
        let mut inside: HashSet<TensorId> = HashSet::new();
        let mut quantized: Vec<usize> = Vec::new();
        for (index, node) in graph.nodes.iter().enumerate() {
            let Some(output) = node.outputs.first().copied().flatten() else { continue };
            let dynamic: Vec<TensorId> = node.needs().filter(|&id| !graph.is_constant(id)).collect();
            let axis = weights_axis(graph, node);
            let passes = passes(graph, node) && dynamic.iter().all(|id| given.contains(id));
            if axis.is_none() && !passes {
                continue;
            }
            let bounds = matches!(node.proto.op_type.as_str(), "Relu" | "Clip");
            let alone = |id: &TensorId| {
                takers.get(id).is_some_and(|takers| takers.len() == 1) && !graph.outputs.contains(id)
            };
            if let Some(axis) = axis {
                weighted.push((index, axis));
            }
            if bounds && dynamic.first().is_some_and(|id| open.contains(id) && alone(id)) {
                inside.extend(&dynamic);
            } else {
                quantized.push(index);
            }
            given.insert(output);
            if axis.is_some() || bounds || node.proto.op_type == "Add" {
                open.insert(output);
            }
        }
        let mut tensors: Vec<TensorId> = Vec::new();
        let mut roots = HashMap::new();
        for &index in &quantized {
            let node = &graph.nodes[index];
            let weights = weighted.iter().any(|(own, _)| *own == index);
            let inputs = node.inputs.iter().take(if weights { 1 } else { node.inputs.len() }).flatten();
            tensors.extend(inputs.copied().filter(|&id| !graph.is_constant(id) && !inside.contains(&id)));
            let same = matches!(
                node.proto.op_type.as_str(),
                "MaxPool"
                    | "GlobalMaxPool"
                    | "Flatten"
                    | "Reshape"
                    | "Squeeze"
                    | "Unsqueeze"
                    | "Identity"
                    | "Dropout"
            );
            if let (true, Some(input), Some(output)) =
                (same, node.inputs.first().copied().flatten(), node.outputs.first().copied().flatten())
            {
                let root = roots.get(&input).copied().unwrap_or(input);
                roots.insert(output, root);
            }
        }
        // Tensors are numbered as they are computed, and initializers and inputs come first.
        tensors.sort_unstable();
        tensors.dedup();
        Self { tensors, roots, weighted }
    }
}

fn is_float(graph: &Graph, id: TensorId) -> bool {
    graph.tensor(id).facts.element == Some(element::FLOAT)
}

/// The axis of the outputs among the weights of a node that is computed on codes.
fn weights_axis(graph: &Graph, node: &Node) -> Option<usize> {
    if !node.proto.is_standard() || !node.fits {
        return None;
    }
    let input = node.inputs.first().copied().flatten()?;
    let weights = node.inputs.get(1).copied().flatten()?;
    let constant = |id: TensorId| graph.tensor(id).facts.constant.as_ref().and_then(Constant::floats);
    constant(weights)?;
    if graph.is_constant(input) || !is_float(graph, input) {
        return None;
    }
    if let Some(bias) = node.inputs.get(2).copied().flatten() {
        let outputs = graph.shape(node.outputs.first().copied().flatten()?)?.get(1).copied()?;
        if constant(bias)?.len() != outputs {
            return None;
        }
    }
    let flat = graph.shape(input)?.len() == 2 && graph.shape(weights)?.len() == 2;
    match node.proto.op_type.as_str() {
        "Conv" => Some(0),
        "MatMul" if flat => Some(1),
        "Gemm"
            if flat
                && node.proto.float("alpha", 1.0) == 1.0
                && node.proto.float("beta", 1.0) == 1.0
                && node.proto.int("transA", 0) == 0 =>
        {
            Some(usize::from(node.proto.int("transB", 0) == 0))
        }
        _ => None,
    }
}

/// Whether an operation gives codes where it takes codes.
fn passes(graph: &Graph, node: &Node) -> bool {
    let first = node.inputs.first().copied().flatten();
    let dynamic = first.is_some_and(|id| !graph.is_constant(id) && is_float(graph, id));
    let both = || {
        let shape = |input: usize| {
            let id = node.inputs.get(input).copied().flatten()?;
            if graph.is_constant(id) { None } else { graph.shape(id) }
        };
        shape(0).is_some() && shape(0) == shape(1)
    };
    let all = || node.needs().all(|id| !graph.is_constant(id));
    let single = node.outputs.iter().flatten().count() == 1;
    dynamic
        && single
        && node.proto.is_standard()
        && match node.proto.op_type.as_str() {
            "Relu" | "Clip" | "MaxPool" | "AveragePool" | "GlobalAveragePool" | "GlobalMaxPool"
            | "Flatten" | "Reshape" | "Squeeze" | "Unsqueeze" | "Identity" | "Dropout" => true,
            "Add" => both(),
            "Concat" => all(),
            _ => false,
        }
}
