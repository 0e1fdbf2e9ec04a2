//! Lowers what else is computed on codes of 8 bits, and the way between them and floats.

use super::{
    builder::{Arguments, Builder},
    error::LowerError,
    layout::LANES,
    simple::{extent, steps},
};
use crate::plan::op::{Codes, Op, Pool};

impl Builder<'_> {
    /// What one operand keeps of its own shape: a map that was flattened is still the map that it was.
    fn as_before(&mut self, op: &Op) -> Result<[super::layout::Layout; 2], LowerError> {
        let input = self.layout(op.inputs[0])?;
        let map = [input.n, input.c, input.h, input.w];
        Ok([input, self.place(op.outputs[0], map, input.lanes)?])
    }

    pub(super) fn quantize(&mut self, op: &Op, codes: Codes) -> Result<(), LowerError> {
        let [input, output] = self.as_before(op)?;
        let ([rows, columns, blocks, per_item, spans], items) = extent(output, output.blocks());
        let arguments = Arguments::default()
            .buffers([input.buffer, output.buffer])
            .sizes(steps(input))
            .sizes(steps(output))
            .sizes([rows, columns * input.lanes, blocks, per_item, spans])
            .floats([codes.scale, 1.0 / codes.scale])
            .codes(codes, op.activation);
        let bytes = 5 * output.n * output.batch();
        self.launch("quantize", items, arguments, &op.nodes, (op.flops, bytes));
        Ok(())
    }

    pub(super) fn dequantize(&mut self, op: &Op, codes: Codes) -> Result<(), LowerError> {
        let [input, output] = self.as_before(op)?;
        let (extent, items) = extent(output, output.blocks());
        let arguments = Arguments::default()
            .buffers([input.buffer, output.buffer])
            .sizes(steps(input))
            .sizes(steps(output))
            .sizes(extent)
            .floats([codes.zero as f32, codes.scale]);
        let bytes = 5 * output.n * output.batch();
        self.launch("dequantize", items, arguments, &op.nodes, (op.flops, bytes));
        Ok(())
    }

    pub(super) fn recode(&mut self, op: &Op, from: Codes, to: Codes) -> Result<(), LowerError> {
        let [input, output] = self.as_before(op)?;
        let (extent, items) = extent(output, output.blocks());
        let arguments = Arguments::default()
            .buffers([input.buffer, output.buffer])
            .sizes(steps(input))
            .sizes(steps(output))
            .sizes(extent)
            .floats([from.zero as f32, from.scale / to.scale])
            .codes(to, op.activation);
        self.launch("recode", items, arguments, &op.nodes, (op.flops, 2 * output.n * output.batch()));
        Ok(())
    }

    pub(super) fn code_add(&mut self, op: &Op, from: [Codes; 2], to: Codes) -> Result<(), LowerError> {
        let (left, right) = (self.layout(op.inputs[0])?, self.layout(op.inputs[1])?);
        let (_, output) = self.result(op)?;
        let (extent, items) = extent(output, output.blocks());
        let [first, second] = from.map(|codes| [codes.zero as f32, codes.scale / to.scale]);
        let arguments = Arguments::default()
            .buffers([left.buffer, right.buffer, output.buffer])
            .sizes(steps(left))
            .sizes(steps(right))
            .sizes(steps(output))
            .sizes(extent)
            .floats(first)
            .floats(second)
            .codes(to, op.activation);
        self.launch("code_add", items, arguments, &op.nodes, (op.flops, 3 * output.n * output.batch()));
        Ok(())
    }

    /// As for floats, as codes of the result.
    pub(super) fn code_concat(&mut self, op: &Op, from: &[Codes], to: Codes) -> Result<(), LowerError> {
        let (_, output) = self.result(op)?;
        let mut before = 0;
        for (&id, from) in op.inputs.iter().zip(from) {
            let input = self.layout(id)?;
            let (extent, items) = extent(input, input.blocks());
            let [at, batch, block, row] = steps(output);
            let maps = Arguments::default().buffers([input.buffer, output.buffer]).sizes(steps(input));
            let (kernel, arguments) = if before % LANES == 0 {
                ("recode", maps.sizes([at + before / LANES * block, batch, block, row]).sizes(extent))
            } else {
                let arguments = maps.sizes([at, batch, block, row]).sizes(extent);
                ("code_join", arguments.sizes([input.c, before]))
            };
            let arguments =
                arguments.floats([from.zero as f32, from.scale / to.scale]).codes(to, op.activation);
            self.launch(kernel, items, arguments, &op.nodes, (0, 2 * input.n * input.batch()));
            before += input.c;
        }
        Ok(())
    }

    pub(super) fn code_pool(
        &mut self,
        op: &Op,
        pool: &Pool,
        from: Codes,
        to: Codes,
    ) -> Result<(), LowerError> {
        let input = self.layout(op.inputs[0])?;
        let (_, output) = self.result(op)?;
        let window = pool.window;
        let factor = from.scale / to.scale;
        let most = window.kernel[0] * window.kernel[1];
        let (kernel, table) = match pool.average {
            None => ("code_pool_max", vec![factor]),
            Some(_) => ("code_pool_average", (0..=most).map(|count| factor / count.max(1) as f32).collect()),
        };
        let table = self.constant(&table);
        let ([rows, columns, blocks, per_item, spans], items) = extent(output, output.blocks());
        let arguments = Arguments::default()
            .buffers([input.buffer, table, output.buffer])
            .sizes(steps(input))
            .sizes([input.h, input.w])
            .sizes(steps(output))
            .sizes([rows, columns, blocks])
            .sizes(window.kernel)
            .sizes(window.strides)
            .sizes(window.dilations)
            .sizes(window.before)
            .sizes(window.after)
            .sizes([usize::from(pool.average == Some(true)), per_item, spans])
            .ints([from.zero])
            .codes(to, op.activation);
        let bytes = input.n * input.batch() + output.n * output.batch();
        self.launch(kernel, items, arguments, &op.nodes, (op.flops, bytes));
        Ok(())
    }
}
