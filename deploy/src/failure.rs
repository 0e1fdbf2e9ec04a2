//! Why a replica did not start, in one sentence for people, from how it ended and what it said last.

const LONGEST_REASON: usize = 1000;
/// The scorer's exit code for a script that could not be imported or whose `init()` failed.
const SCRIPT_FAILED: i32 = 3;

/// `who` ended, `how` it did (`exited with code 1`), its exit code if it has one, and what it wrote to its standard error.
pub(crate) fn reason(who: &str, how: &str, code: Option<i32>, stderr: &str) -> String {
    let begins_line = |at: usize| at == 0 || stderr[..at].ends_with('\n');
    let own_words = stderr.rmatch_indices("error: ").find(|(at, _)| begins_line(*at));
    let sentence = match (own_words, exception(stderr)) {
        (Some((at, mark)), _) => {
            let said = &stderr[at + mark.len()..];
            let (words, below) = said.split_once('\n').unwrap_or((said, ""));
            completed(words.trim_end(), below)
        }
        (None, Some(exception)) if code == Some(SCRIPT_FAILED) => {
            format!("the scoring script did not start: {exception}")
        }
        (None, _) => match last_line(stderr) {
            Some(last) => format!("{who} {how}: {last}"),
            None => format!("{who} {how}"),
        },
    };
    one_line(&sentence)
}

/// No more than a reader takes in at once, and no line end in it.
pub(crate) fn one_line(sentence: &str) -> String {
    let flat = sentence.split(['\n', '\r']).map(str::trim).filter(|part| !part.is_empty());
    let flat = flat.collect::<Vec<_>>().join(" ");
    match flat.char_indices().nth(LONGEST_REASON) {
        Some((end, _)) => format!("{}…", &flat[..end]),
        None => flat,
    }
}

/// Words that end with a colon, with what they announce.
fn completed(words: &str, below: &str) -> String {
    let Some(bare) = words.strip_suffix(':') else { return words.to_owned() };
    let announced = exception(below).or_else(|| {
        if bare.ends_with("last output") {
            return last_line(below);
        }
        // What is indented belongs to what follows it, as the place of a syntax error does.
        let mut lines = below.lines().filter(|line| !line.trim().is_empty());
        lines.clone().find(|line| !line.starts_with([' ', '\t'])).or_else(|| lines.next())
    });
    match announced {
        Some(announced) => format!("{bare}: {}", announced.trim()),
        None => bare.to_owned(),
    }
}

fn last_line(text: &str) -> Option<&str> {
    text.lines().rev().map(str::trim).find(|line| !line.is_empty())
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
        reason("the scorer", &format!("exited with code {code}"), Some(code), stderr)
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
    fn words_that_announce_something_are_completed() {
        let start = "error: the scoring script did not start:\n";
        let below = "AZUREML_MODEL_DIR is /m, with:\n  model.onnx\n";
        assert_eq!(
            exited(3, &format!("{start}score.py has no function run()\n{below}")),
            "the scoring script did not start: score.py has no function run()"
        );
        let syntax =
            "  File \"score.py\", line 3\n    def init(:\n             ^\nSyntaxError: invalid syntax\n";
        assert_eq!(
            exited(3, &format!("{start}{syntax}{below}")),
            "the scoring script did not start: SyntaxError: invalid syntax"
        );
        assert_eq!(
            exited(3, "error: the process ended (signal: 9); its last output:\nloading\nout of luck\n\n"),
            "the process ended (signal: 9); its last output: out of luck"
        );
        assert_eq!(exited(3, start), "the scoring script did not start");
        assert_eq!(
            exited(
                1,
                "Traceback (most recent call last):\nOSError: of a library\nerror: the port is taken\n"
            ),
            "the port is taken"
        );
    }

    #[test]
    fn without_a_script_the_last_words_or_the_status_are_the_reason() {
        let words = "error: `model/model.onnx` is missing; release.json lists it\n";
        assert_eq!(exited(1, words), "`model/model.onnx` is missing; release.json lists it");
        assert_eq!(exited(127, ""), "the scorer exited with code 127");
        assert_eq!(reason("it", "was killed by signal 9", None, ""), "it was killed by signal 9");
        assert_eq!(
            exited(101, "thread 'main' panicked\nat the disco\n"),
            "the scorer exited with code 101: at the disco"
        );
        assert!(exited(1, &format!("error: {}", "é".repeat(5000))).len() < 5000);
    }
}
