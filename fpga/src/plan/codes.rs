//! Finds what a model computes on codes of 8 bits: between `DequantizeLinear` and `QuantizeLinear`, or in one operator
//! that is both. Such operations take codes and give codes; the floats between exist on paper only.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    classify::Classifier,
    numerics::Numerics,
    op::{Activation, CodeConv, CodeWeights, Codes, Conv, Kind, Op, Weights},
};
use crate::onnx::{Constant, Node, TensorId, proto::element};

/// The operations on codes, and the nodes that need no operation of their own beside them.
#[derive(Default)]
pub(crate) struct CodeOps {
    pub(crate) ops: Vec<Op>,
    pub(crate) nodes: HashSet<usize>,
}

/// Where the result of an operation is quantised.
struct Ending {
    activation: Activation,
    nodes: Vec<usize>,
    output: TensorId,
    codes: Codes,
}

/// Constant weights as codes less their zeros.
struct Held {
    weights: Arc<[i16]>,
    scales: Vec<f32>,
}

struct Finder<'a> {
    classifier: &'a Classifier<'a>,
    takers: HashMap<TensorId, Vec<usize>>,
    outputs: HashSet<TensorId>,
}

/// Every operation on codes of the graph.
pub(crate) fn code_ops(classifier: &Classifier<'_>) -> CodeOps {
    let graph = classifier.graph;
    let mut takers: HashMap<TensorId, Vec<usize>> = HashMap::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        for id in node.needs() {
            takers.entry(id).or_default().push(index);
        }
    }
    let finder = Finder { classifier, takers, outputs: graph.outputs.iter().copied().collect() };
    let mut ops: Vec<Op> = Vec::new();
    let mut nodes = HashSet::new();
    let mut first_nodes = HashSet::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        let Some(op) = finder.op(index, node) else { continue };
        first_nodes.insert(index);
        nodes.extend(op.nodes.iter().filter(|&&node| finder.dequantizes(node).is_none()));
        if !finder.add_residual(&mut ops, &op) {
            ops.push(op);
        }
    }
    // What undoes a quantisation only for operations on codes is never computed.
    for index in 0..graph.nodes.len() {
        let Some(id) = finder.dequantizes(index) else { continue };
        let takers = finder.takers.get(&id).map_or(&[][..], Vec::as_slice);
        let alone = takers.iter().all(|taker| first_nodes.contains(taker)) && !takers.is_empty();
        if alone && !finder.outputs.contains(&id) {
            nodes.insert(index);
        }
    }
    CodeOps { ops, nodes }
}

