//! `--set`, `--add` and `--remove` of `az`: changes to a thing that the server has, and what of them is sent back.

use clap::Args;
use moorline_spec::{Override, set};
use serde_json::{Map, Value};

use crate::exit::Explained;

/// The flags of every `update`.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Changes")]
pub(crate) struct Edits {
    /// Change a value; may be repeated
    #[arg(long, num_args = 1.., value_name = "PATH=VALUE")]
    set: Vec<String>,
    /// Add to a list; may be repeated
    #[arg(long, num_args = 2, value_names = ["PATH", "VALUE"])]
    add: Vec<String>,
    /// Remove a key, or an element of a list by its number; may be repeated
    #[arg(long, num_args = 1.., value_name = "PATH")]
    remove: Vec<String>,
    /// Take the values of --set and --add as text, even where they read as JSON
    #[arg(long)]
    force_string: bool,
}

impl Edits {
    pub(crate) fn are_none(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }

    /// The overrides that `--set` is, for a document that is read from a file.
    pub(crate) fn overrides(&self) -> anyhow::Result<Vec<Override>> {
        self.set
            .iter()
            .map(|text| {
                let text = if self.force_string { quoted(text) } else { text.clone() };
                Override::parse(&text).map_err(|error| Explained::usage(format!("--set: {error}")).into())
            })
            .collect()
    }

    /// Makes the changes in `value`.
    pub(crate) fn apply(&self, value: &mut Value) -> anyhow::Result<()> {
        for change in self.overrides()? {
            set(value, &change)?;
        }
        for words in self.add.chunks(2) {
            if let [path, item] = words {
                add(value, path, self.item(item))?;
            }
        }
        let mut words = self.remove.iter().peekable();
        while let Some(path) = words.next() {
            let index = words.peek().and_then(|word| word.parse::<usize>().ok());
            if index.is_some() {
                words.next();
            }
            remove(value, path, index)?;
        }
        Ok(())
    }

    fn item(&self, text: &str) -> Value {
        if !self.force_string {
            if let Ok(value) = serde_json::from_str(text) {
                return value;
            }
            if let Some((key, value)) = text.split_once('=') {
                return Value::Object(Map::from_iter([(key.to_owned(), Value::from(value))]));
            }
        }
        Value::from(text)
    }
}

/// `a.b=1` as `a.b="1"`.
fn quoted(text: &str) -> String {
    match text.split_once('=') {
        Some((path, value)) => format!("{path}={}", Value::from(value)),
        None => text.to_owned(),
    }
}

fn at<'a>(value: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    path.split('.').try_fold(value, |value, key| match value {
        Value::Array(items) => items.get_mut(key.parse::<usize>().ok()?),
        other => other.get_mut(key),
    })
}

fn add(value: &mut Value, path: &str, item: Value) -> anyhow::Result<()> {
    if at(value, path).is_none_or(|found| found.is_null()) {
        set(value, &Override::flag("--add", path, Value::Array(Vec::new())))?;
    }
    match at(value, path) {
        Some(Value::Array(items)) => {
            items.push(item);
            Ok(())
        }
        _ => Err(Explained::usage(format!("--add: `{path}` is no list")).into()),
    }
}

fn remove(value: &mut Value, path: &str, index: Option<usize>) -> anyhow::Result<()> {
    let absent = || anyhow::Error::from(Explained::usage(format!("--remove: there is no `{path}`")));
    if let Some(index) = index {
        return match at(value, path) {
            Some(Value::Array(items)) if index < items.len() => {
                items.remove(index);
                Ok(())
            }
            Some(Value::Array(_)) => {
                Err(Explained::usage(format!("--remove: `{path}` has no element {index}")).into())
            }
            _ => Err(absent()),
        };
    }
    let (parent, key) = match path.rsplit_once('.') {
        Some((parent, key)) => (at(value, parent).ok_or_else(absent)?, key),
        None => (value, path),
    };
    parent.as_object_mut().and_then(|map| map.remove(key)).map(drop).ok_or_else(absent)
}

/// What must be sent to make `before` into `after`, as a merge patch: only what differs, and `null` for what is gone.
pub(crate) fn merge_patch(before: &Value, after: &Value) -> Value {
    let (Value::Object(before), Value::Object(after)) = (before, after) else { return after.clone() };
    let gone = before.keys().filter(|key| !after.contains_key(*key)).map(|key| (key.clone(), Value::Null));
    let changed = after.iter().filter_map(|(key, value)| match before.get(key) {
        Some(old) if old == value => None,
        Some(old) => Some((key.clone(), merge_patch(old, value))),
        None => Some((key.clone(), value.clone())),
    });
    Value::Object(gone.chain(changed).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_changed_is_sent() {
        let before = json!({"name": "m", "tags": {"a": "1", "b": "2"}, "list": [1], "state": "Succeeded"});
        let edits = Edits {
            set: vec!["tags.a=x".to_owned(), "count=2".to_owned()],
            add: vec!["list".to_owned(), "{\"k\": 1}".to_owned(), "fresh".to_owned(), "a=b".to_owned()],
            remove: vec!["tags.b".to_owned()],
            force_string: false,
        };
        let mut after = before.clone();
        edits.apply(&mut after).unwrap();
        assert_eq!(
            merge_patch(&before, &after),
            json!({"tags": {"a": "x", "b": null}, "list": [1, {"k": 1}], "count": 2, "fresh": [{"a": "b"}]})
        );
        assert_eq!(merge_patch(&before, &before), json!({}));
    }

    #[test]
    fn elements_are_removed_by_number_and_text_stays_text() {
        let mut value = json!({"list": ["a", "b", "c"]});
        let edits = Edits {
            set: vec!["version=1".to_owned()],
            remove: vec!["list".to_owned(), "1".to_owned()],
            force_string: true,
            ..Edits::default()
        };
        edits.apply(&mut value).unwrap();
        assert_eq!(value, json!({"list": ["a", "c"], "version": "1"}));
        let edits = Edits { remove: vec!["absent".to_owned()], ..Edits::default() };
        assert!(edits.apply(&mut value).is_err());
    }
}
