//! Who gets which request, and who is lost when a worker dies. Pure: no I/O, no clock, no threads, so that its laws
//! can be tested: every job leaves exactly once, and a dead worker takes at most the job with it that it had started.
//!
//! Workers take what they are sent in order. A worker with short runs is sent a little more than it can run now, so
//! that it never sleeps between two requests; whether it has *started* something is known from its own mark
//! (`started`), which it sets before it runs anything.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use moorline_core::BatchSettings;

/// A number that a job, and a group of jobs, has for as long as it is here. Never zero, never used twice.
pub(crate) type Sequence = u64;

/// How far ahead of its runs a worker is supplied, at most.
const AHEAD: usize = 2;
/// Runs longer than this are not worth supplying ahead of: whoever waits behind one waits longer than a wake-up takes.
const SHORT_RUN: Duration = Duration::from_millis(1);
/// Runs that must have been seen before they are believed to be short.
const SEEN_RUNS: u32 = 8;

/// What is asked of the dispatcher.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) workers: usize,
    pub(crate) max_queue: usize,
    pub(crate) batching: Option<BatchSettings>,
}

/// A job and when it came.
#[derive(Debug)]
struct Waiting<J> {
    sequence: Sequence,
    job: J,
    batchable: bool,
    since: Instant,
    deadline: Instant,
    /// A worker that it was taken back from still knows it by its own number.
    taken_back: bool,
}

/// What a worker is sent at once: one job, or a batch of them.
#[derive(Debug)]
pub(crate) struct Group<J> {
    pub(crate) sequence: Sequence,
    pub(crate) batch: bool,
    jobs: Vec<Waiting<J>>,
    interrupted: bool,
    /// The worker was told not to start it.
    recalled: bool,
}

impl<J> Group<J> {
    /// The jobs in order, with the numbers that they are answered by.
    pub(crate) fn jobs(&self) -> impl ExactSizeIterator<Item = (Sequence, &J)> {
        self.jobs.iter().map(|waiting| (self.number(waiting), &waiting.job))
    }

    const fn number(&self, waiting: &Waiting<J>) -> Sequence {
        if self.batch { waiting.sequence } else { self.sequence }
    }

    fn deadline(&self) -> Option<Instant> {
        self.jobs.iter().map(|waiting| waiting.deadline).max()
    }
}

#[derive(Debug)]
struct Slot<J> {
    groups: VecDeque<Group<J>>,
    /// A moving average of the runs, and how many there were.
    run_time: Duration,
    runs: u32,
    /// The group that was first at the last look; where it still is at the next, its run is a long one.
    seen_first: Option<Sequence>,
    /// Nothing may be sent ahead of the end of this run.
    long_run: bool,
}

impl<J> Slot<J> {
    const fn new() -> Self {
        Self { groups: VecDeque::new(), run_time: Duration::ZERO, runs: 0, seen_first: None, long_run: false }
    }

    fn room_ahead(&self) -> bool {
        !self.long_run && self.runs >= SEEN_RUNS && self.run_time < SHORT_RUN && self.groups.len() <= AHEAD
    }
}

/// What must be done to a worker whose request is beyond its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measure {
    /// Raise inside `run`, if it is still this group's.
    Interrupt { worker: usize, sequence: Sequence },
    /// It did not come back from that: end the process.
    Kill { worker: usize },
}

/// Why a job was not taken; it is given back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused<J> {
    Full(J),
    NobodyThere(J),
}

/// The state: who waits, who is where.
#[derive(Debug)]
pub(crate) struct Dispatcher<J> {
    rules: Rules,
    queue: VecDeque<Waiting<J>>,
    slots: Vec<Option<Slot<J>>>,
    /// Workers that are not there but will be in a moment; while there are any, jobs wait.
    expected: Vec<bool>,
    last: Sequence,
}

