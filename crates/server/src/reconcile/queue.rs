//! Who has work: at most one task per key, and no nudge lost between a task's last look and its end.

use std::{
    collections::HashMap,
    fmt::Debug,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Next, RETRY};

/// The keys that have a task.
#[derive(Debug)]
pub(super) struct Queue<K>(Mutex<HashMap<K, Arc<Signal>>>);

/// Wakes the task of one key.
#[derive(Debug, Default)]
pub(super) struct Signal {
    again: Mutex<bool>,
    notify: Notify,
}

impl Signal {
    /// Waits for the next nudge or wake.
    pub(super) async fn woken(&self) {
        self.notify.notified().await;
    }
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Clone + Debug + Eq + Hash> Queue<K> {
    /// Asks for a round; whether the caller has to start the key's task.
    pub(super) fn put(&self, key: &K) -> bool {
        let mut tasks = self.lock();
        if let Some(signal) = tasks.get(key) {
            *signal.again.lock().unwrap_or_else(PoisonError::into_inner) = true;
            signal.notify.notify_one();
            return false;
        }
        tasks.insert(key.clone(), Arc::default());
        true
    }

    /// Wakes the key's task, if there is one.
    pub(super) fn wake(&self, key: &K) {
        if let Some(signal) = self.lock().get(key) {
            signal.notify.notify_one();
        }
    }

    pub(super) fn signal(&self, key: &K) -> Arc<Signal> {
        self.lock().get(key).cloned().unwrap_or_default()
    }

    /// Waits as `next` says; whether there is another round. Where there is none, the key has no task any more.
    pub(super) async fn rest(&self, key: &K, next: Next, stop: &CancellationToken) -> bool {
        let signal = self.signal(key);
        match next {
            Next::Again => {}
            Next::Retry => tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = signal.woken() => {}
                () = stop.cancelled() => {}
            },
            Next::Rest => {
                // Under the lock that `put` takes: a nudge comes either before, and is seen here, or after, and finds
                // no task.
                let mut tasks = self.lock();
                let mut again = signal.again.lock().unwrap_or_else(PoisonError::into_inner);
                if !*again {
                    tasks.remove(key);
                    return false;
                }
                *again = false;
            }
        }
        !stop.is_cancelled()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<K, Arc<Signal>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_nudge_during_a_round_gives_another_and_one_task_is_started() {
        let queue = Queue::default();
        let stop = CancellationToken::new();
        assert!(queue.put(&"a"));
        assert!(!queue.put(&"a"));
        assert!(queue.rest(&"a", Next::Rest, &stop).await);
        assert!(!queue.rest(&"a", Next::Rest, &stop).await);
        assert!(queue.put(&"a"));
    }
}
