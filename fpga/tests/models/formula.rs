//! i8-rne-v1, written down a second time: plain loops over codes in row-major order, in `i32` and `f32`, that know nothing
//! of kernels, of tiles or of how codes are held on a device.

use crate::layers::Conv;

/// What codes stand for, as a model states it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Codes {
    pub(crate) scale: f32,
    pub(crate) zero: i32,
    pub(crate) signed: bool,
}

impl Codes {
    pub(crate) fn range(self) -> [i32; 2] {
        if self.signed { [-128, 127] } else { [0, 255] }
    }

    /// `sat(rint(v) + zero)` within bounds that are codes themselves.
    pub(crate) fn round(self, value: f32, [low, high]: [i32; 2]) -> i32 {
        (value.round_ties_even().clamp(-1e6, 1e6) as i32 + self.zero).clamp(low, high)
    }

    /// The code of a number.
    pub(crate) fn of(self, value: f32) -> i32 {
        self.round(value / self.scale, self.range())
    }

    /// The number of a code.
    pub(crate) fn number(self, code: i32) -> f32 {
        (code - self.zero) as f32 * self.scale
    }

    /// The bounds that `Clip` sets, as codes.
    pub(crate) fn within(self, low: Option<f32>, high: Option<f32>) -> [i32; 2] {
        let [least, most] = self.range();
        [low.map_or(least, |low| self.of(low)), high.map_or(most, |high| self.of(high))]
    }
}

/// Weights of a convolution, less their zeros.
pub(crate) struct Weights {
    pub(crate) codes: Vec<i32>,
    pub(crate) scales: Vec<f32>,
    pub(crate) bias: Vec<i32>,
}

/// The sums of a convolution, by batch, output, row and column.
pub(crate) fn sums(shape: &Conv, input: &[i32], from: Codes, weights: &Weights) -> Vec<i32> {
    let Conv { n, groups, inputs, outputs, size, kernel, stride, dilation, pads, .. } = *shape;
    let out = |axis: usize| {
        (size[axis] + pads[axis] + pads[axis + 2] - (kernel[axis] - 1) * dilation - 1) / stride + 1
    };
    let mut sums = Vec::new();
    for batch in 0..n {
        for output in 0..outputs * groups {
            for row in 0..out(0) {
                for column in 0..out(1) {
                    let mut sum = weights.bias[output];
                    for own in 0..inputs {
                        let channel = output / outputs * inputs + own;
                        for ky in 0..kernel[0] {
                            for kx in 0..kernel[1] {
                                let y = (row * stride + ky * dilation).wrapping_sub(pads[0]);
                                let x = (column * stride + kx * dilation).wrapping_sub(pads[1]);
                                if y >= size[0] || x >= size[1] {
                                    continue;
                                }
                                let at = ((batch * groups * inputs + channel) * size[0] + y) * size[1] + x;
                                let weight = weights.codes
                                    [((output * inputs + own) * kernel[0] + ky) * kernel[1] + kx];
                                sum = sum.wrapping_add((input[at] - from.zero) * weight);
                            }
                        }
                    }
                    sums.push(sum);
                }
            }
        }
    }
    sums
}

/// Sums as codes: `sat(rint(f32(sum) * f32(f32(xs * ws) / ys)) + yz)`.
pub(crate) fn requantized(
    sums: &[i32],
    [rows, channels]: [usize; 2],
    scales: &[f32],
    from: Codes,
    to: Codes,
    bounds: [i32; 2],
) -> Vec<i32> {
    let spatial = sums.len() / (rows * channels);
    let code = |(index, &sum): (usize, &i32)| {
        let factor = from.scale * scales[index / spatial % channels] / to.scale;
        to.round(sum as f32 * factor, bounds)
    };
    sums.iter().enumerate().map(code).collect()
}

/// `sat(rint(fma(a - az, f32(as / ys), (b - bz) * f32(bs / ys))) + yz)`.
pub(crate) fn sum(
    (a, from_a): (&[i32], Codes),
    (b, from_b): (&[i32], Codes),
    to: Codes,
    bounds: [i32; 2],
) -> Vec<i32> {
    let code = |(&a, &b): (&i32, &i32)| {
        let other = (b - from_b.zero) as f32 * (from_b.scale / to.scale);
        let both = ((a - from_a.zero) as f32).mul_add(from_a.scale / to.scale, other);
        to.round(both, bounds)
    };
    a.iter().zip(b).map(code).collect()
}

/// `sat(rint((x - xz) * f32(xs / ys)) + yz)`.
pub(crate) fn recoded(codes: &[i32], from: Codes, to: Codes, bounds: [i32; 2]) -> Vec<i32> {
    let code = |&code: &i32| to.round((code - from.zero) as f32 * (from.scale / to.scale), bounds);
    codes.iter().map(code).collect()
}

/// A window that moves over maps of `size`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pool {
    pub(crate) maps: usize,
    pub(crate) size: [usize; 2],
    pub(crate) kernel: [usize; 2],
    pub(crate) stride: usize,
    pub(crate) pads: [usize; 4],
    /// Nothing for the largest; whether the padding counts.
    pub(crate) average: Option<bool>,
}

/// The largest code as codes of the result; or a mean, `sat(rint(f32(sum of x - xz) * f32(f32(xs / ys) / count)) + yz)`.
pub(crate) fn pooled(pool: Pool, codes: &[i32], from: Codes, to: Codes) -> Vec<i32> {
    let Pool { maps, size, kernel, stride, pads, average } = pool;
    let out = |axis: usize| (size[axis] + pads[axis] + pads[axis + 2] - kernel[axis]) / stride + 1;
    let mut result = Vec::new();
    for map in 0..maps {
        for row in 0..out(0) {
            for column in 0..out(1) {
                let (mut sum, mut count, mut most) = (0, 0, i32::MIN);
                for ky in 0..kernel[0] {
                    for kx in 0..kernel[1] {
                        let y = (row * stride + ky).wrapping_sub(pads[0]);
                        let x = (column * stride + kx).wrapping_sub(pads[1]);
                        if y < size[0] && x < size[1] {
                            let code = codes[(map * size[0] + y) * size[1] + x];
                            (sum, count, most) = (sum + code - from.zero, count + 1, most.max(code));
                        }
                    }
                }
                let factor = from.scale / to.scale;
                let value = match average {
                    None => (most - from.zero) as f32 * factor,
                    Some(padding) => {
                        let all = (kernel[0] * kernel[1]) as f32;
                        sum as f32 * (factor / if padding { all } else { count as f32 })
                    }
                };
                result.push(to.round(value, to.range()));
            }
        }
    }
    result
}
