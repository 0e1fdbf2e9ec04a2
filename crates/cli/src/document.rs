//! Documents of the command line: a file, what `--set` and the flags change in it, and what is wrong with it, shown as a
//! compiler would.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::Args;
use moorline_spec::{
    Diagnostic, Document, Override, OverrideError, SourceError, SourceFile, load, read_file,
};
use serde_json::Value;

use crate::{exit::Explained, screen::Screen};

/// `-f` and `--set`.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct DocumentFlags {
    /// The YAML file that describes it
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Change a value of the document; may be repeated
    #[arg(long, num_args = 1.., value_name = "PATH=VALUE", value_parser = parse_override)]
    set: Vec<Override>,
}

fn parse_override(text: &str) -> Result<Override, OverrideError> {
    Override::parse(text)
}

impl DocumentFlags {
    pub(crate) fn of_file(file: Option<PathBuf>) -> Self {
        Self { file, set: Vec::new() }
    }

    pub(crate) fn changed_by(mut self, set: Vec<Override>) -> Self {
        self.set.extend(set);
        self
    }

    /// Reads the document; `flags` win over `--set`, which wins over the file.
    pub(crate) fn read<T: Document>(&self, flags: Flags, screen: &Screen) -> anyhow::Result<T> {
        let source = match &self.file {
            // Of a file that is not there, the operating system has nothing to add.
            Some(path) => read_file(path).map_err(|error| match error {
                SourceError::Missing { .. } => Explained::new(error.to_string()).into(),
                other => anyhow::Error::from(other),
            })?,
            // Without a file, everything comes from flags.
            None => SourceFile::new("", "{}"),
        };
        let overrides: Vec<Override> = self.set.iter().cloned().chain(flags.0).collect();
        match load::<T>(&source, &overrides) {
            Ok(loaded) => {
                for warning in &loaded.warnings {
                    screen.warn(plain_warning(warning));
                }
                Ok(loaded.document)
            }
            Err(diagnostics) => {
                let found = diagnostics.as_slice();
                let name = match &self.file {
                    Some(path) => format!("`{}`", path.display()),
                    None => format!("this {}", T::KIND),
                };
                let mut explained = Explained::new(format!("{name} cannot be used"));
                for diagnostic in found {
                    explained = explained.detail(shown(diagnostic, screen));
                }
                if found.iter().any(of_no_file) {
                    explained = explained.hint("a flag can give it, or a YAML file with -f");
                }
                Err(explained.into())
            }
        }
    }
}

/// The values of a verb's own flags, by the keys of the document.
#[derive(Debug, Default)]
pub(crate) struct Flags(Vec<Override>);

impl Flags {
    /// Adds a flag that was given.
    pub(crate) fn with(mut self, flag: &str, key: &str, value: Option<impl Into<Value>>) -> Self {
        self.0.extend(value.map(|value| Override::flag(flag, key, value.into())));
        self
    }

    /// Adds a path, which starts from the current folder, not from the document's.
    pub(crate) fn with_path(self, flag: &str, key: &str, path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(self) };
        let absolute =
            std::path::absolute(path).with_context(|| format!("`{}` is not a path", path.display()))?;
        let Some(text) = absolute.to_str() else {
            return Err(Explained::usage(format!("`{}` is not text", path.display())).into());
        };
        Ok(self.with(flag, key, Some(text)))
    }

    /// Adds an object of pairs, in place of the document's.
    pub(crate) fn with_pairs(self, flag: &str, key: &str, pairs: &[(String, String)]) -> Self {
        let object = (!pairs.is_empty()).then(|| {
            let pairs = pairs.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str())));
            Value::Object(pairs.collect())
        });
        self.with(flag, key, object)
    }
}

/// `a=b`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

/// `version`: a text that can stand in an address.
pub(crate) fn version(text: &str) -> Result<String, String> {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if (1..=255).contains(&text.len()) && text.chars().all(inner) && !matches!(text, "." | "..") {
        Ok(text.to_owned())
    } else {
        Err("versions are 1 to 255 letters, digits, `-`, `_` and `.`".to_owned())
    }
}

/// A warning without the word that the screen puts before it.
fn plain_warning(warning: &Diagnostic) -> String {
    warning.to_string().replacen("warning: ", "", 1)
}

/// Whether it is about the document that flags alone make.
fn of_no_file(diagnostic: &Diagnostic) -> bool {
    diagnostic.file.as_ref().is_some_and(|file| file.as_os_str().is_empty())
}

/// A diagnostic with the line of the file, its mark in colour.
fn shown(diagnostic: &Diagnostic, screen: &Screen) -> String {
    if of_no_file(diagnostic) {
        // There is no line that could be shown.
        return Diagnostic { file: None, excerpt: None, path: String::new(), ..diagnostic.clone() }
            .to_string();
    }
    let text = format!("{diagnostic:#}");
    match text.rsplit_once('^') {
        Some((before, "")) if diagnostic.excerpt.is_some() => {
            let mut marked = before.to_owned();
            // Writing to a string cannot fail.
            let _ = write!(marked, "{}", screen.red("^"));
            marked
        }
        _ => text,
    }
}
