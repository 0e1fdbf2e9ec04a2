//! Garbage collection: takes what nothing names, and nothing else.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use moorline_core::Digest;
use moorline_store::{RecordKind, StoreError};
use serde_json::json;

use crate::place::{Place, default, model, workspace};

const AT_ONCE: Duration = Duration::ZERO;

pub(crate) async fn goes_and_nothing_else(place: Place) {
    let store = place.open().await;
    let blobs = store.blobs();
    let kept = store.register(model(&store, "iris", None, "kept").await).await.unwrap().asset;
    let gone = workspace(&store, "gone").await;
    let mut shared = model(&store, "iris", None, "kept").await;
    shared.workspace = gone.clone();
    let mut own = model(&store, "iris", None, "own").await;
    own.workspace = gone.clone();
    let context = blobs.put(Bytes::from_static(b"build context")).await.unwrap();
    own.body = json!({"build": {"context": context}});
    store.register(shared).await.unwrap();
    let own = store.register(own).await.unwrap().asset;
    let named = blobs.put(Bytes::from_static(b"named by a record")).await.unwrap();
    store.create_record(&default(), RecordKind::Compute, "c", json!([{"a": named}])).await.unwrap();
    let unused = blobs.put(Bytes::from_static(b"unused")).await.unwrap();
    let part = Digest::of(b"0123456789");
    let bytes = stream::iter([Ok::<_, StoreError>(Bytes::from_static(b"01234"))]);
    blobs.append(&part, 0, bytes).await.unwrap();
    // Everything is younger than an hour.
    let collected = blobs.collect_garbage(Duration::from_hours(1)).await.unwrap();
    assert_eq!((collected.blobs, collected.uploads), (0, 0));
    let collected = blobs.collect_garbage(AT_ONCE).await.unwrap();
    assert_eq!((collected.blobs, collected.bytes, collected.uploads), (1, 6, 1));
    assert_eq!(blobs.size(&unused).await.unwrap(), None);
    assert_eq!(blobs.upload_offset(&part).await.unwrap(), 0);
    for digest in [kept.files[0].sha256, own.files[0].sha256, context, named] {
        assert!(blobs.size(&digest).await.unwrap().is_some());
    }
    store.delete_workspace(&gone, true).await.unwrap();
    store.delete_record(&default(), RecordKind::Compute, "c").await.unwrap();
    let collected = blobs.collect_garbage(AT_ONCE).await.unwrap();
    assert_eq!(collected.blobs, 3);
    assert!(blobs.size(&kept.files[0].sha256).await.unwrap().is_some());
    assert_eq!(blobs.size(&context).await.unwrap(), None);
    assert_eq!(blobs.collect_garbage(AT_ONCE).await.unwrap().blobs, 0);
}

pub(crate) async fn never_takes_what_is_being_registered(place: Place) {
    let store = place.open().await;
    let collecting = {
        let store = store.clone();
        tokio::spawn(async move {
            loop {
                store.blobs().collect_garbage(AT_ONCE).await.unwrap();
            }
        })
    };
    let mut registered = 0;
    for index in 0..100 {
        let new = model(&store, "iris", None, &format!("content {index}")).await;
        match store.register(new).await {
            Ok(made) => {
                registered += 1;
                let content = made.asset.files[0].sha256;
                assert!(store.blobs().size(&content).await.unwrap().is_some());
            }
            // Collected between its upload and its registration: said, and nothing is registered without it.
            Err(error) => assert!(matches!(error, StoreError::BlobMissing { .. }), "{error:?}"),
        }
    }
    collecting.abort();
    let page = moorline_store::Page::default();
    let name = "iris".parse().unwrap();
    let versions = store.asset_versions(&default(), moorline_store::AssetKind::Model, &name, &page).await;
    let versions = versions.unwrap_or_default();
    assert_eq!(versions.len(), registered);
    for asset in versions {
        assert!(store.blobs().size(&asset.files[0].sha256).await.unwrap().is_some());
    }
}
