//! Whether an object in the cluster is what was applied: everything that is ours is there and as we wrote it. What others
//! added, and what the cluster fills in, is theirs.

use serde_json::Value;

/// Said of an object by where it was asked for; the items of a list do without.
const OF_THE_KIND: [&str; 2] = ["apiVersion", "kind"];

/// The first place where the object `live` is not as `wanted` says, in words: `spec.replicas: 5, and not 2`.
pub(super) fn first(wanted: &Value, live: &Value) -> Option<String> {
    let mut path = String::new();
    compare(&own(wanted), live, &mut path)
}

/// An object without what its kind says.
fn own(object: &Value) -> Value {
    let mut object = object.clone();
    if let Value::Object(fields) = &mut object {
        fields.retain(|name, _| !OF_THE_KIND.contains(&name.as_str()));
    }
    object
}

fn compare(wanted: &Value, live: &Value, path: &mut String) -> Option<String> {
    match (wanted, live) {
        (Value::Object(wanted), Value::Object(live)) => wanted.iter().find_map(|(key, wanted)| {
            within(path, key, |path| compare(wanted, live.get(key).unwrap_or(&Value::Null), path))
        }),
        (Value::Array(wanted), Value::Array(live)) => list(wanted, live, path),
        // What is empty is left out by the API server.
        (Value::Object(wanted), Value::Null) if wanted.is_empty() => None,
        (Value::Array(wanted), Value::Null) if wanted.is_empty() => None,
        (Value::Bool(false), Value::Null) => None,
        (wanted, live) if wanted == live => None,
        (wanted, live) => Some(format!("{path}: {live}, and not {wanted}")),
    }
}

/// Items that have a name are found by it; others by their place.
fn list(wanted: &[Value], live: &[Value], path: &mut String) -> Option<String> {
    for (index, item) in wanted.iter().enumerate() {
        let name = item.get("name");
        let found = match name {
            Some(name) => live.iter().find(|other| other.get("name") == Some(name)),
            None => live.get(index),
        };
        let key = name.and_then(Value::as_str).map_or_else(|| index.to_string(), str::to_owned);
        let difference =
            within(path, &format!("[{key}]"), |path| compare(item, found.unwrap_or(&Value::Null), path));
        if difference.is_some() {
            return difference;
        }
    }
    // An item without a name that is more is no addition of somebody else's, but another list.
    let unnamed = wanted.iter().all(|item| item.get("name").is_none());
    (unnamed && live.len() != wanted.len())
        .then(|| format!("{path}: {} items, and not {}", live.len(), wanted.len()))
}

fn within<T>(path: &mut String, key: &str, inner: impl FnOnce(&mut String) -> T) -> T {
    let before = path.len();
    if !path.is_empty() && !key.starts_with('[') {
        path.push('.');
    }
    path.push_str(key);
    let result = inner(path);
    path.truncate(before);
    result
}

/// Every place where the two differ, for people: `path`, what is there, what would be.
pub(super) fn all(wanted: &Value, live: &Value) -> Vec<(String, Value, Value)> {
    let mut found = Vec::new();
    collect(&own(wanted), live, &mut String::new(), &mut found);
    found
}

fn collect(wanted: &Value, live: &Value, path: &mut String, found: &mut Vec<(String, Value, Value)>) {
    match (wanted, live) {
        (Value::Object(own), Value::Object(other)) => {
            for (key, wanted) in own {
                within(path, key, |path| {
                    collect(wanted, other.get(key).unwrap_or(&Value::Null), path, found);
                });
            }
        }
        (Value::Array(own), Value::Array(other)) if own.iter().all(|item| item.get("name").is_some()) => {
            for item in own {
                let live = other.iter().find(|other| other.get("name") == item.get("name"));
                let name = item["name"].as_str().unwrap_or_default();
                within(path, &format!("[{name}]"), |path| {
                    collect(item, live.unwrap_or(&Value::Null), path, found);
                });
            }
        }
        _ => {
            if compare(wanted, live, path).is_some() {
                found.push((path.clone(), live.clone(), wanted.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_ours_has_to_be_there_and_what_is_others_may() {
        let wanted = json!({"spec": {"replicas": 2, "env": [{"name": "A", "value": "1"}], "off": false, "args": ["x"]}});
        let live = json!({
            "spec": {"replicas": 2, "paused": true, "args": ["x"],
                     "env": [{"name": "Z", "value": "0"}, {"name": "A", "value": "1", "more": 1}]},
            "status": {}
        });
        assert_eq!(first(&wanted, &live), None);
        let edited = |edit: fn(&mut Value)| {
            let mut live = live.clone();
            edit(&mut live);
            first(&wanted, &live).unwrap_or_default()
        };
        assert_eq!(edited(|live| live["spec"]["replicas"] = 5.into()), "spec.replicas: 5, and not 2");
        assert_eq!(
            edited(|live| live["spec"]["env"][1]["value"] = "2".into()),
            "spec.env[A].value: \"2\", and not \"1\""
        );
        assert_eq!(
            edited(|live| live["spec"]["env"] = json!([])),
            "spec.env[A]: null, and not {\"name\":\"A\",\"value\":\"1\"}"
        );
        assert_eq!(edited(|live| live["spec"]["args"] = json!(["x", "y"])), "spec.args: 2 items, and not 1");
        assert_eq!(edited(|live| live["spec"]["off"] = true.into()), "spec.off: true, and not false");
    }

    /// The items of a list have neither.
    #[test]
    fn the_kind_is_no_difference() {
        let wanted = json!({"apiVersion": "v1", "kind": "Service", "spec": {"kind": "x"}});
        assert_eq!(first(&wanted, &json!({"spec": {"kind": "x"}})), None);
        assert_eq!(first(&wanted, &json!({"spec": {}})).unwrap(), "spec.kind: null, and not \"x\"");
    }

    #[test]
    fn every_difference_is_told() {
        let wanted = json!({"a": 1, "b": {"c": [{"name": "n", "v": 1}]}, "d": 4});
        let live = json!({"a": 1, "b": {"c": [{"name": "n", "v": 2}]}});
        assert_eq!(
            all(&wanted, &live),
            [("b.c[n].v".to_owned(), json!(2), json!(1)), ("d".to_owned(), json!(null), json!(4))]
        );
    }
}
