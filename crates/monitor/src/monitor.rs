//! The monitor: samples as they come, in memory until they are written, and the answer to a question about both.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    path::Path,
    sync::Arc,
};

use moorline_core::DeploymentId;
use tokio::sync::Mutex;

use crate::{
    block::Block,
    history::{History, HistoryError},
    range::{Grain, Range},
    sample::Sample,
};

/// Blocks that could not be written yet, at most: beyond, the oldest are lost.
const UNWRITTEN: usize = 4096;

/// What deployments did. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Monitor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    history: History,
    memory: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    open: HashMap<DeploymentId, [Open; 2]>,
    /// Blocks that are full.
    closed: VecDeque<(DeploymentId, Block)>,
}

/// The block that samples are added to.
#[derive(Debug)]
struct Open {
    block: Block,
    changed: bool,
}

impl Monitor {
    /// Opens the history in this file. One that cannot be read is put aside; where there can be none, it is in memory.
    pub async fn open(path: &Path) -> Result<Self, HistoryError> {
        let history = History::open(path).await?;
        Ok(Self(Arc::new(Inner { history, memory: Mutex::default() })))
    }

    /// Takes a sample of the time that ended at `at`, in seconds since 1970.
    pub async fn record(&self, id: &DeploymentId, at: u64, sample: &Sample) {
        let mut memory = self.0.memory.lock().await;
        let Memory { open, closed } = &mut *memory;
        if !open.contains_key(id) {
            let [fine, coarse] = Grain::ALL.map(|grain| self.begin(id, grain, at));
            open.insert(id.clone(), [fine.await, coarse.await]);
        }
        for open in open.get_mut(id).into_iter().flatten() {
            let grain = open.block.grain;
            let start = Block::start_of(grain, at);
            if open.block.start != start {
                let same = |(own, block): &(DeploymentId, Block)| {
                    own == id && block.grain == grain && block.start == start
                };
                let next = match closed.iter().position(same).and_then(|index| closed.remove(index)) {
                    // The clock was set back before this one was written.
                    Some((_, block)) => Open { block, changed: true },
                    None => self.begin(id, grain, at).await,
                };
                let full = std::mem::replace(open, next);
                if full.changed {
                    closed.push_back((id.clone(), full.block));
                }
            }
            open.block.add(at, sample);
            open.changed = true;
        }
        let excess = closed.len().saturating_sub(UNWRITTEN);
        closed.drain(..excess);
    }

    /// The block that `at` is in: as it was written by the last server, or before a clock was set back.
    async fn begin(&self, id: &DeploymentId, grain: Grain, at: u64) -> Open {
        let start = Block::start_of(grain, at);
        let written = self.0.history.read(id, grain, start, start + 1).await;
        let block = written.unwrap_or_else(|error| {
            tracing::warn!(deployment = %id, %error, "a part of the history could not be read");
            Vec::new()
        });
        let block = block.into_iter().next().unwrap_or_else(|| Block::new(grain, start));
        Open { block, changed: false }
    }

    /// Writes what is new. What could not be written is kept and tried again, within a bound.
    pub async fn flush(&self, now: u64) -> Result<(), HistoryError> {
        let mut memory = self.0.memory.lock().await;
        let encoded =
            |id: &DeploymentId, block: &Block| (id.clone(), block.grain, block.start, block.encode());
        let mut blocks: Vec<_> = memory.closed.iter().map(|(id, block)| encoded(id, block)).collect();
        for (id, open) in &memory.open {
            blocks.extend(open.iter().filter(|open| open.changed).map(|open| encoded(id, &open.block)));
        }
        if blocks.is_empty() {
            return Ok(());
        }
        // The lock is held: whoever records waits for the disk, which is a moment, and none is lost in between.
        self.0.history.write(&blocks, now).await?;
        memory.closed.clear();
        for open in memory.open.values_mut().flatten() {
            open.changed = false;
        }
        Ok(())
    }

