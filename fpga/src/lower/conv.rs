//! Lowers convolutions and products with constant matrices: the tile, the panels of weights, the steps through memory.

use super::{
    bfp,
    builder::{Arguments, Builder},
    error::LowerError,
    layout::{LANES, Layout},
    tile::{Cut, TILES, Tile, Work},
};
use crate::plan::op::{Conv, Op, Spatial, Weights};

/// Groups after joining: as few as give each whole blocks of channels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Groups {
    pub(super) count: usize,
    /// Channels of each.
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    /// The same of the model's own groups.
    pub(super) own_inputs: usize,
    pub(super) own_outputs: usize,
}

impl Groups {
    fn new(groups: usize, inputs: usize, outputs: usize) -> Self {
        let (own_inputs, own_outputs) = (inputs / groups, outputs / groups);
        let whole = |joined: &usize| {
            groups.is_multiple_of(*joined)
                && (own_inputs * joined).is_multiple_of(LANES)
                && (own_outputs * joined).is_multiple_of(LANES)
        };
        let joined = (1..groups).find(whole).unwrap_or(groups);
        Self {
            count: groups / joined,
            inputs: own_inputs * joined,
            outputs: own_outputs * joined,
            own_inputs,
            own_outputs,
        }
    }
}

/// What is convolved, of floats or of codes.
pub(super) struct Shape {
    pub(super) input: Layout,
    pub(super) output: Layout,
    pub(super) residual: Option<Layout>,
    pub(super) groups: usize,
    pub(super) outputs: usize,
    pub(super) window: Spatial,
    /// Whether it is a product with a matrix.
    pub(super) dense: bool,
}

/// How a kernel computes it.
pub(super) struct Walk {
    at: Steps,
    input: Layout,
    out_blocks: usize,
    window: Spatial,
    tiles: usize,
    cut: Cut,
    pub(super) groups: Groups,
    pub(super) tile: Tile,
    /// Tiles of output channels in a group.
    pub(super) share: usize,
}

impl Walk {
    pub(super) fn new(shape: &Shape, tiles: &[Tile]) -> Result<Self, LowerError> {
        let Shape { input, output, residual, dense, mut window, .. } = *shape;
        if dense {
            window.kernel = [input.h, input.w];
        }
        let groups = Groups::new(shape.groups, input.c, shape.outputs);
        let [stride_h, stride_w] = window.strides;
        let mut at = Steps {
            in_batch: input.batch(),
            in_row: stride_h * input.row(),
            in_column: stride_w * input.lanes,
            n: output.n,
            rows: output.h,
            columns: output.w,
            out: Way::of(output),
            residual: Way::of(residual.unwrap_or(output)),
            step: stride_w,
        };
        let bare = [Some(input), Some(output), residual].iter().flatten().all(|layout| layout.halo.is_none());
        if window.kernel == [1, 1] && window.strides == [1, 1] && bare {
            at.join_rows(output, input.lanes, dense);
        }
        let blocks = groups.outputs.div_ceil(LANES);
        let work = Work {
            lanes: input.lanes,
            step: at.step,
            columns: at.columns,
            blocks,
            grouped: groups.count > 1,
        };
        let tile = Tile::choose(tiles, work)
            .ok_or(LowerError::TooLarge { shape: [input.n, input.c, input.h, input.w] })?;
        let share = blocks.div_ceil(tile.blocks);
        let tiles = at.columns.div_ceil(tile.columns);
        let cut = Cut::new(at.rows * tiles, at.n * share * groups.count);
        Ok(Self { at, input, out_blocks: output.blocks(), window, tiles, cut, groups, tile, share })
    }

    pub(super) fn kernel(&self) -> [usize; 2] {
        self.window.kernel
    }

    pub(super) fn lanes(&self) -> usize {
        self.input.lanes
    }

    pub(super) fn items(&self) -> usize {
        self.at.n * self.share * self.groups.count * self.cut.spans
    }

    /// The arguments that say how the input is read.
    pub(super) fn reading(&self, arguments: Arguments) -> Arguments {
        let [top, left] = self.window.before;
        let Self { at, input, .. } = self;
        arguments
            .sizes([
                input.origin() - top * input.row() - left * input.lanes,
                at.in_batch,
                input.block(),
                at.in_row,
                at.in_column,
            ])
            .sizes([self.groups.inputs.div_ceil(input.lanes)])
            .sizes(self.window.kernel)
            .sizes([self.window.dilations[0] * input.row(), self.window.dilations[1] * input.lanes])
    }

