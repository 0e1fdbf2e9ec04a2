//! What is known of a node's outputs from its inputs: element type, shape, and the value where it can be computed at
//! once (shapes and what is made of them). What has no rule here is unknown, and stays on the CPU.

use std::sync::Arc;

use super::{
    constant::Constant,
    proto::{NodeProto, element},
};

/// What is known of a tensor.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// The number that ONNX gives its element type.
    pub(crate) element: Option<i32>,
    pub(crate) shape: Option<Vec<usize>>,
    pub(crate) constant: Option<Constant>,
}

const BOOL: i32 = 9;

/// Facts of a node's outputs, possibly fewer than it has.
pub(crate) fn infer(node: &NodeProto, inputs: &[Option<&Facts>], opset: i64) -> Vec<Facts> {
    if !node.is_standard() {
        return Vec::new();
    }
    let rule = Rule { node, inputs, opset };
    rule.outputs().unwrap_or_default()
}

/// The sizes of a window that moves over spatial dimensions; what Conv and the pools have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) kernel: Vec<usize>,
    pub(crate) strides: Vec<usize>,
    pub(crate) dilations: Vec<usize>,
    pub(crate) before: Vec<usize>,
    pub(crate) after: Vec<usize>,
    pub(crate) output: Vec<usize>,
}

impl Window {
    /// The window of `node` with a kernel of `kernel` over `spatial`; nothing where its attributes make no sense.
    pub(crate) fn new(node: &NodeProto, kernel: &[usize], spatial: &[usize]) -> Option<Self> {
        let rank = spatial.len();
        let list = |name: &str| match node.ints(name) {
            None => Some(vec![1; rank]),
            Some(ints) if ints.len() == rank => {
                ints.iter().map(|&int| usize::try_from(int).ok().filter(|&int| int > 0)).collect()
            }
            Some(_) => None,
        };
        let (strides, dilations) = (list("strides")?, list("dilations")?);
        let auto = node.string("auto_pad").unwrap_or("NOTSET");
        let ceil = node.int("ceil_mode", 0) != 0;
        let (mut before, mut after, mut output) = (vec![0; rank], vec![0; rank], vec![0; rank]);
        if let ("NOTSET", Some(pads)) = (auto, node.ints("pads")) {
            if pads.len() != 2 * rank {
                return None;
            }
            for axis in 0..rank {
                before[axis] = usize::try_from(pads[axis]).ok()?;
                after[axis] = usize::try_from(pads[axis + rank]).ok()?;
            }
        }
        if kernel.len() != rank || kernel.contains(&0) {
            return None;
        }
        for axis in 0..rank {
            let reach = (kernel[axis] - 1).checked_mul(dilations[axis])?.checked_add(1)?;
            if let "SAME_UPPER" | "SAME_LOWER" = auto {
                output[axis] = spatial[axis].div_ceil(strides[axis]);
                let needed = (output[axis].checked_sub(1)? * strides[axis]).checked_add(reach)?;
                let total = needed.saturating_sub(spatial[axis]);
                let small = total / 2;
                (before[axis], after[axis]) =
                    if auto == "SAME_UPPER" { (small, total - small) } else { (total - small, small) };
                continue;
            }
            let padded = spatial[axis].checked_add(before[axis])?.checked_add(after[axis])?;
            let room = padded.checked_sub(reach)?;
            output[axis] = 1 + if ceil { room.div_ceil(strides[axis]) } else { room / strides[axis] };
            // A window that begins in the padding behind the data does not count.
            if ceil && (output[axis] - 1) * strides[axis] >= spatial[axis] + before[axis] {
                output[axis] -= 1;
            }
        }
        Some(Self { kernel: kernel.to_vec(), strides, dilations, before, after, output })
    }
}

struct Rule<'a> {
    node: &'a NodeProto,
    inputs: &'a [Option<&'a Facts>],
    opset: i64,
}

fn facts(element: Option<i32>, shape: Vec<usize>) -> Vec<Facts> {
    vec![Facts { element, shape: Some(shape), constant: None }]
}

