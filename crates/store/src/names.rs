//! The rules for names and the bounds of everything that is stored, in one place.

use moorline_core::{FileEntry, Name};
use serde_json::Value;

use crate::StoreError;

/// A document's text as JSON, at most.
pub(crate) const MAX_BODY: usize = 4 * 1024 * 1024;
/// Files of one asset, at most.
pub(crate) const MAX_FILES: usize = 100_000;
/// A file's path, at most: what Linux takes.
pub(crate) const MAX_PATH: usize = 4096;
/// A secret's value, at most: what Linux takes as one environment variable, and room for its name.
pub(crate) const MAX_SECRET: usize = 120 * 1024;
/// A secret's key, at most.
pub(crate) const MAX_KEY: usize = 1024;
/// Entries of one page, at most; a larger limit is taken as this one.
pub(crate) const MAX_PAGE: usize = 1000;

/// What names are compared by: two names that differ only in case are the same name.
pub(crate) fn key(name: &str) -> String {
    name.to_ascii_lowercase()
}

/// A version is written as a name is.
pub(crate) fn check_version(version: &str) -> Result<(), StoreError> {
    match version.parse::<Name>() {
        Ok(_) if version.eq_ignore_ascii_case("latest") => {
            Err(StoreError::invalid("version `latest`", "it is the word for the newest version"))
        }
        Ok(_) => Ok(()),
        Err(_) => Err(StoreError::invalid(
            format!("version `{}`", version.chars().take(300).collect::<String>()),
            "versions are 1 to 255 letters, digits, `-`, `_` and `.`, and begin with a letter, a digit or `_`",
        )),
    }
}

/// The text of a document.
pub(crate) fn json(what: &'static str, value: &Value) -> Result<String, StoreError> {
    let text = value.to_string();
    check_size(what, text.len(), "bytes", MAX_BODY)?;
    Ok(text)
}

/// A document that this store wrote.
pub(crate) fn parse(text: &str) -> Result<Value, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::unreadable(format!("JSON ({error})")))
}

pub(crate) fn check_size(
    what: &'static str,
    size: usize,
    unit: &'static str,
    limit: usize,
) -> Result<(), StoreError> {
    if size > limit {
        return Err(StoreError::TooLarge { what, size: size as u64, unit, limit: limit as u64 });
    }
    Ok(())
}

/// Refuses files that could leave the folder they are written to, and files listed twice.
pub(crate) fn check_files(files: &[FileEntry]) -> Result<(), StoreError> {
    check_size("the list of files", files.len(), "files", MAX_FILES)?;
    let mut seen = std::collections::HashSet::new();
    for FileEntry { path, .. } in files {
        check_size("the path of a file", path.len(), "bytes", MAX_PATH)?;
        if path.contains(['\\', '\0']) || path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(StoreError::invalid(
                format!("path `{path}`"),
                "paths are relative, with `/` between parts and neither `.` nor `..` among them",
            ));
        }
        if !seen.insert(path) {
            return Err(StoreError::invalid(format!("path `{path}`"), "it is listed twice"));
        }
    }
    Ok(())
}

/// A key of secrets: any text without control characters.
pub(crate) fn check_key(text: &str) -> Result<(), StoreError> {
    check_size("the name of a secret", text.len(), "bytes", MAX_KEY)?;
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(StoreError::invalid("the name of a secret", "it is empty or has control characters"));
    }
    Ok(())
}