impl Finder<'_> {
    /// What node `index` makes of codes, if it does.
    fn dequantizes(&self, index: usize) -> Option<TensorId> {
        let node = &self.classifier.graph.nodes[index];
        let id = node.outputs.first().copied().flatten()?;
        let own = node.proto.is_standard() && node.proto.op_type == "DequantizeLinear";
        (own && !self.classifier.graph.is_constant(id)).then_some(id)
    }

    /// The codes that a tensor of floats is made of, with the node that makes it of them.
    fn source(&self, node: &Node, input: usize) -> Option<(TensorId, Codes, usize)> {
        let id = node.inputs.get(input).copied().flatten()?;
        let producer = self.classifier.graph.tensor(id).producer?;
        self.dequantizes(producer)?;
        let own = &self.classifier.graph.nodes[producer];
        let codes = self.classifier.codes(own, own.inputs.first().copied().flatten()?).ok()?;
        Some((own.inputs.first().copied().flatten()?, codes, producer))
    }

    /// Follows a result through its bounds to where it is quantised.
    fn ending(&self, mut id: TensorId, first: Activation) -> Option<Ending> {
        let (mut activation, mut nodes) = (first, Vec::new());
        loop {
            let [taker] = self.takers.get(&id)?.as_slice() else { return None };
            if self.outputs.contains(&id) {
                return None;
            }
            let node = &self.classifier.graph.nodes[*taker];
            if !node.proto.is_standard() || node.inputs.first().copied().flatten() != Some(id) {
                return None;
            }
            let output = node.outputs.first().copied().flatten()?;
            nodes.push(*taker);
            match node.proto.op_type.as_str() {
                "Relu" | "Clip" => {
                    let Ok((Kind::Activate, then)) = self.classifier.kind(node, Numerics::I8Rne) else {
                        return None;
                    };
                    activation = activation.then(then)?;
                    id = output;
                }
                "QuantizeLinear" => {
                    let codes = self.classifier.codes(node, output).ok()?;
                    return Some(Ending { activation, nodes, output, codes });
                }
                _ => return None,
            }
        }
    }

    fn op(&self, index: usize, node: &Node) -> Option<Op> {
        if !node.proto.is_standard() {
            return None;
        }
        match node.proto.op_type.as_str() {
            "QLinearConv" | "QLinearMatMul" => return self.whole(index, node),
            "QuantizeLinear" | "DequantizeLinear" => return None,
            _ => {}
        }
        // Weights are no input of the operation; what it joins or adds are.
        let dynamic = |&input: &usize| {
            let id = node.inputs[input];
            id.is_some_and(|id| !self.classifier.graph.is_constant(id))
        };
        let sources: Vec<(TensorId, Codes, usize)> = (0..node.inputs.len())
            .filter(dynamic)
            .map(|input| self.source(node, input))
            .collect::<Option<_>>()?;
        let first = sources.first()?.1;
        let (kind, own) = self.classifier.kind(node, Numerics::I8Rne).ok()?;
        let result = node.outputs.first().copied().flatten()?;
        let ending = self.ending(result, own);
        let to = ending.as_ref().map(|ending| ending.codes);
        let kind = match kind {
            Kind::Conv(conv) => {
                let conv = self.conv(node, &conv, first, to)?;
                // What takes part in the next operation as numbers is given as numbers.
                Kind::CodeConv(Box::new(conv))
            }
            Kind::Pool(pool) => Kind::CodePool(pool, first, to?),
            Kind::Add => Kind::CodeAdd([first, sources.get(1)?.1], to?),
            Kind::Concat => Kind::CodeConcat(sources.iter().map(|(_, codes, _)| *codes).collect(), to?),
            Kind::Activate => Kind::Recode(first, to?),
            Kind::View if ending.as_ref()?.activation.is_none() && to == Some(first) => Kind::View,
            _ => return None,
        };
        let mut nodes = vec![index];
        nodes.extend(sources.iter().map(|(_, _, node)| *node));
        nodes.extend(ending.iter().flat_map(|ending| &ending.nodes));
        Some(Op {
            nodes,
            inputs: sources.iter().map(|(id, _, _)| *id).collect(),
            outputs: vec![ending.as_ref().map_or(result, |ending| ending.output)],
            kind,
            activation: ending.map(|ending| ending.activation).unwrap_or_default(),
            flops: self.classifier.flops(node),
        })
    }

    fn conv(&self, node: &Node, conv: &Conv, input: Codes, output: Option<Codes>) -> Option<CodeConv> {
        let dense = match &conv.weights {
            Weights::Conv(_) => None,
            Weights::Dense { transposed, alpha, .. } if *alpha == 1.0 => Some(*transposed),
            Weights::Dense { .. } => return None,
        };
        let id = node.inputs.get(1).copied().flatten()?;
        let producer = &self.classifier.graph.nodes[self.classifier.graph.tensor(id).producer?];
        if producer.proto.op_type != "DequantizeLinear" {
            return None;
        }
        let axis = usize::from(dense == Some(false));
        let held = self.held(producer, [0, 1, 2], (axis, conv.outputs))?;
        let units: Vec<f32> = held.scales.iter().map(|scale| input.scale * scale).collect();
        let bias = self.bias(node, conv, &units);
        let weights = match dense {
            None => CodeWeights::Conv(held.weights),
            Some(transposed) => CodeWeights::Dense { matrix: held.weights, transposed },
        };
        Some(CodeConv {
            weights,
            bias,
            scales: held.scales,
            groups: conv.groups,
            outputs: conv.outputs,
            window: conv.window,
            input,
            output,
            residual: None,
        })
    }

    /// The bias in units of the sum: as the model holds it where it is held so, and else rounded.
    fn bias(&self, node: &Node, conv: &Conv, units: &[f32]) -> Vec<i32> {
        let Some(floats) = &conv.bias else { return vec![0; conv.outputs] };
        let graph = self.classifier.graph;
        let held = node.inputs.get(2).copied().flatten().and_then(|id| {
            let own = &graph.nodes[graph.tensor(id).producer?];
            let of = |input: usize| {
                let id = own.inputs.get(input).copied().flatten()?;
                graph.tensor(id).facts.constant.as_ref()
            };
            let (ints, scales) = (of(0)?.ints()?, of(1)?.floats()?);
            let near = |(index, unit): (usize, &f32)| {
                let scale = scales[index % scales.len()];
                (scale - unit).abs() <= 1e-6 * unit
            };
            let as_held = own.proto.op_type == "DequantizeLinear"
                && node.proto.float("beta", 1.0) == 1.0
                && ints.len() == conv.outputs
                && !scales.is_empty()
                && units.iter().enumerate().all(near);
            as_held.then(|| ints.iter().map(|&int| i32::try_from(int).ok()).collect::<Option<Vec<i32>>>())?
        });
        let rounded = |(value, unit): (&f32, &f32)| {
            let steps = (f64::from(*value) / f64::from(*unit)).round_ties_even();
            steps.clamp(f64::from(i32::MIN), f64::from(i32::MAX)) as i32
        };
        held.unwrap_or_else(|| floats.iter().zip(units).map(rounded).collect())
    }

    /// Weights, scales and zeros of a node by the places of its inputs; of `outputs` outputs, along `axis`.
    fn held(&self, node: &Node, inputs: [usize; 3], (axis, outputs): (usize, usize)) -> Option<Held> {
        let graph = self.classifier.graph;
        let constant = |input: usize| {
            let id = node.inputs.get(input).copied().flatten()?;
            Some((graph.tensor(id).facts.constant.as_ref()?, graph.shape(id)?))
        };
        let (codes, shape) = constant(inputs[0])?;
        let codes = codes.codes()?;
        let scales = constant(inputs[1])?.0.floats()?;
        let zeros = match node.inputs.get(inputs[2]).copied().flatten() {
            None => None,
            Some(_) => Some(constant(inputs[2])?.0.codes()?),
        };
        let one = |count: usize| count == 1;
        let all = one(scales.len()) && zeros.is_none_or(|zeros| one(zeros.len()));
        let fits = |count: usize| count == outputs || one(count);
        let stated = node.proto.int("axis", i64::from(inputs[0] == 0));
        let stated = if stated < 0 { stated + shape.len() as i64 } else { stated };
        // An operator that is all in one has no such attribute: its outputs are where they always are.
        let along = inputs[0] != 0 || stated == axis as i64;
        if shape.get(axis) != Some(&outputs)
            || !(all || along)
            || !fits(scales.len())
            || !zeros.is_none_or(|zeros| fits(zeros.len()))
            || node.proto.int("block_size", 0) != 0
            || !scales.iter().all(|scale| *scale > 0.0 && scale.is_finite())
        {
            return None;
        }
        let inner: usize = shape[axis + 1..].iter().product();
        let zero = |index: usize| {
            zeros.map_or(0, |zeros| zeros[index / inner.max(1) % outputs.max(1) % zeros.len()])
        };
        let weights = codes.iter().enumerate().map(|(index, &code)| code - zero(index)).collect();
        let scales = (0..outputs).map(|output| scales[output % scales.len()]).collect();
        Some(Held { weights, scales })
    }

    /// Operators that take codes and give codes by themselves.
    fn whole(&self, index: usize, node: &Node) -> Option<Op> {
        let graph = self.classifier.graph;
        let (input, output) =
            (node.inputs.first().copied().flatten()?, node.outputs.first().copied().flatten()?);
        let (kind, _) = self.classifier.kind(node, Numerics::I8Rne).ok()?;
        let Kind::Conv(conv) = kind else { return None };
        let from = self.classifier.codes_of(node, input, [1, 2]).ok()?;
        let to = self.classifier.codes_of(node, output, [6, 7]).ok()?;
        let dense = node.proto.op_type == "QLinearMatMul";
        let held = self.held(node, [3, 4, 5], (usize::from(dense), conv.outputs))?;
        let bias = match node.inputs.get(8).copied().flatten() {
            None => vec![0; conv.outputs],
            Some(id) => {
                let ints = graph.tensor(id).facts.constant.as_ref().and_then(Constant::ints)?;
                let bias: Option<Vec<i32>> = ints.iter().map(|&int| i32::try_from(int).ok()).collect();
                bias.filter(|bias| bias.len() == conv.outputs)?
            }
        };
        let weights = if dense {
            CodeWeights::Dense { matrix: held.weights, transposed: false }
        } else {
            CodeWeights::Conv(held.weights)
        };
        Some(Op {
            nodes: vec![index],
            inputs: vec![input],
            outputs: vec![output],
            kind: Kind::CodeConv(Box::new(CodeConv {
                weights,
                bias,
                scales: held.scales,
                groups: conv.groups,
                outputs: conv.outputs,
                window: conv.window,
                input: from,
                output: Some(to),
                residual: None,
            })),
            activation: Activation::default(),
            flops: self.classifier.flops(node),
        })
    }

    /// Lets the convolution that gives an operand of a sum add the other one to it, where nobody else takes its result.
    fn add_residual(&self, ops: &mut [Op], sum: &Op) -> bool {
        let Kind::CodeAdd(from, to) = &sum.kind else { return false };
        for operand in [1, 0] {
            let id = sum.inputs[operand];
            let once = self.takers.get(&id).is_some_and(|takers| {
                let floats = |&taker: &usize| self.dequantizes(taker);
                let sole = |id: TensorId| self.takers.get(&id).is_some_and(|takers| takers.len() == 1);
                takers.len() == 1 && takers.first().and_then(floats).is_some_and(sole)
            });
            let first = ops.iter_mut().find(|op| op.outputs.contains(&id));
            let (true, false, Some(first)) = (once, self.outputs.contains(&id), first) else { continue };
            let Kind::CodeConv(conv) = &mut first.kind else { continue };
            let own = from[operand];
            if conv.residual.is_some()
                || conv.is_depthwise()
                || conv.output != Some(own)
                || !first.activation.is_none()
            {
                continue;
            }
            conv.residual = Some((from[1 - operand], *to));
            first.inputs.push(sum.inputs[1 - operand]);
            first.nodes.extend(&sum.nodes);
            first.outputs.clone_from(&sum.outputs);
            first.activation = sum.activation;
            first.flops += sum.flops;
            return true;
        }
        false
    }
}

