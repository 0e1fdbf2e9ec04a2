//! Queues that are filled, ended at any byte, and opened again.

use bytes::Bytes;

use super::*;
use crate::disk::{Consumer, Entry, OnFull, Stored};

struct Home {
    queues: Arc<Queues>,
    disk: Disk,
}

impl Home {
    fn open(folder: &std::path::Path) -> Self {
        let disk = Disk::start().unwrap();
        let clock = Arc::new(Clock::open(folder).unwrap());
        let queues = Arc::new(Queues::new(folder.join("queues"), disk.clone(), clock));
        Self { queues, disk }
    }

    async fn queue(&self, limits: QueueLimits) -> Arc<Queue> {
        self.queues.get("device/module", limits).await.unwrap()
    }
}

async fn store(queue: &Arc<Queue>, numbers: std::ops::Range<u64>) -> Vec<Stored> {
    let mut waiting = Vec::new();
    for number in numbers {
        let payload = Bytes::from(number.to_string().into_bytes());
        waiting.push(queue.append(format!("topic/{number}"), payload, None).await.unwrap());
    }
    let mut stored = Vec::new();
    for one in waiting {
        stored.push(one.await.unwrap().unwrap());
    }
    stored
}

fn number(entry: &Entry) -> u64 {
    std::str::from_utf8(&entry.payload).unwrap().parse().unwrap()
}

async fn take(consumer: &mut Consumer, count: usize) -> Vec<Arc<Entry>> {
    let mut taken = Vec::new();
    for _ in 0..count {
        taken.push(consumer.next().await.unwrap());
    }
    taken
}

#[tokio::test]
async fn messages_come_back_in_their_order_over_many_segments_and_openings() {
    let folder = tempfile::tempdir().unwrap();
    let limits = QueueLimits { max_bytes: 1024 * 1024, ..QueueLimits::default() };
    let home = Home::open(folder.path());
    let queue = home.queue(limits).await;
    let stored = store(&queue, 0..5000).await;
    assert!(stored.iter().enumerate().all(|(idx, one)| *one == Stored::At(idx as u64 + 1)));
    let mut consumer = Consumer::new(Arc::clone(&queue));
    for entry in take(&mut consumer, 2000).await {
        consumer.done([entry.sequence]).unwrap();
    }
    // Handed out, and not done when the hub ends.
    take(&mut consumer, 10).await;
    home.disk.close().await;

    let home = Home::open(folder.path());
    let queue = home.queue(QueueLimits { flush_on_write: true, ..limits }).await;
    assert_eq!(queue.depth().0, 3000);
    store(&queue, 5000..5100).await;
    let mut consumer = Consumer::new(Arc::clone(&queue));
    let numbers: Vec<u64> = take(&mut consumer, 3100).await.iter().map(|entry| number(entry)).collect();
    assert_eq!(numbers, (2000..5100).collect::<Vec<_>>());
    // In any order: what is done is told by the oldest that is not.
    for sequence in (2002..=5100).rev() {
        consumer.done([sequence]).unwrap();
    }
    assert_eq!(queue.depth().0, 3100);
    consumer.done([2001]).unwrap();
    assert_eq!(queue.depth().0, 0);
    let files = fs_err::read_dir(folder.path().join("queues/device%2Fmodule")).unwrap().count();
    assert_eq!(files, 2, "one segment and the position are left");
    home.disk.close().await;
}

#[tokio::test]
async fn a_torn_end_is_cut_at_every_byte() {
    let folder = tempfile::tempdir().unwrap();
    let limits = QueueLimits::default();
    let home = Home::open(folder.path());
    store(&home.queue(limits).await, 0..3).await;
    home.disk.close().await;
    let path = folder.path().join("queues/device%2Fmodule").join(format!("{:020}.log", 1));
    let whole = fs_err::read(&path).unwrap();
    let one = whole.len() / 3;
    for cut in 0..whole.len() {
        fs_err::write(&path, &whole[..cut]).unwrap();
        let home = Home::open(folder.path());
        let queue = home.queue(limits).await;
        let kept = (cut / one) as u64;
        assert_eq!(queue.depth().0, kept, "{cut}");
        assert_eq!(store(&queue, 7..8).await, [Stored::At(kept + 1)]);
        let mut consumer = Consumer::new(queue);
        let numbers: Vec<u64> =
            take(&mut consumer, kept as usize + 1).await.iter().map(|entry| number(entry)).collect();
        assert_eq!(numbers, (0..kept).chain([7]).collect::<Vec<_>>());
        home.disk.close().await;
    }
}

