//! What a hub keeps on disk: queues of messages and small documents, both as logs whose torn end is cut when they are
//! opened. No database: a queue is written at one end, read at the other and forgotten in between, and the documents
//! fit into memory.
//!
//! One thread writes everything ([`committer`]), so that what arrives at one time is written, and made durable, at one
//! time.

mod clock;
mod committer;
mod consumer;
mod documents;
mod error;
mod private;
mod queue;
mod queues;
mod record;

pub use clock::Clock;
pub(crate) use committer::{Disk, Stored};
pub use consumer::Consumer;
pub(crate) use documents::Documents;
pub use error::DiskError;
pub(crate) use private::replace;
pub use queue::{Entry, OnFull, Queue, QueueLimits};
pub(crate) use queues::Queues;
pub use queues::file_name;
