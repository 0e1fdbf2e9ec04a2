//! The dispatcher's laws, on any order of events.

use std::{collections::HashMap, num::NonZeroUsize};

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Event {
    Submit { batchable: bool },
    Reply { worker: usize, short: bool },
    Die { worker: usize, started: bool, comes_back: bool },
    Join { worker: usize },
    Cancel { back: u64 },
    Look,
    Wait { micros: u64 },
}

fn event(workers: usize) -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => any::<bool>().prop_map(|batchable| Event::Submit { batchable }),
        6 => (0..workers, any::<bool>()).prop_map(|(worker, short)| Event::Reply { worker, short }),
        1 => (0..workers, any::<bool>(), any::<bool>())
            .prop_map(|(worker, started, comes_back)| Event::Die { worker, started, comes_back }),
        2 => (0..workers).prop_map(|worker| Event::Join { worker }),
        1 => (0_u64..8).prop_map(|back| Event::Cancel { back }),
        2 => Just(Event::Look),
        1 => (0_u64..2000).prop_map(|micros| Event::Wait { micros }),
    ]
}

fn batching() -> BatchSettings {
    BatchSettings {
        max_size: NonZeroUsize::new(4).unwrap(),
        max_delay_us: 500,
        preferred_sizes: vec![NonZeroUsize::new(2).unwrap()],
    }
}

/// A group's number, and its jobs with theirs.
type Sent = (Sequence, Vec<(Sequence, u32)>);

/// A model of the workers, and the books of what became of each job.
struct World {
    dispatcher: Dispatcher<u32>,
    now: Instant,
    /// What each worker was sent and has not answered: group number and (job number, job).
    sent: Vec<Option<VecDeque<Sent>>>,
    /// What workers were told not to start; they forget the last when they hear the next.
    recalled: Vec<Vec<Sequence>>,
    fate: HashMap<u32, &'static str>,
    numbers: HashMap<Sequence, u32>,
    jobs: u32,
}

impl World {
    fn new(workers: usize, max_queue: usize, batching: Option<BatchSettings>) -> Self {
        Self {
            dispatcher: Dispatcher::new(Rules { workers, max_queue, batching }),
            now: Instant::now(),
            sent: (0..workers).map(|_| None).collect(),
            recalled: vec![Vec::new(); workers],
            fate: HashMap::new(),
            numbers: HashMap::new(),
            jobs: 0,
        }
    }

    fn leave(&mut self, job: u32, how: &'static str) {
        let before = self.fate.insert(job, how);
        assert_eq!(before, None, "job {job} left twice");
    }

    fn assign(&mut self) {
        while let Some((worker, group)) = self.dispatcher.assign(self.now) {
            let jobs: Vec<(Sequence, u32)> = group.jobs().map(|(sequence, job)| (sequence, *job)).collect();
            assert!(!jobs.is_empty());
            let queue = self.sent[worker].as_mut().expect("only living workers are sent anything");
            queue.push_back((group.sequence, jobs));
            let recalled = &self.recalled[worker];
            assert!(queue.iter().filter(|(number, _)| !recalled.contains(number)).count() <= 1 + AHEAD);
        }
        while let Some(job) = self.dispatcher.overflow() {
            self.leave(job, "refused");
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Submit { batchable } => {
                let job = self.jobs;
                self.jobs += 1;
                let deadline = self.now + Duration::from_mins(1);
                match self.dispatcher.submit(job, batchable, self.now, deadline) {
                    Ok(sequence) => {
                        self.numbers.insert(sequence, job);
                    }
                    Err(Refused::Full(job) | Refused::NobodyThere(job)) => self.leave(job, "refused"),
                }
            }
            Event::Reply { worker, short } => {
                let Some(queue) = &mut self.sent[worker] else { return };
                let Some((_, jobs)) = queue.front_mut() else { return };
                let (sequence, expected) = jobs.remove(0);
                if jobs.is_empty() {
                    queue.pop_front();
                }
                let run = Duration::from_micros(if short { 50 } else { 5000 });
                let job = self.dispatcher.reply(worker, sequence, Some(run));
                assert_eq!(job, Some(expected));
                self.leave(expected, "answered");
                assert_eq!(self.dispatcher.reply(worker, sequence, None), None);
                self.skip(worker);
            }
            Event::Die { worker, started, comes_back } => {
                let Some(queue) = self.sent[worker].take() else { return };
                let mark = queue.front().filter(|_| started).map_or(0, |(sequence, _)| *sequence);
                let lost = self.dispatcher.died(worker, mark, self.now);
                let running = queue.front().filter(|(_, jobs)| started && jobs.len() == 1);
                assert_eq!(lost, running.iter().map(|(_, jobs)| jobs[0].1).collect::<Vec<_>>());
                for job in lost {
                    self.leave(job, "lost");
                }
                for job in self.dispatcher.expect(worker, comes_back) {
                    self.leave(job, "given up");
                }
            }
            Event::Join { worker } => {
                if self.sent[worker].is_none() {
                    self.sent[worker] = Some(VecDeque::new());
                    self.dispatcher.joined(worker);
                }
            }
            Event::Cancel { back } => {
                let Some(sequence) = self.dispatcher.last.checked_sub(back) else { return };
                if let Some(job) = self.dispatcher.cancel(sequence) {
                    assert_eq!(self.numbers.get(&sequence), Some(&job));
                    self.leave(job, "cancelled");
                }
            }
            Event::Look => {
                let sent = &self.sent;
                let first = |worker: usize| sent[worker].as_ref()?.front().map(|(number, _)| *number);
                for (worker, numbers) in self.dispatcher.recall(|worker| first(worker).unwrap_or(0)) {
                    assert!(numbers.len() <= AHEAD && !numbers.is_empty());
                    self.recalled[worker] = numbers;
                }
            }
            Event::Wait { micros } => self.now += Duration::from_micros(micros),
        }
        self.assign();
    }

