//! Joins nodes that a kernel computes at once: what is folded into weights, the sum with a shortcut, the bounds of the
//! result. Only a value that nobody else takes can disappear inside of a kernel.

use std::collections::{HashMap, HashSet};

use super::{
    classify::Classifier,
    codes::{CodeOps, code_ops},
    op::{Activation, Affine, CodeWeights, Conv, Kind, Op, Weights, feature_map},
};
use crate::onnx::{Graph, TensorId};

/// The operations of a graph, each after those that it needs. Nodes that only give constants are none.
pub(crate) fn operations(classifier: &Classifier<'_>) -> Vec<Op> {
    let graph = classifier.graph;
    let uses = uses(graph);
    let on_codes = if classifier.on_codes { code_ops(classifier) } else { CodeOps::default() };
    let mut ops: Vec<Op> = Vec::new();
    let mut by_output: HashMap<TensorId, usize> = HashMap::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        if on_codes.nodes.contains(&index) || node.gives().all(|id| graph.is_constant(id)) {
            continue;
        }
        let op = classifier.classify(index);
        let absorbed = op.inputs.iter().enumerate().rev().find_map(|(operand, id)| {
            let producer = *by_output.get(id)?;
            let sole = uses.get(id) == Some(&1);
            (sole && absorb(&mut ops[producer], &op, operand)).then_some(producer)
        });
        let place = absorbed.unwrap_or_else(|| {
            ops.push(op);
            ops.len() - 1
        });
        for &id in &ops[place].outputs {
            by_output.insert(id, place);
        }
    }
    ops.extend(on_codes.ops);
    // A residual may have been computed after the convolution that now adds it.
    ops.sort_by_key(Op::position);
    keep_flat_maps_apart(graph, &mut ops);
    ops
}

/// A feature map that is flattened stays on the device as it was, which only a product with a matrix can read as flat.
fn keep_flat_maps_apart(graph: &Graph, ops: &mut [Op]) {
    let mut flat: HashSet<TensorId> = HashSet::new();
    for op in ops {
        let takes = op.inputs.iter().any(|id| flat.contains(id));
        let map = |id: &TensorId| graph.shape(*id).and_then(feature_map);
        match &op.kind {
            Kind::View if takes || op.inputs.iter().map(map).ne(op.outputs.iter().map(map)) => {
                flat.extend(&op.outputs);
            }
            Kind::Activate | Kind::Quantize(_) | Kind::Dequantize(_) | Kind::Recode(..) => {
                flat.extend(op.outputs.iter().filter(|_| takes));
            }
            Kind::Host { .. } => {}
            Kind::Conv(Conv { weights: Weights::Dense { .. }, residual: false, .. }) => {}
            Kind::CodeConv(conv)
                if matches!(conv.weights, CodeWeights::Dense { .. }) && conv.residual.is_none() => {}
            _ if takes => {
                op.kind = Kind::Host { reason: "it takes a feature map that was flattened".to_owned() };
                op.activation = Activation::default();
            }
            _ => {}
        }
    }
}

/// How often each tensor is taken; the model's outputs are taken by the caller.
fn uses(graph: &Graph) -> HashMap<TensorId, usize> {
    let mut uses = HashMap::new();
    let taken = graph.nodes.iter().flat_map(|node| node.needs().collect::<Vec<_>>());
    for id in taken.chain(graph.outputs.iter().copied()) {
        *uses.entry(id).or_default() += 1;
    }
    uses
}

/// Lets `first` compute what `then` computes of its result, which is operand `operand` there.
fn absorb(first: &mut Op, then: &Op, operand: usize) -> bool {
    let free = first.activation.is_none();
    match (&mut first.kind, &then.kind) {
        (Kind::Host { .. } | Kind::View | Kind::Concat, _) | (_, Kind::Host { .. }) => return false,
        (Kind::Conv(conv), Kind::Affine(affine)) if free && !conv.residual => {
            conv.affine = Some(match conv.affine.take() {
                None => affine.clone(),
                Some(before) => joined(&before, affine),
            });
        }
        (Kind::Conv(conv), Kind::Add) if free && !conv.residual && !conv.is_depthwise() => {
            conv.residual = true;
            first.inputs.push(then.inputs[1 - operand]);
        }
        (
            Kind::Conv(_) | Kind::Pool(_) | Kind::Affine(_) | Kind::Add | Kind::Multiply | Kind::Activate,
            Kind::Activate,
        ) => match first.activation.then(then.activation) {
            Some(both) => first.activation = both,
            None => return false,
        },
        _ => return false,
    }
    first.nodes.extend(&then.nodes);
    first.outputs.clone_from(&then.outputs);
    first.flops += then.flops;
    true
}

fn joined(first: &Affine, then: &Affine) -> Affine {
    let both = then.scale.iter().zip(&then.shift);
    let shift = first.shift.iter().zip(both).map(|(before, (scale, shift))| before.mul_add(*scale, *shift));
    let scale = first.scale.iter().zip(&then.scale).map(|(before, scale)| before * scale);
    Affine { shift: shift.collect(), scale: scale.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_after_bounds_are_the_narrower_ones() {
        let relu = Activation { low: Some(0.0), high: None };
        let six = Activation { low: Some(-1.0), high: Some(6.0) };
        assert_eq!(relu.then(six), Some(Activation { low: Some(0.0), high: Some(6.0) }));
        assert_eq!(Activation { low: Some(7.0), high: None }.then(six), None);
    }

    #[test]
    fn one_affine_map_after_another_is_one() {
        let first = Affine { scale: vec![2.0], shift: vec![1.0] };
        let then = Affine { scale: vec![3.0], shift: vec![5.0] };
        let both = joined(&first, &then);
        assert_eq!((both.scale[0], both.shift[0]), (6.0, 8.0));
    }
}
