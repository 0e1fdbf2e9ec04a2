//! How far what a feature is now is from what it was: the measures that Azure ML's monitors know, of two samples.
//!
//! Numbers are put into ten bins, whose bounds are the deciles of the reference; texts are categories. With the shares
//! `r` of the reference and `c` of now in each bin, the population stability index is `Σ (c - r) · ln(c / r)`, where an
//! empty bin counts as one in ten thousand (Siddiqi, *Credit Risk Scorecards*, 2006), and the Jensen–Shannon distance the
//! root of `(KL(r‖m) + KL(c‖m)) / 2` with `m = (r + c) / 2` and logarithms to base 2. The two-sample tests give
//! probabilities that both samples are of one population: Kolmogorov and Smirnov's for numbers, in its limit for large
//! samples (Stephens, 1970), Pearson's chi-squared of the table of counts for categories.

use std::collections::{BTreeMap, BTreeSet};

/// Bins of numbers.
const BINS: usize = 10;
/// What an empty bin counts as.
const EMPTY: f64 = 1e-4;
/// Categories that are told apart; all others are one.
const MOST_CATEGORIES: usize = 100;
const OTHER: &str = "…";

/// The values of one feature.
#[derive(Clone, Debug, PartialEq)]
pub enum Feature {
    Numbers(Vec<f64>),
    Categories(BTreeMap<String, u64>),
}

/// What was measured of a feature.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drift {
    pub population_stability_index: f64,
    pub jensen_shannon_distance: f64,
    /// The statistic of the two-sample test: the greatest distance of the distributions, or chi-squared.
    pub statistic: f64,
    /// The probability of such a statistic where nothing has changed.
    pub p_value: f64,
}

