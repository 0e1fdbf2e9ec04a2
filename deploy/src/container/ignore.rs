//! `.dockerignore`: what is left out of a build's context.
//!
//! Source: Docker's reference of the Dockerfile, ".dockerignore file".

/// The rules in their order; the last that fits decides.
#[derive(Debug, Default)]
pub(super) struct Ignore(Vec<Rule>);

#[derive(Debug)]
struct Rule {
    keep: bool,
    parts: Vec<String>,
}

impl Ignore {
    pub(super) fn parse(text: &str) -> Self {
        let rules = text.trim_start_matches('\u{feff}').lines().filter_map(|line| {
            if line.starts_with('#') {
                return None;
            }
            let line = line.trim();
            let (keep, pattern) = match line.strip_prefix('!') {
                Some(pattern) => (true, pattern.trim()),
                None => (false, line),
            };
            let parts: Vec<String> = pattern
                .split('/')
                .filter(|part| !part.is_empty() && *part != ".")
                .map(str::to_owned)
                .collect();
            (!parts.is_empty()).then_some(Rule { keep, parts })
        });
        Self(rules.collect())
    }

    /// Whether the path, relative to the context and with `/` between its parts, is left out. A rule that fits a folder
    /// fits everything in it.
    pub(super) fn leaves_out(&self, path: &str) -> bool {
        let path: Vec<&str> = path.split('/').collect();
        let fits = |rule: &&Rule| (1..=path.len()).any(|depth| matches(&rule.parts, &path[..depth]));
        self.0.iter().rev().find(fits).is_some_and(|rule| !rule.keep)
    }
}

fn matches(pattern: &[String], path: &[&str]) -> bool {
    match pattern.split_first() {
        None => path.is_empty(),
        Some((first, rest)) if first == "**" => {
            (0..=path.len()).any(|skipped| matches(rest, &path[skipped..]))
        }
        Some((first, rest)) => path.split_first().is_some_and(|(name, below)| {
            part_matches(first.as_bytes(), name.as_bytes()) && matches(rest, below)
        }),
    }
}

/// `*` is any text and `?` any character; goes back to the last `*` only, so it takes no longer than both lengths' product.
fn part_matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut in_name, mut star) = (0, 0, None);
    while in_name < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, in_name));
                at += 1;
            }
            Some(b'?') => {
                at += 1;
                in_name += 1;
            }
            Some(byte) if *byte == name[in_name] => {
                at += 1;
                in_name += 1;
            }
            _ => {
                let Some((star_at, taken)) = star else { return false };
                star = Some((star_at, taken + 1));
                at = star_at + 1;
                in_name = taken + 1;
            }
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_rule_that_fits_decides() {
        let ignore =
            Ignore::parse("# a comment\n\n/data\n*.log\n**/cache\n!data/keep.txt\nsub/?.bin\n./dist/\n");
        for path in ["data", "data/a", "data/b/c", "a.log", "x/y/cache/z", "cache", "sub/1.bin", "dist/a"] {
            assert!(ignore.leaves_out(path), "{path} is left out");
        }
        for path in ["data/keep.txt", "sub/a.log", "sub/12.bin", "datum", "a.logs", "# a comment"] {
            assert!(!ignore.leaves_out(path), "{path} is sent");
        }
        assert!(!Ignore::default().leaves_out("a"));
    }
}
