//! Why a scorer did not start, in one sentence for people, from how it ended and what it said last.

const LONGEST_REASON: usize = 1000;
/// The scorer's exit code for a script that could not be imported or whose `init()` failed.
const SCRIPT_FAILED: i32 = 3;

/// `how` it ended (`exited with code 1`), its exit code if it has one, and what it wrote to its standard error.
pub(crate) fn reason(how: &str, code: Option<i32>, stderr: &str) -> String {
    let own_words = stderr.lines().rev().find_map(|line| line.strip_prefix("error: "));
    let sentence = match (own_words, exception(stderr)) {
        (Some(words), Some(exception)) => format!("{}: {exception}", words.trim_end_matches(':')),
        (None, Some(exception)) if code == Some(SCRIPT_FAILED) => {
            format!("the scoring script did not start: {exception}")
        }
        (Some(words), None) => words.trim_end_matches(':').to_owned(),
        (None, _) => match stderr.lines().rev().find(|line| !line.trim().is_empty()) {
            Some(last) => format!("the scorer {how}: {}", last.trim()),
            None => format!("the scorer {how}"),
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
    use super::*;

    fn exited(code: i32, stderr: &str) -> String {
        reason(&format!("exited with code {code}"), Some(code), stderr)
    }

    #[test]
    fn the_sentence_says_what_was_raised() {
        let stderr = "error: the scoring script did not start:\nTraceback (most recent call last):\n  File \"score.py\", line 1\n    \
                      raise KeyError(1)\nKeyError: 1\n\nDuring handling of the above exception, another exception occurred:\n\n\
                      Traceback (most recent call last):\n  File \"score.py\", line 2, in init\nValueError: the weights are missing\n\
                      AZUREML_MODEL_DIR is /m, with:\n  model.onnx\n";
        assert_eq!(
            exited(3, stderr),
            "the scoring script did not start: ValueError: the weights are missing"
        );
    }

    #[test]
    fn without_a_script_the_last_words_or_the_status_are_the_reason() {
        let words = "error: `model/model.onnx` is missing; release.json lists it\n";
        assert_eq!(exited(1, words), "`model/model.onnx` is missing; release.json lists it");
        assert_eq!(exited(127, ""), "the scorer exited with code 127");
        assert_eq!(reason("was killed by signal 9", None, ""), "the scorer was killed by signal 9");
        assert_eq!(
            exited(101, "thread 'main' panicked\nat the disco\n"),
            "the scorer exited with code 101: at the disco"
        );
        assert!(exited(1, &format!("error: {}", "é".repeat(5000))).len() < 5000);
    }
}
