//! f32-fma-v1, written down a second time: plain loops over tensors in row-major order. A sum begins with the bias and
//! adds the products by fma, in the order of blocks of input channels, kernel row, kernel column and channel in the block.

/// The channels of a block, in the order of sums.
const BLOCK: usize = 16;

/// Numbers that any machine makes the same: in [-1, 1), with all bits of a float in use.
pub(super) struct Numbers(u32);

impl Numbers {
    pub(super) const fn new(seed: u32) -> Self {
        Self(seed)
    }

    pub(super) fn take(&mut self, count: usize) -> Vec<f32> {
        let mut next = || {
            self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (self.0 >> 8) as f32 / 8_388_608.0 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }
}

/// A tensor of one batch: channels, rows, columns.
#[derive(Clone)]
pub(super) struct Map {
    pub(super) values: Vec<f32>,
    pub(super) channels: usize,
    pub(super) side: usize,
}

impl Map {
    pub(super) fn at(&self, channel: usize, row: usize, column: usize) -> f32 {
        self.values[(channel * self.side + row) * self.side + column]
    }

    fn make(channels: usize, side: usize, value: impl Fn(usize, usize, usize) -> f32) -> Self {
        let mut values = Vec::with_capacity(channels * side * side);
        for channel in 0..channels {
            for row in 0..side {
                for column in 0..side {
                    values.push(value(channel, row, column));
                }
            }
        }
        Self { values, channels, side }
    }

    pub(super) fn map(&self, value: impl Fn(f32) -> f32) -> Self {
        Self { values: self.values.iter().map(|v| value(*v)).collect(), ..*self }
    }

    pub(super) fn zip(&self, other: &Self, value: impl Fn(f32, f32) -> f32) -> Self {
        let pairs = self.values.iter().zip(&other.values);
        Self { values: pairs.map(|(a, b)| value(*a, *b)).collect(), ..*self }
    }

    /// bfp9-v1: with blocks of channels that share the exponent of the greatest, and keep eight bits and a sign.
    pub(super) fn in_blocks(&self, plane: usize) -> Self {
        let mut values = self.values.clone();
        for place in 0..plane {
            for block in (0..self.channels).step_by(BLOCK) {
                let channels = block..self.channels.min(block + BLOCK);
                share(&mut values, channels.map(|channel| channel * plane + place));
            }
        }
        Self { values, ..*self }
    }

    /// 3x3, with a border of one zero; each input channel by itself where `depthwise`.
    pub(super) fn conv(&self, weights: &[f32], bias: &[f32], depthwise: bool) -> Self {
        let inputs = if depthwise { 1 } else { self.channels };
        Self::make(bias.len(), self.side, |o, y, x| {
            let mut sum = bias[o];
            for block in (0..inputs).step_by(BLOCK) {
                for (ky, kx) in (0..9).map(|tap| (tap / 3, tap % 3)) {
                    let (row, column) = (y + ky, x + kx);
                    // What lies outside is zero, and adds nothing.
                    if !(1..=self.side).contains(&row) || !(1..=self.side).contains(&column) {
                        continue;
                    }
                    for i in block..inputs.min(block + BLOCK) {
                        let channel = if depthwise { o } else { i };
                        let weight = weights[((o * inputs + i) * 3 + ky) * 3 + kx];
                        sum = self.at(channel, row - 1, column - 1).mul_add(weight, sum);
                    }
                }
            }
            sum
        })
    }

    /// 2x2, each value once.
    pub(super) fn max_pool(&self) -> Self {
        Self::make(self.channels, self.side / 2, |c, y, x| {
            let window = (0..4).map(|at| self.at(c, 2 * y + at / 2, 2 * x + at % 2));
            window.fold(f32::NEG_INFINITY, |most, value| if value > most { value } else { most })
        })
    }

    /// Means of `size` x `size`, each value once: the sum in the order of rows and columns, times the rounded inverse of
    /// the count.
    pub(super) fn average_pool(&self, size: usize) -> Self {
        Self::make(self.channels, self.side / size, |c, y, x| {
            let taps = (0..size * size).map(|at| (at / size, at % size));
            let sum = taps.fold(0.0, |sum, (ky, kx)| sum + self.at(c, size * y + ky, size * x + kx));
            sum * (1.0 / (size * size) as f32)
        })
    }

    pub(super) fn concat(&self, other: &Self) -> Self {
        let values = [&self.values[..], &other.values].concat();
        Self { values, channels: self.channels + other.channels, ..*self }
    }
}

/// A row times a matrix whose rows are the outputs'.
pub(super) fn dense(input: &[f32], weights: &[f32], bias: &[f32]) -> Vec<f32> {
    let row = |o: usize| &weights[o * input.len()..(o + 1) * input.len()];
    let sum = |o: usize| input.iter().zip(row(o)).fold(bias[o], |sum, (x, w)| x.mul_add(*w, sum));
    (0..bias.len()).map(sum).collect()
}

/// The same of the weights of each output and place in the kernel.
pub(super) fn weights_in_blocks(weights: &[f32], inputs: usize, taps: usize) -> Vec<f32> {
    let mut values = weights.to_vec();
    for first in (0..weights.len()).step_by(inputs * taps) {
        for tap in 0..taps {
            for block in (0..inputs).step_by(BLOCK) {
                let channels = block..inputs.min(block + BLOCK);
                share(&mut values, channels.map(|input| first + input * taps + tap));
            }
        }
    }
    values
}

fn share(values: &mut [f32], places: impl Iterator<Item = usize> + Clone) {
    let most = places.clone().fold(0.0_f32, |most, place| most.max(values[place].abs()));
    let mut step = 1.0_f32;
    // The power of two of which the greatest is 128 to 255.
    while most / step >= 256.0 {
        step *= 2.0;
    }
    while most / step < 128.0 && step > f32::MIN_POSITIVE {
        step /= 2.0;
    }
    for place in places {
        values[place] = (values[place] / step).round_ties_even().clamp(-255.0, 255.0) * step;
    }
}
