//! The places of a deployment: how many requests its replicas have at one time, and the queue for them.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use tokio::sync::oneshot;

/// A counter of places whose number changes as replicas come and go. Who waits is served in order.
#[derive(Debug, Default)]
pub(crate) struct Places {
    state: Mutex<State>,
    waiting: AtomicUsize,
}

/// While a place is free, nobody is in the queue.
#[derive(Debug, Default)]
struct State {
    limit: usize,
    taken: usize,
    queue: VecDeque<oneshot::Sender<Place>>,
}

/// One request's place. It is free again when this is dropped, wherever that happens.
#[derive(Debug)]
pub(crate) struct Place {
    /// `None` once somebody else has it.
    of: Option<Arc<Places>>,
}

/// Why there was no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPlace {
    QueueFull,
    WaitedTooLong,
}

/// Counts one that waits for as long as it lives.
#[derive(Debug)]
pub(crate) struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    /// Refuses when `bound` wait already.
    pub(crate) fn begin(count: &'a AtomicUsize, bound: usize) -> Option<Self> {
        let waiting = Self(count);
        (count.fetch_add(1, Ordering::Relaxed) < bound).then_some(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Places {
    /// Sets how many there are. Who has one keeps it; who waits for one of those that are new gets it.
    pub(crate) fn set_limit(self: &Arc<Self>, limit: usize) {
        let mut served = Vec::new();
        {
            let mut state = self.state();
            state.limit = limit;
            while state.taken < state.limit
                && let Some(first) = state.queue.pop_front()
            {
                state.taken += 1;
                served.push(first);
            }
        }
        for waiter in served {
            // Whoever has left drops its place, which then goes to the next.
            let _ = waiter.send(self.place());
        }
    }

    /// A place that is free.
    pub(crate) fn try_take(self: &Arc<Self>) -> Option<Place> {
        let mut state = self.state();
        if state.taken >= state.limit {
            return None;
        }
        state.taken += 1;
        drop(state);
        Some(self.place())
    }

    /// A place, after a wait until `deadline` at most and behind `max_queue` others at most.
    pub(crate) async fn take(
        self: &Arc<Self>,
        max_queue: usize,
        deadline: Instant,
    ) -> Result<Place, NoPlace> {
        if let Some(place) = self.try_take() {
            return Ok(place);
        }
        let _waiting = Waiting::begin(&self.waiting, max_queue).ok_or(NoPlace::QueueFull)?;
        let receiver = {
            let mut state = self.state();
            if state.taken < state.limit {
                state.taken += 1;
                drop(state);
                return Ok(self.place());
            }
            if state.queue.len() >= max_queue {
                // Those who left are still in the queue.
                state.queue.retain(|waiter| !waiter.is_closed());
            }
            let (sender, receiver) = oneshot::channel();
            state.queue.push_back(sender);
            receiver
        };
        match tokio::time::timeout_at(deadline.into(), receiver).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => Err(NoPlace::WaitedTooLong),
        }
    }

    pub(crate) fn taken(&self) -> usize {
        self.state().taken
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    fn place(self: &Arc<Self>) -> Place {
        Place { of: Some(Arc::clone(self)) }
    }

    /// Hands a place to the first that still waits, or frees it.
    fn release(self: Arc<Self>) {
        loop {
            let waiter = {
                let mut state = self.state();
                let next = if state.taken > state.limit { None } else { state.queue.pop_front() };
                let Some(waiter) = next else {
                    state.taken -= 1;
                    return;
                };
                waiter
            };
            match waiter.send(self.place()) {
                Ok(()) => return,
                Err(mut refused) => refused.of = None,
            }
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(places) = self.of.take() {
            places.release();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn places(limit: usize) -> Arc<Places> {
        let places = Arc::new(Places::default());
        places.set_limit(limit);
        places
    }

    fn poll<F: Future>(future: &mut std::pin::Pin<Box<F>>) -> std::task::Poll<F::Output> {
        future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(10)
    }

    fn late() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[tokio::test]
    async fn a_place_goes_to_who_waited_first() {
        let places = places(1);
        let held = places.try_take().unwrap();
        assert!(places.try_take().is_none());
        let mut first = Box::pin(places.take(2, late()));
        let mut second = Box::pin(places.take(2, late()));
        assert!(poll(&mut first).is_pending() && poll(&mut second).is_pending());
        assert_eq!(places.waiting(), 2);
        assert_eq!(places.take(2, late()).await.unwrap_err(), NoPlace::QueueFull);
        drop(held);
        let held = first.await.unwrap();
        assert!(poll(&mut second).is_pending());
        drop(held);
        drop(second.await.unwrap());
        assert_eq!((places.taken(), places.waiting()), (0, 0));
    }

    #[tokio::test]
    async fn who_leaves_takes_no_place() {
        let places = places(1);
        let held = places.try_take().unwrap();
        assert_eq!(places.take(9, soon()).await.unwrap_err(), NoPlace::WaitedTooLong);
        let mut gone = Box::pin(places.take(9, late()));
        let mut stays = Box::pin(places.take(9, late()));
        assert!(poll(&mut gone).is_pending() && poll(&mut stays).is_pending());
        drop(gone);
        drop(held);
        drop(stays.await.unwrap());
        assert_eq!((places.taken(), places.waiting()), (0, 0));
    }

    #[tokio::test]
    async fn a_place_given_to_who_leaves_at_that_moment_is_not_lost() {
        let places = places(1);
        let held = places.try_take().unwrap();
        let mut leaving = Box::pin(places.take(9, late()));
        assert!(poll(&mut leaving).is_pending());
        drop(held);
        assert_eq!(places.taken(), 1, "it is on its way");
        drop(leaving);
        assert_eq!(places.taken(), 0);
    }

    #[tokio::test]
    async fn new_places_go_to_who_waits() {
        let places = places(0);
        let mut first = Box::pin(places.take(9, late()));
        assert!(poll(&mut first).is_pending());
        places.set_limit(2);
        let held = (first.await.unwrap(), places.try_take().unwrap());
        places.set_limit(1);
        drop(held.0);
        assert!(places.try_take().is_none(), "one is taken, and one is all there are now");
        drop(held.1);
        assert!(places.try_take().is_some());
    }

    proptest! {
        #[test]
        fn places_are_neither_lost_nor_made(steps in prop::collection::vec((0u8..4, 0usize..4), 0..60)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(async {
                let places = places(2);
                let mut held = Vec::new();
                let mut waiters = Vec::new();
                for (step, argument) in steps {
                    match step {
                        0 => held.extend(places.try_take()),
                        1 => {
                            let places = Arc::clone(&places);
                            let mut waiter = Box::pin(async move { places.take(8, late()).await });
                            match poll(&mut waiter) {
                                std::task::Poll::Ready(place) => held.extend(place),
                                std::task::Poll::Pending => waiters.push(waiter),
                            }
                        }
                        2 if argument % 2 == 0 => drop(held.pop()),
                        2 => drop(waiters.pop()),
                        _ => places.set_limit(argument),
                    }
                }
                places.set_limit(100);
                for waiter in waiters {
                    held.extend(waiter.await);
                }
                assert_eq!((places.taken(), places.waiting()), (held.len(), 0));
                held.clear();
                assert_eq!(places.taken(), 0);
            });
        }
    }
}