    /// One sum for each step of the range; `None` where nothing was seen.
    pub async fn read(&self, id: &DeploymentId, range: &Range) -> Result<Vec<Option<Sample>>, HistoryError> {
        let grain = range.grain();
        let mut steps: Vec<Option<Sample>> = range.steps().map(|_| None).collect();
        // The memory first: what is written in between is then on disk.
        let memory = self.0.memory.lock().await;
        let closed = memory.closed.iter().filter(|(own, block)| own == id && block.grain == grain);
        let mut blocks: Vec<Block> = closed.map(|(_, block)| block.clone()).collect();
        let open = memory.open.get(id).into_iter().flatten();
        blocks.extend(open.filter(|open| open.block.grain == grain).map(|open| open.block.clone()));
        drop(memory);
        // What is in memory has all that is on disk of the same block.
        let mut newest: HashMap<u64, Block> = HashMap::new();
        for block in self.0.history.read(id, grain, range.from(), range.to()).await?.into_iter().chain(blocks)
        {
            newest.insert(block.start, block);
        }
        for block in newest.values() {
            for (at, sample) in block.samples() {
                if let Some(step) = range.index(at).and_then(|index| steps.get_mut(index)) {
                    step.get_or_insert_default().add(sample);
                }
            }
        }
        Ok(steps)
    }

    /// Forgets every deployment that is not among these.
    pub async fn keep_only(&self, known: &HashSet<DeploymentId>) -> Result<(), HistoryError> {
        let mut memory = self.0.memory.lock().await;
        memory.open.retain(|id, _| known.contains(id));
        memory.closed.retain(|(id, _)| known.contains(id));
        drop(memory);
        for id in self.0.history.deployments().await? {
            if !known.contains(&id) {
                self.0.history.forget(&id).await?;
            }
        }
        Ok(())
    }

    /// Writes what is new, and closes the file.
    pub async fn close(&self, now: u64) -> Result<(), HistoryError> {
        let flushed = self.flush(now).await;
        self.0.history.close().await;
        flushed
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    const NOW: u64 = 1_700_000_100;

    fn id(deployment: &str) -> DeploymentId {
        DeploymentId {
            workspace: "default".parse().unwrap(),
            endpoint: "iris".parse().unwrap(),
            deployment: deployment.parse().unwrap(),
        }
    }

    fn requests(count: u64) -> Sample {
        Sample { millis: 5000, looks: 1, requests: count, ..Sample::default() }
    }

    async fn counted(monitor: &Monitor, from: u64, to: u64, step: u64) -> Vec<Option<u64>> {
        let range = Range::new(from, to, Some(step), to);
        let steps = monitor.read(&id("blue"), &range).await.unwrap();
        steps.into_iter().map(|step| step.map(|sample| sample.requests)).collect()
    }

    fn place() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("monitor.db");
        (folder, path)
    }

    #[tokio::test]
    async fn a_history_outlives_its_server_to_the_step() {
        let (_folder, path) = place();
        let monitor = Monitor::open(&path).await.unwrap();
        for step in 0..100 {
            monitor.record(&id("blue"), NOW + step * 5, &requests(step)).await;
        }
        let before = counted(&monitor, NOW, NOW + 500, 5).await;
        assert_eq!(before, (0..100).map(Some).collect::<Vec<_>>());
        monitor.close(NOW + 500).await.unwrap();
        let monitor = Monitor::open(&path).await.unwrap();
        assert_eq!(counted(&monitor, NOW, NOW + 500, 5).await, before);
        // The open block goes on where it was.
        monitor.record(&id("blue"), NOW + 500, &requests(7)).await;
        monitor.flush(NOW + 500).await.unwrap();
        let after = counted(&monitor, NOW, NOW + 505, 5).await;
        assert_eq!((&after[..100], after[100]), (&before[..], Some(7)));
        // What is coarse is the sum of the same, and whole although it was cut in two.
        let coarse = counted(&monitor, NOW - 300, NOW + 600, 300).await;
        assert_eq!(coarse.iter().flatten().sum::<u64>(), (0..100).sum::<u64>() + 7);
        assert!(
            monitor
                .read(&id("green"), &Range::new(NOW, NOW + 500, None, NOW + 500))
                .await
                .unwrap()
                .iter()
                .all(Option::is_none)
        );
    }

