//! What a plan works with: an operation is one or more nodes of the model that one place computes together.

use std::sync::Arc;

use crate::onnx::TensorId;

/// Nodes that are computed together.
#[derive(Clone, Debug)]
pub(crate) struct Op {
    /// By their places in the graph, in order.
    pub(crate) nodes: Vec<usize>,
    /// What is computed from, without constants.
    pub(crate) inputs: Vec<TensorId>,
    pub(crate) outputs: Vec<TensorId>,
    pub(crate) kind: Kind,
    pub(crate) activation: Activation,
    /// Multiplications and additions.
    pub(crate) flops: u64,
}

impl Op {
    /// Where in the graph it can be computed: with the last of its nodes.
    pub(crate) fn position(&self) -> usize {
        self.nodes.iter().max().copied().unwrap_or_default()
    }

    /// Why it cannot run on the device.
    pub(crate) fn obstacle(&self) -> Option<&str> {
        match &self.kind {
            Kind::Host { reason } => Some(reason),
            _ => None,
        }
    }
}

/// Bounds of a result: `Relu` and `Clip`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Activation {
    pub(crate) low: Option<f32>,
    pub(crate) high: Option<f32>,
}

impl Activation {
    pub(crate) fn is_none(self) -> bool {
        self == Self::default()
    }

    /// Bounds that do the same as these and then others; nothing where that is not possible at once.
    pub(crate) fn then(self, then: Self) -> Option<Self> {
        let both =
            Self { low: merged(self.low, then.low, f32::max), high: merged(self.high, then.high, f32::min) };
        both.low.zip(both.high).is_none_or(|(low, high)| low <= high).then_some(both)
    }
}

fn merged(first: Option<f32>, then: Option<f32>, pick: impl Fn(f32, f32) -> f32) -> Option<f32> {
    match (first, then) {
        (Some(first), Some(then)) => Some(pick(first, then)),
        (one, other) => one.or(other),
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Conv(Conv),
    /// The largest of a window, or the mean.
    Pool(Pool),
    /// A factor and a summand for each channel.
    Affine(Affine),
    /// Two feature maps of one shape.
    Add,
    /// The second may be one value a channel.
    Multiply,
    Activate,
    /// Along the channels.
    Concat,
    /// The same data under another shape.
    View,
    /// Numbers to codes, and back.
    Quantize(Codes),
    Dequantize(Codes),
    /// The same on codes, whose results are codes.
    CodeConv(Box<CodeConv>),
    CodePool(Pool, Codes, Codes),
    CodeAdd([Codes; 2], Codes),
    /// Each input with codes of its own.
    CodeConcat(Vec<Codes>, Codes),
    /// Other codes for the same numbers.
    Recode(Codes, Codes),
    /// On the CPU.
    Host {
        reason: String,
    },
}

/// A convolution, or a product with a constant matrix: then the input is taken flat, whatever its shape, and the kernel
/// is as large as the input.
#[derive(Clone, Debug)]
pub(crate) struct Conv {
    pub(crate) weights: Weights,
    pub(crate) bias: Option<Arc<[f32]>>,
    /// What follows it and is folded into weights and bias.
    pub(crate) affine: Option<Affine>,
    pub(crate) groups: usize,
    pub(crate) outputs: usize,
    pub(crate) window: Spatial,
    /// Whether the second input is added to the result.
    pub(crate) residual: bool,
}

impl Conv {
    /// Whether every channel has a kernel of its own.
    pub(crate) fn is_depthwise(&self) -> bool {
        let [h, w] = self.window.kernel;
        let single = matches!(&self.weights, Weights::Conv(weights) if weights.len() == self.outputs * h * w);
        self.groups > 1 && self.groups == self.outputs && single
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Weights {
    /// Outputs x inputs of a group x kernel.
    Conv(Arc<[f32]>),
    /// Inputs x outputs, or outputs x inputs where transposed; times `alpha`.
    Dense { matrix: Arc<[f32]>, transposed: bool, alpha: f32 },
}

/// A window over rows and columns; of one-dimensional data over the columns of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spatial {
    pub(crate) kernel: [usize; 2],
    pub(crate) strides: [usize; 2],
    pub(crate) dilations: [usize; 2],
    pub(crate) before: [usize; 2],
    pub(crate) after: [usize; 2],
}

impl Spatial {
    pub(crate) const POINT: Self =
        Self { kernel: [1, 1], strides: [1, 1], dilations: [1, 1], before: [0, 0], after: [0, 0] };
}

#[derive(Clone, Debug)]
pub(crate) struct Pool {
    pub(crate) window: Spatial,
    /// `None` is the largest; otherwise the mean, and whether the padding counts.
    pub(crate) average: Option<bool>,
}

#[derive(Clone, Debug)]
pub(crate) struct Affine {
    pub(crate) scale: Vec<f32>,
    pub(crate) shift: Vec<f32>,
}

/// What codes of 8 bits stand for: `scale` times the distance from `zero`. On the device all codes are unsigned; signed
/// ones are held 128 above what they are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Codes {
    pub(crate) scale: f32,
    /// As held on the device: 0 to 255.
    pub(crate) zero: i32,
    pub(crate) signed: bool,
}

impl Codes {
    /// The code of a number, as held on the device.
    pub(crate) fn of(self, value: f32) -> i32 {
        let steps = (value / self.scale).round_ties_even().clamp(-512.0, 512.0);
        (steps as i32 + self.zero).clamp(0, 255)
    }

    /// The least and the greatest code within the bounds.
    pub(crate) fn within(self, bounds: Activation) -> [i32; 2] {
        let low = bounds.low.map_or(0, |low| self.of(low));
        [low, bounds.high.map_or(255, |high| self.of(high)).max(low)]
    }
}

/// A convolution, or a product with a constant matrix, of codes.
#[derive(Clone, Debug)]
pub(crate) struct CodeConv {
    pub(crate) weights: CodeWeights,
    /// In units of the input's scale times that of the weights.
    pub(crate) bias: Vec<i32>,
    /// Of the weights of each output.
    pub(crate) scales: Vec<f32>,
    pub(crate) groups: usize,
    pub(crate) outputs: usize,
    pub(crate) window: Spatial,
    pub(crate) input: Codes,
    /// Nothing where the result is numbers.
    pub(crate) output: Option<Codes>,
    /// What the second input is held as, where it is added to the result, and what the sum is held as.
    pub(crate) residual: Option<(Codes, Codes)>,
}

impl CodeConv {
    /// Whether every channel has a kernel of its own.
    pub(crate) fn is_depthwise(&self) -> bool {
        let [h, w] = self.window.kernel;
        let single =
            matches!(&self.weights, CodeWeights::Conv(weights) if weights.len() == self.outputs * h * w);
        self.groups > 1 && self.groups == self.outputs && single
    }

    /// What the whole gives.
    pub(crate) fn gives(&self) -> Option<Codes> {
        self.residual.map(|(_, sum)| sum).or(self.output)
    }
}

/// Weights less their zeros: -255 to 255. In the orders of [`Weights`].
#[derive(Clone, Debug)]
pub(crate) enum CodeWeights {
    Conv(Arc<[i16]>),
    Dense { matrix: Arc<[i16]>, transposed: bool },
}

/// A shape as the device sees it: batch, channels, rows, columns.
pub(crate) fn feature_map(shape: &[usize]) -> Option<[usize; 4]> {
    let map = match *shape {
        [n, c] => [n, c, 1, 1],
        [n, c, w] => [n, c, 1, w],
        [n, c, h, w] => [n, c, h, w],
        _ => return None,
    };
    map.iter().all(|&size| size > 0).then_some(map)
}
