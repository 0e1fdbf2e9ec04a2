//! Why a container ended, or never was ready: one line for people, from what is known where it ran, the log, and the answers
//! to probes.

use std::time::Duration;

use serde_json::Value;

use crate::failure::{self, one_line};

const OUT_OF_MEMORY: &str = "it was ended because it used more memory than its limit; give it more by \
                             `resources.limits.memory` or a larger `instance_type`";
/// Exit codes of a container's init for a program that it could not start.
const NOT_STARTED: [i32; 2] = [126, 127];

/// How a container ended, as far as it is known where it ran.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    /// Why it could not be run at all.
    pub(crate) error: Option<String>,
    pub(crate) out_of_memory: bool,
}

/// Why a container ended by itself. `scorer` says that it is ours, and not a server of somebody else.
pub(crate) fn of_end(ended: &Ended, scorer: bool, log: &[String]) -> String {
    let code = ended.code;
    if let Some(error) = ended.error.as_deref().filter(|error| !error.is_empty()) {
        return one_line(&format!("it could not be run: {error}"));
    }
    if ended.out_of_memory {
        return OUT_OF_MEMORY.to_owned();
    }
    let said = if scorer { words(log) } else { log.join("\n") };
    if let Some(reason) = not_executed(code, &said) {
        return one_line(&reason);
    }
    let how = match code {
        Some(137) => "was killed, as by `docker kill` or for want of memory".to_owned(),
        Some(code) => format!("exited with code {code}"),
        None => "ended, and how is not known".to_owned(),
    };
    failure::reason(if scorer { "the scorer" } else { "the container" }, &how, code, &said)
}

/// Why a container was given up that ran and was not ready `within` that time; `answer` is the status that its readiness
/// route gave last, if it gave any.
pub(crate) fn of_lateness(within: Duration, (port, path): &(u16, String), answer: Option<u16>) -> String {
    let answer = match answer {
        Some(status) => format!("GET {path} on its port {port} is answered with {status}"),
        None => format!("nothing answers on its port {port}"),
    };
    format!(
        "it was not ready within {} s (readiness_probe: initial_delay + period × failure_threshold): {answer}",
        within.as_secs()
    )
}

/// What the image itself has wrong, in the words of the container's init.
fn not_executed(code: Option<i32>, said: &str) -> Option<String> {
    let line = said.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
    if line.to_ascii_lowercase().contains("exec format error") {
        return Some(format!(
            "the image is for another kind of processor than the machine, or its entrypoint is no program: {line}"
        ));
    }
    code.filter(|code| NOT_STARTED.contains(code))
        .filter(|_| line.contains("exec"))
        .map(|_| format!("the image's entrypoint cannot be run: {line}"))
}

/// What a scorer said outside of its log, which is JSON, line by line; where it said nothing, the last message of the log.
fn words(log: &[String]) -> String {
    let message = |line: &String| match serde_json::from_str::<Value>(line) {
        Ok(Value::Object(line)) => line.get("message").and_then(Value::as_str).map(str::to_owned),
        _ => None,
    };
    let said: Vec<&str> = log.iter().filter(|line| message(line).is_none()).map(String::as_str).collect();
    if said.iter().all(|line| line.trim().is_empty()) {
        return log.iter().rev().find_map(message).unwrap_or_default();
    }
    said.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(code: i32) -> Ended {
        Ended { code: Some(code), ..Ended::default() }
    }

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_log_of_a_scorer_is_told_from_its_words() {
        let log = lines(
            "{\"level\":\"ERROR\",\"message\":\"the scoring script did not start\\nTraceback\"}\n\
             error: the scoring script did not start:\nTraceback (most recent call last):\n  File \"score.py\"\n\
             ModuleNotFoundError: No module named 'torch'\nAZUREML_MODEL_DIR is not set\n{\"message\":\"bye\"}",
        );
        assert_eq!(
            of_end(&ended(3), true, &log),
            "the scoring script did not start: ModuleNotFoundError: No module named 'torch'"
        );
        let log = lines("{\"level\":\"INFO\",\"message\":\"draining\"}");
        assert_eq!(of_end(&ended(0), true, &log), "the scorer exited with code 0: draining");
        assert_eq!(
            of_end(&ended(1), false, &lines("a\n{\"b\": 1}")),
            "the container exited with code 1: {\"b\": 1}"
        );
    }

    #[test]
    fn what_an_image_has_wrong_is_named() {
        let tini = |error: &str| lines(&format!("[FATAL tini (7)] exec /serve failed: {error}"));
        assert_eq!(
            of_end(&ended(127), false, &tini("No such file or directory")),
            "the image's entrypoint cannot be run: [FATAL tini (7)] exec /serve failed: No such file or directory"
        );
        let other = of_end(&ended(126), true, &tini("Exec format error"));
        assert!(other.starts_with("the image is for another kind of processor"), "{other}");
        // A program may have such codes of its own.
        let own = of_end(&ended(127), false, &lines("sh: serve: not found"));
        assert_eq!(own, "the container exited with code 127: sh: serve: not found");
    }

    #[test]
    fn who_ran_it_knows_better_than_the_log() {
        let starved = Ended { out_of_memory: true, ..ended(137) };
        assert!(of_end(&starved, true, &lines("error: something")).contains("more memory than its limit"));
        let refused = Ended { error: Some("no such device\n".to_owned()), ..ended(128) };
        assert_eq!(of_end(&refused, true, &[]), "it could not be run: no such device");
        assert!(of_end(&ended(137), true, &[]).contains("was killed"));
    }

    #[test]
    fn lateness_says_what_the_probe_met() {
        let route = (8501, "/health".to_owned());
        let none = of_lateness(Duration::from_secs(3), &route, None);
        assert!(none.contains("within 3 s") && none.ends_with("nothing answers on its port 8501"), "{none}");
        let some = of_lateness(Duration::from_secs(3), &route, Some(503));
        assert!(some.ends_with("GET /health on its port 8501 is answered with 503"), "{some}");
    }
}