    #[tokio::test]
    async fn what_is_old_and_what_is_gone_goes() {
        let (_folder, path) = place();
        let monitor = Monitor::open(&path).await.unwrap();
        let month = 30 * 24 * 3600;
        for name in ["blue", "green"] {
            monitor.record(&id(name), NOW, &requests(1)).await;
        }
        monitor.flush(NOW).await.unwrap();
        monitor.record(&id("blue"), NOW + month, &requests(2)).await;
        monitor.flush(NOW + month).await.unwrap();
        let blocks = async |id: &DeploymentId| {
            let mut count = 0;
            for grain in Grain::ALL {
                count += monitor.0.history.read(id, grain, 0, u64::MAX >> 1).await.unwrap().len();
            }
            count
        };
        assert_eq!((blocks(&id("blue")).await, blocks(&id("green")).await), (2, 2));
        monitor.keep_only(&HashSet::from([id("blue")])).await.unwrap();
        assert_eq!((blocks(&id("blue")).await, blocks(&id("green")).await), (2, 0));
        assert_eq!(monitor.0.history.deployments().await.unwrap(), [id("blue")]);
    }

    #[tokio::test]
    async fn a_clock_that_is_set_back_loses_nothing() {
        let (_folder, path) = place();
        let monitor = Monitor::open(&path).await.unwrap();
        monitor.record(&id("blue"), NOW, &requests(1)).await;
        monitor.record(&id("blue"), NOW + 600, &requests(2)).await;
        monitor.flush(NOW + 600).await.unwrap();
        monitor.record(&id("blue"), NOW + 5, &requests(4)).await;
        monitor.record(&id("blue"), NOW + 605, &requests(8)).await;
        monitor.record(&id("blue"), NOW + 10, &requests(16)).await;
        monitor.flush(NOW + 600).await.unwrap();
        let sum: u64 = counted(&monitor, NOW, NOW + 700, 5).await.into_iter().flatten().sum();
        assert_eq!(sum, 31);
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_read_is_put_aside() {
        let (folder, path) = place();
        fs_err::write(&path, vec![b'x'; 20_000]).unwrap();
        let monitor = Monitor::open(&path).await.unwrap();
        monitor.record(&id("blue"), NOW, &requests(1)).await;
        monitor.close(NOW).await.unwrap();
        assert_eq!(fs_err::read(folder.path().join("monitor.db.unreadable")).unwrap().len(), 20_000);
        let monitor = Monitor::open(&path).await.unwrap();
        assert_eq!(counted(&monitor, NOW, NOW + 5, 5).await, [Some(1)]);
    }

    #[tokio::test]
    async fn where_no_file_can_be_there_is_a_history_all_the_same() {
        let (folder, path) = place();
        let monitor = Monitor::open(&folder.path().join("none/monitor.db")).await.unwrap();
        monitor.record(&id("blue"), NOW, &requests(3)).await;
        monitor.flush(NOW).await.unwrap();
        assert_eq!(counted(&monitor, NOW, NOW + 5, 5).await, [Some(3)]);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_could_not_be_written_is_written_later() {
        let (_folder, path) = place();
        let monitor = Monitor::open(&path).await.unwrap();
        let other = sqlx::SqlitePool::connect(&format!("sqlite://{}", path.display())).await.unwrap();
        // What a disk that is full does: no page can be added.
        sqlx::query("CREATE TRIGGER full BEFORE INSERT ON blocks BEGIN SELECT RAISE(ABORT, 'full'); END")
            .execute(&other)
            .await
            .unwrap();
        for step in 0..200 {
            monitor.record(&id("blue"), NOW + step * 5, &requests(1)).await;
        }
        monitor.flush(NOW + 1000).await.unwrap_err();
        assert_eq!(counted(&monitor, NOW, NOW + 1000, 5).await.into_iter().flatten().sum::<u64>(), 200);
        sqlx::query("DROP TRIGGER full").execute(&other).await.unwrap();
        monitor.close(NOW + 1000).await.unwrap();
        let monitor = Monitor::open(&path).await.unwrap();
        assert_eq!(counted(&monitor, NOW, NOW + 1000, 5).await.into_iter().flatten().sum::<u64>(), 200);
    }
}
