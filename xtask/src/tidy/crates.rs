//! The crate table of ARCHITECTURE.md against `cargo metadata`, and the law of the layers: leaves never see each
//! other.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde_json::Value;

use super::Finding;

/// The file with the table.
pub(super) const MAP: &str = "ARCHITECTURE.md";
/// What the table's first row must be.
const HEADER: &str = "| crate | folder | what it is for | depends on | tests with |";
/// The words that a crate's charter may take.
const CHARTER_WORDS: usize = 15;

/// The crates that implement seams; each may stand on `core`, and on the sockets, the documents and the memory.
const LEAVES: [&str; 9] = [
    "moorline-spec",
    "moorline-store",
    "moorline-engines",
    "moorline-script",
    "moorline-serve",
    "moorline-gateway",
    "moorline-deploy",
    "moorline-fpga",
    "moorline-edge",
];
const BELOW_LEAVES: [&str; 5] =
    ["moorline-core", "moorline-listen", "moorline-observe", "moorline-spec", "moorline-store"];

/// One crate, by the table or by Cargo.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entry {
    folder: String,
    depends_on: BTreeSet<String>,
    tests_with: BTreeSet<String>,
}

pub(super) fn check(map: &str, metadata: &Value, root: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |line: usize, message: String| findings.push(Finding { path: MAP.into(), line, message });
    let real = from_metadata(metadata, root);
    for (name, entry) in &real {
        for complaint in layer_breaches(name, entry) {
            find(1, complaint);
        }
    }
    let Some(header) = map.lines().position(|line| line == HEADER) else {
        find(1, format!("has no table that begins with `{HEADER}`"));
        return findings;
    };
    let mut told = BTreeSet::new();
    // Behind the header comes the rule, then the crates.
    for (index, row) in map.lines().enumerate().skip(header + 2).take_while(|(_, line)| line.starts_with('|'))
    {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, folder, charter, depends_on, tests_with] = cells[..] else {
            find(index + 1, "a row of the crate table has five cells".to_owned());
            continue;
        };
        let name = name.trim_matches('`');
        if charter.split_whitespace().count() > CHARTER_WORDS {
            find(index + 1, format!("`{name}` needs more than {CHARTER_WORDS} words to say what it is for"));
        }
        let entry = Entry {
            folder: folder.trim_matches('`').to_owned(),
            depends_on: names(depends_on),
            tests_with: names(tests_with),
        };
        match real.get(name) {
            None => find(index + 1, format!("`{name}` is not a crate of this workspace")),
            Some(real) if *real != entry => {
                find(index + 1, format!("`{name}` is told as {entry:?}, but is {real:?}"));
            }
            Some(_) => {}
        }
        told.insert(name.to_owned());
    }
    for name in real.keys().filter(|name| !told.contains(*name)) {
        find(header + 1, format!("the crate table lacks `{name}`"));
    }
    findings
}

/// `` `a`, `b` `` or `–` for none.
fn names(cell: &str) -> BTreeSet<String> {
    cell.split(',').map(|name| name.trim().trim_matches('`').to_owned()).filter(|name| name != "–").collect()
}

fn from_metadata(metadata: &Value, root: &Path) -> BTreeMap<String, Entry> {
    let empty = Vec::new();
    let packages = metadata["packages"].as_array().unwrap_or(&empty);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let ours: BTreeSet<String> = packages.iter().map(|package| text(&package["name"])).collect();
    let entry = |package: &Value| {
        let manifest = text(&package["manifest_path"]);
        let folder = Path::new(&manifest).parent().and_then(|folder| folder.strip_prefix(root).ok());
        let mut entry =
            Entry { folder: folder.unwrap_or(Path::new("")).display().to_string(), ..Entry::default() };
        for dependency in package["dependencies"].as_array().unwrap_or(&empty) {
            let name = text(&dependency["name"]);
            if ours.contains(&name) {
                let dev = dependency["kind"] == "dev";
                let set = if dev { &mut entry.tests_with } else { &mut entry.depends_on };
                set.insert(name);
            }
        }
        (text(&package["name"]), entry)
    };
    packages.iter().map(entry).collect()
}

fn layer_breaches(name: &str, entry: &Entry) -> Vec<String> {
    let refused = |allowed: &[&str]| -> Vec<String> {
        let outside = entry.depends_on.iter().filter(|other| !allowed.contains(&other.as_str()));
        outside
            .map(|other| format!("`{name}` must not depend on `{other}`: leaves never see each other"))
            .collect()
    };
    match name {
        "moorline-core" => refused(&[]),
        "moorline-testkit" => refused(&["moorline-core"]),
        _ if LEAVES.contains(&name) => refused(&BELOW_LEAVES),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn metadata(serve_on: &str) -> Value {
        json!({"packages": [
            {"name": "moorline-core", "manifest_path": "/w/crates/core/Cargo.toml",
             "dependencies": [{"name": "serde", "kind": null}]},
            {"name": "moorline-serve", "manifest_path": "/w/crates/serve/Cargo.toml",
             "dependencies": [{"name": serve_on, "kind": null}]},
            {"name": "moorline-script", "manifest_path": "/w/crates/script/Cargo.toml",
             "dependencies": [{"name": "moorline-core", "kind": "dev"}]},
        ]})
    }

    fn found(map: &str, metadata: &Value) -> Vec<String> {
        check(map, metadata, Path::new("/w")).into_iter().map(|finding| finding.message).collect()
    }

    fn map(rows: &str) -> String {
        format!("# Map\n\n{HEADER}\n| --- | --- | --- | --- | --- |\n{rows}\nText.\n")
    }

    const ROWS: &str = "| `moorline-core` | `crates/core` | nouns | – | – |\n\
        | `moorline-serve` | `crates/serve` | requests | `moorline-core` | – |\n\
        | `moorline-script` | `crates/script` | scripts | – | `moorline-core` |\n";

    #[test]
    fn a_true_table_passes() {
        assert_eq!(found(&map(ROWS), &metadata("moorline-core")), Vec::<String>::new());
    }

    #[test]
    fn leaves_never_see_each_other() {
        let found = found(&map(ROWS), &metadata("moorline-script"));
        assert!(found[0].contains("`moorline-serve` must not depend on `moorline-script`"), "{found:?}");
    }

    #[test]
    fn a_stale_table_is_told_apart() {
        let stale = ROWS.replace("crates/serve", "serve").replace("`moorline-script`", "`moorline-gone`");
        let found = found(&map(&stale), &metadata("moorline-core"));
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].contains("`moorline-serve` is told as"), "{found:?}");
        assert!(found[1].contains("`moorline-gone` is not a crate"), "{found:?}");
        assert!(found[2].contains("lacks `moorline-script`"), "{found:?}");
        let found = super::check("# Map\n", &metadata("moorline-core"), Path::new("/w"));
        assert!(found[0].message.contains("has no table"));
    }
}