    /// A worker that is through with something skips what it was told not to start.
    fn skip(&mut self, worker: usize) {
        let Some(queue) = &mut self.sent[worker] else { return };
        while let Some((number, _)) =
            queue.front().filter(|(number, _)| self.recalled[worker].contains(number))
        {
            self.dispatcher.skipped(worker, *number);
            queue.pop_front();
        }
    }

    /// Brings everybody back and lets all that is left be answered.
    fn settle(&mut self) {
        let workers = self.sent.len();
        (0..workers).for_each(|worker| self.apply(Event::Join { worker }));
        while !self.dispatcher.is_idle() {
            self.apply(Event::Wait { micros: 1000 });
            (0..workers).for_each(|worker| self.apply(Event::Reply { worker, short: true }));
        }
    }
}

proptest! {
    #[test]
    fn every_job_leaves_exactly_once(
        workers in 1_usize..4,
        max_queue in 0_usize..6,
        batched in any::<bool>(),
        events in prop::collection::vec(event(3), 0..200),
    ) {
        let mut world = World::new(workers, max_queue, batched.then(batching));
        (0..workers).for_each(|worker| world.apply(Event::Join { worker }));
        for event in events {
            let worker = match event {
                Event::Reply { worker, .. } | Event::Die { worker, .. } | Event::Join { worker } => worker,
                _ => 0,
            };
            if worker < workers {
                world.apply(event);
            }
        }
        world.settle();
        prop_assert_eq!(world.fate.len(), world.jobs as usize);
    }
}

fn submit(world: &mut World, count: usize) {
    (0..count).for_each(|_| world.apply(Event::Submit { batchable: true }));
}

#[test]
fn only_short_runs_are_supplied_ahead() {
    let mut world = World::new(1, 100, None);
    world.apply(Event::Join { worker: 0 });
    submit(&mut world, 10);
    let ahead = |world: &World| world.sent[0].as_ref().unwrap().len();
    assert_eq!(ahead(&world), 1);
    for _ in 0..SEEN_RUNS {
        world.apply(Event::Reply { worker: 0, short: true });
    }
    submit(&mut world, 20);
    assert_eq!(ahead(&world), 1 + AHEAD);
    for _ in 0..6 {
        world.apply(Event::Reply { worker: 0, short: false });
    }
    assert_eq!(ahead(&world), 1);
}

#[test]
fn what_a_dead_worker_had_not_started_goes_to_another_in_order() {
    let mut world = World::new(1, 100, None);
    world.apply(Event::Join { worker: 0 });
    submit(&mut world, 8);
    (0..8).for_each(|_| world.apply(Event::Reply { worker: 0, short: true }));
    submit(&mut world, 5);
    world.apply(Event::Die { worker: 0, started: true, comes_back: true });
    assert_eq!(world.fate.get(&8), Some(&"lost"));
    world.apply(Event::Join { worker: 0 });
    assert_eq!(world.sent[0].as_ref().unwrap()[0].1[0].1, 9);
    world.settle();
    assert_eq!(world.fate.values().filter(|fate| **fate == "lost").count(), 1);
}

