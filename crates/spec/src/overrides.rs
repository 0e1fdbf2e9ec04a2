//! `--set a.b=c`, as `az` has it: values put into a document before it is looked at.

use std::str::FromStr;

use serde_json::{Map, Value};
use thiserror::Error;

use crate::yaml::{Content, Entry, Node, Place, shown};

/// Below these everything is a key of a person's own, points and all: `properties.moorline.threads=4`.
const FREE: [&str; 3] = ["properties", "tags", "environment_variables"];
/// Longer lists are not made by giving an index.
const MAX_INDEX: usize = 1000;
const MAX_STEPS: usize = 32;

/// One `--set`.
#[derive(Clone, Debug, PartialEq)]
pub struct Override {
    /// As it was written, for messages.
    label: String,
    path: Vec<Step>,
    value: Value,
    /// The value's text, for where text is needed: `--set description=5`.
    raw: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

/// Why an override cannot be read or put in.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{label}` {why}")]
pub struct OverrideError {
    label: String,
    why: String,
}

impl Override {
    /// `key=value`, `a.b=c`, `a[0].b=c`. The value is JSON where it reads as JSON (numbers, `true`, `null`, objects,
    /// lists), and text otherwise; `null` takes the key away. A point in a key is written `\.`, or the key is written
    /// `['a.b']`; below `properties`, `tags` and `environment_variables` neither is needed.
    pub fn parse(text: &str) -> Result<Self, OverrideError> {
        text.parse()
    }

    /// An override that a flag makes: `--name`, `name`, `"blue"`. The flag is what messages show.
    pub fn flag(flag: &str, key: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        let raw = raw_text(&value);
        Self { label: flag.to_owned(), path: vec![Step::Key(key.to_owned())], value, raw }
    }

    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    fn refuse(&self, why: impl Into<String>) -> OverrideError {
        OverrideError { label: self.label.clone(), why: why.into() }
    }

    fn node(&self, place: Place) -> Node {
        match &self.value {
            Value::Object(_) | Value::Array(_) => Node::of_json(&self.value, place),
            value => Node { place, content: Content::Loose(value.clone(), self.raw.as_str().into()) },
        }
    }

    /// Puts the value into a tree; `place` is what its node gets.
    pub(crate) fn apply(&self, root: &mut Node, place: Place) -> Result<(), OverrideError> {
        let mut node = root;
        let (last, way) = self.path.split_last().expect("a path has at least one step");
        let empty = |step: &Step| match step {
            Step::Key(_) => Content::Map(Vec::new()),
            Step::Index(_) => Content::List(Vec::new()),
        };
        for (step, next) in way.iter().zip(&self.path[1..]) {
            if node.content == Content::Null {
                node.content = empty(step);
            }
            let missing = Node { place, content: empty(next) };
            node = self.step(node, step, place, missing)?;
        }
        if node.content == Content::Null {
            node.content = empty(last);
        }
        if self.value.is_null()
            && let (Step::Key(key), Content::Map(entries)) = (last, &mut node.content)
        {
            entries.retain(|entry| entry.key != *key);
            return Ok(());
        }
        let missing = Node { place, content: Content::Null };
        *self.step(node, last, place, missing)? = self.node(place);
        Ok(())
    }

    fn step<'n>(
        &self,
        node: &'n mut Node,
        step: &Step,
        place: Place,
        missing: Node,
    ) -> Result<&'n mut Node, OverrideError> {
        match (step, &mut node.content) {
            (Step::Key(key), Content::Map(entries)) => {
                let index = entries.iter().position(|entry| entry.key == *key).unwrap_or_else(|| {
                    entries.push(Entry { key: key.clone(), place, value: missing });
                    entries.len() - 1
                });
                Ok(&mut entries[index].value)
            }
            (Step::Index(index), Content::List(items)) => {
                if *index == items.len() {
                    items.push(missing);
                }
                let length = items.len();
                items.get_mut(*index).ok_or_else(|| self.refuse(out_of_range(*index, length)))
            }
            (Step::Key(key), Content::List(_)) => Err(self.refuse(format!("looks for `{key}` in a list"))),
            (Step::Index(_), Content::Map(_)) => Err(self.refuse("uses an index where an object is")),
            (Step::Key(key), _) => {
                Err(self.refuse(format!("looks for `{key}` in a value that is neither object nor list")))
            }
            (Step::Index(_), _) => Err(self.refuse("uses an index where there is no list")),
        }
    }
}

