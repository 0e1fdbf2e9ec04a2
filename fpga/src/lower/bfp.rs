//! bfp9-v1: operands of products are rounded to 9 bits, of which the channels of a block share the exponent. What is
//! computed with them is computed as f32-fma-v1 says.

use super::{
    builder::{Arguments, Builder},
    error::LowerError,
    layout::Layout,
    simple::{extent, steps},
};
use crate::onnx::TensorId;

/// The exponent, as floats hold it, below which a block is zero.
const LEAST: u32 = 8;
/// The exponent of what is no number.
const MOST: u32 = 255;

/// Rounds the values of one block.
pub(super) fn round(block: &mut [f32]) {
    let most = block.iter().map(|value| value.to_bits() & 0x7fff_ffff).max().unwrap_or(0);
    let exponent = most >> 23;
    if exponent == MOST {
        return;
    }
    if exponent < LEAST {
        block.fill(0.0);
        return;
    }
    let step = f32::from_bits((exponent - 7) << 23);
    for value in block {
        *value = (*value / step).round_ties_even().clamp(-255.0, 255.0) * step;
    }
}

impl Builder<'_> {
    /// The feature map with rounded values; made once for all that multiply it.
    pub(super) fn rounded(&mut self, id: TensorId, input: Layout) -> Result<Layout, LowerError> {
        let root = self.needs.root(id);
        if let Some(rounded) = self.rounded.get(&root) {
            return Ok(*rounded);
        }
        let output = self.lay(input, 0)?;
        let (extent, items) = extent(output, output.blocks());
        let arguments = Arguments::default()
            .buffers([input.buffer, output.buffer])
            .sizes(steps(input))
            .sizes(steps(output))
            .sizes(extent)
            .sizes([input.lanes, input.c]);
        let bytes = 8 * output.n * output.batch();
        self.launch("share_exponent", items, arguments, &[], (0, bytes));
        self.rounded.insert(root, output);
        Ok(output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_keeps_nine_bits_below_its_greatest() {
        let mut block = [1.0, -0.5, 1.0 / 128.0, 1.0 / 256.0, 3.0 / 256.0, 1e-9];
        round(&mut block);
        assert_eq!(block, [1.0, -0.5, 1.0 / 128.0, 0.0, 4.0 / 256.0, 0.0]);
        // What would need a ninth bit stays below it.
        let mut block = [255.9, -255.9, 0.4];
        round(&mut block);
        assert_eq!(block, [255.0, -255.0, 0.0]);
        let mut block = [f32::MIN_POSITIVE, 0.0];
        round(&mut block);
        assert_eq!(block, [0.0, 0.0]);
    }
}
