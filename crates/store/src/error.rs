//! What can go wrong with the workspace's memory, said so that whoever reads it knows what to do.

use moorline_core::{Digest, ErrorClass};
use sqlx::error::DatabaseError;
use thiserror::Error;

/// Whatever a driver said.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why the store did not do something. After an error nothing of the call has happened, except where a variant says
/// otherwise.
#[derive(Debug, Error)]
pub enum StoreError {
    #[error("{noun} `{name}` does not exist")]
    NotFound { noun: &'static str, name: String },
    #[error("{noun} `{name}` exists already")]
    Exists { noun: &'static str, name: String },
    #[error("{noun} `{name}:{version}` exists already with other content; versions never change")]
    OtherContent { noun: &'static str, name: String, version: String },
    #[error("{noun} `{name}` was changed since it was read: its generation is {actual}, not {expected}")]
    Stale { noun: &'static str, name: String, expected: u64, actual: u64 },
    /// Two calls at the same time: one removed what the other referred to.
    #[error("something that this belongs to was deleted at the same time")]
    Deleted { source: Cause },
    #[error("{noun} `{name}` still holds {holds}")]
    NotEmpty { noun: &'static str, name: String, holds: String },
    #[error("operation `{id}` has ended; it does not change any more")]
    Ended { id: String },
    /// An upload resumes at `actual`.
    #[error("the upload of {digest} is at byte {actual}, not at {offset}")]
    Offset { digest: Digest, offset: u64, actual: u64 },
    #[error("{what}: {reason}")]
    Invalid { what: String, reason: String },
    /// What was uploaded so far is dropped: it would never become this blob.
    #[error("the content sent for {digest} has the digest {actual}")]
    Digest { digest: Digest, actual: Digest },
    /// What was uploaded so far is dropped where it is too long, and kept where it is too short.
    #[error("the content sent for {digest} has {actual} bytes, not {expected}")]
    Size { digest: Digest, expected: u64, actual: u64 },
    #[error("blob {digest} is not in the blob store; upload it first")]
    BlobMissing { digest: Digest },
    #[error("{what} has {size} {unit}; at most {limit} are allowed")]
    TooLarge { what: &'static str, size: u64, unit: &'static str, limit: u64 },
    /// What arrived before is kept: the upload resumes at `upload_offset`.
    #[error("the upload of {digest} was interrupted")]
    Interrupted { digest: Digest, source: Cause },
    #[error("no space is left for {what}; nothing of it was kept half-done")]
    Full { what: &'static str, source: Cause },
    #[error("the database is locked by another process; try again")]
    Locked { source: Cause },
    #[error("the database cannot be reached")]
    Unreachable { source: Cause },
    /// Its file was removed, moved or replaced while this store had it open.
    #[error("the database file `{path}` is gone; restart with the file back in its place")]
    Gone { path: String },
    #[error("the database was written by a newer build (schema {found}); this build knows schema {known}")]
    Newer { found: i64, known: i64 },
    #[error("schema {version} of the database is not the one that this build knows by that number")]
    OtherSchema { version: i64 },
    #[error("the database is damaged, or no Moorline database")]
    Damaged { source: Cause },
    #[error("the identity in `{path}` is not the one that the secrets were encrypted with; restore it")]
    OtherIdentity { path: String },
    #[error("the identity in `{path}` is missing, and secrets were encrypted with it; restore it")]
    NoIdentity { path: String },
    #[error("the identity in `{path}` cannot be read: {reason}")]
    BadIdentity { path: String, reason: String },
    #[error("secret `{key}` cannot be decrypted")]
    Decrypt { key: String, source: Cause },
    #[error("the blob store cannot be reached")]
    BlobsUnreachable { source: Cause },
    #[error("the store's configuration does not work: {what}")]
    Configuration { what: &'static str, source: Cause },
    #[error("the blob store failed")]
    Blobs { source: Cause },
    #[error("the database failed")]
    Database { source: Cause },
    #[error("a file of the store could not be used")]
    File { source: std::io::Error },
    #[error("the database holds something that this build did not write: {what}")]
    Unreadable { what: String },
}

impl StoreError {
    /// What kind of failure this is. `Unavailable` passes by itself or when someone makes room; retrying is safe.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NotFound { .. } => ErrorClass::NotFound,
            Self::Exists { .. }
            | Self::OtherContent { .. }
            | Self::Stale { .. }
            | Self::Deleted { .. }
            | Self::Ended { .. }
            | Self::NotEmpty { .. }
            | Self::Offset { .. } => ErrorClass::Conflict,
            Self::Invalid { .. } | Self::Digest { .. } | Self::Size { .. } | Self::BlobMissing { .. } => {
                ErrorClass::InvalidInput
            }
            Self::Interrupted { .. } => ErrorClass::Cancelled,
            Self::TooLarge { .. } => ErrorClass::TooLarge,
            Self::Full { .. }
            | Self::Locked { .. }
            | Self::Unreachable { .. }
            | Self::Gone { .. }
            | Self::BlobsUnreachable { .. } => ErrorClass::Unavailable,
            Self::Newer { .. }
            | Self::OtherSchema { .. }
            | Self::Damaged { .. }
            | Self::OtherIdentity { .. }
            | Self::NoIdentity { .. }
            | Self::BadIdentity { .. }
            | Self::Decrypt { .. }
            | Self::Configuration { .. }
            | Self::Blobs { .. }
            | Self::Database { .. }
            | Self::File { .. }
            | Self::Unreadable { .. } => ErrorClass::Internal,
        }
    }

    pub(crate) fn invalid(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), reason: reason.into() }
    }

    pub(crate) fn unreadable(what: impl Into<String>) -> Self {
        Self::Unreadable { what: what.into() }
    }

    /// A file error; a full disk is told from the others, since a person can do something about it.
    pub(crate) fn file(what: &'static str, source: std::io::Error) -> Self {
        use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        if matches!(source.kind(), StorageFull | QuotaExceeded | FileTooLarge) {
            return Self::Full { what, source: source.into() };
        }
        Self::File { source }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let unreachable = matches!(
            error,
            sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed
        );
        if unreachable {
            return Self::Unreachable { source: error.into() };
        }
        let said = error.as_database_error();
        if said.is_some_and(DatabaseError::is_foreign_key_violation) {
            return Self::Deleted { source: error.into() };
        }
        let code = said.and_then(DatabaseError::code).unwrap_or_default().into_owned();
        let source = error.into();
        // PostgreSQL's codes have five characters; SQLite's are numbers whose low byte is the class.
        if code.len() == 5 {
            return match (&code[..2], code.as_str()) {
                (_, "53100") => Self::Full { what: "the database", source },
                ("08" | "53" | "57", _) => Self::Unreachable { source },
                (_, "40001" | "40P01" | "55P03") => Self::Locked { source },
                ("XX", _) => Self::Damaged { source },
                _ => Self::Database { source },
            };
        }
        match code.parse::<u32>().map(|code| code & 0xff) {
            Ok(5 | 6) => Self::Locked { source },
            Ok(13) => Self::Full { what: "the database", source },
            // Reading or writing the file failed, it cannot be opened, or it became read-only.
            Ok(8 | 10 | 14) => Self::Unreachable { source },
            Ok(11 | 26) => Self::Damaged { source },
            _ => Self::Database { source },
        }
    }
}
