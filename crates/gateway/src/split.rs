//! Which deployment takes the next request, and which requests are copied: shares that are exact over every run of
//! requests, not only in the long run.

use std::sync::atomic::{AtomicUsize, Ordering};

/// A weighted split as a fixed order that is gone through again and again. Taking the next turn is one atomic addition.
#[derive(Debug)]
pub(crate) struct Split {
    /// Indices of the weights; each is there as many times as its weight says, spread as evenly as can be.
    order: Box<[usize]>,
    turn: AtomicUsize,
}

impl Split {
    pub(crate) fn new(weights: &[u8]) -> Self {
        let divisor = weights.iter().copied().map(u32::from).fold(0, gcd).max(1);
        let shares: Vec<i64> = weights.iter().map(|weight| i64::from(u32::from(*weight) / divisor)).collect();
        let total: i64 = shares.iter().sum();
        // Smooth weighted round robin: who waited longest for its share is next.
        let mut credit = vec![0; shares.len()];
        let order = (0..total).filter_map(|_| {
            credit.iter_mut().zip(&shares).for_each(|(credit, share)| *credit += share);
            // The first of equals, so that the order is the same for the same weights.
            let next = (0..credit.len()).rev().max_by_key(|index| credit[*index])?;
            credit[next] -= total;
            Some(next)
        });
        Self { order: order.collect(), turn: AtomicUsize::new(0) }
    }

    /// The index of the weight whose turn it is; nothing if no weight is above zero.
    pub(crate) fn next(&self) -> Option<usize> {
        if self.order.is_empty() {
            return None;
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        Some(self.order[turn % self.order.len()])
    }

    /// Goes on where `before` is, if the split is the same: replicas come and go often, and shares stay exact.
    pub(crate) fn resume(self, before: &Self) -> Self {
        if self.order == before.order {
            self.turn.store(before.turn.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self
    }
}

/// So many of each hundred, evenly spread.
#[derive(Debug)]
pub(crate) struct Share {
    percent: usize,
    turn: AtomicUsize,
}

impl Share {
    pub(crate) fn new(percent: u8) -> Self {
        Self { percent: usize::from(percent.min(100)), turn: AtomicUsize::new(0) }
    }

    /// Whether this one is among them.
    pub(crate) fn takes(&self) -> bool {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % 100;
        (turn + 1) * self.percent / 100 > turn * self.percent / 100
    }

    pub(crate) fn resume(self, before: &Self) -> Self {
        self.turn.store(before.turn.load(Ordering::Relaxed), Ordering::Relaxed);
        self
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts(split: &Split, weights: usize, turns: usize) -> Vec<usize> {
        let mut counts = vec![0; weights];
        for _ in 0..turns {
            counts[split.next().unwrap()] += 1;
        }
        counts
    }

    proptest! {
        #[test]
        fn shares_are_exact_over_every_round(weights in prop::collection::vec(0u8..=100, 1..6), skip in 0usize..300) {
            let total: usize = weights.iter().copied().map(usize::from).sum();
            let split = Split::new(&weights);
            prop_assume!(total > 0);
            counts(&split, weights.len(), skip);
            let expected: Vec<usize> = weights.iter().copied().map(usize::from).collect();
            prop_assert_eq!(counts(&split, weights.len(), total), expected);
        }

        #[test]
        fn shares_are_never_far_off(weights in prop::collection::vec(0u8..=100, 1..6), turns in 1usize..300) {
            let total: usize = weights.iter().copied().map(usize::from).sum();
            prop_assume!(total > 0);
            let split = Split::new(&weights);
            for (count, weight) in counts(&split, weights.len(), turns).into_iter().zip(&weights) {
                let ideal = turns as f64 * f64::from(*weight) / total as f64;
                prop_assert!((count as f64 - ideal).abs() <= weights.len() as f64, "{count} for {ideal}");
            }
        }

        #[test]
        fn a_share_is_exact_over_every_hundred(percent in 0u8..=100, skip in 0usize..300) {
            let share = Share::new(percent);
            (0..skip).for_each(|_| { share.takes(); });
            prop_assert_eq!((0..100).filter(|_| share.takes()).count(), usize::from(percent));
        }
    }

    #[test]
    fn ninety_and_ten_are_spread() {
        let split = Split::new(&[90, 10]);
        assert_eq!(split.order.len(), 10);
        assert_eq!(split.order.iter().filter(|index| **index == 1).count(), 1);
        assert_eq!(*Split::new(&[50, 50]).order, [0, 1]);
    }

    #[test]
    fn nothing_is_split_among_none() {
        assert_eq!(Split::new(&[]).next(), None);
        assert_eq!(Split::new(&[0, 0]).next(), None);
    }

    #[test]
    fn the_same_split_goes_on() {
        let before = Split::new(&[1, 1]);
        before.next();
        assert_eq!(Split::new(&[2, 2]).resume(&before).next(), Some(1));
        assert_eq!(Split::new(&[1, 2]).resume(&before).turn.into_inner(), 0);
    }
}
