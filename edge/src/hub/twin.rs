//! A twin: the document that a device or module and its owner keep in common. Desired properties are written by the
//! owner, reported ones by the device, tags are the owner's alone.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use thiserror::Error;

/// Bytes of the desired, and of the reported properties.
const MAX_PROPERTIES: usize = 32 * 1024;
/// Bytes of the tags.
const MAX_TAGS: usize = 8 * 1024;
/// Levels of objects.
const MAX_DEPTH: usize = 8;
const MAX_NAME: usize = 1024;
const MAX_TEXT: usize = 4096;
/// Numbers beyond are not the same for everyone.
const MAX_INTEGER: u64 = 1 << 53;

/// Why a change is not made; the twin is as it was.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TwinError {
    #[error("a twin is changed by a JSON object")]
    NotAnObject,
    #[error(
        "`{0}` cannot be the name of a property: 1 to {MAX_NAME} bytes, no control characters, none of `.`, `$`, space"
    )]
    Name(String),
    #[error("`{0}` holds what a twin cannot keep: a text above {MAX_TEXT} bytes, or an integer beyond 2^53")]
    Value(String),
    #[error("a twin has at most {MAX_DEPTH} levels")]
    TooDeep,
    #[error("the properties would take {bytes} bytes; {most} is the most")]
    TooLong { bytes: usize, most: usize },
    #[error("the twin is at version {is}, not {expected}; read it again")]
    Version { is: u64, expected: u64 },
}

/// One side of a twin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Section {
    pub version: u64,
    pub properties: Map<String, Value>,
}

impl Default for Section {
    fn default() -> Self {
        Self { version: 1, properties: Map::new() }
    }
}

/// A twin as it is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Twin {
    #[serde(default)]
    pub tags: Map<String, Value>,
    #[serde(default)]
    pub desired: Section,
    #[serde(default)]
    pub reported: Section,
}

impl Twin {
    /// What a client reads: both sides with their versions, and no tags.
    pub fn document(&self) -> Value {
        json!({ "desired": self.desired.document(), "reported": self.reported.document() })
    }

    /// Changes the tags.
    pub fn patch_tags(&mut self, patch: &Value) -> Result<(), TwinError> {
        self.tags = merged(&self.tags, patch, MAX_TAGS)?;
        Ok(())
    }
}

impl Section {
    fn document(&self) -> Value {
        let mut document = self.properties.clone();
        document.insert("$version".to_owned(), self.version.into());
        Value::Object(document)
    }

    /// Changes what `patch` names: `null` removes, objects are merged, all else is replaced. With `if_version` only if
    /// nobody has changed it since.
    pub fn patch(&mut self, patch: &Value, if_version: Option<u64>) -> Result<(), TwinError> {
        self.check_version(if_version)?;
        self.properties = merged(&self.properties, patch, MAX_PROPERTIES)?;
        self.version += 1;
        Ok(())
    }

    /// Makes the properties those of `properties`; gives the patch that does the same, if there is any difference.
    /// `version` is that of the side they come from.
    pub fn replace(&mut self, properties: &Value, version: u64) -> Result<Option<Value>, TwinError> {
        let new = merged(&Map::new(), properties, MAX_PROPERTIES)?;
        let patch = difference(&self.properties, &new);
        let changed = !patch.is_empty();
        (self.properties, self.version) = (new, version);
        Ok(changed.then_some(Value::Object(patch)))
    }

    /// The patch as clients are sent it.
    pub fn notice(patch: &Value, version: u64) -> Value {
        let mut notice = patch.as_object().cloned().unwrap_or_default();
        notice.insert("$version".to_owned(), version.into());
        Value::Object(notice)
    }

    fn check_version(&self, expected: Option<u64>) -> Result<(), TwinError> {
        match expected {
            Some(expected) if expected != self.version => {
                Err(TwinError::Version { is: self.version, expected })
            }
            _ => Ok(()),
        }
    }
}

fn merged(current: &Map<String, Value>, patch: &Value, most: usize) -> Result<Map<String, Value>, TwinError> {
    let Value::Object(patch) = patch else { return Err(TwinError::NotAnObject) };
    let mut patch = patch.clone();
    // Clients send back what they read.
    patch.remove("$version");
    patch.remove("$metadata");
    check(&patch, 1)?;
    let mut new = current.clone();
    merge(&mut new, patch);
    check(&new, 1)?;
    let bytes = size(&new);
    if bytes > most { Err(TwinError::TooLong { bytes, most }) } else { Ok(new) }
}

fn merge(target: &mut Map<String, Value>, patch: Map<String, Value>) {
    for (name, value) in patch {
        match value {
            Value::Null => {
                target.remove(&name);
            }
            Value::Object(inner) => {
                let place = target.entry(name).or_insert_with(|| Value::Object(Map::new()));
                if !place.is_object() {
                    *place = Value::Object(Map::new());
                }
                if let Value::Object(place) = place {
                    merge(place, inner);
                }
            }
            other => {
                target.insert(name, other);
            }
        }
    }
}

