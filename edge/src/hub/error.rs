//! Why a hub does not start, or does not do what it was asked for.

use std::{io, path::PathBuf};

use moorline_core::ErrorClass;
use thiserror::Error;

use super::{identity::ClientId, identity::IdentitiesError, twin::TwinError};
use crate::disk::DiskError;

/// A failure of a hub.
#[derive(Debug, Error)]
pub enum HubError {
    #[error("the hub's disk failed")]
    Disk(#[from] DiskError),
    #[error("could not listen on `{address}`")]
    Listen { address: std::net::SocketAddr, source: io::Error },
    #[error("could not read `{}`", path.display())]
    Pem { path: PathBuf, source: rustls::pki_types::pem::Error },
    #[error("`{}` holds no certificate", .0.display())]
    NoCertificate(PathBuf),
    #[error("the key in `{}` is not that of the certificate", path.display())]
    Key { path: PathBuf, source: rustls::Error },
    #[error("the authorities in `{}` cannot be used", path.display())]
    Authorities { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("TLS could not be set up")]
    Tls(#[source] rustls::Error),
    #[error("the hub's metrics could not be registered")]
    Metrics(#[from] prometheus::Error),
    #[error("could not start the thread that writes")]
    Thread(#[source] io::Error),
    #[error("identities could not be looked up")]
    Identities(#[from] IdentitiesError),
    #[error("the twin of `{id}` was not changed")]
    Twin { id: ClientId, source: TwinError },
    #[error("the twin of `{0}` cannot be read back; delete and create it")]
    DamagedTwin(ClientId),
    #[error("`{0}` names no device")]
    UnknownClient(String),
    #[error("`{0}` is a module; messages from the cloud go to devices")]
    NotADevice(ClientId),
    #[error("the message is longer than {0} bytes, or its properties are")]
    MessageTooLong(usize),
    #[error("the queue of `{0}` is full")]
    QueueFull(ClientId),
}

impl HubError {
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Twin { source: TwinError::Version { .. }, .. } => ErrorClass::Conflict,
            Self::Twin { source: TwinError::TooLong { .. }, .. } | Self::MessageTooLong(_) => {
                ErrorClass::TooLarge
            }
            Self::Twin { .. } | Self::NotADevice(_) | Self::UnknownClient(_) => ErrorClass::InvalidInput,
            Self::QueueFull(_) => ErrorClass::Overloaded,
            Self::Identities(_) | Self::Disk(DiskError::Closed) => ErrorClass::Unavailable,
            _ => ErrorClass::Internal,
        }
    }
}
