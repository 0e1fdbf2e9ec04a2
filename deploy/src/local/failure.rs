//! Why a replica did not start, in one sentence for people, from how its process ended and what it said last.

use std::io::{Read, Seek, SeekFrom};

use moorline_core::Failure;

use crate::failure::reason;

use super::{layout::ReplicaFolder, logs, process::Ended};

/// The log lines that go with a failure.
const LINES: usize = 50;
/// Of the standard error, no more than this is looked at.
const LOOKED_AT: u64 = 64 * 1024;

pub(crate) fn of_start(folder: &ReplicaFolder, ended: Ended, stderr_from: u64) -> Failure {
    let stderr = said(folder, stderr_from);
    Failure {
        reason: reason("the scorer", &ended.to_string(), code_of(ended), &stderr),
        log: last_lines(folder),
    }
}

pub(crate) fn last_lines(folder: &ReplicaFolder) -> Vec<String> {
    logs::last_lines(folder, LINES)
}

fn said(folder: &ReplicaFolder, from: u64) -> String {
    let mut text = Vec::new();
    let read = fs_err::File::open(folder.stderr()).and_then(|mut file| {
        let length = file.metadata()?.len();
        let from = if from > length { 0 } else { from.max(length.saturating_sub(LOOKED_AT)) };
        file.seek(SeekFrom::Start(from))?;
        file.take(LOOKED_AT).read_to_end(&mut text)
    });
    match read {
        Ok(_) => String::from_utf8_lossy(&text).into_owned(),
        // It never was started.
        Err(_) => String::new(),
    }
}

fn code_of(ended: Ended) -> Option<i32> {
    ended.0.and_then(|status| status.code())
}
