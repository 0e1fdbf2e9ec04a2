//! The one handle: opens the parts of a store in the order in which they need one another.

use std::{fmt, io::ErrorKind, os::unix::fs::PermissionsExt, sync::Arc};

use age::x25519::Identity;

use crate::{
    BlobStore, StoreConfig, StoreError,
    changes::Changes,
    database::{Database, Query},
    secrets,
};

/// By what the server of this store is known on the places where it runs things.
const SERVER_ID: &str = "server_id";

/// The workspace's memory; a clone is the same one.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    database: Database,
    blobs: BlobStore,
    identity: Identity,
    changes: Changes,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The identity stays out.
        f.debug_struct("Store").field("database", &self.inner.database).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens a store, makes what is missing, and brings an older database to this build's schema. One that a newer build
    /// wrote is refused and left as it is. Afterwards there is a workspace `default`.
    pub async fn open(config: StoreConfig) -> Result<Self, StoreError> {
        let database = Database::open(&config.database).await?;
        let opened = Self::open_around(&database, &config).await;
        if opened.is_err() {
            database.close().await;
        }
        opened
    }

    async fn open_around(database: &Database, config: &StoreConfig) -> Result<Self, StoreError> {
        let file_error = |error| StoreError::file("keys", error);
        fs_err::create_dir_all(&config.keys).map_err(file_error)?;
        match fs_err::set_permissions(&config.keys, PermissionsExt::from_mode(0o700)) {
            // Whoever mounted it has seen to who may read it.
            Err(error) if error.kind() == ErrorKind::ReadOnlyFilesystem => {}
            set => set.map_err(file_error)?,
        }
        let identity = secrets::open_identity(&config.keys, database).await?;
        let blobs = BlobStore::open(&config.blobs, config.uploads.clone(), database.clone()).await?;
        let changes = Changes::default();
        let store = Self { inner: Arc::new(Inner { database: database.clone(), blobs, identity, changes }) };
        store.ensure_default_workspace().await?;
        Ok(store)
    }

    /// The content of files.
    pub fn blobs(&self) -> &BlobStore {
        &self.inner.blobs
    }

    /// The id that every server of this store goes by: `proposed`, unless one was there before.
    pub async fn server_id(&self, proposed: &str) -> Result<String, StoreError> {
        let mut transaction = self.database().write().await?;
        let propose =
            Query::new("INSERT INTO facts (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING");
        transaction.execute(propose.text(SERVER_ID).text(proposed)).await?;
        transaction.commit().await?;
        let row = self.database().row(Query::new("SELECT value FROM facts WHERE name = $1").text(SERVER_ID));
        row.await?.ok_or_else(|| StoreError::unreadable("the id of the server"))?.text("value")
    }

    /// Waits for what is under way and closes the database. Not needed for anything to be kept: it only leaves fewer
    /// files behind.
    pub async fn close(&self) {
        self.inner.database.close().await;
    }

    pub(crate) fn database(&self) -> &Database {
        &self.inner.database
    }

    pub(crate) fn told(&self) -> &Changes {
        &self.inner.changes
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.inner.identity
    }
}
