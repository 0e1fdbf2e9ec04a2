//! What can go wrong with a registry, in words for people, and the class that each belongs to.

use std::{io, path::PathBuf, time::Duration};

use moorline_core::{Digest, ErrorClass};
use thiserror::Error;

use super::Platform;
use crate::image::LayoutError;

/// Why a registry could not be used. No credential is in any of them.
#[derive(Debug, Error)]
pub enum RegistryError {
    #[error("the settings of registry `{host}` cannot be used: {why}")]
    Settings { host: String, why: String },
    #[error("the certificates of registry `{host}` in `{}` cannot be read", .path.display())]
    Certificates {
        host: String,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "connections to registry `{host}` cannot be set up; see its `ca` in registries.yml, or install `ca-certificates`"
    )]
    Client {
        host: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("Docker's settings in `{}` cannot be read", .path.display())]
    DockerConfig {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the credential helper `{program}` gave nothing for registry `{host}`: {why}")]
    Helper { program: String, host: String, why: String },
    #[error("registry `{host}` could not be reached to {action}")]
    Unreachable {
        host: String,
        action: String,
        #[source]
        source: reqwest::Error,
    },
    #[error(
        "registry `{host}` shows a certificate that is not trusted; its `ca` in registries.yml names one to trust"
    )]
    Untrusted {
        host: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("registry `{host}` said nothing for {} s when asked to {action}", .after.as_secs())]
    Stalled { host: String, action: String, after: Duration },
    #[error("registry `{host}` refused to {action}: {status}{said}{hint}")]
    Refused {
        host: String,
        action: String,
        status: http::StatusCode,
        /// What the registry said beside the status: empty, or begins with `: `.
        said: String,
        /// What to do about it: empty, or begins with `; `.
        hint: String,
    },
    #[error("registry `{host}` has no {what}")]
    NotFound { host: String, what: String },
    /// It does not do as the specification says.
    #[error("registry `{host}` gave a wrong answer when asked to {action}: {why}")]
    Protocol { host: String, action: String, why: String },
    #[error(
        "registry `{host}` sent something else as {what} {expected}: its digest is {actual}; nothing of it was kept"
    )]
    Corrupt { host: String, what: &'static str, expected: Digest, actual: Digest },
    #[error(
        "registry `{host}` sent {actual} bytes of blob {blob}, where {expected} were announced; nothing of it was kept"
    )]
    Length { host: String, blob: Digest, expected: u64, actual: u64 },
    #[error("{what} of `{image}` is beyond a bound: {why}")]
    TooLarge { image: String, what: &'static str, why: String },
    #[error("`{image}` is of a kind that is not supported: {kind}; {hint}")]
    Kind { image: String, kind: String, hint: &'static str },
    #[error("`{image}` has no image for {wanted}; it has {}", .has.join(", "))]
    NoPlatform { image: String, wanted: Platform, has: Vec<String> },
    #[error("`{image}` cannot be the name of {digest}: its digest is another")]
    OtherDigest { image: String, digest: Digest },
    #[error(
        "`{0}` stands for no registry: its images were never pushed, and are in this server's own store only"
    )]
    Unpushed(&'static str),
    #[error("`{0}` names no digest, and what refers to it is asked for by digest")]
    NoDigest(String),
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error("work on the disk was given up")]
    Blocking(#[from] tokio::task::JoinError),
}

impl RegistryError {
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Settings { .. } | Self::OtherDigest { .. } | Self::NoDigest(_) => ErrorClass::InvalidInput,
            Self::Certificates { .. } | Self::Client { .. } | Self::DockerConfig { .. } => {
                ErrorClass::InvalidInput
            }
            Self::Helper { .. } => ErrorClass::Unauthenticated,
            Self::Unreachable { .. } | Self::Untrusted { .. } => ErrorClass::Unavailable,
            Self::Stalled { .. } => ErrorClass::Timeout,
            Self::Refused { status, .. } => match status.as_u16() {
                401 => ErrorClass::Unauthenticated,
                403 => ErrorClass::Forbidden,
                404 => ErrorClass::NotFound,
                405 | 501 => ErrorClass::Unsupported,
                408 | 504 => ErrorClass::Timeout,
                409 | 412 => ErrorClass::Conflict,
                413 => ErrorClass::TooLarge,
                429 => ErrorClass::Overloaded,
                500.. => ErrorClass::Unavailable,
                _ => ErrorClass::InvalidInput,
            },
            Self::NotFound { .. } | Self::NoPlatform { .. } | Self::Unpushed(_) => ErrorClass::NotFound,
            // What came is not what was published: neither the caller nor this server can help it.
            Self::Protocol { .. } | Self::Corrupt { .. } | Self::Length { .. } => ErrorClass::Internal,
            Self::TooLarge { .. } => ErrorClass::TooLarge,
            Self::Kind { .. } => ErrorClass::Unsupported,
            Self::Layout(LayoutError::Missing(_)) => ErrorClass::NotFound,
            Self::Layout(_) | Self::Blocking(_) => ErrorClass::Internal,
        }
    }
}
