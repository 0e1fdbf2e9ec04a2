//! Secrets: readable here, and nowhere else.

use std::os::unix::fs::PermissionsExt as _;

use moorline_core::{ErrorClass, Secret};
use moorline_store::{Database, Store, StoreError};

use crate::place::{Place, default, name, workspace};

fn secret(text: &str) -> Secret {
    Secret::new(text.to_owned())
}

pub(crate) async fn are_set_and_read(place: Place) {
    let store = place.open().await;
    let ws = default();
    assert_eq!(store.secret(&ws, "password").await.unwrap(), None);
    let first = store.set_secret(&ws, "Password", secret("höher\u{0}")).await.unwrap();
    let second = store.set_secret(&ws, "password", secret("")).await.unwrap();
    assert!(second > first);
    assert_eq!(store.secret(&ws, "PASSWORD").await.unwrap(), Some((second, secret(""))));
    store.set_secret(&ws, "endpoint/iris/primary", secret("hidden")).await.unwrap();
    store.set_secret(&ws, "another", secret("x")).await.unwrap();
    let listed = store.secrets(&ws).await.unwrap();
    assert_eq!(listed.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), ["another", "Password"]);
    assert_eq!(listed[1].version, second);
    let other = workspace(&store, "other").await;
    assert_eq!(store.secret(&other, "password").await.unwrap(), None);
    store.delete_secret(&ws, "password").await.unwrap();
    let error = store.delete_secret(&ws, "password").await.unwrap_err();
    assert_eq!(error.to_string(), "secret `password` does not exist");
    // A version that is never seen again, so that whoever holds it notices the change.
    assert!(store.set_secret(&ws, "password", secret("new")).await.unwrap() > second);
    for bad in ["", "a\nb", &"x".repeat(2000)] {
        assert!(store.set_secret(&ws, bad, secret("x")).await.is_err(), "{bad}");
    }
    let error = store.set_secret(&ws, "large", secret(&"x".repeat(200_000))).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::TooLarge);
    assert!(store.set_secret(&name("nowhere"), "x", secret("x")).await.is_err());
    store.close().await;
    let again = place.open().await;
    assert_eq!(again.secret(&ws, "another").await.unwrap().unwrap().1, secret("x"));
}

pub(crate) async fn are_encrypted_at_rest(place: Place) {
    const VALUE: &str = "hunter2-hunter2-hunter2";
    let store = place.open().await;
    store.set_secret(&default(), "password", secret(VALUE)).await.unwrap();
    store.close().await;
    assert!(!format!("{store:?}").contains("AGE-SECRET-KEY"));
    let mode = |path: &str| fs_err::metadata(place.path().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("keys"), mode("keys/secrets.agekey")), (0o700, 0o600));
    if let Database::Sqlite(path) = &place.database {
        let content = fs_err::read(path).unwrap();
        let contains = |text: &str| content.windows(text.len()).any(|window| window == text.as_bytes());
        assert!(contains("password") && !contains(VALUE));
    }
}

pub(crate) async fn need_their_identity(place: Place) {
    let store = place.open().await;
    store.set_secret(&default(), "password", secret("x")).await.unwrap();
    store.close().await;
    let path = place.path().join("keys/secrets.agekey");
    let text = fs_err::read_to_string(&path).unwrap();
    fs_err::remove_file(&path).unwrap();
    let error = Store::open(place.config()).await.unwrap_err();
    assert!(matches!(error, StoreError::NoIdentity { .. }), "{error:?}");
    assert!(!path.exists());
    fs_err::write(&path, "AGE-SECRET-KEY-NONSENSE").unwrap();
    let error = Store::open(place.config()).await.unwrap_err();
    assert!(matches!(error, StoreError::BadIdentity { .. }), "{error:?}");
    let elsewhere = Place::sqlite();
    elsewhere.open().await.close().await;
    fs_err::copy(elsewhere.path().join("keys/secrets.agekey"), &path).unwrap();
    let error = Store::open(place.config()).await.unwrap_err();
    assert!(matches!(error, StoreError::OtherIdentity { .. }), "{error:?}");
    fs_err::write(&path, text).unwrap();
    let store = place.open().await;
    assert_eq!(store.secret(&default(), "password").await.unwrap().unwrap().1, secret("x"));
}
