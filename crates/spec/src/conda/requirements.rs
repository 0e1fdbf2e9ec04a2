//! Lines for pip. An environment travels without the folder that its conda file lay in, so files that are included are
//! read now, and what only a folder could give is refused.

use std::path::Path;

use thiserror::Error;

use crate::{
    source::{SourceError, SourceFile, read_file},
    yaml::shown,
};

/// Requirement files that include one another.
const MAX_DEPTH: usize = 8;
const MAX_LINES: usize = 10_000;

/// What one line stands for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Expanded {
    pub(super) lines: Vec<String>,
    pub(super) included: bool,
}

#[derive(Debug, Error)]
pub(super) enum RequirementsError {
    #[error(transparent)]
    File(SourceError),
    #[error("`{line}` includes a file, and the folder of the conda file is not here")]
    NoFolder { line: String },
    #[error("requirement files include one another more than {MAX_DEPTH} deep")]
    Depth,
    #[error("more than {MAX_LINES} requirements")]
    Lines,
    #[error("`{line}`{place} names a constraints file, which an environment cannot carry")]
    Constraints { line: String, place: String },
    #[error("`{line}`{place} is a path, and an environment travels without its folder")]
    Path { line: String, place: String },
}

impl RequirementsError {
    pub(super) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Constraints { .. } => Some("write the constraints into the requirements themselves"),
            Self::Path { .. } => Some("put the package on an index, or its source beside the scoring script"),
            Self::NoFolder { .. } => Some("write the requirements themselves instead"),
            Self::File(_) | Self::Depth | Self::Lines => None,
        }
    }
}

/// Reads one line of a `pip:` list; `folder` is the conda file's, where there is one.
pub(super) fn expand(line: &str, folder: Option<&Path>) -> Result<Expanded, RequirementsError> {
    let mut expanded = Expanded::default();
    one(line.trim(), folder, "", 0, &mut expanded)?;
    Ok(expanded)
}

fn one(
    line: &str,
    folder: Option<&Path>,
    place: &str,
    depth: usize,
    expanded: &mut Expanded,
) -> Result<(), RequirementsError> {
    if let Some(path) = option(line, "-r", "--requirement") {
        let Some(folder) = folder else { return Err(RequirementsError::NoFolder { line: shown(line) }) };
        if depth >= MAX_DEPTH {
            return Err(RequirementsError::Depth);
        }
        expanded.included = true;
        let file = read_file(&folder.join(path)).map_err(RequirementsError::File)?;
        return every(&file, depth + 1, expanded);
    }
    let (line_shown, place) = (shown(line), place.to_owned());
    if option(line, "-c", "--constraint").is_some() {
        return Err(RequirementsError::Constraints { line: line_shown, place });
    }
    let editable = option(line, "-e", "--editable");
    let target = editable.unwrap_or(line);
    let is_path = target.starts_with(['.', '/', '~', '\\']) || target.starts_with("file:");
    if is_path || (editable.is_some() && !target.contains("://")) {
        return Err(RequirementsError::Path { line: line_shown, place });
    }
    if expanded.lines.len() >= MAX_LINES {
        return Err(RequirementsError::Lines);
    }
    expanded.lines.push(line.to_owned());
    Ok(())
}

/// The lines of a requirement file: continued ones joined, comments left out.
fn every(file: &SourceFile, depth: usize, expanded: &mut Expanded) -> Result<(), RequirementsError> {
    let folder = file.folder();
    let mut joined = String::new();
    let mut lines = file.text.lines().enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        let more = lines.peek().is_some();
        if let Some(begun) = line.strip_suffix('\\').filter(|_| more) {
            joined.push_str(begun);
            continue;
        }
        joined.push_str(line);
        let whole = std::mem::take(&mut joined);
        let line = without_comment(&whole).trim();
        if !line.is_empty() {
            let place = format!(" ({}:{})", file.name.display(), number + 1);
            one(line, Some(folder), &place, depth, expanded)?;
        }
    }
    Ok(())
}

/// A `#` begins a comment at the start of a line or behind a space; in `git+https://…#egg=x` it does not.
fn without_comment(line: &str) -> &str {
    let bytes = line.as_bytes();
    let comment = bytes
        .iter()
        .enumerate()
        .find(|(at, byte)| **byte == b'#' && (*at == 0 || bytes[at - 1].is_ascii_whitespace()))
        .map(|(at, _)| at);
    comment.map_or(line, |at| &line[..at])
}

/// The value of an option of pip: `-r x`, `-rx`, `--requirement x`, `--requirement=x`.
fn option<'l>(line: &'l str, short: &str, long: &str) -> Option<&'l str> {
    let value = match line.strip_prefix(long) {
        Some(rest) => rest.strip_prefix(['=', ' ', '\t'])?,
        None => line.strip_prefix(short).filter(|_| !line.starts_with("--"))?,
    };
    Some(value.trim()).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn included_files_stand_where_they_were_included() {
        let folder = tempfile::tempdir().unwrap();
        fs_err::create_dir(folder.path().join("more")).unwrap();
        let text =
            "# all\nnumpy==2.0  # pinned\npandas>=2,\\\n  <3\n\n-r more/b.txt\nx @ git+https://h/x#egg=x\n";
        fs_err::write(folder.path().join("a.txt"), text).unwrap();
        fs_err::write(folder.path().join("more/b.txt"), "--extra-index-url https://h/simple\nb\n").unwrap();
        let expanded = expand("-r a.txt", Some(folder.path())).unwrap();
        assert!(expanded.included);
        assert_eq!(
            expanded.lines,
            [
                "numpy==2.0",
                "pandas>=2,  <3",
                "--extra-index-url https://h/simple",
                "b",
                "x @ git+https://h/x#egg=x"
            ]
        );
        for same in ["-ra.txt", "--requirement a.txt", "--requirement=a.txt"] {
            assert_eq!(expand(same, Some(folder.path())).unwrap(), expanded, "{same}");
        }
    }

    #[test]
    fn what_only_a_folder_could_give_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs_err::write(folder.path().join("loop.txt"), "-r loop.txt\n").unwrap();
        fs_err::write(folder.path().join("path.txt"), "numpy\n./wheels/x.whl\n").unwrap();
        let refusal = |line: &str| {
            let text = expand(line, Some(folder.path())).unwrap_err().to_string();
            text.replace(&folder.path().display().to_string(), "DIR")
        };
        insta::assert_snapshot!(refusal("-r absent.txt"), @"`DIR/absent.txt` does not exist");
        insta::assert_snapshot!(refusal("-r loop.txt"), @"requirement files include one another more than 8 deep");
        insta::assert_snapshot!(refusal("-r path.txt"), @"`./wheels/x.whl` (DIR/path.txt:2) is a path, and an environment travels without its folder");
        insta::assert_snapshot!(refusal("-c constraints.txt"), @"`-c constraints.txt` names a constraints file, which an environment cannot carry");
        insta::assert_snapshot!(refusal("-e ."), @"`-e .` is a path, and an environment travels without its folder");
        insta::assert_snapshot!(expand("-r a.txt", None).unwrap_err().to_string(), @"`-r a.txt` includes a file, and the folder of the conda file is not here");
        assert_eq!(expand("-e git+https://h/x", None).unwrap().lines, ["-e git+https://h/x"]);
        assert_eq!(expand("--pre", None).unwrap().lines, ["--pre"]);
    }
}
