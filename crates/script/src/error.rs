//! Why a pool, or one of its workers, did not start. The text is meant for the person who wrote the script.

use std::{io, path::PathBuf, time::Duration};

use moorline_core::ErrorClass;
use thiserror::Error;

/// Why no worker could be brought to answer requests.
#[derive(Debug, Error)]
pub enum StartError {
    /// The worker's own files could not be written.
    #[error("could not prepare the folder of the script's workers")]
    Folder {
        #[source]
        source: io::Error,
    },
    /// There is no interpreter, or none that may be run.
    #[error(
        "could not run Python as `{}`: {source}; name an interpreter of Python 3.8 or later that has the packages which the script or the model needs (`--python` or MOORLINE_PYTHON)",
        python.display()
    )]
    Interpreter { python: PathBuf, source: io::Error },
    /// The folder of the code, or that of the model without code, is not there.
    #[error("the folder to be served, `{}`, does not exist", folder.display())]
    NoFolder { folder: PathBuf },
    /// The system refused a process, a socket or memory.
    #[error("could not start a process for the scoring script")]
    Spawn {
        #[from]
        source: io::Error,
    },
    /// The script could not be imported, breaks the contract, or its `init()` raised.
    #[error("the scoring script did not start:\n{reason}\n{model_dir}")]
    Script {
        /// The traceback, or what the script lacks.
        reason: String,
        /// What lies in the model directory, 200 lines at most.
        model_dir: String,
    },
    /// The process ended before the script was ready, without a word of its own.
    #[error("the scoring script's process ended while it started ({status}); its last output:\n{output}")]
    Ended { status: String, output: String },
    /// `init()` took longer than it may.
    #[error("the scoring script was not ready after {} s; its last output:\n{output}", limit.as_secs_f64())]
    Late { limit: Duration, output: String },
    /// The pool is being shut down.
    #[error("the script pool is shutting down")]
    ShuttingDown,
}

impl StartError {
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::Folder { .. } | Self::Interpreter { .. } | Self::NoFolder { .. } | Self::Spawn { .. } => {
                ErrorClass::Internal
            }
            Self::Script { .. } | Self::Ended { .. } | Self::Late { .. } => ErrorClass::Script,
            Self::ShuttingDown => ErrorClass::Unavailable,
        }
    }

    /// The error in one line, for answers to requests; the whole of it is in the log.
    pub(crate) fn summary(&self) -> String {
        match self {
            Self::Script { reason, .. } => {
                let last = reason.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
                format!("the scoring script did not start: {last}")
            }
            Self::Ended { status, .. } => {
                format!("the scoring script's process ended while it started ({status})")
            }
            Self::Late { limit, .. } => {
                format!("the scoring script was not ready after {} s", limit.as_secs_f64())
            }
            Self::Folder { source } | Self::Spawn { source } => format!("{self}: {source}"),
            Self::Interpreter { .. } | Self::NoFolder { .. } | Self::ShuttingDown => self.to_string(),
        }
    }
}
