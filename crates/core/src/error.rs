//! The closed set of error classes. A crate classifies near the cause; one file per binary turns the class into
//! an HTTP status, a gRPC code or an exit code, and a metric label is [`ErrorClass::as_str`]. Nothing in between
//! names HTTP.

use std::fmt;

/// What kind of failure this is, from the point of view of whoever must act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// The caller sent something that can never work; sending it again will not help.
    InvalidInput,
    /// The caller is not known here, or not any more.
    Unauthenticated,
    /// The caller is known and may not do this.
    Forbidden,
    /// The named thing does not exist.
    NotFound,
    /// The thing exists already, or was changed since it was read.
    Conflict,
    /// The input is beyond a configured bound.
    TooLarge,
    /// The server has more work than it may queue; try again later.
    Overloaded,
    /// The deadline passed.
    Timeout,
    /// The caller went away.
    Cancelled,
    /// The thing is understood and not offered.
    Unsupported,
    /// The server cannot do this now (starting, draining, restarting a worker).
    Unavailable,
    /// The user's own code or model failed.
    Script,
    /// A defect of ours or of the machine.
    Internal,
}

impl ErrorClass {
    /// The label for logs and metrics; a closed set, never derived from input.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidInput => "invalid_input",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::TooLarge => "too_large",
            Self::Overloaded => "overloaded",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::Unsupported => "unsupported",
            Self::Unavailable => "unavailable",
            Self::Script => "script",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
