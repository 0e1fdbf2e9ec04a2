//! Records: created once, changed in turn, and never without what they belong to.

use moorline_core::ErrorClass;
use moorline_store::{RecordKind, Store, StoreError};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::place::{Place, default, name, workspace};

use RecordKind::{Compute, Deployment, Endpoint};

pub(crate) async fn count_their_generations(place: Place) {
    let store = place.open().await;
    let ws = default();
    let made = store.create_record(&ws, Compute, "Local", json!({"type": "local"})).await.unwrap();
    assert_eq!((made.generation, made.name.as_str(), &made.status), (1, "Local", &Value::Null));
    let updated = store.update_record(&ws, Compute, "local", None, json!({"type": "x"})).await.unwrap();
    assert_eq!((updated.generation, updated.name.as_str()), (2, "Local"));
    let error = store.update_record(&ws, Compute, "local", Some(1), json!({})).await.unwrap_err();
    assert!(matches!(error, StoreError::Stale { expected: 1, actual: 2, .. }), "{error:?}");
    let updated = store.update_record(&ws, Compute, "local", Some(2), json!({"type": "y"})).await.unwrap();
    assert_eq!(updated.generation, 3);
    store.set_status(&ws, Compute, "LOCAL", json!({"phase": "ready"})).await.unwrap();
    let found = store.record(&ws, Compute, "local").await.unwrap();
    assert_eq!(
        (found.generation, &found.body, &found.status),
        (3, &json!({"type": "y"}), &json!({"phase": "ready"}))
    );
    assert_eq!(found.modified_at, updated.modified_at);
    assert_eq!(store.records(Compute, Some(&ws)).await.unwrap(), [found]);
    for error in [
        store.record(&ws, Compute, "none").await.map(drop).unwrap_err(),
        store.set_status(&ws, Compute, "none", json!(1)).await.unwrap_err(),
        store.update_record(&ws, Compute, "none", Some(1), json!(1)).await.map(drop).unwrap_err(),
        store.delete_record(&ws, Compute, "none").await.unwrap_err(),
    ] {
        assert_eq!(error.to_string(), "compute `none` does not exist");
    }
    let error = store.record(&name("nowhere"), Compute, "local").await.unwrap_err();
    assert_eq!(error.to_string(), "workspace `nowhere` does not exist");
    assert!(store.records(Compute, Some(&name("nowhere"))).await.is_err());
    store.delete_record(&ws, Compute, "local").await.unwrap();
    assert!(store.records(Compute, None).await.unwrap().is_empty());
}

pub(crate) async fn tell_of_their_changes(place: Place) {
    let store = place.open().await;
    let ws = default();
    let mut changes = store.clone().changes();
    store.create_record(&ws, Endpoint, "Iris", json!({})).await.unwrap();
    store.create_record(&ws, Deployment, "iris/blue", json!({})).await.unwrap();
    store.update_record(&ws, Endpoint, "iris", None, json!({"a": 1})).await.unwrap();
    store.set_status(&ws, Deployment, "iris/blue", json!({})).await.unwrap();
    store.create_record(&ws, Endpoint, "iris", json!({})).await.unwrap_err();
    store.update_record(&ws, Endpoint, "iris", Some(7), json!({})).await.unwrap_err();
    store.delete_record(&ws, Endpoint, "iris").await.unwrap_err();
    store.delete_record(&ws, Deployment, "iris/blue").await.unwrap();
    let told: Vec<_> = std::iter::from_fn(|| changes.try_recv().ok())
        .map(|change| (change.kind, change.name, change.generation))
        .collect();
    let expected = [
        ("endpoint", "Iris", Some(1)),
        ("deployment", "iris/blue", Some(1)),
        ("endpoint", "Iris", Some(2)),
        ("deployment", "iris/blue", Some(1)),
        ("deployment", "iris/blue", None),
    ];
    assert_eq!(told, expected.map(|(kind, name, generation)| (kind, name.to_owned(), generation)));
}

/// How many of many at once succeed; the others must have failed with a `Conflict`.
async fn winners<F>(store: &Store, attempts: usize, attempt: impl Fn(Store, usize) -> F) -> usize
where
    F: Future<Output = Result<(), StoreError>> + Send + 'static,
{
    let mut set = JoinSet::new();
    for index in 0..attempts {
        set.spawn(attempt(store.clone(), index));
    }
    let results = set.join_all().await;
    for error in results.iter().filter_map(|result| result.as_ref().err()) {
        assert_eq!(error.class(), ErrorClass::Conflict, "{error:?}");
    }
    results.iter().filter(|result| result.is_ok()).count()
}