#[test]
fn what_waits_behind_a_long_run_goes_to_somebody_else() {
    let mut world = World::new(2, 100, None);
    world.apply(Event::Join { worker: 0 });
    submit(&mut world, 8);
    (0..8).for_each(|_| world.apply(Event::Reply { worker: 0, short: true }));
    submit(&mut world, 3);
    world.apply(Event::Join { worker: 1 });
    (0..2).for_each(|_| world.apply(Event::Look));
    assert_eq!(world.recalled[0].len(), AHEAD);
    assert_eq!(world.sent[1].as_ref().unwrap().len(), 0);
    world.apply(Event::Look);
    assert_eq!(world.sent[1].as_ref().unwrap().front().unwrap().1[0].1, 9);
    (0..2).for_each(|_| world.apply(Event::Reply { worker: 1, short: true }));
    assert_eq!((world.fate.get(&9), world.fate.get(&10)), (Some(&"answered"), Some(&"answered")));
    submit(&mut world, 1);
    assert_eq!(world.sent[0].as_ref().unwrap().len(), 1 + AHEAD, "nothing more is sent behind a long run");
    world.settle();
}

#[test]
fn a_batch_goes_when_full_preferred_or_due() {
    let mut world = World::new(1, 100, Some(batching()));
    world.apply(Event::Join { worker: 0 });
    let sizes = |world: &World| -> Vec<usize> {
        world.sent[0].as_ref().unwrap().iter().map(|(_, jobs)| jobs.len()).collect()
    };
    submit(&mut world, 1);
    assert_eq!(sizes(&world), Vec::<usize>::new());
    assert_eq!(world.dispatcher.wake_at(), Some(world.now + Duration::from_micros(500)));
    submit(&mut world, 1);
    assert_eq!(sizes(&world), [2]);
    submit(&mut world, 5);
    (0..2).for_each(|_| world.apply(Event::Reply { worker: 0, short: true }));
    assert_eq!(sizes(&world), [4]);
    (0..4).for_each(|_| world.apply(Event::Reply { worker: 0, short: true }));
    assert_eq!(sizes(&world), Vec::<usize>::new());
    world.apply(Event::Wait { micros: 500 });
    assert_eq!(sizes(&world), [1]);
}

#[test]
fn the_items_of_a_batch_that_killed_its_worker_go_again_alone() {
    let mut world = World::new(1, 100, Some(batching()));
    world.apply(Event::Join { worker: 0 });
    submit(&mut world, 2);
    world.apply(Event::Die { worker: 0, started: true, comes_back: true });
    assert!(world.fate.is_empty());
    world.apply(Event::Join { worker: 0 });
    world.apply(Event::Die { worker: 0, started: true, comes_back: true });
    assert_eq!(world.fate.get(&0), Some(&"lost"));
    world.settle();
    assert_eq!(world.fate.get(&1), Some(&"answered"));
}

#[test]
fn beyond_its_time_a_run_is_interrupted_once_and_then_killed() {
    let mut world = World::new(1, 100, None);
    world.apply(Event::Join { worker: 0 });
    submit(&mut world, 1);
    let now = world.now;
    let (deadline, grace) = (now + Duration::from_mins(1), Duration::from_secs(2));
    let mut at = |now| world.dispatcher.overdue(now, grace);
    assert_eq!(at(now + Duration::from_secs(59)), []);
    assert_eq!(at(deadline), [Measure::Interrupt { worker: 0, sequence: 1 }]);
    assert_eq!(at(deadline + Duration::from_secs(1)), []);
    assert_eq!(at(deadline + grace), [Measure::Kill { worker: 0 }]);
}

#[test]
fn with_nobody_there_or_expected_nothing_waits() {
    let mut world = World::new(1, 100, None);
    submit(&mut world, 1);
    assert_eq!(world.fate.get(&0), Some(&"refused"));
    world.apply(Event::Join { worker: 0 });
    submit(&mut world, 3);
    world.apply(Event::Die { worker: 0, started: false, comes_back: true });
    submit(&mut world, 1);
    assert_eq!(world.dispatcher.waiting(), 4);
    assert_eq!(world.dispatcher.expect(0, false), [1, 2, 3, 4]);
}
