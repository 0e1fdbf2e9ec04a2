//! Where a test's store lies, what is put into it, and what happens when an outside server is missing.

use std::{
    env,
    io::Write as _,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use moorline_core::{Digest, FileEntry, Name};
use moorline_store::{AssetKind, Blobs, Database, NewAsset, NewWorkspace, Store, StoreConfig};
use serde_json::json;
use tempfile::TempDir;

/// A folder that goes with the test, and a database.
pub(crate) struct Place {
    folder: TempDir,
    pub(crate) database: Database,
    pub(crate) blobs: Blobs,
}

impl Place {
    pub(crate) fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::Sqlite(folder.path().join("workspace.db"));
        Self::new(folder, database)
    }

    pub(crate) fn on(database: Database) -> Self {
        Self::new(tempfile::tempdir().unwrap(), database)
    }

    fn new(folder: TempDir, database: Database) -> Self {
        let blobs = Blobs::Folder(folder.path().join("blobs"));
        Self { folder, database, blobs }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn config(&self) -> StoreConfig {
        StoreConfig {
            database: self.database.clone(),
            blobs: self.blobs.clone(),
            uploads: self.path().join("uploads"),
            keys: self.path().join("keys"),
        }
    }

    pub(crate) async fn open(&self) -> Store {
        Store::open(self.config()).await.unwrap()
    }
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// The workspace that is always there.
pub(crate) fn default() -> Name {
    name("default")
}

pub(crate) async fn workspace(store: &Store, text: &str) -> Name {
    let new = NewWorkspace { name: name(text), body: json!({}) };
    store.create_workspace(new).await.unwrap().name
}

/// A model of one file with this content, which is uploaded.
pub(crate) async fn model(store: &Store, text: &str, version: Option<&str>, content: &str) -> NewAsset {
    let sha256 = store.blobs().put(Bytes::from(content.to_owned())).await.unwrap();
    let file = FileEntry { path: "model/weights".to_owned(), size: content.len() as u64, sha256 };
    NewAsset {
        workspace: default(),
        kind: AssetKind::Model,
        name: name(text),
        version: version.map(str::to_owned),
        body: json!({"description": content}),
        digest: Digest::of(content.as_bytes()),
        files: vec![file],
        anonymous: false,
    }
}

/// A Python environment that `cargo xtask test` makes, or `None` after saying so.
pub(crate) fn venv(wanted: &str) -> Option<PathBuf> {
    let venvs = env::var_os("MOORLINE_TEST_VENVS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().join("target/venvs"),
        PathBuf::from,
    );
    let folder = venvs.join(wanted);
    if folder.join("bin/python").exists() {
        return Some(folder);
    }
    skip(&format!("no Python environment at {}; `cargo xtask test` makes it", folder.display()));
    None
}

/// Says that the test did not run, and why; fails instead where `CI=true`, so that nothing is skipped unseen there.
pub(crate) fn skip(why: &str) {
    // Not fatal: a closed stderr must not turn a skipped test into a failed one.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
    assert!(env::var_os("CI").is_none_or(|value| value != "true"), "CI must not skip a test: {why}");
}
