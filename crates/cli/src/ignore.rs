//! Which files of a folder are left out: `.amlignore` says so, or `.gitignore` where there is none, as Azure ML has it.
//! The patterns are git's. Only the file at the top of the folder counts.

use std::{io, path::Path};

/// The files that are looked for, the first one that exists counts.
const FILES: [&str; 2] = [".amlignore", ".gitignore"];
/// No such file is larger.
const MAX_BYTES: u64 = 1 << 20;

/// The patterns of one folder.
#[derive(Debug, Default)]
pub(crate) struct Ignore(Vec<Pattern>);

#[derive(Debug)]
struct Pattern {
    /// `!`: what an earlier pattern left out is taken again.
    negated: bool,
    only_folders: bool,
    /// Between slashes; `**` stands for any number of folders.
    parts: Vec<String>,
}

impl Ignore {
    pub(crate) fn of_folder(folder: &Path) -> io::Result<Self> {
        for name in FILES {
            let path = folder.join(name);
            match fs_err::metadata(&path) {
                Ok(found) if found.is_file() && found.len() <= MAX_BYTES => {
                    return Ok(Self::parse(&String::from_utf8_lossy(&fs_err::read(&path)?)));
                }
                Ok(found) if found.is_file() => {
                    return Err(io::Error::other(format!("`{}` is larger than 1 MiB", path.display())));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self::default())
    }

    fn parse(text: &str) -> Self {
        Self(text.lines().filter_map(Pattern::parse).collect())
    }

    /// Whether `path`, relative to the folder with `/` between parts, is left out. The last pattern that matches
    /// decides. What is below a folder that is left out is not asked for.
    pub(crate) fn leaves_out(&self, path: &str, is_folder: bool) -> bool {
        let parts: Vec<&str> = path.split('/').collect();
        let found =
            self.0.iter().rev().find(|pattern| {
                (is_folder || !pattern.only_folders) && matches_parts(&pattern.parts, &parts)
            });
        found.is_some_and(|pattern| !pattern.negated)
    }
}

impl Pattern {
    /// The pattern of a line, if it has one.
    fn parse(line: &str) -> Option<Self> {
        let line = line.trim_end_matches('\r');
        let line = match line.trim_end_matches(' ') {
            // A space after a backslash belongs to the name.
            trimmed if trimmed.ends_with('\\') && trimmed.len() < line.len() => &line[..=trimmed.len()],
            trimmed => trimmed,
        };
        let (negated, line) = match line.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, line),
        };
        if line.is_empty() || (!negated && line.starts_with('#')) {
            return None;
        }
        let (only_folders, line) = match line.strip_suffix('/') {
            Some(rest) => (true, rest),
            None => (false, line),
        };
        // A slash at the beginning or within binds the pattern to the top of the folder.
        let bound = line.contains('/');
        let line = line.strip_prefix('/').unwrap_or(line);
        if line.is_empty() {
            return None;
        }
        let above = (!bound).then(|| "**".to_owned());
        let parts = above.into_iter().chain(line.split('/').map(ToOwned::to_owned)).collect();
        Some(Self { negated, only_folders, parts })
    }
}

/// Whether all of `parts` is matched; a last `**` needs at least one part of its own.
fn matches_parts(pattern: &[String], parts: &[&str]) -> bool {
    // reached[i]: the patterns so far match the first i parts.
    let mut reached = vec![false; parts.len() + 1];
    reached[0] = true;
    for (n, own) in pattern.iter().enumerate() {
        let mut next = vec![false; parts.len() + 1];
        if own == "**" {
            let last = n + 1 == pattern.len();
            let mut open = false;
            for i in 0..=parts.len() {
                next[i] = if last { open } else { open || reached[i] };
                open |= reached[i];
            }
        } else {
            for i in 0..parts.len() {
                next[i + 1] = reached[i] && matches_name(own.as_bytes(), parts[i].as_bytes());
            }
        }
        reached = next;
    }
    reached[parts.len()]
}