fn out_of_range(index: usize, length: usize) -> String {
    format!("has the index {index}; the list has {length} items")
}

fn raw_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

impl FromStr for Override {
    type Err = OverrideError;

    fn from_str(text: &str) -> Result<Self, OverrideError> {
        let label = format!("--set {}", shown(text));
        let refuse = |why: &str| OverrideError { label: label.clone(), why: why.to_owned() };
        let (path, raw) =
            text.split_once('=').ok_or_else(|| refuse("has no `=`; the form is `key=value`"))?;
        let path = steps(path.trim()).map_err(|why| refuse(&why))?;
        let value = match raw {
            "True" => Value::Bool(true),
            "False" => Value::Bool(false),
            "None" => Value::Null,
            _ => serde_json::from_str(raw).unwrap_or_else(|_| Value::String(raw.to_owned())),
        };
        // A quoted text is its content.
        let raw = match &value {
            Value::String(inner) => inner.clone(),
            _ => raw.to_owned(),
        };
        Ok(Self { label, path, value, raw })
    }
}

fn steps(path: &str) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    let mut rest = path;
    loop {
        if let Some([Step::Key(first)]) = steps.get(..)
            && FREE.contains(&first.as_str())
            && !rest.starts_with('[')
        {
            steps.push(Step::Key(unescaped(rest)));
            rest = "";
        } else if let Some(bracket) = rest.strip_prefix('[') {
            let (inner, after) = bracket.split_once(']').ok_or("has a `[` without its `]`")?;
            steps.push(bracketed(inner)?);
            rest = after;
        } else {
            let end = key_end(rest);
            steps.push(Step::Key(unescaped(&rest[..end])));
            rest = &rest[end..];
        }
        if matches!(steps.last(), Some(Step::Key(key)) if key.is_empty()) {
            return Err("has an empty key".to_owned());
        }
        if steps.len() > MAX_STEPS {
            return Err(format!("has more than {MAX_STEPS} keys"));
        }
        if rest.is_empty() {
            return Ok(steps);
        }
        match rest.strip_prefix('.') {
            Some("") => return Err("ends with a point".to_owned()),
            Some(after) => rest = after,
            None if rest.starts_with('[') => {}
            None => return Err("lacks a point behind `]`".to_owned()),
        }
    }
}

/// Up to the next point or bracket that no backslash stands before.
fn key_end(text: &str) -> usize {
    let mut escaped = false;
    for (index, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '.' | '[' => return index,
            _ => {}
        }
    }
    text.len()
}

fn unescaped(text: &str) -> String {
    text.replace("\\.", ".")
}

fn bracketed(inner: &str) -> Result<Step, String> {
    for quote in ['\'', '"'] {
        if let Some(key) = inner.strip_prefix(quote).and_then(|inner| inner.strip_suffix(quote)) {
            return Ok(Step::Key(key.to_owned()));
        }
    }
    match inner.parse() {
        Ok(index) if index <= MAX_INDEX => Ok(Step::Index(index)),
        _ => Err(format!("has the index `{}`; an index is a number up to {MAX_INDEX}", shown(inner))),
    }
}

