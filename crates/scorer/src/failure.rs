//! The one place where an error becomes an exit code and the text that a person reads.

use std::{io::Write, process::ExitCode};

/// A failure of ours or of the machine.
const FAILURE: u8 = 1;
/// Settings that cannot be.
const USAGE: u8 = 2;
/// The scoring script could not be imported or its `init()` failed, as Azure ML's server has it.
const SCRIPT_FAILED: u8 = 3;

/// An error and the code to exit with.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    error: anyhow::Error,
}

impl Failure {
    pub(crate) fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self { code: USAGE, error: error.into() }
    }

    pub(crate) fn script(error: impl Into<anyhow::Error>) -> Self {
        Self { code: SCRIPT_FAILED, error: error.into() }
    }

    /// Prints the chain of causes; there may be no log to print it to.
    pub(crate) fn report(self) -> ExitCode {
        // In one piece: what keeps a container's log may take each write for a line.
        let words = format!("error: {:#}\n", self.error);
        // A standard error that is closed leaves the exit code to speak.
        let _ = std::io::stderr().write_all(words.as_bytes());
        ExitCode::from(self.code)
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { code: FAILURE, error: error.into() }
    }
}
