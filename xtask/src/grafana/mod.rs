//! `cargo xtask grafana`: the dashboards of `deploy/grafana`, written from one typed source.
//!
//! A test holds the files against this source, and every metric that is asked for against `docs/metrics.md` and the
//! recording rules: a dashboard over a metric that was renamed does not pass.

mod boards;
mod panel;

use std::path::PathBuf;

use crate::{Workspace, shell};
use anyhow::{Context as _, Result};

/// Where they are written to.
const FOLDER: &str = "deploy/grafana";

/// Writes every dashboard.
pub fn run(workspace: &Workspace) -> Result<()> {
    for (path, text) in files() {
        let path = workspace.root().join(path);
        let folder = path.parent().context("a file has a folder")?;
        fs_err::create_dir_all(folder)?;
        fs_err::write(&path, text)?;
        shell::say(&format!("wrote {}", path.display()));
    }
    Ok(())
}

/// Path from the root, and text.
fn files() -> Vec<(PathBuf, String)> {
    boards::all()
        .iter()
        .map(|board| {
            let path = PathBuf::from(format!("{FOLDER}/{}.json", board.name));
            (path, format!("{:#}\n", board.json()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path};

    use serde_json::Value;

    use super::*;

    /// The names of metrics and of recording rules in a PromQL expression.
    fn names(expression: &str) -> BTreeSet<String> {
        let of_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        expression
            .split(|c| !of_name(c))
            .filter(|word| word.contains("moorline_") || word.starts_with("process_"))
            .map(ToOwned::to_owned)
            .collect()
    }

    /// Every expression below the key `expr` of a document.
    fn expressions(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(object) => {
                for (key, value) in object {
                    match value.as_str() {
                        Some(text) if key == "expr" => found.push(text.to_owned()),
                        _ => expressions(value, found),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| expressions(item, found)),
            _ => {}
        }
    }

    fn root() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
    }

    fn read(path: &str) -> String {
        fs_err::read_to_string(root().join(path)).unwrap()
    }

    /// Whether the documentation of metrics or a recording rule has this name.
    fn is_known(name: &str, documented: &str, recorded: &str) -> bool {
        if name.contains(':') {
            return recorded.contains(&format!("record: {name}\n"));
        }
        let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|ending| name.strip_suffix(ending));
        let listed = |name: &str| documented.contains(&format!("| `{name}` |"));
        name.starts_with("process_") || listed(name) || of_histogram.is_some_and(listed)
    }

    #[test]
    fn the_files_are_what_the_source_says() {
        for (path, text) in files() {
            let written = fs_err::read_to_string(root().join(&path)).unwrap_or_default();
            assert!(written == text, "{} is stale: run `cargo xtask grafana`", path.display());
        }
        let there = fs_err::read_dir(root().join(FOLDER)).unwrap().map(|entry| entry.unwrap().file_name());
        let there = there.filter(|name| name.to_string_lossy().ends_with(".json")).count();
        assert_eq!(there, files().len(), "a file of {FOLDER} has no source");
    }

    #[test]
    fn dashboards_ask_only_for_what_there_is() {
        let (documented, recorded) = (read("docs/metrics.md"), read("deploy/prometheus/rules/recording.yml"));
        let mut asked = 0;
        for board in boards::all() {
            let mut found = Vec::new();
            expressions(&board.json(), &mut found);
            assert!(!found.is_empty(), "{}", board.name);
            for name in found.iter().flat_map(|expression| names(expression)) {
                assert!(is_known(&name, &documented, &recorded), "{}: `{name}` is no metric", board.name);
                asked += 1;
            }
        }
        assert!(asked > 20, "{asked}");
    }

    #[test]
    fn rules_ask_only_for_what_there_is() {
        let documented = read("docs/metrics.md");
        let recorded = read("deploy/prometheus/rules/recording.yml");
        for file in ["recording", "alerts"] {
            let text = read(&format!("deploy/prometheus/rules/{file}.yml"));
            let expressions = text.lines().filter(|line| {
                let line = line.trim_start();
                !line.starts_with('#') && !line.starts_with("- name:") && !line.starts_with("- alert:")
            });
            for name in expressions.flat_map(names) {
                assert!(is_known(&name, &documented, &recorded), "{file}.yml: `{name}` is no metric");
            }
        }
    }

    #[test]
    fn a_name_that_is_none_is_found() {
        let known = |name| {
            is_known(name, "| `moorline_a_seconds` | histogram |", "  - record: x:moorline_b:rate5m\n")
        };
        assert!(
            known("moorline_a_seconds_bucket") && known("x:moorline_b:rate5m") && known("moorline_a_seconds")
        );
        assert!(!known("moorline_a") && !known("moorline_b_total") && !known("x:moorline_b"));
        let expression = r#"sum by (le) (rate(moorline_a_seconds_bucket{endpoint="$endpoint"}[5m])) / x:moorline_b:rate5m"#;
        assert_eq!(
            names(expression).into_iter().collect::<Vec<_>>(),
            ["moorline_a_seconds_bucket", "x:moorline_b:rate5m"]
        );
    }

    #[test]
    fn panels_fill_rows_and_never_lie_on_one_another() {
        for board in boards::all() {
            let json = board.json();
            let mut taken = BTreeSet::new();
            for panel in json["panels"].as_array().unwrap() {
                let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
                assert!(at("x") + at("w") <= 24, "{}: {panel}", board.name);
                for x in at("x")..at("x") + at("w") {
                    for y in at("y")..at("y") + at("h") {
                        assert!(taken.insert((x, y)), "{}: {}", board.name, panel["title"]);
                    }
                }
            }
            let ids: BTreeSet<u64> = json["panels"]
                .as_array()
                .unwrap()
                .iter()
                .map(|panel| panel["id"].as_u64().unwrap())
                .collect();
            assert_eq!(ids.len(), json["panels"].as_array().unwrap().len());
        }
    }
}
