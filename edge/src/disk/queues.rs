//! All queues of one hub, by name, opened when they are first asked for.

use std::{
    collections::HashMap,
    fmt::Write as _,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use super::{Clock, Disk, DiskError, Queue, QueueLimits};

#[derive(Debug)]
pub(crate) struct Queues {
    folder: PathBuf,
    disk: Disk,
    clock: Arc<Clock>,
    open: Mutex<HashMap<String, Arc<Queue>>>,
}

impl Queues {
    pub(crate) fn new(folder: PathBuf, disk: Disk, clock: Arc<Clock>) -> Self {
        Self { folder, disk, clock, open: Mutex::new(HashMap::new()) }
    }

    /// The queue of this name, made if there is none.
    pub(crate) async fn get(
        self: &Arc<Self>,
        name: &str,
        limits: QueueLimits,
    ) -> Result<Arc<Queue>, DiskError> {
        if let Some(queue) = self.open.lock().unwrap_or_else(PoisonError::into_inner).get(name) {
            return Ok(Arc::clone(queue));
        }
        let (queues, name) = (Arc::clone(self), name.to_owned());
        tokio::task::spawn_blocking(move || {
            // Under the lock: two openings of one folder would write over one another.
            let mut open = queues.open.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(queue) = open.get(&name) {
                return Ok(Arc::clone(queue));
            }
            let folder = queues.folder.join(file_name(&name));
            let queue = Queue::open(folder, limits, queues.disk.clone(), Arc::clone(&queues.clock))?;
            open.insert(name, Arc::clone(&queue));
            Ok(queue)
        })
        .await
        .map_err(|_| DiskError::Closed)?
    }

    pub(crate) fn all(&self) -> Vec<(String, Arc<Queue>)> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.iter().map(|(name, queue)| (name.clone(), Arc::clone(queue))).collect()
    }

    /// Deletes the queue and what is in it.
    pub(crate) fn remove(&self, name: &str) -> Result<(), DiskError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.remove(name);
        let folder = self.folder.join(file_name(name));
        match fs_err::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(DiskError::io(folder)(error)),
            _ => Ok(()),
        }
    }
}

/// A name as that of one file: what may have a meaning to a file system is written as `%XX`.
pub fn file_name(name: &str) -> String {
    let mut file = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            file.push(char::from(byte));
        } else {
            let _ = write!(file, "%{byte:02X}");
        }
    }
    file
}

#[cfg(test)]
mod tests;
