//! Admission: how many requests are scored at one time, how many wait and how long, and how many bytes of bodies are
//! held. What does not fit is refused at once, with a word on when to come back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use moorline_core::ErrorClass;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{config::ServeConfig, problem::Problem};

/// The door of one scorer.
#[derive(Debug)]
pub(crate) struct Admission {
    slots: Semaphore,
    waiting: AtomicUsize,
    max_queue_length: usize,
    max_queue_wait: Option<Duration>,
}

/// Takes itself out of the count when it is dropped, so that a caller who leaves frees its place.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Admission {
    pub(crate) fn new(config: &ServeConfig) -> Self {
        Self {
            slots: Semaphore::new(config.max_concurrent_requests.get().min(Semaphore::MAX_PERMITS)),
            waiting: AtomicUsize::new(0),
            max_queue_length: config.max_queue_length,
            max_queue_wait: config.max_queue_wait,
        }
    }

    /// A slot, held until the permit is dropped. Waits no longer than the queue's bound or `deadline`.
    pub(crate) async fn admit(&self, deadline: Option<Instant>) -> Result<SemaphorePermit<'_>, Problem> {
        if let Ok(permit) = self.slots.try_acquire() {
            return Ok(permit);
        }
        let waiting = Waiting(&self.waiting);
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.max_queue_length {
            drop(waiting);
            return Err(Problem::new(
                ErrorClass::Overloaded,
                "Too many requests are waiting. Try again later.",
            ));
        }
        let bound = self.max_queue_wait.map(|wait| Instant::now() + wait);
        let until = match (bound, deadline) {
            (Some(bound), Some(deadline)) => Some(bound.min(deadline)),
            (bound, deadline) => bound.or(deadline),
        };
        let acquired = match until {
            Some(until) => {
                tokio::time::timeout_at(until.into(), self.slots.acquire()).await.map_err(|_| {
                    Problem::new(
                        ErrorClass::Overloaded,
                        "The request waited too long in the queue. Try again later.",
                    )
                })?
            }
            None => self.slots.acquire().await,
        };
        acquired.map_err(|_| Problem::new(ErrorClass::Unavailable, "The server is stopping."))
    }
}

/// The bytes of all bodies held at one time.
#[derive(Debug)]
pub(crate) struct BodyBudget {
    used: AtomicUsize,
    max: usize,
}

/// A share of the budget, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct BodyShare {
    budget: Arc<BodyBudget>,
    bytes: usize,
}

impl BodyBudget {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), max })
    }

    pub(crate) fn share(self: &Arc<Self>) -> BodyShare {
        BodyShare { budget: Arc::clone(self), bytes: 0 }
    }
}

impl BodyShare {
    /// Takes `bytes` more; refuses when all requests together would hold too much.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), Problem> {
        let before = self.budget.used.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        if before.saturating_add(bytes) > self.budget.max {
            return Err(Problem::new(
                ErrorClass::Overloaded,
                "The bodies of the requests in flight hold too much memory. Try again later.",
            ));
        }
        Ok(())
    }
}

impl Drop for BodyShare {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(slots: usize, queue: usize, wait: Option<Duration>) -> Admission {
        Admission {
            slots: Semaphore::new(slots),
            waiting: AtomicUsize::new(0),
            max_queue_length: queue,
            max_queue_wait: wait,
        }
    }

    #[tokio::test]
    async fn a_full_house_lets_as_many_wait_as_it_says() {
        let door = admission(1, 1, Some(Duration::from_millis(20)));
        let held = door.admit(None).await.unwrap();
        let (first, second) = tokio::join!(door.admit(None), door.admit(None));
        assert!(first.unwrap_err().message.contains("waited too long"));
        assert!(second.unwrap_err().message.contains("Too many"));
        drop(held);
        assert!(door.admit(None).await.is_ok());
        assert_eq!(door.waiting.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn the_budget_is_given_back() {
        let budget = BodyBudget::new(10);
        let mut share = budget.share();
        assert!(share.grow(8).is_ok());
        assert!(budget.share().grow(8).is_err());
        drop(share);
        assert!(budget.share().grow(8).is_ok());
        assert_eq!(budget.used.load(Ordering::Relaxed), 0);
    }
}
