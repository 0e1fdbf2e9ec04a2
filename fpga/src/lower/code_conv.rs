//! Lowers convolutions and products with constant matrices of codes: what the zero of the input adds up to goes into the
//! start of each sum, so that kernels multiply codes as they are.

use super::{
    builder::{Arguments, Builder},
    conv::{Shape, Walk},
    error::LowerError,
    layout::{LANES, Layout},
    tile::{CODE_TILES, Cut},
};
use crate::plan::op::{Activation, CodeConv, CodeWeights, Codes, Op};

/// Weights that one instruction multiplies and adds.
const QUAD: usize = 4;
/// What the kernels' `flags` say.
const RESIDUAL: i32 = 1;
const FLOATS: i32 = 2;

impl CodeConv {
    /// The weight by output, input of its group and place in the kernel.
    fn weight(&self, output: usize, input: usize, tap: usize, (inputs, taps): (usize, usize)) -> i16 {
        match &self.weights {
            CodeWeights::Conv(weights) => weights[(output * inputs + input) * taps + tap],
            CodeWeights::Dense { matrix, transposed: true } => matrix[(output * inputs + input) * taps + tap],
            CodeWeights::Dense { matrix, transposed: false } => {
                matrix[(input * taps + tap) * self.outputs + output]
            }
        }
    }

    fn len(&self) -> usize {
        match &self.weights {
            CodeWeights::Conv(weights) | CodeWeights::Dense { matrix: weights, .. } => weights.len(),
        }
    }

    /// What a sum begins with: the bias, less what the zero of the input adds to it.
    fn start(&self, output: usize, sum: i32) -> i32 {
        self.bias[output].wrapping_sub(self.input.zero.wrapping_mul(sum))
    }

    /// What a sum is multiplied with: floats, rounded after each operation.
    fn factor(&self, output: usize) -> f32 {
        let unit = self.input.scale * self.scales[output];
        self.output.map_or(unit, |codes| unit / codes.scale)
    }

    /// The same for all outputs, and nothing for those that fill up a block.
    fn factors(&self, blocks: usize) -> Vec<f32> {
        let mut factors: Vec<f32> = (0..self.outputs).map(|output| self.factor(output)).collect();
        factors.resize(blocks * LANES, 0.0);
        factors
    }
}

/// Weights in the order in which a kernel reads them, with what they add up to for each output.
struct Panels {
    /// Each holds a part of every weight that fits into 8 bits.
    passes: usize,
    bytes: Vec<i8>,
    start: Vec<i32>,
}

impl Panels {
    fn new(conv: &CodeConv, walk: &Walk) -> Option<Self> {
        let groups = walk.groups;
        let (lanes, taps) = (walk.lanes(), walk.kernel()[0] * walk.kernel()[1]);
        let inputs = (groups.own_inputs, taps);
        if conv.len() != conv.outputs * groups.own_inputs * taps {
            return None;
        }
        let all = match &conv.weights {
            CodeWeights::Conv(weights) | CodeWeights::Dense { matrix: weights, .. } => weights,
        };
        let (least, most) = all.iter().fold((0, 0), |(least, most), &w| (w.min(least), w.max(most)));
        let passes = usize::from(least.unsigned_abs().div_ceil(128).max(most.unsigned_abs().div_ceil(127)));
        let passes = passes.max(1);
        let width = walk.tile.blocks * LANES;
        let one = groups.inputs.div_ceil(lanes) * taps * lanes * width;
        let mut bytes = vec![0_i8; groups.count * walk.share * passes * one];
        let mut start = vec![0_i32; groups.count * walk.share * width];
        for group in 0..groups.count {
            for output in 0..groups.outputs {
                let absolute = group * groups.outputs + output;
                let first = output / groups.own_outputs * groups.own_inputs;
                let panel = (group * walk.share + output / width) * passes * one;
                let mut sum = 0_i32;
                for own in 0..groups.own_inputs {
                    let input = first + own;
                    for tap in 0..taps {
                        let mut left = conv.weight(absolute, own, tap, inputs);
                        sum = sum.wrapping_add(i32::from(left));
                        let row = (input / lanes * taps + tap) * lanes + input % lanes;
                        let at = (row / QUAD * width + output % width) * QUAD + row % QUAD;
                        for pass in 0..passes {
                            let part = left.clamp(-128, 127);
                            bytes[panel + pass * one + at] = part as i8;
                            left -= part;
                        }
                    }
                }
                start[group * walk.share * width + output] = conv.start(absolute, sum);
            }
        }
        Some(Self { passes, bytes, start })
    }
}