impl Classifier<'_> {
    /// The codes of `id`, which `node` quantises or undoes.
    pub(crate) fn codes(&self, node: &Node, id: TensorId) -> Result<Codes, String> {
        self.codes_of(node, id, [1, 2])
    }

    /// The same, by the places of scale and zero among the node's inputs.
    pub(crate) fn codes_of(
        &self,
        node: &Node,
        id: TensorId,
        [scale, zero]: [usize; 2],
    ) -> Result<Codes, String> {
        let constant = |input: usize| {
            let id = node.inputs.get(input).copied().flatten()?;
            self.graph.tensor(id).facts.constant.as_ref()
        };
        let signed = match self.graph.tensor(id).facts.element {
            Some(element::U8) => false,
            Some(element::I8) => true,
            _ => return Err("only codes of 8 bits are executed".to_owned()),
        };
        let scale = match constant(scale).and_then(Constant::floats).map(|scales| &scales[..]) {
            Some(&[scale]) if scale > 0.0 && scale.is_finite() => scale,
            _ => return Err("its scale is not one constant above zero".to_owned()),
        };
        let own = match (node.inputs.get(zero).copied().flatten(), constant(zero)) {
            (None, _) => 0,
            (_, Some(Constant::Codes(zeros))) if zeros.len() == 1 => i32::from(zeros[0]),
            _ => return Err("its zero is not one constant code".to_owned()),
        };
        let bias = if signed { 128 } else { 0 };
        // What a damaged model may hold in a wider type is no code.
        Ok(Codes { scale, zero: (own + bias).clamp(0, 255), signed })
    }
}
