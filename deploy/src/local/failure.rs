//! Why a replica did not start, in one sentence for people, from how its process ended and what it said last.

use std::io::{Read, Seek, SeekFrom};

use moorline_core::Failure;

use super::{layout::ReplicaFolder, logs, process::Ended};

/// The log lines that go with a failure.
const LINES: usize = 50;
/// Of the standard error, no more than this is looked at.
const LOOKED_AT: u64 = 64 * 1024;
const LONGEST_REASON: usize = 1000;
/// The scorer's exit code for a script that could not be imported or whose `init()` failed.
const SCRIPT_FAILED: i32 = 3;

pub(crate) fn of_start(folder: &ReplicaFolder, ended: Ended, stderr_from: u64) -> Failure {
    let stderr = said(folder, stderr_from);
    Failure { reason: reason(ended, &stderr), log: last_lines(folder) }
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

fn reason(ended: Ended, stderr: &str) -> String {
    let own_words = stderr.lines().rev().find_map(|line| line.strip_prefix("error: "));
    let sentence = match (own_words, exception(stderr)) {
        (Some(words), Some(exception)) => format!("{}: {exception}", words.trim_end_matches(':')),
        (None, Some(exception)) if ended.0.and_then(|status| status.code()) == Some(SCRIPT_FAILED) => {
            format!("the scoring script did not start: {exception}")
        }
        (Some(words), None) => words.trim_end_matches(':').to_owned(),
        (None, _) => match stderr.lines().rev().find(|line| !line.trim().is_empty()) {
            Some(last) => format!("the scorer {ended}: {}", last.trim()),
            None => format!("the scorer {ended}"),
        },
    };
    match sentence.char_indices().nth(LONGEST_REASON) {
        Some((end, _)) => format!("{}…", &sentence[..end]),
        None => sentence,
    }
}

/// What was raised, from the last traceback: the first line below it that is not indented.
fn exception(text: &str) -> Option<&str> {
    let (_, below) = text.rsplit_once("Traceback (most recent call last):")?;
    below.lines().find(|line| !line.trim().is_empty() && !line.starts_with([' ', '\t']))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn exited(code: i32) -> Ended {
        Ended(Some(std::process::ExitStatus::from_raw(code << 8)))
    }

    #[test]
    fn the_sentence_says_what_was_raised() {
        let stderr = "error: the scoring script did not start:\nTraceback (most recent call last):\n  File \"score.py\", line 1\n    \
                      raise KeyError(1)\nKeyError: 1\n\nDuring handling of the above exception, another exception occurred:\n\n\
                      Traceback (most recent call last):\n  File \"score.py\", line 2, in init\nValueError: the weights are missing\n\
                      AZUREML_MODEL_DIR is /m, with:\n  model.onnx\n";
        assert_eq!(
            reason(exited(3), stderr),
            "the scoring script did not start: ValueError: the weights are missing"
        );
    }

    #[test]
    fn without_a_script_the_last_words_or_the_status_are_the_reason() {
        let words = "error: `model/model.onnx` is missing; release.json lists it\n";
        assert_eq!(reason(exited(1), words), "`model/model.onnx` is missing; release.json lists it");
        assert_eq!(reason(exited(127), ""), "the scorer exited with code 127");
        let killed = Ended(Some(std::process::ExitStatus::from_raw(9)));
        assert!(reason(killed, "").starts_with("the scorer was killed by signal 9"));
        assert_eq!(
            reason(exited(101), "thread 'main' panicked\nat the disco\n"),
            "the scorer exited with code 101: at the disco"
        );
        assert!(reason(exited(1), &format!("error: {}", "é".repeat(5000))).len() < 5000);
    }
}
