//! The one thread that writes. Jobs that wait at the same time are written together, and made durable by one flush, if
//! they must be.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

use tokio::sync::{mpsc, oneshot};

use super::{
    DiskError, Documents,
    queue::{NewEntry, Queue},
};

/// Jobs that may wait; whoever has one more waits itself.
const WAITING: usize = 4096;
/// Jobs that are written together.
const TOGETHER: usize = 1024;

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// Its number in the queue.
    At(u64),
    /// The queue is full and keeps what it has.
    Full,
}

/// Whoever waits for a message to be stored.
pub(super) type Waiter = oneshot::Sender<Result<Stored, DiskError>>;

/// Messages for one queue, and who waits for each.
type Appends = (Arc<Queue>, Vec<(NewEntry, Option<Waiter>)>);
/// Who waits for the changes of some documents.
type Puts = (Arc<Documents>, Vec<oneshot::Sender<Result<(), DiskError>>>);

pub(super) enum Job {
    Append {
        queue: Arc<Queue>,
        entry: NewEntry,
        done: Option<Waiter>,
    },
    Put {
        documents: Arc<Documents>,
        key: String,
        value: Option<Vec<u8>>,
        done: oneshot::Sender<Result<(), DiskError>>,
    },
    Close(oneshot::Sender<()>),
}

/// The way to the thread.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    jobs: mpsc::Sender<Job>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Disk {
    /// Starts the thread.
    pub(crate) fn start() -> std::io::Result<Self> {
        let (jobs, receiver) = mpsc::channel(WAITING);
        let thread = std::thread::Builder::new()
            .name("moorline-hub-disk".to_owned())
            .spawn(move || write_all(receiver))?;
        Ok(Self { jobs, thread: Arc::new(Mutex::new(Some(thread))) })
    }

    pub(super) async fn submit(&self, job: Job) -> Result<(), DiskError> {
        self.jobs.send(job).await.map_err(|_| DiskError::Closed)
    }

    /// Is done when everything submitted before is written.
    pub(crate) async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.jobs.send(Job::Close(done)).await.is_ok() {
            let _ = closed.await;
        }
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // It has said that it is done: nothing is waited for here.
            let _ = thread.join();
        }
    }
}

fn write_all(mut jobs: mpsc::Receiver<Job>) {
    let mut batch = Vec::with_capacity(TOGETHER);
    while let Some(first) = jobs.blocking_recv() {
        batch.push(first);
        while batch.len() < TOGETHER {
            let Ok(next) = jobs.try_recv() else { break };
            batch.push(next);
        }
        if let Some(closed) = write_batch(&mut batch) {
            jobs.close();
            let _ = closed.send(());
            return;
        }
    }
}

/// Writes what the jobs say, in their order for each queue; gives who asked for the end.
fn write_batch(batch: &mut Vec<Job>) -> Option<oneshot::Sender<()>> {
    let mut appends: Vec<Appends> = Vec::new();
    let mut places: HashMap<*const Queue, usize> = HashMap::new();
    let mut puts: Vec<Puts> = Vec::new();
    let mut close = None;
    for job in batch.drain(..) {
        match job {
            Job::Append { queue, entry, done } => {
                let place = *places.entry(Arc::as_ptr(&queue)).or_insert_with(|| {
                    appends.push((queue, Vec::new()));
                    appends.len() - 1
                });
                appends[place].1.push((entry, done));
            }
            Job::Put { documents, key, value, done } => {
                documents.buffer(&key, value.as_deref());
                match puts.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &documents)) {
                    Some((_, waiters)) => waiters.push(done),
                    None => puts.push((documents, vec![done])),
                }
            }
            Job::Close(done) => close = Some(done),
        }
    }
    for (queue, entries) in appends {
        queue.write(entries);
    }
    for (documents, waiters) in puts {
        let outcome = documents.flush();
        for waiter in waiters {
            let _ = waiter.send(match &outcome {
                Ok(()) => Ok(()),
                Err(error) => Err(DiskError::Io {
                    path: documents.path().to_owned(),
                    source: std::io::Error::new(error.kind(), error.to_string()),
                }),
            });
        }
    }
    close
}
