//! Where the workspace's memory lies: the four places that [`crate::Store::open`] is told.

use std::{collections::BTreeMap, path::PathBuf};

use moorline_core::Secret;

/// The places of a store. Folders are made where they are missing.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    pub database: Database,
    pub blobs: Blobs,
    /// Where uploads wait until they are complete. On the file system of [`Blobs::Folder`], a finished upload is moved;
    /// on another one it is copied.
    pub uploads: PathBuf,
    /// Holds the identity that secrets are encrypted to. Whoever has this folder and the database has the secrets.
    pub keys: PathBuf,
}

impl StoreConfig {
    /// Everything in one folder: `workspace.db`, `blobs/`, `uploads/` and `keys/`.
    pub fn in_folder(home: impl Into<PathBuf>) -> Self {
        let home = home.into();
        Self {
            database: Database::Sqlite(home.join("workspace.db")),
            blobs: Blobs::Folder(home.join("blobs")),
            uploads: home.join("uploads"),
            keys: home.join("keys"),
        }
    }
}

/// Where metadata lies.
#[derive(Clone, Debug)]
pub enum Database {
    /// One file (and two more beside it while it is open); on a local disk, since SQLite's log needs shared memory.
    Sqlite(PathBuf),
    /// `postgres://user:password@host:port/database`; a secret because of the password.
    Postgres(Secret),
}

/// Where the content of files lies.
#[derive(Clone, Debug)]
pub enum Blobs {
    /// `sha256/<two digits>/<64 digits>` below this folder, read-only.
    Folder(PathBuf),
    /// The same names below `prefix` in a bucket of anything that speaks S3. The binary must have installed a rustls
    /// provider.
    S3 {
        bucket: String,
        /// May be empty.
        prefix: String,
        /// By the names of `object_store`: `aws_endpoint`, `aws_region`, `aws_access_key_id`,
        /// `aws_secret_access_key`, `aws_allow_http`, … A name that is not known is passed over, so that all of an
        /// environment's `AWS_*` can be given.
        options: BTreeMap<String, Secret>,
    },
}