impl Rule<'_> {
    fn input(&self, index: usize) -> Option<&Facts> {
        self.inputs.get(index).copied().flatten()
    }

    fn shape(&self, index: usize) -> Option<&[usize]> {
        self.input(index)?.shape.as_deref()
    }

    fn element(&self) -> Option<i32> {
        self.input(0)?.element
    }

    fn ints(&self, index: usize) -> Option<&Arc<[i64]>> {
        self.input(index)?.constant.as_ref()?.ints()
    }

    /// Axes or starts: an attribute in older operators, an input in newer ones.
    fn ints_of(&self, attribute: &str, index: usize) -> Option<Vec<i64>> {
        match self.node.ints(attribute) {
            Some(ints) => Some(ints.to_vec()),
            None => self.ints(index).map(|ints| ints.to_vec()),
        }
    }

    fn outputs(&self) -> Option<Vec<Facts>> {
        let node = self.node;
        let out = match node.op_type.as_str() {
            "Relu"
            | "Clip"
            | "LeakyRelu"
            | "Sigmoid"
            | "Tanh"
            | "Softmax"
            | "LogSoftmax"
            | "LRN"
            | "Exp"
            | "Log"
            | "Sqrt"
            | "Neg"
            | "Abs"
            | "Reciprocal"
            | "Elu"
            | "Selu"
            | "HardSigmoid"
            | "HardSwish"
            | "Softplus"
            | "InstanceNormalization"
            | "LpNormalization"
            | "Erf"
            | "Floor"
            | "Ceil"
            | "Round"
            | "Gelu"
            | "LayerNormalization"
            | "BatchNormalization"
            | "PRelu" => facts(self.element(), self.shape(0)?.to_vec()),
            "Identity" => vec![self.input(0)?.clone()],
            "Dropout" => vec![Facts { constant: None, ..self.input(0)?.clone() }],
            "Cast" => self.cast()?,
            "QuantizeLinear" => self.quantize()?,
            "DequantizeLinear" => self.dequantize()?,
            "QLinearConv" => {
                let mut out = self.window_of(3)?;
                out[0].element = self.input(7)?.element;
                out
            }
            "QLinearMatMul" => {
                let (a, b) = (self.shape(0)?, self.shape(3)?);
                facts(self.input(7)?.element, product(a, b)?)
            }
            "Add" | "Sub" | "Mul" | "Div" => self.arithmetic()?,
            "Pow" | "Max" | "Min" | "Sum" | "Mean" => facts(self.element(), self.broadcast()?),
            "Equal" | "Less" | "Greater" | "And" | "Or" => facts(Some(BOOL), self.broadcast()?),
            "Conv" => self.conv()?,
            "MaxPool" | "AveragePool" => self.pool()?,
            "GlobalAveragePool" | "GlobalMaxPool" => {
                let mut shape = self.shape(0)?.to_vec();
                shape.iter_mut().skip(2).for_each(|size| *size = 1);
                facts(self.element(), shape)
            }
            "Gemm" => self.gemm()?,
            "MatMul" => self.matmul()?,
            "Concat" => self.concat()?,
            "Flatten" => {
                let shape = self.shape(0)?;
                let axis = node.int("axis", 1);
                // It may be behind the last, but counts from the last where it counts from the end.
                let axis = if axis < 0 { axis + shape.len() as i64 } else { axis };
                let axis = usize::try_from(axis).ok().filter(|&axis| axis <= shape.len())?;
                let (outer, inner) = (shape[..axis].iter().product(), shape[axis..].iter().product());
                self.reshaped(vec![outer, inner])?
            }
            "Reshape" => self.reshape()?,
            "Transpose" => self.transpose()?,
            "Squeeze" | "Unsqueeze" => self.squeeze()?,
            "Shape" => self.shape_of()?,
            "Gather" => self.gather()?,
            "Slice" => self.slice()?,
            "Pad" => self.pad()?,
            "Constant" => {
                let (value, shape) = match (node.attribute("value"), node.attribute("value_ints")) {
                    (Some(value), _) => Constant::read(value.t.as_ref()?).ok()?,
                    (None, Some(list)) => {
                        (Constant::Ints(list.ints.as_slice().into()), vec![list.ints.len()])
                    }
                    (None, None) => match (node.attribute("value_int"), node.attribute("value_float")) {
                        (Some(int), _) => (Constant::Ints([int.i.unwrap_or_default()].into()), vec![]),
                        (None, Some(float)) => {
                            (Constant::Floats([float.f.unwrap_or_default()].into()), vec![])
                        }
                        (None, None) => return None,
                    },
                };
                let element = match (&value, node.attribute("value")) {
                    (_, Some(tensor)) => tensor.t.as_ref()?.data_type,
                    (Constant::Floats(_), None) => Some(element::FLOAT),
                    (_, None) => Some(element::INT64),
                };
                vec![Facts { element, shape: Some(shape), constant: Some(value) }]
            }
            name if name.starts_with("Reduce") => self.reduce()?,
            _ => return None,
        };
        Some(out)
    }

    fn broadcast(&self) -> Option<Vec<usize>> {
        let mut shape: Vec<usize> = Vec::new();
        for index in 0..self.inputs.len() {
            shape = broadcast(&shape, self.shape(index)?)?;
        }
        Some(shape)
    }

    fn arithmetic(&self) -> Option<Vec<Facts>> {
        let mut out = facts(self.element(), self.broadcast()?);
        let (Some(left), Some(right)) = (self.ints(0), self.ints(1)) else { return Some(out) };
        let count = out[0].shape.as_ref()?.iter().product::<usize>();
        let whole = |ints: &Arc<[i64]>| ints.len() == count || ints.len() == 1;
        if !whole(left) || !whole(right) {
            return Some(out);
        }
        let values = (0..count).map(|index| {
            let (left, right) = (left[index % left.len()], right[index % right.len()]);
            match self.node.op_type.as_str() {
                "Add" => left.checked_add(right),
                "Sub" => left.checked_sub(right),
                "Mul" => left.checked_mul(right),
                _ => left.checked_div(right),
            }
        });
        out[0].constant = Some(Constant::Ints(values.collect::<Option<Arc<[i64]>>>()?));
        Some(out)
    }

    fn cast(&self) -> Option<Vec<Facts>> {
        let to = i32::try_from(self.node.int("to", 0)).ok()?;
        let mut out = facts(Some(to), self.shape(0)?.to_vec());
        if matches!(to, element::INT32 | element::INT64) {
            out[0].constant = self.ints(0).map(|ints| Constant::Ints(Arc::clone(ints)));
        }
        Some(out)
    }

    fn conv(&self) -> Option<Vec<Facts>> {
        self.window_of(1)
    }

    /// A convolution whose weights are input `weights`.
    fn window_of(&self, weights: usize) -> Option<Vec<Facts>> {
        let (input, weights) = (self.shape(0)?, self.shape(weights)?);
        if input.len() < 3 || weights.len() != input.len() {
            return None;
        }
        let window = Window::new(self.node, &weights[2..], &input[2..])?;
        Some(facts(self.element(), [&[input[0], weights[0]], window.output.as_slice()].concat()))
    }

    fn pool(&self) -> Option<Vec<Facts>> {
        let input = self.shape(0)?;
        let kernel: Option<Vec<usize>> =
            self.node.ints("kernel_shape")?.iter().map(|&size| usize::try_from(size).ok()).collect();
        let window = Window::new(self.node, &kernel?, input.get(2..)?)?;
        Some(facts(self.element(), [&input[..2], window.output.as_slice()].concat()))
    }

    fn gemm(&self) -> Option<Vec<Facts>> {
        let (a, b) = (self.shape(0)?, self.shape(1)?);
        let rows = *a.get(usize::from(self.node.int("transA", 0) != 0))?;
        let columns = *b.get(usize::from(self.node.int("transB", 0) == 0))?;
        Some(facts(self.element(), vec![rows, columns]))
    }

    fn matmul(&self) -> Option<Vec<Facts>> {
        Some(facts(self.element(), product(self.shape(0)?, self.shape(1)?)?))
    }

    /// Of constants at once: models hold weights so.
    fn quantize(&self) -> Option<Vec<Facts>> {
        let element = self.input(2).map_or(Some(element::U8), |zero| zero.element);
        let mut out = facts(element, self.shape(0)?.to_vec());
        let values = self.input(0)?.constant.as_ref().and_then(Constant::floats);
        if let (Some(values), Some((low, high))) = (values, code_range(element)) {
            let params = self.parameters()?;
            let code = |(index, &value): (usize, &f32)| {
                let (scale, zero) = params.of(index);
                ((value / scale).round_ties_even() + f32::from(zero)).clamp(low, high) as i16
            };
            out[0].constant = Some(Constant::Codes(values.iter().enumerate().map(code).collect()));
        }
        Some(out)
    }

    fn dequantize(&self) -> Option<Vec<Facts>> {
        let mut out = facts(Some(element::FLOAT), self.shape(0)?.to_vec());
        let Some(constant) = self.input(0)?.constant.as_ref() else { return Some(out) };
        let params = self.parameters()?;
        let value = |index: usize, code: f32| {
            let (scale, zero) = params.of(index);
            (code - f32::from(zero)) * scale
        };
        let values: Arc<[f32]> = if let Some(codes) = constant.codes() {
            codes.iter().enumerate().map(|(index, &code)| value(index, f32::from(code))).collect()
        } else {
            // Biases, whose zero is 0 always.
            let ints = constant.ints()?;
            ints.iter().enumerate().map(|(index, &int)| value(index, int as f32)).collect()
        };
        out[0].constant = Some(Constant::Floats(values));
        Some(out)
    }

    /// The scales and zeros of a node that quantises or undoes it; nothing where they are not constants.
    fn parameters(&self) -> Option<Parameters<'_>> {
        let shape = self.shape(0)?;
        let scales = self.input(1)?.constant.as_ref()?.floats()?;
        let zeros = match self.input(2) {
            None => None,
            Some(zeros) => match zeros.constant.as_ref()? {
                Constant::Codes(codes) => Some(codes),
                Constant::Ints(ints) if ints.iter().all(|&zero| zero == 0) => None,
                _ => return None,
            },
        };
        let fits = |count: usize, size: usize| count == 1 || count == size;
        let (mut size, mut inner) = (1, 1);
        if scales.len() != 1 {
            let axis = position(self.node.int("axis", 1), shape.len())?;
            (size, inner) = (shape[axis], shape[axis + 1..].iter().product());
        }
        let whole = self.node.int("block_size", 0) == 0
            && fits(scales.len(), size)
            && zeros.is_none_or(|zeros| fits(zeros.len(), size));
        whole.then_some(Parameters { scales, zeros: zeros.map(|zeros| &zeros[..]), size, inner })
    }

    fn concat(&self) -> Option<Vec<Facts>> {
        let first = self.shape(0)?;
        let axis = position(self.node.int("axis", 1), first.len())?;
        let mut shape = first.to_vec();
        for index in 1..self.inputs.len() {
            let other = self.shape(index)?;
            if other.len() != shape.len() {
                return None;
            }
            shape[axis] += other[axis];
        }
        let mut out = facts(self.element(), shape);
        let values: Option<Vec<&Arc<[i64]>>> = (0..self.inputs.len()).map(|index| self.ints(index)).collect();
        if let (Some(values), Some(1)) = (values, out[0].shape.as_ref().map(Vec::len)) {
            out[0].constant =
                Some(Constant::Ints(values.into_iter().flat_map(|ints| ints.iter().copied()).collect()));
        }
        Some(out)
    }

    /// The same elements under another shape.
    fn reshaped(&self, shape: Vec<usize>) -> Option<Vec<Facts>> {
        let count: usize = self.shape(0)?.iter().product();
        (shape.iter().product::<usize>() == count).then_some(())?;
        let constant = self.input(0)?.constant.clone();
        Some(vec![Facts { element: self.element(), shape: Some(shape), constant }])
    }

    fn reshape(&self) -> Option<Vec<Facts>> {
        let input = self.shape(0)?;
        let wanted = self.ints(1)?;
        let keep_zero = self.node.int("allowzero", 0) != 0;
        let mut shape = Vec::with_capacity(wanted.len());
        let mut open = None;
        for (axis, &size) in wanted.iter().enumerate() {
            shape.push(match size {
                -1 => {
                    open = Some(axis);
                    1
                }
                0 if !keep_zero => *input.get(axis)?,
                size => usize::try_from(size).ok()?,
            });
        }
        if let Some(axis) = open {
            let rest: usize = shape.iter().product();
            shape[axis] = input.iter().product::<usize>().checked_div(rest)?;
        }
        self.reshaped(shape)
    }

    fn transpose(&self) -> Option<Vec<Facts>> {
        let input = self.shape(0)?;
        let shape: Option<Vec<usize>> = match self.node.ints("perm") {
            None => Some(input.iter().rev().copied().collect()),
            Some(order) => {
                order.iter().map(|&axis| input.get(usize::try_from(axis).ok()?).copied()).collect()
            }
        };
        Some(facts(self.element(), shape?))
    }

    fn squeeze(&self) -> Option<Vec<Facts>> {
        let mut shape = self.shape(0)?.to_vec();
        let axes = self.ints_of("axes", 1);
        if self.node.op_type == "Unsqueeze" {
            let rank = shape.len() + axes.as_ref()?.len();
            let mut axes: Vec<usize> =
                axes?.iter().map(|&axis| position(axis, rank)).collect::<Option<_>>()?;
            axes.sort_unstable();
            for axis in axes {
                (axis <= shape.len()).then(|| shape.insert(axis, 1))?;
            }
        } else {
            let rank = shape.len();
            let axes: Vec<usize> = match axes {
                Some(axes) => axes.iter().map(|&axis| position(axis, rank)).collect::<Option<_>>()?,
                None => (0..rank).filter(|&axis| shape[axis] == 1).collect(),
            };
            let mut axis = 0;
            shape.retain(|_| (!axes.contains(&axis), axis += 1).0);
        }
        self.reshaped(shape)
    }

    fn shape_of(&self) -> Option<Vec<Facts>> {
        let shape = self.shape(0)?;
        let rank = shape.len();
        let clamp =
            |index: i64| (if index < 0 { index + rank as i64 } else { index }).clamp(0, rank as i64) as usize;
        let (start, end) = (clamp(self.node.int("start", 0)), clamp(self.node.int("end", rank as i64)));
        let ints: Arc<[i64]> = shape.get(start..end)?.iter().map(|&size| size as i64).collect();
        let shape = Some(vec![ints.len()]);
        Some(vec![Facts { element: Some(element::INT64), shape, constant: Some(Constant::Ints(ints)) }])
    }

    fn gather(&self) -> Option<Vec<Facts>> {
        let (data, indices) = (self.shape(0)?, self.shape(1)?);
        let axis = position(self.node.int("axis", 0), data.len())?;
        let mut out = facts(self.element(), [&data[..axis], indices, &data[axis + 1..]].concat());
        if let (Some(values), Some(picks), 1) = (self.ints(0), self.ints(1), data.len()) {
            let picked = picks.iter().map(|&pick| values.get(position(pick, values.len())?).copied());
            out[0].constant = Some(Constant::Ints(picked.collect::<Option<Arc<[i64]>>>()?));
        }
        Some(out)
    }

    fn slice(&self) -> Option<Vec<Facts>> {
        let mut shape = self.shape(0)?.to_vec();
        let (starts, ends) = (self.ints_of("starts", 1)?, self.ints_of("ends", 2)?);
        let axes = self.ints_of("axes", 3).unwrap_or_else(|| (0..starts.len() as i64).collect());
        let steps = self.ints(4);
        if steps.is_some_and(|steps| steps.iter().any(|&step| step != 1)) || axes.len() != starts.len() {
            return None;
        }
        let mut range = 0..0;
        for ((&start, &end), &axis) in starts.iter().zip(&ends).zip(&axes) {
            let axis = position(axis, shape.len())?;
            let size = shape[axis] as i64;
            let clamp = |index: i64| (if index < 0 { index + size } else { index }).clamp(0, size) as usize;
            range = clamp(start)..clamp(end).max(clamp(start));
            shape[axis] = range.len();
        }
        let mut out = facts(self.element(), shape);
        if let (Some(values), Some([_])) = (self.ints(0), out[0].shape.as_deref()) {
            out[0].constant = Some(Constant::Ints(values.get(range)?.into()));
        }
        Some(out)
    }

    fn pad(&self) -> Option<Vec<Facts>> {
        let mut shape = self.shape(0)?.to_vec();
        let pads = self.ints_of("pads", 1)?;
        if pads.len() != 2 * shape.len() || self.input(3).is_some() {
            return None;
        }
        let rank = shape.len();
        for (axis, size) in shape.iter_mut().enumerate() {
            *size = usize::try_from(*size as i64 + pads[axis] + pads[axis + rank]).ok()?;
        }
        Some(facts(self.element(), shape))
    }

    fn reduce(&self) -> Option<Vec<Facts>> {
        let shape = self.shape(0)?;
        let axes = match self.ints_of("axes", 1) {
            Some(axes) => axes.iter().map(|&axis| position(axis, shape.len())).collect::<Option<Vec<_>>>()?,
            None if self.input(1).is_some() => return None,
            None if self.opset >= 13 && self.node.int("noop_with_empty_axes", 0) != 0 => vec![],
            None => (0..shape.len()).collect(),
        };
        let keep = self.node.int("keepdims", 1) != 0;
        let left = |(axis, &size): (usize, &usize)| {
            if axes.contains(&axis) { keep.then_some(1) } else { Some(size) }
        };
        let sizes = shape.iter().enumerate().filter_map(left);
        Some(facts(self.element(), sizes.collect()))
    }
}