impl Feature {
    /// How many values there are.
    pub fn len(&self) -> u64 {
        match self {
            Self::Numbers(numbers) => numbers.len() as u64,
            Self::Categories(counts) => counts.values().sum(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How far `now` is from this; nothing where one of them is empty or they are of two kinds.
    pub fn drift(&self, now: &Self) -> Option<Drift> {
        if self.is_empty() || now.is_empty() {
            return None;
        }
        match (self, now) {
            (Self::Numbers(reference), Self::Numbers(now)) => Some(of_numbers(reference, now)),
            (Self::Categories(reference), Self::Categories(now)) => Some(of_categories(reference, now)),
            _ => None,
        }
    }
}

fn of_numbers(reference: &[f64], now: &[f64]) -> Drift {
    let sorted = |values: &[f64]| {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        values
    };
    let (reference, now) = (sorted(reference), sorted(now));
    let mut bounds: Vec<f64> =
        (1..BINS).map(|bin| reference[(bin * reference.len() / BINS).min(reference.len() - 1)]).collect();
    bounds.dedup();
    let counts = |values: &[f64]| {
        let mut counts = vec![0; bounds.len() + 1];
        for value in values {
            counts[bounds.partition_point(|bound| bound <= value)] += 1;
        }
        counts
    };
    let statistic = distance(&reference, &now);
    let (n, m) = (reference.len() as f64, now.len() as f64);
    let root = (n * m / (n + m)).sqrt();
    let p_value = kolmogorov((root + 0.12 + 0.11 / root) * statistic);
    measured(&counts(&reference), &counts(&now), statistic, p_value)
}

fn of_categories(reference: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>) -> Drift {
    let mut names: Vec<&String> = reference.keys().chain(now.keys()).collect::<BTreeSet<_>>().into_iter().collect();
    names.sort_by_key(|name| std::cmp::Reverse(reference.get(*name).copied().unwrap_or(0)));
    let told: BTreeMap<&str, usize> =
        names.iter().take(MOST_CATEGORIES).enumerate().map(|(at, name)| (name.as_str(), at)).collect();
    let width = told.len() + usize::from(names.len() > told.len());
    let counts = |values: &BTreeMap<String, u64>| {
        let mut counts = vec![0; width];
        for (name, count) in values {
            counts[told.get(name.as_str()).copied().unwrap_or(width - 1)] += count;
        }
        counts
    };
    let (reference, now) = (counts(reference), counts(now));
    let (n, m): (u64, u64) = (reference.iter().sum(), now.iter().sum());
    let all = (n + m) as f64;
    let mut statistic = 0.0;
    for (r, c) in reference.iter().zip(&now) {
        let both = (r + c) as f64;
        for (observed, of) in [(*r, n), (*c, m)] {
            let expected = both * of as f64 / all;
            statistic += (observed as f64 - expected).powi(2) / expected;
        }
    }
    let freedom = (width - 1) as f64;
    let p_value = if freedom > 0.0 { upper_gamma(freedom / 2.0, statistic / 2.0) } else { 1.0 };
    measured(&reference, &now, statistic, p_value)
}

fn measured(reference: &[u64], now: &[u64], statistic: f64, p_value: f64) -> Drift {
    let shares = |counts: &[u64]| -> Vec<f64> {
        let all = counts.iter().sum::<u64>() as f64;
        counts.iter().map(|count| *count as f64 / all).collect()
    };
    let (mut index, mut divergence) = (0.0, 0.0);
    for (r, c) in shares(reference).into_iter().zip(shares(now)) {
        let (floored_r, floored_c) = (r.max(EMPTY), c.max(EMPTY));
        index += (floored_c - floored_r) * (floored_c / floored_r).ln();
        let middle = f64::midpoint(r, c);
        for share in [r, c] {
            if share > 0.0 {
                divergence += share * (share / middle).log2() / 2.0;
            }
        }
    }
    Drift {
        population_stability_index: index,
        jensen_shannon_distance: divergence.max(0.0).sqrt(),
        statistic,
        p_value,
    }
}

/// The greatest distance between the distributions of two sorted samples.
fn distance(one: &[f64], other: &[f64]) -> f64 {
    let (mut i, mut j, mut greatest) = (0, 0, 0.0_f64);
    while i < one.len() && j < other.len() {
        let value = one[i].min(other[j]);
        while i < one.len() && one[i] <= value {
            i += 1;
        }
        while j < other.len() && other[j] <= value {
            j += 1;
        }
        greatest = greatest.max((i as f64 / one.len() as f64 - j as f64 / other.len() as f64).abs());
    }
    greatest
}

/// The probability that Kolmogorov's limit is beyond this.
fn kolmogorov(x: f64) -> f64 {
    // Below it the sum alternates too slowly, and is 1 to more digits than there are.
    if x < 0.2 {
        return 1.0;
    }
    let term = |k: i32| {
        let sign = if k % 2 == 1 { 2.0 } else { -2.0 };
        sign * (-2.0 * f64::from(k * k) * x * x).exp()
    };
    (1..=100).map(term).sum::<f64>().clamp(0.0, 1.0)
}

/// The upper regularised incomplete gamma function: by its series where that converges fast, else by its continued
/// fraction (Abramowitz and Stegun, 6.5.29 and 6.5.31).
fn upper_gamma(a: f64, x: f64) -> f64 {
    const STEPS: i32 = 500;
    if x <= 0.0 {
        return 1.0;
    }
    let scale = (a * x.ln() - x - ln_gamma(a)).exp();
    if x < a + 1.0 {
        let (mut term, mut sum) = (1.0 / a, 1.0 / a);
        for step in 1..STEPS {
            term *= x / (a + f64::from(step));
            sum += term;
            if term < sum * 1e-15 {
                break;
            }
        }
        return (1.0 - sum * scale).clamp(0.0, 1.0);
    }
    // From the end, which needs no guard against a division by nothing.
    let mut fraction = 0.0;
    for step in (1..STEPS).rev() {
        let step = f64::from(step);
        fraction = step * (step - a) / (x + 2.0 * step + 1.0 - a - fraction);
    }
    (scale / (x + 1.0 - a - fraction)).clamp(0.0, 1.0)
}

/// By Stirling's series, after the argument was made large by the recurrence.
fn ln_gamma(mut x: f64) -> f64 {
    let mut product = 1.0;
    while x < 10.0 {
        product *= x;
        x += 1.0;
    }
    let squared = x * x;
    let series = (1.0 / 12.0 - (1.0 / 360.0 - (1.0 / 1260.0 - 1.0 / (1680.0 * squared)) / squared) / squared) / x;
    (x - 0.5) * x.ln() - x + std::f64::consts::TAU.ln() / 2.0 + series - f64::ln(product)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(actual: f64, expected: f64, within: f64) {
        assert!((actual - expected).abs() <= within, "{actual} is not {expected}");
    }

    #[test]
    fn the_functions_are_those_of_the_tables() {
        close(ln_gamma(0.5), 0.572_364_942_924_700_1, 1e-12);
        close(ln_gamma(5.0), 24_f64.ln(), 1e-12);
        close(upper_gamma(0.5, 1.920_729_410_347_062), 0.05, 1e-9);
        close(upper_gamma(5.0, 9.153_518_945_5), 0.05, 1e-8);
        close(upper_gamma(1.0, 0.3), (-0.3_f64).exp(), 1e-12);
        close(kolmogorov(1.358_1), 0.05, 1e-4);
        close(kolmogorov(0.05), 1.0, 0.0);
    }

    #[test]
    fn the_same_does_not_drift_and_what_is_shifted_does() {
        let spread = |shift: f64| Feature::Numbers((0..1000).map(|n| f64::from(n * 7919 % 1000) + shift).collect());
        let same = spread(0.0).drift(&spread(0.0)).unwrap();
        assert_eq!((same.population_stability_index, same.jensen_shannon_distance, same.statistic), (0.0, 0.0, 0.0));
        close(same.p_value, 1.0, 0.0);
        let shifted = spread(0.0).drift(&spread(200.0)).unwrap();
        close(shifted.statistic, 0.2, 1e-9);
        assert!(shifted.population_stability_index > 0.25 && shifted.p_value < 1e-6, "{shifted:?}");
        let counts = |red, blue| {
            Feature::Categories([("red".to_owned(), red), ("blue".to_owned(), blue)].into_iter().collect())
        };
        let even = counts(50, 50).drift(&counts(60, 60)).unwrap();
        close(even.p_value, 1.0, 1e-12);
        let odd = counts(50, 50).drift(&counts(90, 10)).unwrap();
        // chi2_contingency([[50, 50], [90, 10]], correction=False)
        close(odd.statistic, 38.095_238_095_238, 1e-9);
        assert!(odd.p_value < 1e-8);
        assert_eq!(spread(0.0).drift(&counts(1, 1)), None);
        assert_eq!(spread(0.0).drift(&Feature::Numbers(Vec::new())), None);
    }
}
