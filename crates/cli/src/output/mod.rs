//! What a verb prints on standard output, in the formats of `az`: `json`, `jsonc`, `yaml`, `table`, `tsv` and `none`,
//! after a `--query` if one is given.

mod colour;
mod query;
mod table;
mod tsv;

use std::io::{IsTerminal, Write};

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde_json::Value;

pub(crate) use self::{query::parse as parse_query, table::Columns};

/// The flags of every verb that prints something.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct Printing {
    /// How the result is printed [default: a table on a terminal, else JSON]
    #[arg(short = 'o', long = "output", env = "MOORLINE_OUTPUT", value_name = "FORMAT")]
    format: Option<Format>,
    /// Print only what this JMESPath expression finds in the result
    #[arg(long, value_name = "JMESPATH", value_parser = query::parse)]
    query: Option<String>,
}

/// The formats that `az` knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// JSON
    Json,
    /// JSON in colour
    Jsonc,
    /// YAML
    #[value(alias = "yamlc")]
    Yaml,
    /// A table for people
    Table,
    /// Values separated by tabs, for shell scripts
    Tsv,
    /// Nothing
    None,
}

impl Printing {
    /// What a verb whose `--output` can mean more than a format makes of it.
    pub(crate) fn of(format: Option<Format>, query: Option<String>) -> Self {
        Self { format, query }
    }

    /// Whether people get a table, which a verb may want to make two of.
    pub(crate) fn is_table(&self) -> bool {
        let format = self.format.or_else(|| std::io::stdout().is_terminal().then_some(Format::Table));
        format == Some(Format::Table) && self.query.is_none()
    }

    /// Prints `value`; `columns` are what a table shows of it where no query says otherwise.
    pub(crate) fn print(&self, value: Value, columns: Columns) -> anyhow::Result<()> {
        let terminal = std::io::stdout().is_terminal();
        let format = self.format.unwrap_or(if terminal { Format::Table } else { Format::Json });
        let text = render(value, format, self.query.as_deref(), columns, terminal)?;
        write(&text)
    }
}

impl Printing {
    /// Prints a text that is a result by itself: to a person as it is, to a script as `az` does, as one JSON value.
    pub(crate) fn print_text(&self, text: String) -> anyhow::Result<()> {
        if self.format.is_none() && self.query.is_none() && std::io::stdout().is_terminal() {
            return write(&format!("{}\n", text.trim_end_matches('\n')));
        }
        self.print(Value::String(text), Columns::ANY)
    }
}

/// A table by itself, as it is drawn for people.
pub(crate) fn table(value: &Value, columns: Columns) -> String {
    table::render(value, Some(columns), std::io::stdout().is_terminal())
}

/// Writes to standard output; a reader that has left, as `head` does, has what it wanted.
pub(crate) fn write(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("could not write to standard output"),
    }
}

/// The text of `value`. Keys are sorted, as `az` does, except those that a query put in order.
fn render(
    mut value: Value,
    format: Format,
    query: Option<&str>,
    columns: Columns,
    terminal: bool,
) -> anyhow::Result<String> {
    value.sort_all_objects();
    let queried = match query {
        Some(query) => Some(query::apply(query, &value)?),
        None => None,
    };
    let (value, columns) = match queried {
        Some(found) => (found, None),
        None => (value, Some(columns)),
    };
    // As `az`: where there is nothing, nothing is printed, not the word `null`.
    if value.is_null() {
        return Ok(String::new());
    }
    Ok(match format {
        Format::None => String::new(),
        Format::Jsonc if terminal => colour::json(&sorted(value)),
        Format::Json | Format::Jsonc => format!("{:#}\n", sorted(value)),
        Format::Yaml => {
            serde_norway::to_string(&sorted(value)).context("could not write the result as YAML")?
        }
        Format::Table => table::render(&value, columns, terminal),
        Format::Tsv => tsv::render(&value),
    })
}