/// Scales and zeros, one or one for each place on an axis.
struct Parameters<'a> {
    scales: &'a [f32],
    zeros: Option<&'a [i16]>,
    /// Places on the axis.
    size: usize,
    /// Elements for each of them.
    inner: usize,
}

impl Parameters<'_> {
    fn of(&self, index: usize) -> (f32, i16) {
        let place = index / self.inner.max(1) % self.size.max(1);
        let zeros = self.zeros.unwrap_or(&[0]);
        (self.scales[place % self.scales.len()], zeros[place % zeros.len()])
    }
}

fn code_range(element: Option<i32>) -> Option<(f32, f32)> {
    match element? {
        element::U8 => Some((0.0, 255.0)),
        element::I8 => Some((-128.0, 127.0)),
        _ => None,
    }
}

fn product(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let ([outer @ .., rows, inner], [others @ .., depth, columns]) = (a, b) else { return None };
    if inner != depth {
        return None;
    }
    let mut shape = broadcast(outer, others)?;
    shape.extend([*rows, *columns]);
    Some(shape)
}

/// An axis or index that may count from the end.
fn position(index: i64, length: usize) -> Option<usize> {
    let index = if index < 0 { index + length as i64 } else { index };
    usize::try_from(index).ok().filter(|&index| index < length)
}

fn broadcast(left: &[usize], right: &[usize]) -> Option<Vec<usize>> {
    let rank = left.len().max(right.len());
    let size =
        |shape: &[usize], axis: usize| (axis + shape.len()).checked_sub(rank).map_or(1, |axis| shape[axis]);
    let sizes = (0..rank).map(|axis| match (size(left, axis), size(right, axis)) {
        (left, right) if left == right => Some(left),
        (1, size) | (size, 1) => Some(size),
        _ => None,
    });
    sizes.collect()
}
