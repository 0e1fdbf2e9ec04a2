//! What is wrong in a document, said as a good compiler would: place, what it is, what was expected, what to do.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Whether a document is refused for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Error,
    Warning,
}

/// One finding. `Display` is one line, `deployment.yml:7:3: unknown key …; did you mean …?`; the alternate form (`{:#}`)
/// adds the line of the file with a mark below the place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    pub severity: Severity,
    /// The file, or `--set …`; none for the body of a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// 1 is the first; 0 where there is no text.
    #[serde(default)]
    pub line: u32,
    /// In characters, 1 is the first.
    #[serde(default)]
    pub column: u32,
    /// Where in the document: `scale_settings.type`, `tags.team`, `dependencies[2]`; empty for the whole of it.
    #[serde(default)]
    pub path: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The line of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub excerpt: Option<String>,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) if self.line > 0 => {
                write!(f, "{}:{}:{}: ", file.display(), self.line, self.column)?;
            }
            Some(file) => write!(f, "{}: ", file.display())?,
            None if self.path.is_empty() => {}
            None => write!(f, "{}: ", self.path)?,
        }
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        f.write_str(&self.message)?;
        if let Some(expected) = &self.expected {
            write!(f, "; expected {expected}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "; {hint}")?;
        }
        if f.alternate()
            && let Some(excerpt) = &self.excerpt
        {
            let number = self.line.to_string();
            let margin = " ".repeat(number.len());
            let indent = " ".repeat(self.column.saturating_sub(1) as usize);
            write!(f, "\n {margin} |\n {number} | {excerpt}\n {margin} | {indent}^")?;
        }
        Ok(())
    }
}

/// All that was found in a document that is refused, in the order of the text; warnings are among it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    pub(crate) fn new(found: Vec<Diagnostic>) -> Self {
        Self(found)
    }

    pub fn as_slice(&self) -> &[Diagnostic] {
        &self.0
    }

    pub fn into_vec(self) -> Vec<Diagnostic> {
        self.0
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            fmt::Display::fmt(diagnostic, f)?;
        }
        Ok(())
    }
}
