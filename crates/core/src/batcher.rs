//! Dynamic batching as a pure state machine: items go in, batches come out, the caller brings the clock.
//!
//! Items that are not [`Item::compatible`] never share a batch. A batch leaves when it is full, when it reaches a
//! preferred size, or when its oldest item has waited for the longest delay; without settings every item leaves alone
//! and at once.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::release::BatchSettings;

/// What the batcher must know of the things it gathers.
pub trait Item {
    /// How much of a batch's size it takes: rows of a tensor, or 1.
    fn rows(&self) -> usize;
    fn arrived(&self) -> Instant;
    /// Whether it may share a batch with `other`.
    fn compatible(&self, other: &Self) -> bool;
}

/// What [`Batcher::take`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Take<T> {
    /// Run these together, in this order.
    Batch(Vec<T>),
    /// Nothing is due before this instant unless more arrives.
    WaitUntil(Instant),
    Empty,
}

/// Gathers items into batches. Not shared: the owner holds it under a lock.
#[derive(Debug)]
pub struct Batcher<T> {
    max_size: usize,
    max_delay: Duration,
    preferred_sizes: Vec<usize>,
    /// Groups of compatible items, each in order of arrival; the group whose first item came first is in front.
    groups: VecDeque<VecDeque<T>>,
    len: usize,
}

impl<T: Item> Batcher<T> {
    /// A batcher that follows `settings`, or one that lets every item go alone.
    pub fn new(settings: Option<&BatchSettings>) -> Self {
        Self {
            max_size: settings.map_or(1, |settings| settings.max_size.get()),
            max_delay: settings
                .map_or(Duration::ZERO, |settings| Duration::from_micros(settings.max_delay_us)),
            preferred_sizes: settings.map_or_else(Vec::new, |settings| {
                settings.preferred_sizes.iter().map(|size| size.get()).collect()
            }),
            groups: VecDeque::new(),
            len: 0,
        }
    }

    /// The number of waiting items.
    pub const fn len(&self) -> usize {
        self.len
    }

    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn push(&mut self, item: T) {
        self.len += 1;
        // Without batching there is one group, so that pushing does not compare.
        let home = self
            .groups
            .iter_mut()
            .find(|group| self.max_size == 1 || group.front().is_some_and(|first| first.compatible(&item)));
        match home {
            Some(group) => group.push_back(item),
            None => self.groups.push_back(VecDeque::from([item])),
        }
    }

    /// Takes the next batch that is due at `now`.
    pub fn take(&mut self, now: Instant) -> Take<T> {
        let mut wake: Option<Instant> = None;
        for index in 0..self.groups.len() {
            match self.due(&self.groups[index], now) {
                Ok(count) => return Take::Batch(self.remove(index, count)),
                Err(due) => wake = Some(wake.map_or(due, |wake| wake.min(due))),
            }
        }
        wake.map_or(Take::Empty, Take::WaitUntil)
    }

    /// Takes everything that waits, so that it can be answered otherwise.
    pub fn drain(&mut self) -> Vec<T> {
        self.len = 0;
        self.groups.drain(..).flatten().collect()
    }

    /// How many items from the front of `group` make a batch now, or when they will.
    fn due(&self, group: &VecDeque<T>, now: Instant) -> Result<usize, Instant> {
        let Some(first) = group.front() else { return Err(now + self.max_delay) };
        let mut rows = 0;
        let mut preferred = None;
        for (count, item) in group.iter().enumerate() {
            let next = rows + item.rows();
            if next > self.max_size {
                // An item larger than the bound is a batch of its own.
                return Ok(count.max(1));
            }
            rows = next;
            if rows == self.max_size {
                return Ok(count + 1);
            }
            if self.preferred_sizes.contains(&rows) {
                preferred = Some(count + 1);
            }
        }
        let due = first.arrived() + self.max_delay;
        if due <= now { Ok(group.len()) } else { preferred.ok_or(due) }
    }

