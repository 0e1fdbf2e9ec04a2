//! JSON in colour: what `jsonc` is on a terminal.

use std::fmt::Write;

use serde_json::Value;

const KEY: &str = "1;34";
const TEXT: &str = "32";
const NUMBER: &str = "36";
const WORD: &str = "35";

pub(super) fn json(value: &Value) -> String {
    let mut out = String::new();
    append(value, 0, &mut out);
    out.push('\n');
    out
}

fn append(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('{');
            for (i, (key, value)) in map.iter().enumerate() {
                separate(i, depth + 1, out);
                paint(KEY, &Value::from(key.as_str()), out);
                out.push_str(": ");
                append(value, depth + 1, out);
            }
            separate(0, depth, out);
            out.push('}');
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                separate(i, depth + 1, out);
                append(item, depth + 1, out);
            }
            separate(0, depth, out);
            out.push(']');
        }
        Value::String(_) => paint(TEXT, value, out),
        Value::Number(_) => paint(NUMBER, value, out),
        Value::Bool(_) | Value::Null => paint(WORD, value, out),
        Value::Object(_) => out.push_str("{}"),
        Value::Array(_) => out.push_str("[]"),
    }
}

/// A comma where one is due, and the next line.
fn separate(i: usize, depth: usize, out: &mut String) {
    if i > 0 {
        out.push(',');
    }
    out.push('\n');
    out.extend(std::iter::repeat_n("  ", depth));
}

fn paint(code: &str, value: &Value, out: &mut String) {
    // Writing to a string cannot fail.
    let _ = write!(out, "\u{1b}[{code}m{value}\u{1b}[0m");
}
