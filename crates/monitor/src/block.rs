//! Samples of one deployment that are written together: 60 steps of one grain.

use std::collections::BTreeMap;

use crate::{range::Grain, sample::Sample};

/// Steps of a block.
const STEPS: u64 = 60;
/// How blocks of this build are written. Others are passed over.
const FORMAT: u8 = 1;

/// The samples of one stretch of time, by the beginning of their steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) grain: Grain,
    pub(crate) start: u64,
    samples: BTreeMap<u64, Sample>,
}

impl Block {
    /// Where the block begins that a time is in.
    pub(crate) fn start_of(grain: Grain, at: u64) -> u64 {
        let length = grain.step() * STEPS;
        at / length * length
    }

    /// How long before its end a block begins.
    pub(crate) fn length(grain: Grain) -> u64 {
        grain.step() * STEPS
    }

    pub(crate) fn new(grain: Grain, start: u64) -> Self {
        Self { grain, start, samples: BTreeMap::new() }
    }

    /// Adds to the step that `at` is in, which is one of this block.
    pub(crate) fn add(&mut self, at: u64, sample: &Sample) {
        let step = at / self.grain.step() * self.grain.step();
        self.samples.entry(step).or_default().add(sample);
    }

    pub(crate) fn samples(&self) -> impl Iterator<Item = (u64, &Sample)> {
        self.samples.iter().map(|(at, sample)| (*at, sample))
    }

    /// The format; then of each sample its step, and its numbers, with runs of zeros by their length.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT];
        for (at, sample) in &self.samples {
            put(&mut bytes, (at - self.start) / self.grain.step());
            let mut zeros = 0;
            for number in sample.clone().numbers() {
                if *number == 0 {
                    zeros += 1;
                    continue;
                }
                if zeros > 0 {
                    put(&mut bytes, 0);
                    put(&mut bytes, zeros);
                    zeros = 0;
                }
                put(&mut bytes, *number);
            }
            if zeros > 0 {
                put(&mut bytes, 0);
                put(&mut bytes, zeros);
            }
        }
        bytes
    }

    /// What was written; what cannot be read of it is left out.
    pub(crate) fn decode(grain: Grain, start: u64, bytes: &[u8]) -> Self {
        let mut block = Self::new(grain, start);
        let mut bytes = bytes;
        if take_byte(&mut bytes) == Some(FORMAT) {
            while let Some((step, sample)) = take_sample(&mut bytes) {
                block.samples.insert(start + step * grain.step(), sample);
            }
        }
        block
    }
}

fn take_sample(bytes: &mut &[u8]) -> Option<(u64, Sample)> {
    let step = take(bytes).filter(|step| *step < STEPS)?;
    let mut sample = Sample::default();
    let mut zeros = 0;
    for number in sample.numbers() {
        if zeros > 0 {
            zeros -= 1;
            continue;
        }
        *number = take(bytes)?;
        if *number == 0 {
            zeros = take(bytes)?.checked_sub(1)?;
        }
    }
    (zeros == 0).then_some((step, sample))
}

/// Seven bits a byte, the lowest first.
fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = take_byte(bytes)?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

fn take_byte(bytes: &mut &[u8]) -> Option<u8> {
    let (first, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample(numbers: &[u64]) -> Sample {
        let mut sample = Sample::default();
        for (own, number) in sample.numbers().zip(numbers) {
            *own = *number;
        }
        sample
    }

    #[test]
    fn a_quiet_minute_is_small() {
        let mut block = Block::new(Grain::Fine, 1_700_000_100);
        for step in 0..60 {
            block.add(block.start + step * 5, &sample(&[5000, 1]));
        }
        assert!(block.encode().len() <= 60 * 6 + 1, "{}", block.encode().len());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            samples in prop::collection::vec(
                (0_u64..60, prop::collection::vec(prop_oneof![Just(0_u64), 0..300_u64, any::<u64>()], 39)), 0..20)
        ) {
            let mut block = Block::new(Grain::Coarse, 36_000);
            for (step, numbers) in &samples {
                block.add(36_000 + step * 300 + 7, &sample(numbers));
            }
            prop_assert_eq!(Block::decode(Grain::Coarse, 36_000, &block.encode()), block);
        }

        #[test]
        fn what_is_broken_is_left_out(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = bytes;
            bytes.insert(0, FORMAT);
            let block = Block::decode(Grain::Fine, 300, &bytes);
            prop_assert!(block.samples().all(|(at, _)| (300..600).contains(&at)));
        }
    }
}
