//! What documents promise: links lead somewhere, and every setting and metric of the source is in its table.

use std::{collections::BTreeSet, path::Path};

use super::Finding;

/// A source file, what stands before each name in it, and the document that must list exactly these names.
pub(super) struct Listing {
    pub(super) source: &'static str,
    opening: &'static str,
    /// What tells such a name from other words between backticks.
    prefix: &'static str,
    pub(super) document: &'static str,
}

/// Where metrics are listed.
pub(super) const METRICS: &str = "docs/metrics.md";

pub(super) const LISTINGS: [Listing; 10] = [
    Listing {
        source: "crates/scorer/src/settings.rs",
        opening: "env = \"",
        prefix: "",
        document: "docs/src/scorer.md",
    },
    Listing {
        source: "crates/serve/src/metrics.rs",
        opening: "\"moorline_",
        prefix: "moorline_",
        document: METRICS,
    },
    Listing {
        source: "crates/serve/src/workers.rs",
        opening: "\"moorline_",
        prefix: "moorline_",
        document: METRICS,
    },
    Listing {
        source: "crates/gateway/src/metrics.rs",
        opening: "\"moorline_",
        prefix: "moorline_",
        document: METRICS,
    },
    Listing {
        source: "crates/server/src/monitor/facts.rs",
        opening: "\"moorline_",
        prefix: "moorline_",
        document: METRICS,
    },
    Listing { source: "fpga/src/metrics.rs", opening: "\"moorline_", prefix: "moorline_", document: METRICS },
    Listing {
        source: "crates/serve/src/collection/mod.rs",
        opening: "\"moorline_",
        prefix: "moorline_",
        document: METRICS,
    },
    Listing {
        source: "edge/src/hub/metrics.rs",
        opening: "\"moorline_",
        prefix: "moorline_",
        document: METRICS,
    },
    Listing { source: "edge/src/metrics.rs", opening: "\"moorline_", prefix: "moorline_", document: METRICS },
    Listing {
        source: "crates/server/src/edge/metrics.rs",
        opening: "\"moorline_",
        prefix: "moorline_",
        document: METRICS,
    },
];

/// The names that the source has and the document lacks.
pub(super) fn missing(listing: &Listing, source: &str, document: &str) -> Vec<Finding> {
    let production = source.split("#[cfg(test)]").next().unwrap_or(source);
    let names: BTreeSet<String> = production
        .split(listing.opening)
        .skip(1)
        .filter_map(|rest| Some(format!("{}{}", listing.prefix, rest.split('"').next()?)))
        .collect();
    names
        .iter()
        .filter(|name| !document.contains(&format!("`{name}`")))
        .map(|name| Finding {
            path: listing.document.into(),
            line: 1,
            message: format!("does not list `{name}` of {}", listing.source),
        })
        .collect()
}

/// The metrics that a document has a row for, and no source has.
pub(super) fn invented(path: &str, document: &str, sources: &[String]) -> Vec<Finding> {
    let row = |(index, line): (usize, &str)| {
        let name = line.strip_prefix("| `moorline_")?.split('`').next()?;
        let name = format!("moorline_{name}");
        let known = sources.iter().any(|source| source.contains(&format!("\"{name}\"")));
        let message = format!("lists `{name}`, which no source has");
        (!known).then(|| Finding { path: path.into(), line: index + 1, message })
    };
    document.lines().enumerate().filter_map(row).collect()
}

/// Relative links of a Markdown file that lead nowhere; `exists` takes a path relative to the root.
pub(super) fn broken_links(path: &Path, text: &str, exists: impl Fn(&Path) -> bool) -> Vec<Finding> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for rest in line.split("](").skip(1) {
            let link = rest.split([')', '#', ' ']).next().unwrap_or_default();
            if !link.is_empty() && !link.contains(':') && !exists(&normal(&folder.join(link))) {
                let message = format!("link `{link}` leads nowhere");
                findings.push(Finding { path: path.into(), line: index + 1, message });
            }
        }
    }
    findings
}

/// `a/../b` as `b`, by the names alone.
fn normal(path: &Path) -> std::path::PathBuf {
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => {
                parts.pop();
            }
            std::path::Component::Normal(name) => parts.push(name),
            _ => {}
        }
    }
    parts.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_from_where_they_stand() {
        let exists = |path: &Path| path == Path::new("docs/metrics.md");
        let text = "[a](../metrics.md#top) [b](gone.md)\n[c](https://example.org) [d](#here)\n";
        let found = broken_links(Path::new("docs/src/a.md"), text, exists);
        assert_eq!(found.len(), 1);
        assert!(found[0].message.contains("gone.md"));
    }

    #[test]
    fn what_a_table_has_for_nothing_is_told() {
        let found = invented(
            "m.md",
            "# a\n| `moorline_a` | b |\n| `moorline_b` | a |\n",
            &["\"moorline_a\"".to_owned()],
        );
        assert_eq!(found.len(), 1);
        assert!(found[0].line == 3 && found[0].message.contains("`moorline_b`"), "{found:?}");
    }

    #[test]
    fn what_a_table_lacks_is_told() {
        let source = "\"moorline_a\", \"moorline_b\"\n#[cfg(test)]\nmod tests { \"moorline_c\" }";
        let found = missing(&LISTINGS[1], source, "| `moorline_a` |");
        assert_eq!(found.len(), 1);
        assert!(found[0].message.contains("`moorline_b`"));
        let found = missing(&LISTINGS[0], "#[arg(long, env = \"SERVER_PORT\")]", "nothing");
        assert!(found[0].message.contains("`SERVER_PORT`"));
    }
}