#[tokio::test]
async fn a_full_queue_drops_what_the_policy_says_and_counts_it() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::open(folder.path());
    let small = QueueLimits { max_bytes: 32 * 1024, on_full: OnFull::DropNewest, flush_on_write: false };
    let queue = home.queues.get("newest", small).await.unwrap();
    let stored = store(&queue, 0..5000).await;
    let kept = stored.iter().filter(|one| matches!(one, Stored::At(_))).count();
    assert!(kept > 100 && kept < 5000, "{kept}");
    assert!(stored[kept..].iter().all(|one| *one == Stored::Full));
    assert_eq!(queue.counts.dropped.load(std::sync::atomic::Ordering::Relaxed), 5000 - kept as u64);
    assert!(queue.depth().1 <= 32 * 1024);
    let mut consumer = Consumer::new(Arc::clone(&queue));
    let taken = take(&mut consumer, kept).await;
    assert!(taken.iter().enumerate().all(|(idx, entry)| number(entry) == idx as u64));
    for entry in &taken {
        consumer.done([entry.sequence]).unwrap();
    }
    // All are done: there is space again.
    assert!(matches!(store(&queue, 0..1).await[..], [Stored::At(_)]));

    let queue =
        home.queues.get("oldest", QueueLimits { on_full: OnFull::DropOldest, ..small }).await.unwrap();
    let mut consumer = Consumer::new(Arc::clone(&queue));
    store(&queue, 0..5000).await;
    let (depth, bytes) = queue.depth();
    assert!(bytes <= 32 * 1024);
    assert_eq!(queue.counts.dropped.load(std::sync::atomic::Ordering::Relaxed), 5000 - depth);
    let taken = take(&mut consumer, depth as usize).await;
    assert!(taken.iter().enumerate().all(|(idx, entry)| number(entry) == 5000 - depth + idx as u64));
    // Longer than the queue may be.
    let long = queue.append("t".to_owned(), Bytes::from(vec![0; 64 * 1024]), None).await.unwrap();
    assert_eq!(long.await.unwrap().unwrap(), Stored::Full);
    home.disk.close().await;
}

#[tokio::test]
async fn messages_expire_and_damage_costs_one_segment() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::open(folder.path());
    let limits = QueueLimits { max_bytes: 64 * 1024, ..QueueLimits::default() };
    let queue = home.queue(limits).await;
    let past = queue.append("t".to_owned(), Bytes::from_static(b"1"), Some(0)).await.unwrap();
    past.await.unwrap().unwrap();
    let future = queue.append("t".to_owned(), Bytes::from_static(b"2"), Some(3_600_000)).await.unwrap();
    future.await.unwrap().unwrap();
    while home.queues.clock.now() < 3 {
        tokio::task::yield_now().await;
    }
    let mut consumer = Consumer::new(Arc::clone(&queue));
    let entry = consumer.next().await.unwrap();
    assert_eq!(number(&entry), 2);
    assert_eq!(queue.counts.expired.load(std::sync::atomic::Ordering::Relaxed), 1);
    consumer.done([entry.sequence]).unwrap();
    store(&queue, 10..600).await;
    home.disk.close().await;

    let mut segments: Vec<_> = fs_err::read_dir(folder.path().join("queues/device%2Fmodule"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some())
        .collect();
    segments.sort();
    assert!(segments.len() > 2);
    let mut bytes = fs_err::read(&segments[1]).unwrap();
    bytes[100] ^= 1;
    fs_err::write(&segments[1], bytes).unwrap();
    let home = Home::open(folder.path());
    let queue = home.queue(limits).await;
    let depth = queue.depth().0;
    let mut consumer = Consumer::new(Arc::clone(&queue));
    let mut numbers = Vec::new();
    while numbers.last() != Some(&599) {
        let entry = consumer.next().await.unwrap();
        numbers.push(number(&entry));
        consumer.done([entry.sequence]).unwrap();
    }
    let damaged = queue.counts.damaged.load(std::sync::atomic::Ordering::Relaxed);
    assert!(damaged > 0);
    assert_eq!(numbers.len() as u64 + damaged, depth);
    assert!(numbers.is_sorted());
    home.disk.close().await;
}
