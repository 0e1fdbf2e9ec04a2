//! What the machine does to a store: files that are gone, locked, foreign, too new, or on a full disk.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use moorline_core::{Digest, ErrorClass};
use moorline_store::{Database, Store, StoreError};
use serde_json::json;
use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::place::{Place, default, name};

async fn raw(place: &Place) -> SqliteConnection {
    let Database::Sqlite(path) = &place.database else { panic!("not SQLite") };
    SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(path)).await.unwrap()
}

#[tokio::test]
async fn a_locked_database_is_waited_for_and_then_named() {
    let place = Place::sqlite();
    let store = place.open().await;
    let mut other = raw(&place).await;
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let error = store.update_workspace(&default(), json!({"a": 1})).await.unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }), "{error:?}");
    assert_eq!(error.class(), ErrorClass::Unavailable);
    // Reading goes on.
    assert_eq!(store.workspace(&default()).await.unwrap().body, json!({}));
    // A writer that waits gets its turn.
    let workspace = default();
    let (updated, ()) = tokio::join!(store.update_workspace(&workspace, json!({"a": 2})), async {
        sqlx::query("COMMIT").execute(&mut other).await.unwrap();
    });
    assert_eq!(updated.unwrap().body, json!({"a": 2}));
}

#[tokio::test]
async fn a_database_that_is_gone_is_noticed_before_anything_is_lost() {
    let place = Place::sqlite();
    let store = place.open().await;
    let path = place.path().join("workspace.db");
    fs_err::rename(&path, place.path().join("aside.db")).unwrap();
    for error in [
        store.update_workspace(&default(), json!(1)).await.unwrap_err(),
        store.workspace(&default()).await.unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::Gone { .. }), "{error:?}");
        assert_eq!(error.class(), ErrorClass::Unavailable);
    }
    // Another file in its place is not it.
    fs_err::write(&path, "").unwrap();
    assert!(store.workspace(&default()).await.is_err());
    fs_err::rename(place.path().join("aside.db"), &path).unwrap();
    store.update_workspace(&default(), json!(2)).await.unwrap();
}

#[tokio::test]
async fn a_database_of_a_newer_build_is_refused_and_left_alone() {
    let place = Place::sqlite();
    place.open().await.close().await;
    let mut connection = raw(&place).await;
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (4711, 'later', 1, x'00', 0)",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    let error = Store::open(place.config()).await.unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 4711, .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        "the database was written by a newer build (schema 4711); this build knows schema 4"
    );
    sqlx::query("DELETE FROM _sqlx_migrations WHERE version = 4711").execute(&mut connection).await.unwrap();
    place.open().await;
    sqlx::query("UPDATE _sqlx_migrations SET checksum = x'00'").execute(&mut connection).await.unwrap();
    let error = Store::open(place.config()).await.unwrap_err();
    assert!(matches!(error, StoreError::OtherSchema { version: 1 }), "{error:?}");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused() {
    let place = Place::sqlite();
    fs_err::write(place.path().join("workspace.db"), "not a database, ".repeat(100)).unwrap();
    let error = Store::open(place.config()).await.unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
    let mut place = Place::sqlite();
    place.database = Database::Sqlite(place.path().to_owned());
    let error = Store::open(place.config()).await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_opened_twice_at_once_is_one_store() {
    for _ in 0..10 {
        let place = Place::sqlite();
        let (one, other) = tokio::join!(Store::open(place.config()), Store::open(place.config()));
        let (one, other) = (one.unwrap(), other.unwrap());
        let secret = moorline_core::Secret::new("value".to_owned());
        one.set_secret(&default(), "key", secret.clone()).await.unwrap();
        assert_eq!(other.secret(&default(), "key").await.unwrap().unwrap().1, secret);
        assert_eq!(one.workspaces().await.unwrap().len(), 1);
    }
}

/// `/dev/full` answers every write as a full disk does.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_full_disk_is_named_and_leaves_nothing_half_done() {
    let place = Place::sqlite();
    let store = place.open().await;
    let content = Bytes::from_static(b"content");
    let digest = Digest::of(&content);
    let part = place.path().join("uploads").join(format!("{}.part", digest.hex()));
    fs_err::os::unix::fs::symlink("/dev/full", &part).unwrap();
    let bytes = || stream::iter([Ok::<_, StoreError>(Bytes::from_static(b"content"))]);
    let error = store.blobs().append(&digest, 0, bytes()).await.unwrap_err();
    assert!(matches!(error, StoreError::Full { what: "the upload", .. }), "{error:?}");
    assert_eq!(error.class(), ErrorClass::Unavailable);
    assert!(store.blobs().commit(&digest, 7).await.is_err());
    assert_eq!(store.blobs().size(&digest).await.unwrap(), None);
    // What did not fit gave its room back.
    assert!(part.symlink_metadata().is_err());
    assert_eq!(store.blobs().append(&digest, 0, bytes()).await.unwrap(), 7);
    store.blobs().commit(&digest, 7).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_dropped_leaves_the_store_usable() {
    let place = Place::sqlite();
    let store = place.open().await;
    let workspace = default();
    for micros in (0..2000).step_by(40) {
        let call = store.update_workspace(&workspace, json!({ "micros": micros }));
        let _ = tokio::time::timeout(Duration::from_micros(micros), call).await;
    }
    let body = store.update_workspace(&default(), json!("last")).await.unwrap().body;
    assert_eq!(store.workspace(&default()).await.unwrap().body, body);
    assert!(store.workspace(&name("other")).await.is_err());
}