    /// Those that say how the result is written, and how the work is cut.
    pub(super) fn writing(&self, arguments: Arguments) -> Arguments {
        let Self { at, cut, .. } = self;
        let all_groups = self.share * self.groups.count;
        arguments.sizes(at.residual.sizes()).sizes(at.out.sizes()).sizes([
            self.out_blocks,
            at.rows,
            at.columns,
            self.tiles,
            cut.per_item,
            cut.spans,
            all_groups,
            self.share,
        ])
    }
}

impl Builder<'_> {
    pub(super) fn conv(&mut self, op: &Op, conv: &Conv) -> Result<(), LowerError> {
        let input = self.layout(op.inputs[0])?;
        let residual = if conv.residual { Some(self.layout(op.inputs[1])?) } else { None };
        let (_, output) = self.result(op)?;
        if let (true, Weights::Conv(weights)) = (conv.is_depthwise(), &conv.weights) {
            self.depthwise(op, conv, weights, (input, output));
            return Ok(());
        }
        let input = if self.blocks { self.rounded(op.inputs[0], input)? } else { input };
        let dense = matches!(conv.weights, Weights::Dense { .. });
        let Conv { groups, outputs, window, .. } = *conv;
        let walk = Walk::new(&Shape { input, output, residual, groups, outputs, window, dense }, &TILES)?;
        let panels = Panels {
            conv,
            groups: walk.groups,
            kernel: walk.kernel(),
            lanes: walk.lanes(),
            tile: walk.tile,
            share: walk.share,
        };
        let mut weights = panels.weights(op, self.label(op))?;
        if self.blocks {
            panels.share_exponents(&mut weights);
        }
        let weights = self.constant(&weights);
        let bias = self.constant(&panels.bias());
        let arguments = Arguments::default().buffers([
            input.buffer,
            weights,
            bias,
            residual.unwrap_or(output).buffer,
            output.buffer,
        ]);
        let arguments = walk.writing(walk.reading(arguments)).activation(op.activation, conv.residual);
        let floats = input.n * input.batch() + output.n * output.batch();
        let bytes = 4 * (floats + panels.len());
        self.launch(walk.tile.kernel, walk.items(), arguments, &op.nodes, (op.flops, bytes));
        Ok(())
    }

    fn depthwise(&mut self, op: &Op, conv: &Conv, given: &[f32], (input, output): (Layout, Layout)) {
        let window = conv.window;
        let [kernel_h, kernel_w] = window.kernel;
        let taps = kernel_h * kernel_w;
        let mut weights = vec![0.0_f32; output.blocks() * taps * LANES];
        let (scale, bias) = scale_and_bias(conv);
        for (channel, kernel) in given.chunks_exact(taps).enumerate() {
            for (tap, &weight) in kernel.iter().enumerate() {
                weights[(channel / LANES * taps + tap) * LANES + channel % LANES] = weight * scale(channel);
            }
        }
        let mut padded: Vec<f32> = (0..conv.outputs).map(bias).collect();
        padded.resize(output.blocks() * LANES, 0.0);
        let (weights, bias) = (self.constant(&weights), self.constant(&padded));
        let (kernel, columns) = if output.w >= 7 { ("depthwise_p7", 7) } else { ("depthwise_p1", 1) };
        let tiles = output.w.div_ceil(columns);
        let cut = Cut::new(output.h * tiles, output.n * output.blocks());
        let [top, left] = window.before;
        let arguments = Arguments::default()
            .buffers([input.buffer, weights, bias, output.buffer])
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
            .activation(op.activation, false);
        let bytes = 4 * (input.n * input.batch() + output.n * output.batch());
        self.launch(kernel, output.n * output.blocks() * cut.spans, arguments, &op.nodes, (op.flops, bytes));
    }

    pub(super) fn label(&self, op: &Op) -> String {
        op.nodes.first().map_or_else(String::new, |&node| self.graph.nodes[node].proto.label().to_owned())
    }
}

/// Offset and steps of a feature map, in elements.
#[derive(Clone, Copy)]
struct Way {
    at: usize,
    batch: usize,
    block: usize,
    row: usize,
    column: usize,
}

impl Way {
    const fn of(layout: Layout) -> Self {
        Self {
            at: layout.origin(),
            batch: layout.batch(),
            block: layout.block(),
            row: layout.row(),
            column: LANES,
        }
    }

    const fn sizes(self) -> [usize; 5] {
        [self.at, self.batch, self.block, self.row, self.column]
    }
}

/// How a kernel walks.
struct Steps {
    in_batch: usize,
    in_row: usize,
    in_column: usize,
    n: usize,
    rows: usize,
    columns: usize,
    out: Way,
    residual: Way,
    step: usize,
}

