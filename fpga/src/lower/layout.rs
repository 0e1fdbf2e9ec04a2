//! How a feature map lies in device memory: blocks of channels, rows, columns, and the channels of a block innermost;
//! where a convolution reads past the edges, zeros around each block.

use super::error::LowerError;

/// Channels in a block.
pub(crate) const LANES: usize = 16;
/// The same for images, whose channels are few.
pub(crate) const IMAGE_LANES: usize = 4;

/// Zeros around a block: columns and rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Halo {
    pub(crate) top: usize,
    pub(crate) left: usize,
    pub(crate) bottom: usize,
    pub(crate) right: usize,
}

impl Halo {
    pub(crate) fn is_none(self) -> bool {
        self == Self::default()
    }

    pub(crate) fn around(self, other: Self) -> Self {
        Self {
            top: self.top.max(other.top),
            left: self.left.max(other.left),
            bottom: self.bottom.max(other.bottom),
            right: self.right.max(other.right),
        }
    }
}

/// A feature map in a buffer. All distances are in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) n: usize,
    pub(crate) c: usize,
    pub(crate) h: usize,
    pub(crate) w: usize,
    pub(crate) lanes: usize,
    pub(crate) halo: Halo,
    /// Bytes of an element: 4 of a float, 1 of a code.
    pub(crate) element: usize,
    /// Its buffer, by its place among those that are not yet given memory.
    pub(crate) buffer: usize,
}

impl Layout {
    pub(crate) const fn blocks(&self) -> usize {
        self.c.div_ceil(self.lanes)
    }

    pub(crate) const fn height(&self) -> usize {
        self.halo.top + self.h + self.halo.bottom
    }

    pub(crate) const fn row(&self) -> usize {
        (self.halo.left + self.w + self.halo.right) * self.lanes
    }

    pub(crate) const fn block(&self) -> usize {
        self.height() * self.row()
    }

    pub(crate) const fn batch(&self) -> usize {
        self.blocks() * self.block()
    }

    /// Where the first element of the data is.
    pub(crate) const fn origin(&self) -> usize {
        self.halo.top * self.row() + self.halo.left * self.lanes
    }

    /// Kernels count in 32 bits.
    pub(crate) fn elements(&self) -> Result<usize, LowerError> {
        let sizes = [self.n, self.blocks(), self.height(), self.row()];
        sizes
            .into_iter()
            .try_fold(1_usize, usize::checked_mul)
            .filter(|&elements| i32::try_from(elements).is_ok())
            .ok_or(LowerError::TooLarge { shape: [self.n, self.c, self.h, self.w] })
    }
}
