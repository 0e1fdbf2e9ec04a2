//! What goes wrong with images, and whose business it is.

use std::{error::Error, io};

use moorline_core::ErrorClass;
use thiserror::Error;

use super::{LayoutError, Uncompiled};
use crate::{environment::EnvironmentError, registry::RegistryError};

/// Why there is no image.
#[derive(Debug, Error)]
pub enum ImageError {
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// Packages have to be compiled in the base before the image can be made.
    #[error("{}", .0.error)]
    Uncompiled(Box<Uncompiled>),
    #[error("{message}")]
    Other {
        class: ErrorClass,
        message: String,
        #[source]
        source: Option<Box<dyn Error + Send + Sync>>,
    },
}

impl ImageError {
    pub(super) fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self::Other { class, message: message.into(), source: None }
    }

    /// What somebody gave cannot be used.
    pub(super) fn refused(message: impl Into<String>) -> Self {
        Self::new(ErrorClass::InvalidInput, message)
    }

    pub(super) fn caused(
        class: ErrorClass,
        message: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::Other { class, message: message.into(), source: Some(source.into()) }
    }

    pub(super) fn io(message: impl Into<String>, source: io::Error) -> Self {
        Self::caused(class_of(&source), message, source)
    }

    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Layout(LayoutError::Io { source, .. }) => class_of(source),
            Self::Layout(LayoutError::Missing(_)) => ErrorClass::NotFound,
            Self::Layout(_) => ErrorClass::Internal,
            Self::Registry(error) => error.class(),
            Self::Environment(error) => error.class(),
            Self::Uncompiled(uncompiled) => uncompiled.error.class(),
            Self::Other { class, .. } => *class,
        }
    }
}

fn class_of(error: &io::Error) -> ErrorClass {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorClass::Unavailable,
        _ => ErrorClass::Internal,
    }
}
