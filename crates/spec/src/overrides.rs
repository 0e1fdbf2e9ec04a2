//! `--set a.b=c`, as `az` has it: values put into a document before it is looked at.

use std::str::FromStr;

use serde_json::Value;
use thiserror::Error;

/// One `--set`.
#[derive(Clone, Debug, PartialEq)]
pub struct Override {
    /// As it was written, for messages.
    text: String,
    path: Vec<Step>,
    value: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

/// Why an override cannot be read or put in.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{text}` {why}")]
pub struct OverrideError {
    text: String,
    why: String,
}

impl Override {
    /// `key=value`, `a.b=c`, `a[0].b=c`. The value is JSON where it reads as JSON (numbers, `true`, `null`, objects,
    /// lists), and text otherwise.
    pub fn parse(text: &str) -> Result<Self, OverrideError> {
        text.parse()
    }

    /// An override that is made by a flag (`--name x`); the flag is what messages show.
    pub fn flag(_flag: &str, _key: &str, _value: Value) -> Self {
        unimplemented!()
    }
}

impl FromStr for Override {
    type Err = OverrideError;

    fn from_str(_text: &str) -> Result<Self, OverrideError> {
        unimplemented!()
    }
}

/// Puts one override into a JSON value; objects and lists on the way are made where they are missing.
pub fn set(_value: &mut Value, _change: &Override) -> Result<(), OverrideError> {
    unimplemented!()
}
