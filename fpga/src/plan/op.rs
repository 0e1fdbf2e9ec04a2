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
        self.nodes.last().copied().unwrap_or_default()
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
