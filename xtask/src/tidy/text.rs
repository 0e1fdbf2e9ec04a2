//! Rules about the text of one file.

use std::path::Path;

use super::{Finding, is_rust};

/// The macros whose first free-standing string literal is a log message.
const LOG_MACROS: [&str; 5] = ["trace!(", "debug!(", "info!(", "warn!(", "error!("];
/// Split, so that this file does not breach its own rule.
const ALLOW: [&str; 2] = [concat!("#", "[allow("), concat!("#!", "[allow(")];
/// Folders of recorded bytes, whose lines are not ours to trim.
const RECORDED: [&str; 2] = ["golden", "fixtures"];

pub(super) fn check(path: &Path, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |line: usize, message: String| findings.push(Finding { path: path.into(), line, message });
    if !path.components().any(|part| RECORDED.iter().any(|folder| part.as_os_str() == *folder)) {
        for (index, line) in text.lines().enumerate() {
            if line.ends_with([' ', '\t']) {
                find(index + 1, "trailing whitespace".to_owned());
            }
        }
        if !text.is_empty() && !text.ends_with('\n') {
            find(text.lines().count(), "no newline at the end of the file".to_owned());
        }
    }
    if !is_rust(path) {
        return findings;
    }
    if !text.starts_with("//!") {
        find(1, "begins without `//!`: say why this file exists".to_owned());
    }
    for (index, line) in text.lines().enumerate() {
        if ALLOW.iter().any(|attribute| line.trim_start().starts_with(attribute)) {
            find(
                index + 1,
                "use `#[expect(lint, reason = \"…\")]`, which tells when it is no longer needed".to_owned(),
            );
        }
    }
    for (offset, message) in log_messages(text) {
        let line = text[..offset].lines().count().max(1);
        if let Some(complaint) = message_complaint(message) {
            find(line, format!("log message \"{message}\" {complaint}"));
        }
    }
    findings
}

/// Concise, lower case, no full stop; what varies belongs into fields. An acronym may begin it.
fn message_complaint(message: &str) -> Option<&'static str> {
    let mut chars = message.chars();
    let capital = chars.next().is_some_and(char::is_uppercase);
    if capital && chars.next().is_none_or(char::is_lowercase) {
        return Some("begins with a capital letter");
    }
    message.ends_with('.').then_some("ends with a full stop")
}

/// The messages of log macros with their offsets: literals that stand alone between the macro's commas, not those
/// that are the value of a field.
fn log_messages(text: &str) -> Vec<(usize, &str)> {
    let mut messages = Vec::new();
    for name in LOG_MACROS {
        for (start, _) in text.match_indices(name) {
            // `my_info!(`, `tracing::info!(` in a comment's middle: only the first kind is another macro.
            let before = text[..start].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '"') {
                continue;
            }
            messages.extend(message_in(text, start + name.len()));
        }
    }
    messages.sort_unstable();
    messages
}

/// Scans one macro call from behind its opening parenthesis to its closing one.
fn message_in(text: &str, start: usize) -> Option<(usize, &str)> {
    let bytes = text.as_bytes();
    let (mut depth, mut alone, mut at) = (1_usize, true, start);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                let end = literal_end(bytes, at + 1)?;
                if alone && depth == 1 {
                    return Some((at, &text[at + 1..end]));
                }
                at = end;
            }
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => {
                depth -= 1;
                if depth == 0 {
                    return None;
                }
            }
            b',' if depth == 1 => {
                alone = true;
                at += 1;
                continue;
            }
            byte if byte.is_ascii_whitespace() => {}
            _ => alone = false,
        }
        at += 1;
    }
    None
}

/// The offset of the quote that ends the literal which began before `start`.
fn literal_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 1,
            b'"' => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(path: &str, text: &str) -> Vec<(usize, String)> {
        check(Path::new(path), text).into_iter().map(|finding| (finding.line, finding.message)).collect()
    }

    #[test]
    fn a_clean_file_has_no_findings() {
        let text = "//! Why.\n\nfn f() { info!(path = \"A.\", \"model loaded\"); }\n";
        assert_eq!(messages("a.rs", text), []);
    }

    #[test]
    fn each_breach_is_found_on_its_line() {
        let text = format!("fn f() {{}} \n{}dead_code)]\nfn g() {{}}", ALLOW[0]);
        let found: Vec<usize> = messages("a.rs", &text).into_iter().map(|(line, _)| line).collect();
        assert_eq!(found, [1, 3, 1, 2]);
        assert_eq!(messages("a.md", "x \n")[0].1, "trailing whitespace");
        assert_eq!(messages("tests/golden/a.md", "x "), []);
    }

    #[test]
    fn log_messages_are_lower_case_without_full_stop() {
        let complaints = |call: &str| messages("a.rs", &format!("//! Why.\n{call}\n")).len();
        assert_eq!(complaints(r#"info!("Loaded")"#), 1);
        assert_eq!(complaints(r#"warn!(error = %chain(&error), "gave up.")"#), 1);
        assert_eq!(complaints(r#"tracing::error!(target: "X", id = id("Y."), "stopped")"#), 0);
        assert_eq!(complaints(r#"info!("SIGTERM received; draining")"#), 0);
        assert_eq!(complaints(r#"info!(kind = "Big.", "said \"no\"")"#), 0);
    }
}
