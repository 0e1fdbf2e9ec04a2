//! `tsv`: one line an item, values separated by tabs and otherwise bare, as `az` prints them for shell scripts.

use serde_json::Value;

pub(super) fn render(value: &Value) -> String {
    let rows: &[Value] = match value {
        Value::Array(items) => items,
        one => std::slice::from_ref(one),
    };
    rows.iter().map(|row| line(row) + "\n").collect()
}

fn line(row: &Value) -> String {
    match row {
        Value::Array(items) => items.iter().map(field).collect::<Vec<_>>().join("\t"),
        Value::Object(map) => map.values().map(field).collect::<Vec<_>>().join("\t"),
        Value::Bool(value) => value.to_string(),
        scalar => field(scalar),
    }
}

/// A value within a line. What is no scalar has no place there: a list is its length, an object is empty. The words for
/// true, false and nothing are those that scripts written for `az` compare with.
fn field(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Array(items) => items.len().to_string(),
        Value::Object(_) => String::new(),
    }
}
