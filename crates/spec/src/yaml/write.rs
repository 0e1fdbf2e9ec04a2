//! Writing YAML: for text that was not read from a file but has to look as if it were.

use std::fmt::Write as _;

use serde_json::Value;

use super::{Content, scalar};

/// Block style, keys in their order, text in quotes only where it would be read as something else.
pub(crate) fn write(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(_) | Value::Array(_) => block(&mut text, value, 0),
        _ => inline(&mut text, value),
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

fn block(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (index, (key, member)) in members.iter().enumerate() {
                // The first key of an object in a list stands on the line of its dash.
                if index > 0 || !out.ends_with("- ") {
                    pad(out, indent);
                }
                scalar_text(out, key);
                out.push(':');
                match member {
                    Value::Object(inner) if !inner.is_empty() => {
                        out.push('\n');
                        block(out, member, indent + 2);
                    }
                    Value::Array(inner) if !inner.is_empty() => {
                        out.push('\n');
                        block(out, member, indent);
                    }
                    _ => {
                        out.push(' ');
                        inline(out, member);
                        out.push('\n');
                    }
                }
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, item) in items.iter().enumerate() {
                if index > 0 || !out.ends_with("- ") {
                    pad(out, indent);
                }
                out.push_str("- ");
                match item {
                    Value::Object(inner) if !inner.is_empty() => block(out, item, indent + 2),
                    Value::Array(inner) if !inner.is_empty() => block(out, item, indent + 2),
                    _ => {
                        inline(out, item);
                        out.push('\n');
                    }
                }
            }
        }
        _ => {
            inline(out, value);
            out.push('\n');
        }
    }
}

fn pad(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}

fn inline(out: &mut String, value: &Value) {
    match value {
        Value::String(text) => scalar_text(out, text),
        Value::Number(number) => {
            // YAML 1.1 wants a point and a signed exponent.
            let text = number.to_string();
            if number.is_f64() && text.contains(['e', 'E']) {
                let python = scalar::float_text(number.as_f64().unwrap_or(0.0));
                let at = python.find('e').unwrap_or(python.len());
                let point = if python[..at].contains('.') { "" } else { ".0" };
                let _ = write!(out, "{}{point}{}", &python[..at], &python[at..]);
            } else {
                out.push_str(&text);
            }
        }
        Value::Null => out.push_str("null"),
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::Array(_) => out.push_str("[]"),
        Value::Object(_) => out.push_str("{}"),
    }
}

fn scalar_text(out: &mut String, text: &str) {
    let inner = |c: char| c.is_ascii_alphanumeric() || "_-./=<>!~+*,[]@$".contains(c);
    let first = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/');
    let plain = text.starts_with(first) && text.chars().all(inner);
    if plain && matches!(scalar::resolve(text), Content::Text(_)) {
        out.push_str(text);
    } else {
        // A JSON string is a double-quoted scalar of YAML.
        let _ = write!(out, "{}", Value::String(text.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::{
        reader::{Origin, Reader},
        yaml::parse,
    };

    fn values() -> impl Strategy<Value = Value> {
        let text = prop_oneof![
            "\\PC{0,12}",
            "[-a-z0-9.:_#'\"{}\\[\\],&*!|>%@` =~<?\n\t]{0,8}",
            Just("on".to_owned()),
            Just("0o7".to_owned()),
            Just("=".to_owned()),
            Just("<<".to_owned()),
        ];
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            prop::num::f64::NORMAL.prop_map(Value::from),
            text.clone().prop_map(Value::from),
        ];
        scalar.prop_recursive(4, 32, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((text.clone(), inner), 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_it_was(value in values()) {
            let text = write(&value);
            let mut reader = Reader::new(Origin::Request);
            let node = parse(&mut reader, 0, &text);
            prop_assert_eq!(node.map(|node| node.to_json()), Some(value), "{}", text);
        }
    }

    #[test]
    fn conda_files_look_as_people_write_them() {
        let value = json!({
            "name": "env", "channels": ["conda-forge"], "empty": [], "version": "1.10", "yes": "on",
            "dependencies": ["python=3.12", "numpy>=1.2,<3", {"pip": ["azure: x", "-r a.txt"]}, ["a", ["b"]]],
        });
        insta::assert_snapshot!(write(&value), @r#"
        name: env
        channels:
        - conda-forge
        empty: []
        version: "1.10"
        "yes": "on"
        dependencies:
        - python=3.12
        - numpy>=1.2,<3
        - pip:
          - "azure: x"
          - "-r a.txt"
        - - a
          - - b
        "#);
    }
}