impl Steps {
    /// Where a kernel looks at one pixel at a time, all pixels of a map are one row; and where maps have one pixel, all
    /// maps are.
    fn join_rows(&mut self, output: Layout, lanes: usize, dense: bool) {
        if dense && output.n > 1 {
            self.in_column = self.in_batch;
            self.out.column = self.out.batch;
            self.residual.column = self.residual.batch;
            (self.n, self.rows, self.columns, self.step) = (1, 1, output.n, 0);
        } else {
            self.in_column = lanes;
            (self.rows, self.columns) = (1, output.h * output.w);
        }
    }
}

/// The factor and the summand of each output.
fn scale_and_bias(conv: &Conv) -> (impl Fn(usize) -> f32, impl Fn(usize) -> f32) {
    let scale = |output: usize| conv.affine.as_ref().map_or(1.0, |affine| affine.scale[output]);
    let bias = move |output: usize| {
        let own = conv.bias.as_ref().map_or(0.0, |bias| bias[output]);
        conv.affine.as_ref().map_or(own, |affine| own.mul_add(affine.scale[output], affine.shift[output]))
    };
    (scale, bias)
}

/// Weights in the order in which a kernel reads them.
struct Panels<'a> {
    conv: &'a Conv,
    groups: Groups,
    kernel: [usize; 2],
    lanes: usize,
    tile: Tile,
    /// Tiles of output channels in a group.
    share: usize,
}

impl Panels<'_> {
    fn len(&self) -> usize {
        let blocks = self.groups.inputs.div_ceil(self.lanes);
        let panel = blocks * self.kernel[0] * self.kernel[1] * self.lanes * self.tile.blocks * LANES;
        self.groups.count * self.share * panel
    }

    /// By group, tile of outputs, block of inputs, row and column of the kernel, input, output. What does not exist is
    /// zero.
    fn weights(&self, op: &Op, node: String) -> Result<Vec<f32>, LowerError> {
        let Groups { count, inputs, outputs, own_inputs, own_outputs } = self.groups;
        let taps = self.kernel[0] * self.kernel[1];
        let given = match &self.conv.weights {
            Weights::Conv(weights) | Weights::Dense { matrix: weights, .. } => weights,
        };
        let expected = self.conv.outputs * own_inputs * taps;
        if given.len() != expected || op.nodes.is_empty() {
            return Err(LowerError::Weights { node, found: given.len(), expected });
        }
        let (scale, _) = scale_and_bias(self.conv);
        let (width, blocks) = (self.tile.blocks * LANES, inputs.div_ceil(self.lanes));
        let mut panels = vec![0.0_f32; self.len()];
        for group in 0..count {
            for output in 0..outputs {
                let absolute = group * outputs + output;
                let factor = scale(absolute);
                // The inputs of the model's own group among those of the joined one.
                let first = output / own_outputs * own_inputs;
                let panel = (group * self.share + output / width) * blocks * taps * self.lanes * width;
                for own in 0..own_inputs {
                    let input = first + own;
                    for tap in 0..taps {
                        let weight = match &self.conv.weights {
                            Weights::Conv(weights) => weights[(absolute * own_inputs + own) * taps + tap],
                            Weights::Dense { matrix, transposed: true, alpha } => {
                                matrix[(absolute * own_inputs + own) * taps + tap] * alpha
                            }
                            Weights::Dense { matrix, transposed: false, alpha } => {
                                matrix[(own * taps + tap) * outputs + absolute] * alpha
                            }
                        };
                        let row = (input / self.lanes * taps + tap) * self.lanes + input % self.lanes;
                        panels[panel + row * width + output % width] = weight * factor;
                    }
                }
            }
        }
        Ok(panels)
    }

    /// Rounds the weights of each output and tap in blocks of input channels.
    fn share_exponents(&self, panels: &mut [f32]) {
        let width = self.tile.blocks * LANES;
        let mut block = vec![0.0; self.lanes];
        for rows in panels.chunks_exact_mut(self.lanes * width) {
            for output in 0..width {
                for (lane, value) in block.iter_mut().enumerate() {
                    *value = rows[lane * width + output];
                }
                bfp::round(&mut block);
                for (lane, value) in block.iter().enumerate() {
                    rows[lane * width + output] = *value;
                }
            }
        }
    }

    fn bias(&self) -> Vec<f32> {
        let (_, bias) = scale_and_bias(self.conv);
        let width = self.tile.blocks * LANES;
        let mut padded = vec![0.0; self.groups.count * self.share * width];
        for output in 0..self.conv.outputs {
            let (group, within) = (output / self.groups.outputs, output % self.groups.outputs);
            padded[group * self.share * width + within] = bias(output);
        }
        padded
    }
}