    fn remove(&mut self, index: usize, count: usize) -> Vec<T> {
        let group = &mut self.groups[index];
        let batch: Vec<T> = group.drain(..count).collect();
        self.len -= batch.len();
        if group.is_empty() {
            self.groups.remove(index);
        } else if self.groups.len() > 1
            && let Some(group) = self.groups.remove(index)
        {
            // Its new first item is younger: keep the groups in order of their first item.
            let arrived = group.front().map(Item::arrived);
            let place = self
                .groups
                .iter()
                .position(|other| other.front().map(Item::arrived) > arrived)
                .unwrap_or(self.groups.len());
            self.groups.insert(place, group);
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Job {
        id: usize,
        shape: u8,
        rows: usize,
        arrived: Instant,
    }

    impl Item for Job {
        fn rows(&self) -> usize {
            self.rows
        }
        fn arrived(&self) -> Instant {
            self.arrived
        }
        fn compatible(&self, other: &Self) -> bool {
            self.shape == other.shape
        }
    }

    fn settings(max_size: usize, max_delay_us: u64, preferred: &[usize]) -> BatchSettings {
        let size = |size: usize| NonZeroUsize::new(size).unwrap();
        BatchSettings {
            max_size: size(max_size),
            max_delay_us,
            preferred_sizes: preferred.iter().map(|preferred| size(*preferred)).collect(),
        }
    }

    fn job(id: usize, shape: u8, rows: usize, arrived: Instant) -> Job {
        Job { id, shape, rows, arrived }
    }

    fn ids(take: Take<Job>) -> Vec<usize> {
        match take {
            Take::Batch(batch) => batch.into_iter().map(|job| job.id).collect(),
            other => panic!("expected a batch, got {other:?}"),
        }
    }

    #[test]
    fn without_settings_every_item_goes_alone_in_order() {
        let start = Instant::now();
        let mut batcher = Batcher::new(None);
        (0..3).for_each(|id| batcher.push(job(id, id as u8, 1, start)));
        assert_eq!((0..3).map(|_| ids(batcher.take(start))).collect::<Vec<_>>(), [[0], [1], [2]]);
        assert_eq!(batcher.take(start), Take::Empty);
    }

    #[test]
    fn a_batch_leaves_full_or_preferred_or_late() {
        let start = Instant::now();
        let delay = Duration::from_micros(100);
        let mut batcher = Batcher::new(Some(&settings(4, 100, &[2])));
        batcher.push(job(0, 0, 1, start));
        assert_eq!(batcher.take(start), Take::WaitUntil(start + delay));
        batcher.push(job(1, 0, 1, start));
        assert_eq!(ids(batcher.take(start)), [0, 1]);
        batcher.push(job(2, 0, 3, start));
        assert_eq!(batcher.take(start), Take::WaitUntil(start + delay));
        assert_eq!(ids(batcher.take(start + delay)), [2]);
        (3..9).for_each(|id| batcher.push(job(id, 0, 1, start)));
        assert_eq!(ids(batcher.take(start)), [3, 4, 5, 6]);
        batcher.push(job(9, 0, 9, start + delay));
        assert_eq!(ids(batcher.take(start + delay)), [7, 8]);
        assert_eq!(ids(batcher.take(start + delay)), [9]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_mixed_reordered_or_late(
            jobs in prop::collection::vec((0_u8..3, 1_usize..6, 0_u64..50), 0..60), max_size in 1_usize..9,
            delay in 0_u64..80, preferred in 1_usize..9,
        ) {
            let preferred = [preferred];
            let settings = settings(max_size, delay, if preferred[0] < max_size { &preferred } else { &[] });
            let mut batcher = Batcher::new(Some(&settings));
            let start = Instant::now();
            let mut now = start;
            let mut out: Vec<Job> = Vec::new();
            let check = |batch: Vec<Job>, out: &mut Vec<Job>| {
                assert!(!batch.is_empty());
                assert!(batch.windows(2).all(|pair| pair[0].shape == pair[1].shape || max_size == 1));
                let rows: usize = batch.iter().map(|job| job.rows).sum();
                assert!(rows <= max_size || batch.len() == 1);
                out.extend(batch);
            };
            for (id, (shape, rows, gap)) in jobs.iter().enumerate() {
                now += Duration::from_micros(*gap);
                while let Take::Batch(batch) = batcher.take(now) { check(batch, &mut out); }
                batcher.push(job(id, *shape, *rows, now));
            }
            // Once the longest delay has passed, everything goes.
            now += Duration::from_micros(delay);
            while let Take::Batch(batch) = batcher.take(now) { check(batch, &mut out); }
            prop_assert_eq!(batcher.take(now), Take::Empty);
            prop_assert_eq!(batcher.len(), 0);
            for shape in 0..3 {
                let of_shape: Vec<usize> = out.iter().filter(|job| job.shape == shape).map(|job| job.id).collect();
                prop_assert!(of_shape.windows(2).all(|pair| pair[0] < pair[1]));
            }
            prop_assert_eq!(out.len(), jobs.len());
        }
    }
}
