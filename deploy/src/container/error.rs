//! What an Engine could not do, and whose business it is.

use std::error::Error as StdError;

use bollard::errors::Error as Bollard;
use moorline_core::{ErrorClass, TargetError};
use thiserror::Error;

use super::HostError;
use crate::{failure::one_line, image::ImageError};

type Source = Box<dyn StdError + Send + Sync>;

/// Why an Engine did not do what it was asked for.
#[derive(Debug, Error)]
#[error("{message}")]
pub struct EngineError {
    class: ErrorClass,
    message: String,
    log: Vec<String>,
    #[source]
    source: Option<Source>,
}

impl EngineError {
    pub(super) fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), log: Vec::new(), source: None }
    }

    pub(super) fn caused(class: ErrorClass, message: impl Into<String>, source: impl Into<Source>) -> Self {
        Self { source: Some(source.into()), ..Self::new(class, message) }
    }

    /// `what` was asked for, as in "could not pull `a/b`", and this came of it.
    pub(super) fn of(what: &str, error: Bollard) -> Self {
        let Some(said) = said(&error) else {
            let class = match &error {
                Bollard::RequestTimeoutError => ErrorClass::Timeout,
                _ => ErrorClass::Unavailable,
            };
            return Self::caused(class, what, error);
        };
        let class = class_of(&said);
        let hint = match class {
            ErrorClass::TooLarge => "; make room on the Engine's disk",
            _ => "",
        };
        Self::new(class, format!("{what}: {}{hint}", one_line(said.message)))
    }

    /// What a build's steps did wrong is its author's; what the Engine could not do stays as it is.
    pub(super) fn in_build(self) -> Self {
        match self.class {
            ErrorClass::Unavailable if self.source.is_none() => {
                Self { class: ErrorClass::InvalidInput, ..self }
            }
            _ => self,
        }
    }

    /// What the Engine says to the start of a container.
    pub(super) fn of_start(error: Bollard) -> Self {
        match said(&error) {
            // An image's own fault, which Podman answers as if it were the Engine's.
            Some(said)
                if ["exec: \"", "exec format error", "executable file"]
                    .iter()
                    .any(|words| said.message.contains(words)) =>
            {
                Self::new(
                    ErrorClass::InvalidInput,
                    format!("the image's entrypoint cannot be run: {}", one_line(said.message)),
                )
            }
            _ => Self::of("the Engine could not start the container", error),
        }
    }

    /// Whether the Engine, or what it asked, has said this; it may have been out of reach.
    pub(super) fn was_heard(&self) -> bool {
        self.source.is_none() || !matches!(self.class, ErrorClass::Unavailable | ErrorClass::Timeout)
    }

    pub(super) fn with_log(self, log: Vec<String>) -> Self {
        Self { log, ..self }
    }

    pub fn class(&self) -> ErrorClass {
        self.class
    }

    /// The last lines of what failed, oldest first, where it printed any.
    pub fn log(&self) -> &[String] {
        &self.log
    }
}

impl From<HostError> for EngineError {
    fn from(error: HostError) -> Self {
        Self::new(ErrorClass::InvalidInput, error.to_string())
    }
}

impl From<ImageError> for EngineError {
    fn from(error: ImageError) -> Self {
        Self::caused(error.class(), "the image could not be read from the store of images", error)
    }
}

impl From<EngineError> for TargetError {
    fn from(error: EngineError) -> Self {
        Self { class: error.class, message: error.message, log: error.log, source: error.source }
    }
}

/// What the Engine itself said; `None` where it said nothing, because it was not reached.
struct Said<'a> {
    status: Option<u16>,
    message: &'a str,
}

fn said(error: &Bollard) -> Option<Said<'_>> {
    match error {
        Bollard::DockerResponseServerError { status_code, message } => {
            Some(Said { status: Some(*status_code), message })
        }
        Bollard::DockerStreamError { error } => Some(Said { status: None, message: error }),
        _ => None,
    }
}

/// Engines say most things in words alone, so the words decide before the status does.
fn class_of(said: &Said<'_>) -> ErrorClass {
    let words = said.message.to_ascii_lowercase();
    let says = |any: &[&str]| any.iter().any(|part| words.contains(part));
    if says(&["no space left on device", "disk quota exceeded"]) {
        ErrorClass::TooLarge
    } else if says(&["port is already allocated", "address already in use"]) {
        ErrorClass::Conflict
    } else if says(&["unauthorized", "authentication required", "no basic auth credentials"]) {
        ErrorClass::Unauthenticated
    } else if says(&["access denied", "denied:", "forbidden"]) {
        ErrorClass::Forbidden
    } else if says(&["manifest unknown", "not found", "no such image"]) {
        ErrorClass::NotFound
    } else {
        match said.status {
            Some(400) => ErrorClass::InvalidInput,
            Some(404) => ErrorClass::NotFound,
            Some(409) => ErrorClass::Conflict,
            Some(501) => ErrorClass::Unsupported,
            _ => ErrorClass::Unavailable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_engines_say_is_told_apart() {
        let class = |status_code, message: &str| {
            let message = message.to_owned();
            EngineError::of("could not", Bollard::DockerResponseServerError { status_code, message }).class()
        };
        assert_eq!(class(500, "write /a: no space left on device"), ErrorClass::TooLarge);
        assert_eq!(
            class(500, "Bind for 127.0.0.1:1 failed: port is already allocated"),
            ErrorClass::Conflict
        );
        assert_eq!(class(404, "manifest for a:b not found: manifest unknown"), ErrorClass::NotFound);
        assert_eq!(class(500, "Get …: unauthorized: authentication required"), ErrorClass::Unauthenticated);
        assert_eq!(class(404, "pull access denied for a, repository does not exist"), ErrorClass::Forbidden);
        assert_eq!(class(400, "invalid reference format"), ErrorClass::InvalidInput);
        assert_eq!(class(500, "something else"), ErrorClass::Unavailable);
        let stream =
            EngineError::of("could not pull `a`", Bollard::DockerStreamError { error: "gone\n".into() });
        assert_eq!(stream.to_string(), "could not pull `a`: gone");
    }
}