impl Builder<'_> {
    pub(super) fn code_conv(&mut self, op: &Op, conv: &CodeConv) -> Result<(), LowerError> {
        let input = self.layout(op.inputs[0])?;
        let residual = if conv.residual.is_some() { Some(self.layout(op.inputs[1])?) } else { None };
        let (_, output) = self.result(op)?;
        let own_inputs = input.c / conv.groups.max(1);
        let wrong = |expected| LowerError::Weights { node: self.label(op), found: conv.len(), expected };
        if conv.is_depthwise() {
            self.code_depthwise(op, conv, (input, output));
            return Ok(());
        }
        let dense = matches!(conv.weights, CodeWeights::Dense { .. });
        let CodeConv { groups, outputs, window, .. } = *conv;
        let shape = Shape { input, output, residual, groups, outputs, window, dense };
        let walk = Walk::new(&shape, &CODE_TILES)?;
        let [kernel_h, kernel_w] = walk.kernel();
        let panels = Panels::new(conv, &walk);
        let panels = panels.ok_or_else(|| wrong(conv.outputs * own_inputs * kernel_h * kernel_w))?;
        let size = panels.bytes.len();
        let weights = self.constant_bytes(size, panels.bytes.iter().map(|weight| weight.cast_unsigned()));
        let start = self.constant_ints(&panels.start);
        let scale = self.constant(&conv.factors(output.blocks()));
        let other = residual.unwrap_or(output).buffer;
        let arguments =
            Arguments::default().buffers([input.buffer, weights, start, scale, other, output.buffer]);
        let arguments = walk.writing(walk.reading(arguments).sizes([panels.passes]));
        let mut flags = 0;
        let mut sum = [0.0; 5];
        if let (Some(own), Some((other, sum_of))) = (conv.output, conv.residual) {
            flags |= RESIDUAL;
            let bounds = own.within(Activation::default()).map(|bound| (bound - own.zero) as f32);
            let [low, high] = bounds;
            sum = [low, high, own.scale / sum_of.scale, other.scale / sum_of.scale, other.zero as f32];
        }
        let codes = conv.gives();
        if codes.is_none() {
            flags |= FLOATS;
        }
        let arguments = arguments.ints([flags]).floats(sum).result(codes, op.activation);
        let bytes = size + input.n * input.batch() + output.element * output.n * output.batch();
        self.launch(walk.tile.kernel, walk.items(), arguments, &op.nodes, (op.flops, bytes));
        Ok(())
    }

    fn code_depthwise(&mut self, op: &Op, conv: &CodeConv, (input, output): (Layout, Layout)) {
        let window = conv.window;
        let taps = window.kernel[0] * window.kernel[1];
        let mut weights = vec![0_i32; output.blocks() * taps * LANES];
        let mut start = vec![0_i32; output.blocks() * LANES];
        for channel in 0..conv.outputs {
            let mut sum = 0_i32;
            for tap in 0..taps {
                let weight = i32::from(conv.weight(channel, 0, tap, (1, taps)));
                weights[(channel / LANES * taps + tap) * LANES + channel % LANES] = weight;
                sum = sum.wrapping_add(weight);
            }
            start[channel] = conv.start(channel, sum);
        }
        let (weights, start) = (self.constant_ints(&weights), self.constant_ints(&start));
        let scale = self.constant(&conv.factors(output.blocks()));
        let (kernel, columns) =
            if output.w >= 7 { ("code_depthwise_p7", 7) } else { ("code_depthwise_p1", 1) };
        let tiles = output.w.div_ceil(columns);
        let cut = Cut::new(output.h * tiles, output.n * output.blocks());
        let [top, left] = window.before;
        let codes = conv.gives();
        let arguments = Arguments::default()
            .buffers([input.buffer, weights, start, scale, output.buffer])
            .sizes([
                input.origin() - top * input.row() - left * LANES,
                input.batch(),
                input.block(),
                window.strides[0] * input.row(),
                window.strides[1] * LANES,
            ])
            .sizes([output.blocks()])
            .sizes(window.kernel)
            .sizes([window.dilations[0] * input.row(), window.dilations[1] * LANES])
            .sizes([output.origin(), output.batch(), output.block(), output.row()])
            .sizes([output.h, output.w, tiles, cut.per_item, cut.spans])
            .ints([if codes.is_none() { FLOATS } else { 0 }])
            .result(codes, op.activation);
        let bytes = input.n * input.batch() + output.element * output.n * output.batch();
        self.launch(kernel, output.n * output.blocks() * cut.spans, arguments, &op.nodes, (op.flops, bytes));
    }
}

impl Arguments {
    /// The bounds and the zero of codes, where the result is codes.
    fn result(self, codes: Option<Codes>, bounds: Activation) -> Self {
        match codes {
            Some(codes) => self.codes(codes, bounds),
            None => self.floats([0.0; 3]),
        }
    }
}