/// `*`, `?`, `[…]` and backslashes within one name. Goes back to the last `*` only, so it takes no more steps than the
/// product of both lengths.
fn matches_name(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        let step = match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, n));
                p += 1;
                continue;
            }
            Some(b'?') => Some(p + 1),
            Some(b'[') => match class(&pattern[p..], name[n]) {
                Some((true, length)) => Some(p + length),
                Some((false, _)) => None,
                None => (name[n] == b'[').then_some(p + 1),
            },
            Some(b'\\') if pattern.get(p + 1) == Some(&name[n]) => Some(p + 2),
            Some(byte) if *byte == name[n] && *byte != b'\\' => Some(p + 1),
            _ => None,
        };
        match (step, star) {
            (Some(next), _) => {
                p = next;
                n += 1;
            }
            (None, Some((after, from))) => {
                p = after;
                n = from + 1;
                star = Some((after, n));
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// Whether a `[…]` at the beginning of `pattern` has `byte`, and how long it is; `None` if it has no end.
fn class(pattern: &[u8], byte: u8) -> Option<(bool, usize)> {
    let mut i = 1;
    let negated = matches!(pattern.get(i), Some(b'!' | b'^'));
    i += usize::from(negated);
    let first = i;
    let mut found = false;
    loop {
        let low = *pattern.get(i)?;
        if low == b']' && i > first {
            return Some((found != negated, i + 1));
        }
        let high = if pattern.get(i + 1) == Some(&b'-') && pattern.get(i + 2).is_some_and(|end| *end != b']')
        {
            i += 2;
            pattern[i]
        } else {
            low
        };
        found |= (low..=high).contains(&byte);
        i += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left_out(patterns: &str, path: &str) -> bool {
        Ignore::parse(patterns).leaves_out(path.trim_end_matches('/'), path.ends_with('/'))
    }

    #[test]
    fn patterns_mean_what_they_mean_to_git() {
        for (patterns, path, expected) in [
            ("*.pyc", "a.pyc", true),
            ("*.pyc", "lib/deep/a.pyc", true),
            ("*.pyc", "a.py", false),
            ("/data", "data/", true),
            ("/data", "lib/data/", false),
            ("data/", "data/", true),
            ("data/", "data", false),
            ("data/", "lib/data/", true),
            ("lib/data", "lib/data/", true),
            ("lib/data", "other/lib/data/", false),
            ("**/logs", "a/b/logs/", true),
            ("**/logs", "logs/", true),
            ("logs/**", "logs/a", true),
            ("logs/**", "logs/", false),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/x/y/b", true),
            ("a/**/b", "a/x/y/c", false),
            ("*", "anything/", true),
            ("*\n!keep.py", "keep.py", false),
            ("*\n!keep.py", "other.py", true),
            ("!a\na", "a", true),
            ("# comment\n\n", "# comment", false),
            ("\\#name", "#name", true),
            ("\\!name", "!name", true),
            ("name  ", "name", true),
            ("name\\ ", "name ", true),
            ("file?.txt", "file1.txt", true),
            ("file?.txt", "file/.txt", false),
            ("[a-c].txt", "b.txt", true),
            ("[!a-c].txt", "b.txt", false),
            ("[^a-c].txt", "d.txt", true),
            ("[]x].txt", "].txt", true),
            ("[abc", "[abc", true),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXcXb", false),
            ("foo/*", "foo/bar", true),
            ("foo/*", "foo/bar/baz", false),
            ("*.txt\r", "a.txt", true),
        ] {
            assert_eq!(left_out(patterns, path), expected, "{patterns:?} and {path:?}");
        }
    }

    #[test]
    fn amlignore_comes_before_gitignore() {
        let dir = tempfile::tempdir().unwrap();
        fs_err::write(dir.path().join(".gitignore"), "a\n").unwrap();
        assert!(Ignore::of_folder(dir.path()).unwrap().leaves_out("a", false));
        fs_err::write(dir.path().join(".amlignore"), "b\n").unwrap();
        let ignore = Ignore::of_folder(dir.path()).unwrap();
        assert!(!ignore.leaves_out("a", false));
        assert!(ignore.leaves_out("b", false));
    }

    #[test]
    fn a_hostile_pattern_takes_no_time_to_speak_of() {
        assert!(!left_out(&"*a".repeat(2000), &"a".repeat(1500)));
        assert!(!left_out(&format!("{}b", "**/".repeat(500)), &"a/".repeat(500)));
    }
}
