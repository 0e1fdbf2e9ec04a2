//! YAML as a tree that knows where each part was written.
//!
//! Scalars mean what YAML 1.1 says, since that is how Azure ML's loader reads them: `on` is a boolean, `0777` is octal,
//! `1_000` is a thousand, `1e3` is text. Dates stay text.

mod parse;
mod scalar;
mod write;

pub(crate) use parse::{parse, shown};
pub(crate) use write::write;

use serde_json::Value;

/// Where something was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// An index into the reader's list of sources.
    pub(crate) source: u16,
    /// 1 is the first; 0 where there is no text.
    pub(crate) line: u32,
    pub(crate) column: u32,
}

/// One value of a document.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub(crate) place: Place,
    pub(crate) content: Content,
}

/// What a node is. Scalars that are not text keep how they were written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Content {
    Null,
    Bool(bool, Box<str>),
    Int(i128, Box<str>),
    Float(f64, Box<str>),
    Text(String),
    /// The value of a flag: text, or whatever else its characters can be read as.
    Loose(Value, Box<str>),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key and its value. Keys are text; one that was written as a number is what was written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    /// Of the key.
    pub(crate) place: Place,
    pub(crate) value: Node,
}

impl Node {
    /// The tree of a JSON value, all at one place.
    pub(crate) fn of_json(value: &Value, place: Place) -> Self {
        let content = match value {
            Value::Null => Content::Null,
            Value::Bool(flag) => Content::Bool(*flag, flag.to_string().into()),
            Value::Number(number) => {
                let raw = number.to_string();
                match raw.parse() {
                    Ok(integer) => Content::Int(integer, raw.into()),
                    Err(_) => Content::Float(number.as_f64().unwrap_or(f64::NAN), raw.into()),
                }
            }
            Value::String(text) => Content::Text(text.clone()),
            Value::Array(items) => {
                Content::List(items.iter().map(|item| Self::of_json(item, place)).collect())
            }
            Value::Object(members) => Content::Map(
                members
                    .iter()
                    .map(|(key, value)| Entry { key: key.clone(), place, value: Self::of_json(value, place) })
                    .collect(),
            ),
        };
        Self { place, content }
    }

    /// The same without places. What JSON has no number for becomes text.
    pub(crate) fn to_json(&self) -> Value {
        match &self.content {
            Content::Null => Value::Null,
            Content::Bool(flag, _) => Value::Bool(*flag),
            Content::Int(integer, raw) => match i64::try_from(*integer) {
                Ok(integer) => integer.into(),
                Err(_) => u64::try_from(*integer)
                    .map_or_else(|_| Value::String(raw.to_string()), serde_json::Value::from),
            },
            Content::Float(number, raw) => serde_json::Number::from_f64(*number)
                .map_or_else(|| Value::String(raw.to_string()), Value::Number),
            Content::Text(text) => Value::String(text.clone()),
            Content::Loose(value, _) => value.clone(),
            Content::List(items) => items.iter().map(Self::to_json).collect(),
            Content::Map(entries) => entries
                .iter()
                .map(|entry| (entry.key.clone(), entry.value.to_json()))
                .collect::<serde_json::Map<_, _>>()
                .into(),
        }
    }

    /// What was written where text stands, or on a command line.
    pub(crate) fn written(&self) -> Option<&str> {
        match &self.content {
            Content::Text(text) => Some(text),
            Content::Loose(_, raw) => Some(raw),
            _ => None,
        }
    }

    /// The text of a scalar where text is needed, as in the JSON that Azure ML sends; `None` for what is no scalar.
    pub(crate) fn scalar_text(&self) -> Option<String> {
        match &self.content {
            Content::Text(text) => Some(text.clone()),
            Content::Loose(_, raw) => Some(raw.to_string()),
            Content::Bool(flag, _) => Some(flag.to_string()),
            Content::Int(integer, _) => Some(integer.to_string()),
            Content::Float(number, _) => Some(scalar::float_text(*number)),
            Content::Null | Content::List(_) | Content::Map(_) => None,
        }
    }
}
