//! The workspace's memory: metadata, content-addressed blobs, secrets, tokens.
//!
//! [`Store`] is all of it behind one handle. Metadata lies in SQLite or PostgreSQL, the content of files in a folder or a
//! bucket, and secrets are encrypted before they come to either.
//!
//! # What holds
//!
//! - **Acknowledged is durable.** When a call that writes returns `Ok`, what it did outlives `kill -9` and, where the disk
//!   keeps what it was told to keep, a power cut. Until it returns, all of it has happened or nothing.
//! - **Nothing dangles.** An asset exists only while the blobs of its files do; a deployment only under its endpoint.
//! - **Two at once.** Of two callers that create the same thing exactly one succeeds; the other one gets
//!   [`StoreError::Exists`]. Calls can be dropped at any point.
//! - **Names** that differ only in case are the same name. Times are UTC to the microsecond, sizes are bytes.
//! - **Errors** have a class ([`StoreError::class`]); `Unavailable` (locked, gone, full, unreachable) may be tried again.
//!
//! One process uses a store at a time; the server's lock sees to that.

mod assets;
mod blobs;
mod changes;
mod collected;
mod config;
mod database;
mod error;
mod garbage;
mod names;
mod operations;
mod records;
mod secrets;
mod store;
mod tokens;
mod workspaces;

pub use assets::{Asset, AssetKind, AssetUpdate, NewAsset, Page, Registered};
pub use blobs::{BlobStore, BlobStream};
pub use changes::Change;
pub use collected::{CollectedFile, NewCollectedFile};
pub use config::{Blobs, Database, StoreConfig};
pub use error::{Cause, StoreError};
pub use garbage::Collected;
pub use operations::{
    FINISHED_OPERATIONS_KEPT, NewOperation, OPERATION_LINES_KEPT, OPERATION_PHASES_KEPT, Operation,
    OperationPart, OperationPhase, OperationState, OperationUpdate,
};
pub use records::{Record, RecordKind};
pub use secrets::SecretEntry;
pub use store::Store;
pub use tokens::{NewToken, Role, RoleError, Token};
pub use workspaces::{DEFAULT_WORKSPACE, NewWorkspace, Workspace};