impl<J> Dispatcher<J> {
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            queue: VecDeque::new(),
            slots: (0..rules.workers).map(|_| None).collect(),
            expected: vec![false; rules.workers],
            last: 0,
            rules,
        }
    }

    pub(crate) fn alive(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    pub(crate) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Whether there is nothing left to answer.
    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.slots.iter().flatten().all(|slot| slot.groups.is_empty())
    }

    /// Takes a job in. What can be sent then is told by [`Self::assign`], which must be asked until it has nothing
    /// more to say; after that [`Self::overflow`] gives back what there is no room for.
    pub(crate) fn submit(
        &mut self,
        job: J,
        batchable: bool,
        now: Instant,
        deadline: Instant,
    ) -> Result<Sequence, Refused<J>> {
        if self.alive() == 0 && !self.expected.contains(&true) {
            return Err(Refused::NobodyThere(job));
        }
        if self.queue.len() > self.rules.max_queue {
            return Err(Refused::Full(job));
        }
        self.last += 1;
        let sequence = self.last;
        self.queue.push_back(Waiting { sequence, job, batchable, since: now, deadline, taken_back: false });
        Ok(sequence)
    }

    /// The youngest waiting job, where more wait than may.
    pub(crate) fn overflow(&mut self) -> Option<J> {
        (self.queue.len() > self.rules.max_queue).then(|| self.queue.pop_back().map(|waiting| waiting.job))?
    }

    /// The next group and the worker that must be sent it now.
    pub(crate) fn assign(&mut self, now: Instant) -> Option<(usize, &Group<J>)> {
        if self.queue.is_empty() {
            return None;
        }
        let idle = |slot: &Option<Slot<J>>| slot.as_ref().is_some_and(|slot| slot.groups.is_empty());
        let worker = self.slots.iter().position(idle).or_else(|| self.ahead())?;
        let (count, batch) = self.ready(now)?;
        let jobs: Vec<Waiting<J>> = self.queue.drain(..count).collect();
        // A batch has a number of its own: its mark must not be taken for that of its first item run again alone.
        let sequence = if batch || jobs.first()?.taken_back {
            self.last += 1;
            self.last
        } else {
            jobs.first()?.sequence
        };
        let slot = self.slots[worker].as_mut()?;
        slot.groups.push_back(Group { sequence, batch, jobs, interrupted: false, recalled: false });
        slot.groups.back().map(|group| (worker, group))
    }

    /// The busy worker that should be supplied ahead, if any. A batch takes what waits anyway, so there it is none.
    fn ahead(&self) -> Option<usize> {
        if self.rules.batching.is_some() {
            return None;
        }
        let with_room = |(index, slot): (usize, &Option<Slot<J>>)| {
            slot.as_ref().filter(|slot| slot.room_ahead()).map(|slot| (slot.groups.len(), index))
        };
        self.slots.iter().enumerate().filter_map(with_room).min().map(|(_, index)| index)
    }

    /// How many of the queue's first jobs go together now, and whether as a batch; `None` while it pays to wait.
    fn ready(&self, now: Instant) -> Option<(usize, bool)> {
        let first = self.queue.front()?;
        let Some(batching) = self.rules.batching.as_ref().filter(|_| first.batchable) else {
            return Some((1, false));
        };
        let most = batching.max_size.get();
        let here = self.queue.iter().take(most).take_while(|waiting| waiting.batchable).count();
        if here == most || self.queue.len() > here || now >= self.batch_due(first) {
            return Some((here, true));
        }
        let preferred = batching.preferred_sizes.iter().map(|size| size.get());
        preferred.filter(|size| *size <= here).max().map(|size| (size, true))
    }

    fn batch_due(&self, first: &Waiting<J>) -> Instant {
        let delay = self.rules.batching.as_ref().map_or(0, |batching| batching.max_delay_us);
        first.since + Duration::from_micros(delay)
    }

    /// When [`Self::assign`] must be asked again although nothing happened: a batch has waited long enough then.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        let first = self.queue.front().filter(|first| first.batchable && self.rules.batching.is_some())?;
        let idle = self.slots.iter().flatten().any(|slot| slot.groups.is_empty());
        idle.then(|| self.batch_due(first))
    }

    /// A worker's answer to one job; `run_time` where it ran. `None` for an answer that nobody asked for.
    pub(crate) fn reply(
        &mut self,
        worker: usize,
        sequence: Sequence,
        run_time: Option<Duration>,
    ) -> Option<J> {
        let slot = self.slots.get_mut(worker)?.as_mut()?;
        let at = |group: &Group<J>| group.jobs().position(|(number, _)| number == sequence);
        let (index, job) =
            slot.groups.iter().enumerate().find_map(|(index, group)| Some((index, at(group)?)))?;
        let waiting = slot.groups[index].jobs.remove(job);
        if slot.groups[index].jobs.is_empty() {
            slot.groups.remove(index);
            slot.long_run &= index > 0;
            if let Some(run_time) = run_time {
                slot.runs = slot.runs.saturating_add(1);
                slot.run_time = if slot.runs == 1 { run_time } else { (slot.run_time * 7 + run_time) / 8 };
            }
        }
        Some(waiting.job)
    }

    /// Nobody waits for this job any more: out of the queue it goes; what a worker has stays until it is answered.
    pub(crate) fn cancel(&mut self, sequence: Sequence) -> Option<J> {
        let index = self.queue.iter().position(|waiting| waiting.sequence == sequence)?;
        self.queue.remove(index).map(|waiting| waiting.job)
    }

    /// What to do about workers whose first group is beyond its time, and `grace` beyond it.
    pub(crate) fn overdue(&mut self, now: Instant, grace: Duration) -> Vec<Measure> {
        let mut measures = Vec::new();
        for (worker, slot) in self.slots.iter_mut().enumerate() {
            let Some(group) = slot.as_mut().and_then(|slot| slot.groups.front_mut()) else { continue };
            let Some(deadline) = group.deadline() else { continue };
            if now >= deadline + grace {
                measures.push(Measure::Kill { worker });
            } else if now >= deadline && !group.interrupted {
                group.interrupted = true;
                measures.push(Measure::Interrupt { worker, sequence: group.sequence });
            }
        }
        measures
    }

    /// Looks for workers that were supplied ahead and turned out to be busy for long, so that what waits behind goes
    /// to somebody else. To be asked at regular intervals; `started` tells a worker's mark. Returned is what workers
    /// must be told not to start. What they were told an interval ago, and cannot have missed, is taken back.
    pub(crate) fn recall(&mut self, started: impl Fn(usize) -> Sequence) -> Vec<(usize, Vec<Sequence>)> {
        let mut recalls = Vec::new();
        for (worker, slot) in self.slots.iter_mut().enumerate() {
            let Some(slot) = slot else { continue };
            let first = slot.groups.front().map(|group| group.sequence);
            let long = first.is_some() && slot.seen_first == first;
            slot.seen_first = first;
            if !long || slot.groups.len() < 2 {
                continue;
            }
            slot.long_run = true;
            if slot.groups.range(1..).any(|group| !group.recalled) {
                let behind = slot.groups.range_mut(1..);
                let numbers = behind.map(|group| {
                    group.recalled = true;
                    group.sequence
                });
                recalls.push((worker, numbers.collect()));
            } else if Some(started(worker)) == first {
                while slot.groups.len() > 1
                    && let Some(group) = slot.groups.pop_back()
                {
                    put_back(&mut self.queue, group);
                }
            }
        }
        recalls
    }

    /// A worker had a group that it was told not to start, and did not.
    pub(crate) fn skipped(&mut self, worker: usize, sequence: Sequence) {
        let Some(slot) = self.slots.get_mut(worker).and_then(Option::as_mut) else { return };
        let recalled = |group: &Group<J>| group.recalled && group.sequence == sequence;
        if let Some(index) = slot.groups.iter().position(recalled)
            && let Some(group) = slot.groups.remove(index)
        {
            put_back(&mut self.queue, group);
        }
    }

    /// A worker is ready for jobs.
    pub(crate) fn joined(&mut self, worker: usize) {
        self.expected[worker] = false;
        self.slots[worker] = Some(Slot::new());
    }

    /// A worker is gone, having marked `started` as the last thing it began. What it had not started waits again,
    /// before everything else. The items of a batch that it had started go again one by one, so that the one that
    /// is to blame is found. Given back is what is lost.
    pub(crate) fn died(&mut self, worker: usize, started: Sequence, now: Instant) -> Vec<J> {
        let Some(slot) = self.slots[worker].take() else { return Vec::new() };
        let mut lost = Vec::new();
        let mut again = Vec::new();
        for group in slot.groups {
            let began = group.sequence == started;
            let alone = group.jobs.len() == 1;
            for mut waiting in group.jobs {
                if began && (alone || waiting.deadline <= now) {
                    lost.push(waiting.job);
                } else {
                    waiting.batchable &= !began;
                    again.push(waiting);
                }
            }
        }
        for waiting in again.into_iter().rev() {
            self.queue.push_front(waiting);
        }
        lost
    }

    /// Whether a worker that is not there will be soon. While none is there or expected, nothing may wait: what did
    /// is given back.
    pub(crate) fn expect(&mut self, worker: usize, expected: bool) -> Vec<J> {
        self.expected[worker] = expected;
        if self.alive() > 0 || self.expected.contains(&true) {
            return Vec::new();
        }
        self.queue.drain(..).map(|waiting| waiting.job).collect()
    }

    /// The job that a worker is running, or is about to.
    pub(crate) fn current(&self, worker: usize) -> Option<&J> {
        let group = self.slots.get(worker)?.as_ref()?.groups.front()?;
        group.jobs.first().map(|waiting| &waiting.job)
    }
}

/// What a worker will not start waits again, before everything else.
fn put_back<J>(queue: &mut VecDeque<Waiting<J>>, group: Group<J>) {
    for mut waiting in group.jobs.into_iter().rev() {
        waiting.taken_back = true;
        queue.push_front(waiting);
    }
}

#[cfg(test)]
#[path = "dispatch_tests.rs"]
mod tests;
