//! The ranges of a model's tensors over the samples, and what scale and zero follow from them.

use super::Method;

/// Bins of a histogram: each is an eighth of a code, or less.
const BINS: usize = 2048;

/// What codes of a tensor stand for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Codes {
    pub(super) scale: f32,
    pub(super) zero: u8,
}

/// What was seen of a tensor.
#[derive(Clone, Debug)]
pub(super) struct Range {
    low: f32,
    high: f32,
    bins: Vec<u64>,
}

impl Default for Range {
    /// Zero is a value of every tensor: padding is, and what is cut at it.
    fn default() -> Self {
        Self { low: 0.0, high: 0.0, bins: Vec::new() }
    }
}

impl Range {
    /// Widens the range; false where there is something that is no number.
    pub(super) fn widen(&mut self, values: &[f32]) -> bool {
        let (mut low, mut high) = (self.low, self.high);
        let mut finite = true;
        for &value in values {
            finite &= value.is_finite();
            low = low.min(value);
            high = high.max(value);
        }
        (self.low, self.high) = (low, high);
        finite
    }

    /// Counts the values, once the range is known.
    pub(super) fn count(&mut self, values: &[f32]) {
        self.bins.resize(BINS, 0);
        let step = (self.high - self.low) / BINS as f32;
        if step > 0.0 {
            for &value in values {
                let bin = ((value - self.low) / step) as usize;
                self.bins[bin.min(BINS - 1)] += 1;
            }
        }
    }

    pub(super) fn codes(&self, method: Method) -> Codes {
        let (low, high) = match method {
            Method::MinMax => (self.low, self.high),
            Method::Percentile(percentile) => self.within(f64::from(percentile) / 100.0),
        };
        let scale = ((high - low) / 255.0).max(f32::MIN_POSITIVE);
        // A tensor that is zero always has any scale.
        let scale = if scale > 1e-30 { scale } else { 1.0 };
        Codes { scale, zero: (-low / scale).round_ties_even().clamp(0.0, 255.0) as u8 }
    }

    /// The range without the rarest values on each side, so that `part` is within each bound. Zero stays in it.
    fn within(&self, part: f64) -> (f32, f32) {
        let all: u64 = self.bins.iter().sum();
        let outside = ((1.0 - part) * all as f64) as u64;
        let step = (self.high - self.low) / BINS as f32;
        let skipped = |bins: &mut dyn Iterator<Item = &u64>| {
            let mut sum = 0;
            bins.take_while(|count| {
                sum += **count;
                sum <= outside
            })
            .count() as f32
        };
        let low = self.low + step * skipped(&mut self.bins.iter());
        let high = self.high - step * skipped(&mut self.bins.iter().rev());
        (low.min(0.0), high.max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_reach_over_the_range_and_hold_zero_exactly() {
        let mut range = Range::default();
        assert!(range.widen(&[-1.0, 0.5, 3.0]));
        let Codes { scale, zero } = range.codes(Method::MinMax);
        assert_eq!((scale, zero), (4.0 / 255.0, 64));
        assert!(!range.widen(&[f32::NAN]));
        assert_eq!(Range::default().codes(Method::MinMax), Codes { scale: 1.0, zero: 0 });
    }

    #[test]
    fn a_percentile_leaves_out_what_is_rare() {
        let mut values: Vec<f32> = (0..10_000).map(|index| index as f32 / 10_000.0).collect();
        values.push(100.0);
        let mut range = Range::default();
        range.widen(&values);
        range.count(&values);
        let all = range.codes(Method::MinMax).scale;
        let most = range.codes(Method::Percentile(99.9)).scale;
        assert!(most < all / 50.0 && most * 255.0 >= 0.99, "{most} {all}");
    }
}
