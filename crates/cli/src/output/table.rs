//! `table`: for people. Each kind of thing has its columns; what a query made shows its own keys.

use comfy_table::{Attribute, Cell, ContentArrangement, ContentLineStyle, LineStyle, Table, TableStyle};
use serde_json::{Map, Value};

/// As `az` draws tables: dashes below each header, and nothing else.
const STYLE: TableStyle = TableStyle::new()
    .header_lines(ContentLineStyle::none().junction(' '))
    .header_separator(LineStyle::none().fill('-').junction(' '))
    .content_lines(ContentLineStyle::none().junction(' '));

/// The columns of a kind of thing: a header, and the path of keys, separated by dots, to what stands below it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Columns(pub(crate) &'static [(&'static str, &'static str)]);

impl Columns {
    /// Whatever is there and is a scalar.
    pub(crate) const ANY: Self = Self(&[]);
}

pub(super) fn render(value: &Value, columns: Option<Columns>, terminal: bool) -> String {
    let rows: &[Value] = match value {
        Value::Array(items) => items,
        one => std::slice::from_ref(one),
    };
    if rows.is_empty() {
        return String::new();
    }
    let named = columns.filter(|columns| !columns.0.is_empty());
    let (headers, cells): (Vec<String>, Vec<Vec<String>>) = match named {
        Some(columns) => (
            columns.0.iter().map(|(header, _)| (*header).to_owned()).collect(),
            rows.iter().map(|row| columns.0.iter().map(|(_, path)| cell(at(row, path))).collect()).collect(),
        ),
        None => found_columns(rows),
    };
    if headers.is_empty() {
        return String::new();
    }
    draw(&headers, &cells, terminal)
}

/// The columns that the rows themselves suggest: their scalar keys, their positions, or just one.
fn found_columns(rows: &[Value]) -> (Vec<String>, Vec<Vec<String>>) {
    if rows.iter().all(Value::is_object) {
        let mut keys: Vec<&str> = Vec::new();
        for (key, value) in rows.iter().filter_map(Value::as_object).flat_map(Map::iter) {
            if !value.is_object() && !value.is_array() && !keys.contains(&key.as_str()) {
                keys.push(key);
            }
        }
        let headers = keys.iter().map(|key| capitalized(key)).collect();
        return (
            headers,
            rows.iter().map(|row| keys.iter().map(|key| cell(row.get(key))).collect()).collect(),
        );
    }
    let wide = rows.iter().filter_map(Value::as_array).map(Vec::len).max();
    match wide {
        Some(wide) if rows.iter().all(Value::is_array) => (
            (1..=wide).map(|i| format!("Column{i}")).collect(),
            rows.iter().map(|row| (0..wide).map(|i| cell(row.get(i))).collect()).collect(),
        ),
        _ => (vec!["Result".to_owned()], rows.iter().map(|row| vec![cell(Some(row))]).collect()),
    }
}

fn at<'a>(row: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(row, |value, key| value.get(key))
}

fn capitalized(key: &str) -> String {
    let mut chars = key.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Object(map)) => map
            .iter()
            .map(|(key, value)| format!("{key}={}", cell(Some(value))))
            .collect::<Vec<_>>()
            .join(" "),
        Some(Value::Array(items)) => items.len().to_string(),
        Some(other) => other.to_string(),
    }
}

fn draw(headers: &[String], cells: &[Vec<String>], terminal: bool) -> String {
    let mut table = Table::new();
    table.load_style(STYLE);
    table.set_content_arrangement(if terminal {
        ContentArrangement::Dynamic
    } else {
        ContentArrangement::Disabled
    });
    let bold = |header: &String| {
        if terminal { Cell::new(header).add_attribute(Attribute::Bold) } else { Cell::new(header) }
    };
    table.set_header(headers.iter().map(bold));
    table.add_rows(cells);
    table.column_iter_mut().for_each(|column| {
        column.set_padding((0, 1));
    });
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}
