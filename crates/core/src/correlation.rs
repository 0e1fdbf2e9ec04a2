//! How what belongs together is found again: the trace of a `traceparent`, and the request of a line.

/// The trace that a W3C `traceparent` names.
pub fn trace_id(traceparent: &str) -> Option<&str> {
    let id = traceparent.trim().split('-').nth(1)?;
    let fits = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (id.len() == 32 && id.bytes().all(fits) && id.bytes().any(|byte| byte != b'0')).then_some(id)
}

/// Whether a line of a log is of the request with this id. A line that names its request, as the scorer's do in JSON and in
/// text, is of no other; any other line is taken where it has the id as a word.
pub fn is_of_request(line: &str, id: &str) -> bool {
    if id.is_empty() {
        return false;
    }
    let json = serde_json::to_string(id).unwrap_or_default();
    let in_json = line.match_indices(r#""request_id":"#).any(|(at, name)| {
        let value = &line[at + name.len()..];
        value.trim_start().starts_with(&json)
    });
    let mut named = false;
    let in_text = line.match_indices("request_id=").any(|(at, name)| {
        named = true;
        let value = &line[at + name.len()..];
        // Where everything is logged as text, texts are in quotation marks.
        [id, json.as_str()].iter().any(|form| {
            value
                .strip_prefix(form)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
        })
    });
    if in_json || in_text {
        return true;
    }
    if named || line.contains(r#""request_id":"#) {
        return false;
    }
    let of_word = |letter: char| letter.is_alphanumeric() || matches!(letter, '-' | '_');
    line.match_indices(id)
        .any(|(at, _)| !line[..at].ends_with(of_word) && !line[at + id.len()..].starts_with(of_word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_read_from_a_traceparent() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        assert_eq!(trace_id(&format!("00-{trace}-b7ad6b7169203331-01")), Some(trace));
        for wrong in ["", "00", "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01", "00-12-34-01"] {
            assert_eq!(trace_id(wrong), None, "{wrong}");
        }
        assert_eq!(trace_id(&format!("00-{}-b7ad6b7169203331-01", "0".repeat(32))), None);
    }

    #[test]
    fn a_line_is_of_the_request_that_it_names() {
        for line in [
            r#"{"level":"INFO","message":"x","worker":0,"request_id":"a-1"}"#,
            r#"[0] {"request_id": "a-1","message":"of a-2"}"#,
            "2026-01-01 INFO said worker=0 request_id=a-1",
            "2026-01-01 INFO said request_id=\"a-1\" trace_id=\"2\"",
            "said request_id=a-2 by somebody request_id=a-1",
            "a server of its own: a-1, POST /score",
        ] {
            assert!(is_of_request(line, "a-1"), "{line}");
        }
        for line in [
            r#"{"message":"a-1 is another's","request_id":"a-2"}"#,
            "INFO a-1 is another's request_id=a-10",
            "INFO request_id=b-a-1",
            "a server of its own: a-10, xa-1",
            "",
        ] {
            assert!(!is_of_request(line, "a-1"), "{line}");
        }
        assert!(is_of_request(r#"{"request_id":"a\"b"}"#, "a\"b"));
        assert!(!is_of_request("anything", ""));
    }
}
