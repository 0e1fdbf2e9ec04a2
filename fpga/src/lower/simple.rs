//! Lowers what is not a convolution.

use super::{
    builder::{Arguments, Builder},
    error::LowerError,
    layout::{LANES, Layout},
    tile::Cut,
};
use crate::plan::op::{Affine, Op, Pool};

/// Offset, batch, block and row of a feature map, as all kernels take them.
pub(super) fn steps(layout: Layout) -> [usize; 4] {
    [layout.origin(), layout.batch(), layout.block(), layout.row()]
}

/// Rows, columns, blocks, and how they are cut.
pub(super) fn extent(layout: Layout, blocks: usize) -> ([usize; 5], usize) {
    let cut = Cut::new(layout.h, layout.n * blocks);
    ([layout.h, layout.w, blocks, cut.per_item, cut.spans], layout.n * blocks * cut.spans)
}

fn bytes(layout: Layout) -> usize {
    4 * layout.n * layout.c * layout.h * layout.w
}

impl Builder<'_> {
    pub(super) fn activate(&mut self, op: &Op) -> Result<(), LowerError> {
        let input = self.layout(op.inputs[0])?;
        // A map that was flattened is still the map that it was.
        let output = self.place(op.outputs[0], [input.n, input.c, input.h, input.w], LANES)?;
        let (extent, items) = extent(output, output.blocks());
        let arguments = Arguments::default()
            .buffers([input.buffer, output.buffer])
            .sizes(steps(input))
            .sizes(steps(output))
            .sizes(extent)
            .activation(op.activation, false);
        self.launch("activate", items, arguments, &op.nodes, (op.flops, 2 * bytes(output)));
        Ok(())
    }

    pub(super) fn affine(&mut self, op: &Op, affine: &Affine) -> Result<(), LowerError> {
        let input = self.layout(op.inputs[0])?;
        let (_, output) = self.result(op)?;
        let padded = |values: &[f32]| {
            let mut values = values.to_vec();
            values.resize(output.blocks() * LANES, 0.0);
            values
        };
        let (scale, shift) = (self.constant(&padded(&affine.scale)), self.constant(&padded(&affine.shift)));
        let (extent, items) = extent(output, output.blocks());
        let arguments = Arguments::default()
            .buffers([input.buffer, scale, shift, output.buffer])
            .sizes(steps(input))
            .sizes(steps(output))
            .sizes(extent)
            .activation(op.activation, false);
        self.launch("affine", items, arguments, &op.nodes, (op.flops, 2 * bytes(output)));
        Ok(())
    }

    pub(super) fn binary(&mut self, op: &Op, kernel: &str) -> Result<(), LowerError> {
        let (left, right) = (self.layout(op.inputs[0])?, self.layout(op.inputs[1])?);
        let (_, output) = self.result(op)?;
        let spread = (right.h, right.w) != (left.h, left.w);
        let [at, batch, block, row] = steps(right);
        let right_steps = if spread { [at, batch, block, 0, 0] } else { [at, batch, block, row, LANES] };
        let (extent, items) = extent(output, output.blocks());
        let arguments = Arguments::default()
            .buffers([left.buffer, right.buffer, output.buffer])
            .sizes(steps(left))
            .sizes(right_steps)
            .sizes(steps(output))
            .sizes(extent)
            .activation(op.activation, false);
        self.launch(kernel, items, arguments, &op.nodes, (op.flops, 3 * bytes(output)));
        Ok(())
    }

    /// Each input is copied to where its blocks belong, or channel by channel where one before it ends within a block.
    pub(super) fn concat(&mut self, op: &Op) -> Result<(), LowerError> {
        let (_, output) = self.result(op)?;
        let mut before = 0;
        for (index, &id) in op.inputs.iter().enumerate() {
            let input = self.layout(id)?;
            let (extent, items) = extent(input, input.blocks());
            let [at, batch, block, row] = steps(output);
            let maps = Arguments::default().buffers([input.buffer, output.buffer]).sizes(steps(input));
            let (kernel, arguments) = if before % LANES == 0 {
                let arguments = maps.sizes([at + before / LANES * block, batch, block, row]).sizes(extent);
                ("activate", arguments.activation(op.activation, false))
            } else {
                let is_last = usize::from(index + 1 == op.inputs.len());
                let arguments = maps.sizes([at, batch, block, row]).sizes(extent);
                ("join", arguments.sizes([input.c, before, is_last]))
            };
            self.launch(kernel, items, arguments, &op.nodes, (0, 2 * bytes(input)));
            before += input.c;
        }
        Ok(())
    }

    pub(super) fn pool(&mut self, op: &Op, pool: &Pool) -> Result<(), LowerError> {
        let input = self.layout(op.inputs[0])?;
        let (_, output) = self.result(op)?;
        let window = pool.window;
        let ([rows, columns, blocks, per_item, spans], items) = extent(output, output.blocks());
        let maps = Arguments::default();
        let arguments = if pool.average.is_none() {
            maps.buffers([input.buffer, output.buffer])
        } else {
            let most = window.kernel[0] * window.kernel[1];
            let inverses: Vec<f32> =
                (0..=most).map(|count| if count == 0 { 0.0 } else { 1.0 / count as f32 }).collect();
            let inverses = self.constant(&inverses);
            maps.buffers([input.buffer, inverses, output.buffer])
        };
        let arguments = arguments
            .sizes(steps(input))
            .sizes([input.h, input.w])
            .sizes(steps(output))
            .sizes([rows, columns, blocks])
            .sizes(window.kernel)
            .sizes(window.strides);
        let (kernel, arguments) = match pool.average {
            None => ("pool_max", arguments.sizes(window.dilations).sizes(window.before)),
            Some(padding) => {
                let arguments = arguments.sizes(window.before).sizes(window.after);
                ("pool_average", arguments.sizes([usize::from(padding)]))
            }
        };
        let arguments = arguments.sizes([per_item, spans]).activation(op.activation, false);
        self.launch(kernel, items, arguments, &op.nodes, (op.flops, bytes(input) + bytes(output)));
        Ok(())
    }
}