fn sorted(mut value: Value) -> Value {
    value.sort_all_objects();
    value
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use serde_json::json;

    use super::*;

    const COLUMNS: Columns =
        Columns(&[("Name", "name"), ("Traffic", "traffic"), ("State", "provisioning_state")]);

    fn endpoints() -> Value {
        json!([
            {"name": "iris", "auth_mode": "key", "traffic": {"blue": 90, "green": 10}, "provisioning_state": "Succeeded", "public": true, "note": null},
            {"name": "wine", "auth_mode": "aml_token", "traffic": {}, "provisioning_state": "Failed", "public": false, "note": "a\tb"},
        ])
    }

    fn text(format: Format, query: Option<&str>) -> String {
        render(endpoints(), format, query, COLUMNS, false).unwrap()
    }

    #[test]
    fn json_has_sorted_keys() {
        assert_snapshot!(text(Format::Json, Some("[0]")), @r#"
        {
          "auth_mode": "key",
          "name": "iris",
          "note": null,
          "provisioning_state": "Succeeded",
          "public": true,
          "traffic": {
            "blue": 90,
            "green": 10
          }
        }
        "#);
        assert_snapshot!(text(Format::Jsonc, Some("[].name")), @r#"
        [
          "iris",
          "wine"
        ]
        "#);
    }

    #[test]
    fn yaml() {
        assert_snapshot!(text(Format::Yaml, Some("[1]")), @r#"
        auth_mode: aml_token
        name: wine
        note: "a\tb"
        provisioning_state: Failed
        public: false
        traffic: {}
        "#);
    }

    #[test]
    fn tables_show_the_columns_of_the_kind_or_what_a_query_names() {
        assert_snapshot!(text(Format::Table, None), @r"
        Name  Traffic           State
        ----- ----------------- ----------
        iris  blue=90 green=10  Succeeded
        wine                    Failed
        ");
        assert_snapshot!(text(Format::Table, Some("[].{Name:name,auth:auth_mode}")), @r"
        Name  Auth
        ----- ----------
        iris  key
        wine  aml_token
        ");
        assert_snapshot!(text(Format::Table, Some("[].name")), @r"
        Result
        -------
        iris
        wine
        ");
        assert_snapshot!(text(Format::Table, Some("[].[name, auth_mode]")), @r"
        Column1  Column2
        -------- ----------
        iris     key
        wine     aml_token
        ");
    }

    #[test]
    fn tsv_is_bare_for_scalars_and_in_the_order_of_the_query() {
        assert_eq!(text(Format::Tsv, Some("[0].name")), "iris\n");
        assert_eq!(text(Format::Tsv, Some("[0].public")), "true\n");
        assert_eq!(text(Format::Tsv, Some("[0].traffic.blue")), "90\n");
        assert_eq!(text(Format::Tsv, Some("[].name")), "iris\nwine\n");
        assert_eq!(text(Format::Tsv, Some("[].{Name:name,Auth:auth_mode}")), "iris\tkey\nwine\taml_token\n");
        assert_eq!(
            text(Format::Tsv, Some("[].[name, note, public]")),
            "iris\tNone\tTrue\nwine\ta\tb\tFalse\n"
        );
        assert_eq!(text(Format::Tsv, Some("length(@)")), "2\n");
    }

    #[test]
    fn nothing_found_prints_nothing() {
        for format in [Format::Json, Format::Yaml, Format::Table, Format::Tsv] {
            assert_eq!(text(format, Some("[0].absent")), "");
        }
        assert_eq!(text(Format::None, None), "");
        assert_eq!(text(Format::Table, Some("[?name=='absent']")), "");
        assert_eq!(text(Format::Json, Some("[?name=='absent']")), "[]\n");
    }

    #[test]
    fn a_query_that_is_none_is_refused_where_it_is_given() {
        assert!(query::parse("[].{").unwrap_err().contains("not a JMESPath expression"));
    }

    #[test]
    fn colour_only_wraps() {
        let plain = colour::json(&endpoints());
        let mut stripped = String::new();
        let mut inside = false;
        for c in plain.chars() {
            match c {
                '\u{1b}' => inside = true,
                'm' if inside => inside = false,
                c if !inside => stripped.push(c),
                _ => {}
            }
        }
        assert_eq!(stripped, format!("{:#}\n", endpoints()));
    }
}
