//! What the process says when it ends: three codes, and the words on standard error that go with two of them.

use std::{fmt::Write as _, io::Write as _, process::ExitCode};

use thiserror::Error;

use crate::screen::Screen;

/// It worked.
pub(crate) const SUCCESS: u8 = 0;
/// What was asked for could not be done, or did not come out well.
pub(crate) const FAILURE: u8 = 1;
/// The command line itself was not understood. clap ends with the same code.
pub(crate) const USAGE: u8 = 2;

/// An error with what helps to get past it. Everything else that reaches `main` is printed as its chain of causes.
#[derive(Debug, Error)]
#[error("{message}")]
pub(crate) struct Explained {
    pub(crate) message: String,
    /// Whole paragraphs, printed as they are below the message.
    pub(crate) details: Vec<String>,
    pub(crate) hints: Vec<String>,
    pub(crate) code: u8,
    /// The status with which the server refused, if it did.
    pub(crate) status: Option<u16>,
}

impl Explained {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), details: Vec::new(), hints: Vec::new(), code: FAILURE, status: None }
    }

    /// A command line that clap could not know to be wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { code: USAGE, ..Self::new(message) }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    pub(crate) fn detail(mut self, detail: impl Into<String>) -> Self {
        self.details.push(detail.into());
        self
    }
}

/// Prints an error as `error: …`, its details, and a `hint: …` for each hint; returns the exit code.
pub(crate) fn report(error: &anyhow::Error, screen: &Screen) -> ExitCode {
    // Given as context it is no link of the chain, and as an error it is.
    let context = error.downcast_ref::<Explained>();
    let explained = context.or_else(|| error.chain().find_map(|cause| cause.downcast_ref()));
    let mut text = format!("{} {error:#}\n", screen.red("error:"));
    for detail in explained.into_iter().flat_map(|explained| &explained.details) {
        text.push_str(detail);
        text.push('\n');
    }
    for hint in explained.into_iter().flat_map(|explained| &explained.hints) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{} {hint}", screen.cyan("hint:"));
    }
    // A standard error that is closed leaves the exit code to speak.
    let _ = std::io::stderr().write_all(text.as_bytes());
    ExitCode::from(explained.map_or(FAILURE, |explained| explained.code))
}