/// Puts one override into a JSON value; objects and lists on the way are made where they are missing. `null` becomes
/// `null`, which takes the key away in a merge patch.
pub fn set(value: &mut Value, change: &Override) -> Result<(), OverrideError> {
    let mut place = value;
    for step in &change.path {
        if place.is_null() {
            *place = match step {
                Step::Key(_) => Value::Object(Map::new()),
                Step::Index(_) => Value::Array(Vec::new()),
            };
        }
        place = match (step, place) {
            (Step::Key(key), Value::Object(members)) => members.entry(key.clone()).or_insert(Value::Null),
            (Step::Index(index), Value::Array(items)) => {
                if *index == items.len() {
                    items.push(Value::Null);
                }
                let length = items.len();
                items.get_mut(*index).ok_or_else(|| change.refuse(out_of_range(*index, length)))?
            }
            (Step::Key(key), _) => return Err(change.refuse(format!("looks for `{key}` where no object is"))),
            (Step::Index(_), _) => return Err(change.refuse("uses an index where no list is")),
        };
    }
    *place = change.value.clone();
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn after(value: Value, change: &str) -> Value {
        let mut value = value;
        set(&mut value, &Override::parse(change).unwrap()).unwrap();
        value
    }

    #[test]
    fn values_are_json_where_they_read_as_json() {
        for (change, value) in [
            ("a=1", json!({"a": 1})),
            ("a=true", json!({"a": true})),
            ("a=True", json!({"a": true})),
            ("a=null", json!({"a": null})),
            ("a=text", json!({"a": "text"})),
            ("a=azureml:m:1", json!({"a": "azureml:m:1"})),
            ("a=b=c", json!({"a": "b=c"})),
            ("a=", json!({"a": ""})),
            (r#"a="1""#, json!({"a": "1"})),
            (r#"a={"b": [1]}"#, json!({"a": {"b": [1]}})),
            ("a.b.c=1", json!({"a": {"b": {"c": 1}}})),
            (r"a.b\.c=1", json!({"a": {"b.c": 1}})),
            ("a['b.c'].d=1", json!({"a": {"b.c": {"d": 1}}})),
            ("a[0].b=1", json!({"a": [{"b": 1}]})),
            ("properties.moorline.threads=4", json!({"properties": {"moorline.threads": 4}})),
            ("environment_variables.A=1", json!({"environment_variables": {"A": 1}})),
        ] {
            assert_eq!(after(json!({}), change), value, "{change}");
        }
        assert_eq!(after(json!({"a": [1, 2]}), "a[1]=3"), json!({"a": [1, 3]}));
        assert_eq!(after(json!({"a": {"b": 1}}), "a.c=2"), json!({"a": {"b": 1, "c": 2}}));
    }

    #[test]
    fn refusals_name_the_override() {
        let parse = |text: &str| Override::parse(text).unwrap_err().to_string();
        insta::assert_snapshot!(parse("name"), @"`--set name` has no `=`; the form is `key=value`");
        insta::assert_snapshot!(parse("=1"), @"`--set =1` has an empty key");
        insta::assert_snapshot!(parse("a..b=1"), @"`--set a..b=1` has an empty key");
        insta::assert_snapshot!(parse("a.=1"), @"`--set a.=1` ends with a point");
        insta::assert_snapshot!(parse("a[x]=1"), @"`--set a[x]=1` has the index `x`; an index is a number up to 1000");
        insta::assert_snapshot!(parse("a[99999999999]=1"), @"`--set a[99999999999]=1` has the index `99999999999`; an index is a number up to 1000");
        insta::assert_snapshot!(parse("a[0=1"), @"`--set a[0=1` has a `[` without its `]`");
        let put = |value: Value, text: &str| {
            set(&mut value.clone(), &Override::parse(text).unwrap()).unwrap_err().to_string()
        };
        insta::assert_snapshot!(put(json!({"a": "azureml:m:1"}), "a.path=x"), @"`--set a.path=x` looks for `path` where no object is");
        insta::assert_snapshot!(put(json!({"a": []}), "a[3]=x"), @"`--set a[3]=x` has the index 3; the list has 0 items");
        insta::assert_snapshot!(put(json!({"a": {}}), "a[0]=x"), @"`--set a[0]=x` uses an index where no list is");
    }
}
