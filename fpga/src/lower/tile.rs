//! Which kernel computes a convolution, and how its work is cut into items.

use super::layout::{IMAGE_LANES, LANES};

/// Work items that a launch has at least where there is that much to do: enough that no unit waits long for the others.
const ITEMS: usize = 16;

/// A kernel of a convolution: `columns` outputs by `blocks` blocks of channels at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tile {
    pub(crate) kernel: &'static str,
    lanes: usize,
    /// The step that it is made for; 0 for any.
    step: usize,
    pub(crate) columns: usize,
    pub(crate) blocks: usize,
    /// What it costs for each product, in hundredths of what the best one costs.
    cost: usize,
}

const fn tile(
    kernel: &'static str,
    lanes: usize,
    step: usize,
    (columns, blocks): (usize, usize),
    cost: usize,
) -> Tile {
    Tile { kernel, lanes, step, columns, blocks, cost }
}

pub(crate) const TILES: [Tile; 16] = [
    tile("conv_l16_s1_p14_o2", LANES, 1, (14, 2), 100),
    tile("conv_l16_s1_p14_o1", LANES, 1, (14, 1), 110),
    tile("conv_l16_s1_p7_o4", LANES, 1, (7, 4), 100),
    tile("conv_l16_s1_p7_o2", LANES, 1, (7, 2), 115),
    tile("conv_l16_s2_p14_o2", LANES, 2, (14, 2), 100),
    tile("conv_l16_s2_p14_o1", LANES, 2, (14, 1), 110),
    tile("conv_l16_s2_p7_o4", LANES, 2, (7, 4), 100),
    tile("conv_l16_s2_p7_o2", LANES, 2, (7, 2), 115),
    tile("conv_l16_any_p4_o4", LANES, 0, (4, 4), 130),
    tile("conv_l16_any_p1_o8", LANES, 0, (1, 8), 250),
    tile("conv_l16_any_p7_o1", LANES, 0, (7, 1), 140),
    tile("conv_l16_any_p1_o1", LANES, 0, (1, 1), 600),
    tile("conv_l4_s1_p14_o2", IMAGE_LANES, 1, (14, 2), 100),
    tile("conv_l4_s2_p14_o2", IMAGE_LANES, 2, (14, 2), 100),
    tile("conv_l4_any_p4_o4", IMAGE_LANES, 0, (4, 4), 130),
    tile("conv_l4_any_p1_o8", IMAGE_LANES, 0, (1, 8), 250),
];

/// The same for codes; an instruction does four products, so that what is around them weighs more.
pub(crate) const CODE_TILES: [Tile; 11] = [
    tile("code_conv_l16_s1_p14_o2", LANES, 1, (14, 2), 100),
    tile("code_conv_l16_s1_p7_o4", LANES, 1, (7, 4), 100),
    tile("code_conv_l16_any_p14_o2", LANES, 0, (14, 2), 115),
    tile("code_conv_l16_any_p7_o2", LANES, 0, (7, 2), 150),
    tile("code_conv_l16_any_p4_o4", LANES, 0, (4, 4), 130),
    tile("code_conv_l16_any_p1_o8", LANES, 0, (1, 8), 250),
    tile("code_conv_l16_any_p7_o1", LANES, 0, (7, 1), 200),
    tile("code_conv_l16_any_p1_o1", LANES, 0, (1, 1), 600),
    tile("code_conv_l4_any_p14_o2", IMAGE_LANES, 0, (14, 2), 115),
    tile("code_conv_l4_any_p4_o4", IMAGE_LANES, 0, (4, 4), 130),
    tile("code_conv_l4_any_p1_o8", IMAGE_LANES, 0, (1, 8), 250),
];

/// What is to be computed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    pub(crate) lanes: usize,
    /// From one output column to the next, in input pixels; 0 where it is no multiple of one.
    pub(crate) step: usize,
    pub(crate) columns: usize,
    /// Blocks of output channels of a group.
    pub(crate) blocks: usize,
    /// Whether a tile must not reach into the next group.
    pub(crate) grouped: bool,
}

impl Tile {
    /// The kernel that does the least in vain.
    pub(crate) fn choose(tiles: &[Self], work: Work) -> Option<Self> {
        let fits = |tile: &&Self| {
            tile.lanes == work.lanes
                && (tile.step == 0 || tile.step == work.step)
                && tile.columns <= work.columns
                && (!work.grouped || work.blocks.is_multiple_of(tile.blocks))
        };
        let cost = |tile: &&Self| {
            let columns = work.columns.div_ceil(tile.columns) * tile.columns;
            let blocks = work.blocks.div_ceil(tile.blocks) * tile.blocks;
            tile.cost * columns * blocks
        };
        tiles.iter().filter(fits).min_by_key(cost).copied()
    }
}

/// `total` pieces cut into items of equal size, of which there are `others` times as many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) per_item: usize,
    pub(crate) spans: usize,
}

impl Cut {
    pub(crate) fn new(total: usize, others: usize) -> Self {
        let spans = ITEMS.div_ceil(others.max(1)).clamp(1, total.max(1));
        let per_item = total.div_ceil(spans).max(1);
        Self { per_item, spans: total.div_ceil(per_item).max(1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_fit_the_feature_maps_of_known_models() {
        let choose = |columns, blocks| {
            let work = Work { lanes: LANES, step: 1, columns, blocks, grouped: false };
            Tile::choose(&TILES, work).map(|tile| tile.kernel)
        };
        assert_eq!(choose(56, 4), Some("conv_l16_s1_p14_o2"));
        assert_eq!(choose(7, 32), Some("conv_l16_s1_p7_o4"));
        assert_eq!(choose(49, 32), Some("conv_l16_s1_p7_o4"));
        assert_eq!(choose(1, 63), Some("conv_l16_any_p1_o8"));
        assert_eq!(choose(300, 1), Some("conv_l16_s1_p14_o1"));
    }

    #[test]
    fn every_piece_is_in_one_item() {
        for total in 1..200 {
            for others in 1..20 {
                let cut = Cut::new(total, others);
                assert!(cut.per_item * cut.spans >= total);
                assert!(cut.per_item * (cut.spans - 1) < total);
            }
        }
    }
}