/// The patch that makes `new` of `old`.
fn difference(old: &Map<String, Value>, new: &Map<String, Value>) -> Map<String, Value> {
    let mut patch = Map::new();
    for (name, value) in new {
        match (old.get(name), value) {
            (Some(Value::Object(before)), Value::Object(after)) => {
                let inner = difference(before, after);
                if !inner.is_empty() {
                    patch.insert(name.clone(), Value::Object(inner));
                }
            }
            (Some(before), after) if before == after => {}
            (_, after) => {
                patch.insert(name.clone(), after.clone());
            }
        }
    }
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    patch
}

fn check(object: &Map<String, Value>, depth: usize) -> Result<(), TwinError> {
    if depth > MAX_DEPTH {
        return Err(TwinError::TooDeep);
    }
    for (name, value) in object {
        let bad = |c: char| c.is_control() || matches!(c, '.' | '$' | ' ');
        if name.is_empty() || name.len() > MAX_NAME || name.contains(bad) {
            return Err(TwinError::Name(super::identity::shortened(name)));
        }
        check_value(name, value, depth)?;
    }
    Ok(())
}

fn check_value(name: &str, value: &Value, depth: usize) -> Result<(), TwinError> {
    match value {
        Value::Object(inner) => check(inner, depth + 1),
        Value::Array(items) if depth >= MAX_DEPTH && !items.is_empty() => Err(TwinError::TooDeep),
        Value::Array(items) => items.iter().try_for_each(|item| check_value(name, item, depth + 1)),
        Value::String(text) if text.len() > MAX_TEXT => Err(TwinError::Value(name.to_owned())),
        Value::Number(number) => {
            let beyond = number
                .as_i64()
                .map_or_else(|| number.as_u64().is_some(), |integer| integer.unsigned_abs() > MAX_INTEGER);
            if beyond { Err(TwinError::Value(name.to_owned())) } else { Ok(()) }
        }
        _ => Ok(()),
    }
}

/// As Azure counts: names and values, without punctuation.
fn size(object: &Map<String, Value>) -> usize {
    object.iter().map(|(name, value)| name.len() + value_size(value)).sum()
}

fn value_size(value: &Value) -> usize {
    match value {
        Value::Null => 0,
        Value::Bool(_) => 4,
        Value::Number(_) => 8,
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(value_size).sum(),
        Value::Object(inner) => size(inner),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_patch_merges_removes_and_counts() {
        let mut twin = Twin::default();
        twin.desired.patch(&json!({"a": {"b": 1, "c": [1, 2]}, "d": "x"}), None).unwrap();
        twin.desired
            .patch(&json!({"a": {"b": null, "e": true}, "d": {"f": 1}, "$version": 9}), Some(2))
            .unwrap();
        assert_eq!(
            twin.document(),
            json!({"desired": {"a": {"c": [1, 2], "e": true}, "d": {"f": 1}, "$version": 3}, "reported": {"$version": 1}})
        );
        let before = twin.clone();
        assert_eq!(
            twin.desired.patch(&json!({"a": 1}), Some(2)),
            Err(TwinError::Version { is: 3, expected: 2 })
        );
        assert_eq!(twin, before);
    }

    #[test]
    fn a_twin_is_bounded() {
        let mut twin = Twin::default();
        let mut patch = |patch: Value| twin.reported.patch(&patch, None);
        assert_eq!(patch(json!([])), Err(TwinError::NotAnObject));
        for name in ["", "a.b", "$a", "a b", "a\n", &"x".repeat(1025)] {
            assert!(matches!(patch(json!({ name: 1 })), Err(TwinError::Name(_))), "{name}");
        }
        assert!(matches!(patch(json!({"a": {"b$": 1}})), Err(TwinError::Name(_))));
        assert!(matches!(patch(json!({"a": "x".repeat(4097)})), Err(TwinError::Value(_))));
        assert!(matches!(patch(json!({"a": 1_u64 << 60})), Err(TwinError::Value(_))));
        let deep = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!({ "a": inner }));
        assert_eq!(patch(deep(8)), Ok(()));
        assert_eq!(patch(deep(9)), Err(TwinError::TooDeep));
        for n in 0..8 {
            patch(json!({ format!("k{n}"): "x".repeat(4000) })).unwrap();
        }
        assert!(matches!(patch(json!({"k9": "x".repeat(4000)})), Err(TwinError::TooLong { .. })));
        assert!(matches!(
            twin.patch_tags(&json!({"a": ["x".repeat(4000), "x".repeat(4000), "x".repeat(4000)]})),
            Err(TwinError::TooLong { .. })
        ));
    }

    fn object() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![Just(json!(1)), Just(json!("x")), Just(json!([1, 2])), Just(json!(true))];
        let inner = leaf.prop_recursive(3, 16, 4, |inner| {
            proptest::collection::btree_map("[a-c]", inner, 0..4).prop_map(|map| json!(map))
        });
        proptest::collection::btree_map("[a-c]", inner, 0..4).prop_map(|map| json!(map))
    }

    proptest! {
        #[test]
        fn the_difference_makes_one_of_the_other(old in object(), new in object()) {
            let mut section = Section::default();
            section.replace(&old, 4).unwrap();
            let mut expected = section.clone();
            let patch = expected.replace(&new, 5).unwrap();
            if let Some(patch) = patch {
                section.patch(&patch, Some(4)).unwrap();
                prop_assert_eq!(section, expected);
            } else {
                prop_assert_eq!(section.properties, expected.properties);
            }
        }
    }
}