pub(crate) async fn are_created_once(place: Place) {
    let store = place.open().await;
    let create = |store: Store, index: usize| async move {
        let name = if index.is_multiple_of(2) { "iris" } else { "IRIS" };
        store.create_record(&default(), Endpoint, name, json!({"who": index})).await.map(drop)
    };
    assert_eq!(winners(&store, 16, create).await, 1);
    assert_eq!(store.records(Endpoint, None).await.unwrap().len(), 1);
}

pub(crate) async fn are_updated_once_a_generation(place: Place) {
    let store = place.open().await;
    store.create_record(&default(), Compute, "c", json!(0)).await.unwrap();
    for generation in 1..4 {
        let update = move |store: Store, index: usize| async move {
            store.update_record(&default(), Compute, "c", Some(generation), json!(index)).await.map(drop)
        };
        assert_eq!(winners(&store, 8, update).await, 1);
    }
    // Without an expectation, all of them happen one after the other.
    let update = |store: Store, index: usize| async move {
        store.update_record(&default(), Compute, "c", None, json!(index)).await.map(drop)
    };
    assert_eq!(winners(&store, 16, update).await, 16);
    assert_eq!(store.record(&default(), Compute, "c").await.unwrap().generation, 20);
}

pub(crate) async fn keep_endpoints_unique(place: Place) {
    let store = place.open().await;
    let other = workspace(&store, "other").await;
    store.create_record(&default(), Endpoint, "iris", json!({})).await.unwrap();
    let error = store.create_record(&other, Endpoint, "Iris", json!({})).await.unwrap_err();
    assert_eq!(error.to_string(), "endpoint `Iris` exists already");
    store.create_record(&other, Compute, "iris", json!({})).await.unwrap();
    store.create_record(&default(), Compute, "iris", json!({})).await.unwrap();
    let found = store.find_endpoint("IRIS").await.unwrap().unwrap();
    assert_eq!(found.workspace, default());
    assert_eq!(store.find_endpoint("other").await.unwrap(), None);
    store.delete_record(&default(), Endpoint, "iris").await.unwrap();
    store.create_record(&other, Endpoint, "Iris", json!({})).await.unwrap();
}

pub(crate) async fn keep_deployments_under_endpoints(place: Place) {
    let store = place.open().await;
    let ws = default();
    let error = store.create_record(&ws, Deployment, "iris/blue", json!({})).await.unwrap_err();
    assert_eq!(error.to_string(), "endpoint `iris` does not exist");
    store.create_record(&ws, Endpoint, "iris", json!({})).await.unwrap();
    store.create_record(&ws, Deployment, "iris/blue", json!({})).await.unwrap();
    store.create_record(&ws, Deployment, "iris/Green", json!({})).await.unwrap();
    let error = store.delete_record(&ws, Endpoint, "iris").await.unwrap_err();
    assert_eq!(error.to_string(), "endpoint `iris` still holds deployments");
    assert_eq!(store.records(Deployment, Some(&ws)).await.unwrap().len(), 2);
    store.delete_record(&ws, Deployment, "iris/blue").await.unwrap();
    store.delete_record(&ws, Deployment, "iris/green").await.unwrap();
    store.delete_record(&ws, Endpoint, "iris").await.unwrap();
    // One that creates a deployment and one that deletes its endpoint: either order is fine, an orphan is not.
    for _ in 0..20 {
        store.create_record(&ws, Endpoint, "race", json!({})).await.unwrap();
        let (created, deleted) = tokio::join!(
            store.create_record(&ws, Deployment, "race/blue", json!({})),
            store.delete_record(&ws, Endpoint, "race"),
        );
        assert_ne!(created.is_ok(), deleted.is_ok(), "{created:?} {deleted:?}");
        if let Err(error) = created {
            assert!(matches!(error.class(), ErrorClass::NotFound | ErrorClass::Conflict), "{error:?}");
        } else {
            store.delete_record(&ws, Deployment, "race/blue").await.unwrap();
            store.delete_record(&ws, Endpoint, "race").await.unwrap();
        }
    }
}

pub(crate) async fn refuse_what_could_never_work(place: Place) {
    let store = place.open().await;
    let ws = default();
    for (kind, name) in [
        (Compute, ""),
        (Compute, "../x"),
        (Endpoint, "a/b"),
        (Endpoint, "é"),
        (Deployment, "blue"),
        (Deployment, "e/"),
        (Deployment, "e/b/c"),
        (Compute, &"x".repeat(300)),
    ] {
        let error = store.create_record(&ws, kind, name, json!({})).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::InvalidInput, "{name}");
    }
    let large = json!("x".repeat(5 * 1024 * 1024));
    let error = store.create_record(&ws, Compute, "c", large).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::TooLarge);
    assert!(store.records(Compute, None).await.unwrap().is_empty());
}
