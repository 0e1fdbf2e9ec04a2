//! The thread that makes lines of records and writes them, behind everything that answers requests.

use std::{sync::PoisonError, time::Duration};

use super::{Dropped, Recorder, record::Record};

/// How long it gathers, so that requests need not wake it each time.
const GATHER: Duration = Duration::from_millis(20);
/// How often it looks whether a file has had its time.
const IDLE: Duration = Duration::from_secs(1);
/// The least of a processor that there is: requests go first, and what cannot be written then is counted as dropped.
const NICE: i32 = 19;

/// The thread's life, until the recorder is closed.
pub(super) fn write(recorder: &Recorder) {
    // Of this thread alone, as Linux has it.
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "collecting has the priority of everything else");
    }
    loop {
        {
            let queue = recorder.queue();
            if queue.closed {
                return;
            }
            if queue.records.is_empty() {
                let waited = recorder.arrived.wait_timeout(queue, IDLE);
                drop(waited.unwrap_or_else(PoisonError::into_inner));
            }
        }
        std::thread::sleep(GATHER);
        recorder.write_waiting();
        recorder.spool().seal_due(super::SystemTime::now());
    }
}

impl Recorder {
    /// Writes the records that wait.
    pub(super) fn write_waiting(&self) {
        // The spool is taken first: whoever seals it afterwards seals all that came before.
        let mut spool = self.spool();
        let records: Vec<Record> = {
            let mut queue = self.queue();
            queue.bytes = 0;
            std::mem::take(&mut queue.records)
        };
        if records.is_empty() {
            return;
        }
        let mut lines: Vec<(Vec<u8>, u64)> = self.counts.iter().map(|_| (Vec::new(), 0)).collect();
        let mut write = |collection: usize, (lines, records): &mut (Vec<u8>, u64)| {
            let counts = &self.counts[collection];
            match spool.append(collection, lines, super::SystemTime::now()) {
                Ok(()) => counts.records.inc_by(*records),
                Err(why) => counts.drop(why, *records),
            }
            lines.clear();
            *records = 0;
        };
        for record in records {
            let collection = record.collection;
            let own = &mut lines[collection];
            record.write(&self.config, &self.counts[collection].name, &mut own.0);
            own.1 += 1;
            if own.0.len() > super::MOST_RECORD_BYTES {
                write(collection, own);
            }
        }
        for (collection, own) in lines.iter_mut().enumerate().filter(|(_, own)| own.1 > 0) {
            write(collection, own);
        }
        self.spool_bytes.set(i64::try_from(spool.bytes()).unwrap_or(i64::MAX));
    }

    pub(super) fn refuse(&self, collection: usize) {
        self.counts[collection].drop(Dropped::TooLarge, 1);
    }
}
