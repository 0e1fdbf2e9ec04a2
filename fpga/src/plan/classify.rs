//! Decides for each node alone whether the bitstream's kernels execute it, and why not.

use std::sync::Arc;

use super::{
    numerics::Numerics,
    op::{Activation, Affine, Conv, Kind, Op, Pool, Spatial, Weights, feature_map},
};
use crate::{
    bitstream::{Manifest, Op as ManifestOp},
    onnx::{Constant, Graph, Node, TensorId, Window, proto::element},
};

/// What is measured of a node and held against the manifest's limits.
type Measures = Vec<(&'static str, i64)>;

/// Why a node does not run on the device.
type Obstacle = String;

pub(crate) struct Classifier<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) manifest: &'a Manifest,
    /// How floats are computed with; nothing leaves them to the CPU.
    pub(crate) floats: Option<Numerics>,
    /// Whether what is quantised is computed on codes.
    pub(crate) on_codes: bool,
}

impl Classifier<'_> {
    /// The operation that node `index` is on its own.
    pub(crate) fn classify(&self, index: usize) -> Op {
        let node = &self.graph.nodes[index];
        let dynamic: Vec<TensorId> = node.needs().filter(|&id| !self.graph.is_constant(id)).collect();
        let flops = self.flops(node);
        let kind = match self.floats {
            _ if matches!(node.proto.op_type.as_str(), "QuantizeLinear" | "DequantizeLinear") => {
                self.between(node).map(|kind| (kind, Activation::default()))
            }
            Some(numerics) => self.kind(node, numerics),
            None => Err(format!("it computes with floats, and only {} is wanted", Numerics::I8Rne)),
        };
        let (kind, activation, inputs) = match kind {
            Ok((kind, activation)) => (kind, activation, dynamic),
            Err(reason) => (Kind::Host { reason }, Activation::default(), dedup(dynamic)),
        };
        Op { nodes: vec![index], inputs, outputs: node.gives().collect(), kind, activation, flops }
    }

    /// What quantises or undoes it.
    fn between(&self, node: &Node) -> Result<Kind, Obstacle> {
        self.check(node, Numerics::I8Rne)?;
        let (from, to) = (self.input(node, 0)?, output(node).ok_or("it has no output")?);
        if node.proto.op_type == "QuantizeLinear" {
            self.is_float_map(from)?;
            self.map_of(to)?;
            Ok(Kind::Quantize(self.codes(node, to)?))
        } else {
            self.map_of(from)?;
            self.is_float_map(to)?;
            Ok(Kind::Dequantize(self.codes(node, from)?))
        }
    }

    /// Whether the bitstream has the operator, and the node one output that follows from its inputs.
    fn check(&self, node: &Node, numerics: Numerics) -> Result<&ManifestOp, Obstacle> {
        let name = node.proto.op_type.as_str();
        if !node.proto.is_standard() {
            return Err(format!("operators of `{}` are not executed by any bitstream", node.proto.domain));
        }
        let op = self
            .manifest
            .op(name, numerics.as_str())
            .ok_or_else(|| format!("the bitstream does not execute {name} with {numerics}"))?;
        if !node.fits {
            return Err("its inputs do not fit together, or its attributes".to_owned());
        }
        let mut used = node.outputs.iter().enumerate().filter(|(_, id)| id.is_some());
        if used.next().is_none_or(|(index, _)| index != 0)
            || used.any(|(_, id)| id.is_some_and(|id| self.is_used(id)))
        {
            return Err("it has more than one output".to_owned());
        }
        Ok(op)
    }

    /// The operation of a node, and the bounds that it sets.
    pub(crate) fn kind(&self, node: &Node, numerics: Numerics) -> Result<(Kind, Activation), Obstacle> {
        let name = node.proto.op_type.as_str();
        let op = self.check(node, numerics)?;
        let on_codes = name.starts_with("QLinear");
        for id in node.inputs.iter().flatten().filter(|&&id| !self.graph.is_constant(id)) {
            if on_codes {
                self.map_of(*id)?
            } else {
                self.is_float_map(*id)?
            };
        }
        let result = output(node).ok_or("it has no output")?;
        if on_codes {
            self.map_of(result)?
        } else {
            self.is_float_map(result)?
        };
        let mut measures = Measures::new();
        let none = Activation::default();
        let kind = match name {
            "Conv" => (self.conv(node, &mut measures)?, none),
            "Gemm" | "MatMul" => (self.dense(node)?, none),
            "QLinearConv" => (self.conv_of(node, 3, (Arc::from([]), None), &mut measures)?, none),
            "QLinearMatMul" => (self.dense_of(node, 3, Arc::from([]))?, none),
            "MaxPool" | "AveragePool" => (self.pool(node, &mut measures)?, none),
            "GlobalAveragePool" | "GlobalMaxPool" => (self.global_pool(node)?, none),
            "BatchNormalization" => (self.normalisation(node)?, none),
            "Add" | "Sub" | "Mul" => (self.arithmetic(node)?, none),
            "Relu" => (Kind::Activate, Activation { low: Some(0.0), high: None }),
            "Clip" => (Kind::Activate, self.clip(node)?),
            "Concat" => (self.concat(node, &mut measures)?, none),
            "Identity" | "Dropout" | "Flatten" | "Reshape" | "Squeeze" | "Unsqueeze" => {
                (self.view(node)?, none)
            }
            _ => return Err(format!("{name} has no kernel in this version")),
        };
        for (measure, value) in measures {
            if let Some(limit) = op.limits.get(measure).filter(|limit| !limit.admits(value)) {
                return Err(format!(
                    "its {measure} is {value}, and the bitstream takes {}",
                    limit_text(limit)
                ));
            }
        }
        Ok(kind)
    }

    fn is_used(&self, id: TensorId) -> bool {
        self.graph.outputs.contains(&id)
            || self.graph.nodes.iter().any(|node| node.needs().any(|need| need == id))
    }

    fn is_float_map(&self, id: TensorId) -> Result<[usize; 4], Obstacle> {
        let tensor = self.graph.tensor(id);
        match tensor.facts.element {
            Some(element::FLOAT) => {}
            Some(other) => return Err(format!("`{}` has element type {other} and not float", tensor.name)),
            None => return Err(format!("the element type of `{}` is not known", tensor.name)),
        }
        self.map_of(id)
    }

    fn map_of(&self, id: TensorId) -> Result<[usize; 4], Obstacle> {
        let tensor = self.graph.tensor(id);
        let shape = tensor.facts.shape.as_deref();
        let shape = shape.ok_or_else(|| format!("the shape of `{}` is not known", tensor.name))?;
        feature_map(shape)
            .ok_or_else(|| format!("`{}` has shape {shape:?}, and not that of a feature map", tensor.name))
    }

    fn input(&self, node: &Node, index: usize) -> Result<TensorId, Obstacle> {
        let id = node.inputs.get(index).copied().flatten();
        let id = id.ok_or_else(|| format!("its input {index} is missing"))?;
        if self.graph.is_constant(id) { Err(format!("its input {index} is a constant")) } else { Ok(id) }
    }

    fn shape(&self, node: &Node, index: usize) -> Result<&[usize], Obstacle> {
        let id = node.inputs.get(index).copied().flatten();
        id.and_then(|id| self.graph.shape(id))
            .ok_or_else(|| format!("the shape of its input {index} is not known"))
    }

    fn floats(&self, node: &Node, index: usize) -> Result<Option<Arc<[f32]>>, Obstacle> {
        let Some(id) = node.inputs.get(index).copied().flatten() else { return Ok(None) };
        let floats = self.graph.tensor(id).facts.constant.as_ref().and_then(Constant::floats);
        match floats {
            Some(floats) => Ok(Some(Arc::clone(floats))),
            None => Err(format!("`{}` is not a constant of floats", self.graph.tensor(id).name)),
        }
    }

    fn needed(&self, node: &Node, index: usize) -> Result<Arc<[f32]>, Obstacle> {
        self.floats(node, index)?.ok_or_else(|| format!("its input {index} is missing"))
    }

    fn conv(&self, node: &Node, measures: &mut Measures) -> Result<Kind, Obstacle> {
        let given = (self.needed(node, 1)?, self.floats(node, 2)?);
        self.conv_of(node, 1, given, measures)
    }

    /// A convolution whose weights have the shape of input `at`.
    fn conv_of(
        &self,
        node: &Node,
        at: usize,
        (weights, bias): (Arc<[f32]>, Option<Arc<[f32]>>),
        measures: &mut Measures,
    ) -> Result<Kind, Obstacle> {
        self.input(node, 0)?;
        let (input, kernel) = (self.shape(node, 0)?, self.shape(node, at)?);
        if kernel.len() != input.len() {
            return Err("its weights have another rank than its input".to_owned());
        }
        let window = self.window(node, &kernel[2..], measures)?;
        let groups = usize::try_from(node.proto.int("group", 1)).unwrap_or(0);
        let outputs = kernel[0];
        if groups == 0 || kernel[1] * groups != input[1] || outputs % groups != 0 {
            return Err("its groups do not divide its channels".to_owned());
        }
        measures.push(("group", groups as i64));
        if bias.as_ref().is_some_and(|bias| bias.len() != outputs) {
            return Err("its bias has another size than its output".to_owned());
        }
        let weights = Weights::Conv(weights);
        Ok(Kind::Conv(Conv { weights, bias, affine: None, groups, outputs, window, residual: false }))
    }

    fn dense(&self, node: &Node) -> Result<Kind, Obstacle> {
        let matrix = self.needed(node, 1)?;
        self.dense_of(node, 1, matrix)
    }

    /// A product with a matrix of the shape of input `at`.
    fn dense_of(&self, node: &Node, at: usize, matrix: Arc<[f32]>) -> Result<Kind, Obstacle> {
        self.input(node, 0)?;
        let (input, shape) = (self.shape(node, 0)?, self.shape(node, at)?);
        let ([_, depth], &[rows, columns]) = (input, shape) else {
            return Err("only products of two matrices are executed".to_owned());
        };
        let gemm = node.proto.op_type == "Gemm";
        let transposed = gemm && node.proto.int("transB", 0) != 0;
        let (alpha, beta) =
            if gemm { (node.proto.float("alpha", 1.0), node.proto.float("beta", 1.0)) } else { (1.0, 1.0) };
        if gemm && node.proto.int("transA", 0) != 0 {
            return Err("its first operand is transposed".to_owned());
        }
        let (inputs, outputs) = if transposed { (columns, rows) } else { (rows, columns) };
        if inputs != *depth {
            return Err("its operands do not fit".to_owned());
        }
        let bias = match if gemm { self.floats(node, 2)? } else { None } {
            None => None,
            Some(bias) if bias.len() == outputs && self.shape(node, 2)?.last() == Some(&outputs) => {
                Some(bias.iter().map(|value| value * beta).collect())
            }
            Some(bias) if bias.len() == 1 => Some(vec![bias[0] * beta; outputs].into()),
            Some(_) => return Err("its summand is not one value for each column".to_owned()),
        };
        let weights = Weights::Dense { matrix, transposed, alpha };
        let window = Spatial::POINT;
        Ok(Kind::Conv(Conv { weights, bias, affine: None, groups: 1, outputs, window, residual: false }))
    }

    fn window(&self, node: &Node, kernel: &[usize], measures: &mut Measures) -> Result<Spatial, Obstacle> {
        let input = self.shape(node, 0)?;
        let spatial = &input[2..];
        let window = Window::new(&node.proto, kernel, spatial).ok_or("its window makes no sense")?;
        let pair = |sizes: &[usize], none: usize| match *sizes {
            [w] => Ok([none, w]),
            [h, w] => Ok([h, w]),
            _ => Err("only windows over one or two dimensions are executed".to_owned()),
        };
        let window = Spatial {
            kernel: pair(&window.kernel, 1)?,
            strides: pair(&window.strides, 1)?,
            dilations: pair(&window.dilations, 1)?,
            before: pair(&window.before, 0)?,
            after: pair(&window.after, 0)?,
        };
        let largest = |sizes: [usize; 2]| sizes[0].max(sizes[1]) as i64;
        measures.push(("kernel", largest(window.kernel)));
        measures.push(("stride", largest(window.strides)));
        measures.push(("dilation", largest(window.dilations)));
        Ok(window)
    }

    fn pool(&self, node: &Node, measures: &mut Measures) -> Result<Kind, Obstacle> {
        self.input(node, 0)?;
        let kernel = node.proto.ints("kernel_shape").ok_or("its kernel is not stated")?;
        let kernel: Vec<usize> = kernel.iter().map(|&size| size.max(0) as usize).collect();
        let window = self.window(node, &kernel, measures)?;
        let average =
            (node.proto.op_type == "AveragePool").then(|| node.proto.int("count_include_pad", 0) != 0);
        if average.is_some() && window.dilations != [1, 1] {
            return Err("means of dilated windows are not executed".to_owned());
        }
        if (0..2).any(|axis| window.before[axis] >= window.kernel[axis]) {
            return Err("its padding is as large as its window".to_owned());
        }
        Ok(Kind::Pool(Pool { window, average }))
    }

    fn global_pool(&self, node: &Node) -> Result<Kind, Obstacle> {
        let [_, _, h, w] = self.is_float_map(self.input(node, 0)?)?;
        let average = (node.proto.op_type == "GlobalAveragePool").then_some(false);
        Ok(Kind::Pool(Pool { window: Spatial { kernel: [h, w], ..Spatial::POINT }, average }))
    }

    fn normalisation(&self, node: &Node) -> Result<Kind, Obstacle> {
        self.input(node, 0)?;
        if node.proto.int("training_mode", 0) != 0 {
            return Err("it is in training mode".to_owned());
        }
        let channels = self.shape(node, 0)?.get(1).copied().unwrap_or_default();
        let [gamma, beta, mean, variance] = [1, 2, 3, 4].map(|index| self.needed(node, index));
        let (gamma, beta, mean, variance) = (gamma?, beta?, mean?, variance?);
        if [&gamma, &beta, &mean, &variance].iter().any(|values| values.len() != channels) {
            return Err("its parameters are not one value for each channel".to_owned());
        }
        let epsilon = f64::from(node.proto.float("epsilon", 1e-5));
        // In double precision, so that folding costs nothing of the model's.
        let factor: Vec<f64> = gamma
            .iter()
            .zip(variance.iter())
            .map(|(&gamma, &variance)| f64::from(gamma) / (f64::from(variance) + epsilon).sqrt())
            .collect();
        let shift = factor.iter().zip(mean.iter().zip(beta.iter()));
        let shift = shift.map(|(factor, (&mean, &beta))| (f64::from(beta) - f64::from(mean) * factor) as f32);
        let affine =
            Affine { shift: shift.collect(), scale: factor.iter().map(|&factor| factor as f32).collect() };
        Ok(Kind::Affine(affine))
    }

    fn arithmetic(&self, node: &Node) -> Result<Kind, Obstacle> {
        let name = node.proto.op_type.as_str();
        let (Some(left), Some(right)) =
            (node.inputs.first().copied().flatten(), node.inputs.get(1).copied().flatten())
        else {
            return Err("it has other than two operands".to_owned());
        };
        let result =
            self.graph.shape(output(node).ok_or("it has no output")?).ok_or("its shape is not known")?;
        let is_constant = |id| self.graph.is_constant(id);
        match (is_constant(left), is_constant(right)) {
            (false, false) => {}
            (false, true) => return self.with_constant(node, result, left, 1),
            (true, false) if name != "Sub" => return self.with_constant(node, result, right, 0),
            _ => return Err("it subtracts from a constant".to_owned()),
        }
        let (a, b) = (self.is_float_map(left)?, self.is_float_map(right)?);
        let same = self.graph.shape(left) == self.graph.shape(right);
        let per_channel = a[..2] == b[..2]
            && b[2..] == [1, 1]
            && self.graph.shape(left).map(<[_]>::len) == self.graph.shape(right).map(<[_]>::len);
        match name {
            "Add" if same => Ok(Kind::Add),
            "Mul" if same || per_channel => Ok(Kind::Multiply),
            "Sub" => Err("it subtracts what is not a constant".to_owned()),
            _ => Err("its operands have shapes of which one is spread over the other".to_owned()),
        }
    }

    /// With a constant that is one value, or one for each channel.
    fn with_constant(
        &self,
        node: &Node,
        result: &[usize],
        id: TensorId,
        index: usize,
    ) -> Result<Kind, Obstacle> {
        if self.graph.shape(id) != Some(result) {
            return Err("its constant spreads its operand".to_owned());
        }
        let values = self.needed(node, index)?;
        let shape = self.shape(node, index)?;
        let channels = result[1];
        let axis = (1 + shape.len()).checked_sub(result.len());
        let per_channel =
            axis.is_some_and(|axis| shape.get(axis) == Some(&channels)) && values.len() == channels;
        let values = match values.len() {
            1 => vec![values[0]; channels],
            _ if per_channel => values.to_vec(),
            _ => return Err("its constant is not one value for each channel".to_owned()),
        };
        let (ones, zeros) = (vec![1.0; channels], vec![0.0; channels]);
        Ok(Kind::Affine(match node.proto.op_type.as_str() {
            "Add" => Affine { scale: ones, shift: values },
            "Sub" => Affine { scale: ones, shift: values.iter().map(|value| -value).collect() },
            _ => Affine { scale: values, shift: zeros },
        }))
    }

    fn clip(&self, node: &Node) -> Result<Activation, Obstacle> {
        let bound = |attribute: &str, index: usize| -> Result<Option<f32>, Obstacle> {
            match node.proto.attribute(attribute) {
                Some(value) => Ok(Some(value.f.unwrap_or_default())),
                None => Ok(self.floats(node, index)?.and_then(|values| values.first().copied())),
            }
        };
        let (low, high) = (bound("min", 1)?, bound("max", 2)?);
        if low.zip(high).is_some_and(|(low, high)| low > high) {
            return Err("its bounds are the wrong way round".to_owned());
        }
        // An infinite bound is none, and could not be written down.
        Ok(Activation { low: low.filter(|low| low.is_finite()), high: high.filter(|high| high.is_finite()) })
    }

    fn concat(&self, node: &Node, measures: &mut Measures) -> Result<Kind, Obstacle> {
        let rank = self.shape(node, 0)?.len() as i64;
        let axis = node.proto.int("axis", 1);
        if axis != 1 && axis + rank != 1 {
            return Err("it joins along another axis than the channels".to_owned());
        }
        for index in 0..node.inputs.len() {
            self.input(node, index)?;
            measures.push(("channels", self.shape(node, index)?[1] as i64));
        }
        Ok(Kind::Concat)
    }

    fn view(&self, node: &Node) -> Result<Kind, Obstacle> {
        if node.proto.op_type == "Dropout" && node.inputs.get(2).is_some_and(Option::is_some) {
            return Err("whether it trains is an input".to_owned());
        }
        let id = self.input(node, 0)?;
        let target = output(node).ok_or("it has no output")?;
        let (from, to) = (self.is_float_map(id)?, self.is_float_map(target)?);
        let flattens = from[0] == to[0] && to[1] == from[1] * from[2] * from[3] && to[2..] == [1, 1];
        if from == to || flattens { Ok(Kind::View) } else { Err("it reorders what is in memory".to_owned()) }
    }

    /// Multiplications and additions; of most nodes one for each element of the result.
    pub(crate) fn flops(&self, node: &Node) -> u64 {
        let size = |id: Option<TensorId>| {
            id.and_then(|id| self.graph.shape(id)).map_or(0, |shape| shape.iter().product::<usize>() as u64)
        };
        let result = size(node.outputs.first().copied().flatten());
        let on_codes = node.proto.op_type.starts_with("QLinear");
        let weights = || {
            node.inputs
                .get(if on_codes { 3 } else { 1 })
                .copied()
                .flatten()
                .and_then(|id| self.graph.shape(id))
        };
        let input = || node.inputs.first().copied().flatten().and_then(|id| self.graph.shape(id));
        let depth = match node.proto.op_type.as_str() {
            "Conv" | "QLinearConv" => {
                2 * weights().map_or(0, |shape| shape.iter().skip(1).product::<usize>()) as u64
            }
            "Gemm" => {
                let rows = usize::from(node.proto.int("transA", 0) == 0);
                2 * input().and_then(|shape| shape.get(rows)).copied().unwrap_or(0) as u64
            }
            "MatMul" | "QLinearMatMul" => {
                2 * input().and_then(|shape| shape.last().copied()).unwrap_or(0) as u64
            }
            "MaxPool" | "AveragePool" => {
                node.proto.ints("kernel_shape").map_or(1, |kernel| kernel.iter().product::<i64>().max(1))
                    as u64
            }
            "GlobalAveragePool" | "GlobalMaxPool" => {
                return size(node.inputs.first().copied().flatten());
            }
            "QuantizeLinear" | "DequantizeLinear" | "Identity" | "Dropout" | "Flatten" | "Reshape"
            | "Squeeze" | "Unsqueeze" | "Transpose" | "Concat" | "Shape" | "Gather" | "Slice"
            | "Constant" | "Cast" => 0,
            _ => 1,
        };
        result.saturating_mul(depth)
    }
}

fn output(node: &Node) -> Option<TensorId> {
    node.outputs.first().copied().flatten()
}

fn dedup(mut ids: Vec<TensorId>) -> Vec<TensorId> {
    ids.sort_unstable();
    ids.dedup();
    ids
}

fn limit_text(limit: &crate::bitstream::Limit) -> String {
    match (&limit.one_of, limit.at_least, limit.at_most) {
        (Some(values), _, _) => format!("one of {values:?}"),
        (None, Some(least), Some(most)) => format!("{least} to {most}"),
        (None, Some(least), None) => format!("at least {least}"),
        (None, None, Some(most)) => format!("at most {most}"),
        (None, None, None) => "anything".to_owned(),
    }
}
