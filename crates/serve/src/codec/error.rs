//! What can be wrong with a request, told so that its author can find the place and mend it.

use std::borrow::Cow;

use moorline_core::ErrorClass;
use thiserror::Error;

/// Why a body could not be decoded, or an answer not be encoded in the protocol that was asked for.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CodecError {
    #[error("the body is not valid JSON: {reason} at line {line} column {column}")]
    Json { reason: Cow<'static, str>, line: usize, column: usize },
    #[error("the JSON nests deeper than {limit} levels at line {line} column {column}")]
    TooDeep { limit: usize, line: usize, column: usize },
    /// One element does not fit its tensor; `path` are its indices, `[2][0]`.
    #[error("input `{name}`{path}: {reason} (line {line} column {column})")]
    Element { name: String, path: String, reason: String, line: usize, column: usize },
    /// A tensor as a whole does not fit.
    #[error("input `{name}`: {reason}")]
    Tensor { name: String, reason: String },
    /// The request around the tensors does not fit the protocol or the model.
    #[error("{0}")]
    Request(String),
    /// Understood, and not offered.
    #[error("{0}")]
    Unsupported(String),
}

impl CodecError {
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::Json { .. } | Self::Element { .. } | Self::Tensor { .. } | Self::Request(_) => {
                ErrorClass::InvalidInput
            }
            Self::TooDeep { .. } => ErrorClass::TooLarge,
            Self::Unsupported(_) => ErrorClass::Unsupported,
        }
    }

    pub(super) fn tensor(name: &str, reason: impl Into<String>) -> Self {
        Self::Tensor { name: name.to_owned(), reason: reason.into() }
    }

    /// Tells an error of an element which tensor it belongs to and where in that tensor its own path begins.
    #[cold]
    pub(super) fn within(mut self, tensor: &str, prefix: &str) -> Self {
        if let Self::Element { name, path, .. } = &mut self {
            tensor.clone_into(name);
            path.insert_str(0, prefix);
        }
        self
    }
}

/// `` `a`, `b` and `c` `` for messages.
pub(super) fn name_list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match names.split_last() {
        None => "nothing".to_owned(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}

/// The first characters of `text`, so that a message never repeats a whole body.
pub(super) fn excerpt(text: &str) -> Cow<'_, str> {
    const LENGTH: usize = 40;
    match text.char_indices().nth(LENGTH) {
        None => Cow::Borrowed(text),
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
    }
}
