//! Assets: versions that are counted, never change, and never lack a file.

use std::collections::BTreeSet;

use bytes::Bytes;
use moorline_core::{Digest, ErrorClass, FileEntry};
use moorline_store::{AssetKind, AssetUpdate, NewAsset, Page, Store, StoreError};
use serde_json::json;
use tokio::task::JoinSet;

use crate::place::{Place, default, model, name, workspace};

use AssetKind::{Code, Environment, Model};

async fn register(store: &Store, text: &str, version: Option<&str>, content: &str) -> String {
    let registered = store.register(model(store, text, version, content).await).await.unwrap();
    assert!(registered.created);
    registered.asset.version
}

pub(crate) async fn count_their_versions(place: Place) {
    let store = place.open().await;
    assert_eq!(register(&store, "iris", None, "a").await, "1");
    assert_eq!(register(&store, "Iris", None, "b").await, "2");
    assert_eq!(register(&store, "iris", Some("7"), "c").await, "7");
    assert_eq!(register(&store, "iris", Some("3"), "d").await, "3");
    assert_eq!(register(&store, "iris", Some("beta.1"), "e").await, "beta.1");
    assert_eq!(register(&store, "iris", None, "f").await, "8");
    assert_eq!(register(&store, "other", None, "a").await, "1");
    // The same name of another kind, or in another workspace, counts for itself.
    let other = workspace(&store, "other").await;
    let elsewhere = NewAsset { workspace: other.clone(), ..model(&store, "iris", None, "a").await };
    assert_eq!(store.register(elsewhere).await.unwrap().asset.version, "1");
    let environment = NewAsset { kind: Environment, ..model(&store, "iris", None, "a").await };
    assert_eq!(store.register(environment).await.unwrap().asset.version, "1");
    let latest = store.latest_asset(&default(), Model, &name("IRIS")).await.unwrap();
    assert_eq!((latest.name.as_str(), latest.version.as_str()), ("iris", "8"));
    let found = store.asset(&default(), Model, &name("iris"), "beta.1").await.unwrap();
    assert_eq!(found.body, json!({"description": "e"}));
    assert_eq!((found.files.len(), found.digest), (1, Digest::of(b"e")));
    let error = store.asset(&default(), Model, &name("iris"), "9").await.unwrap_err();
    assert_eq!(error.to_string(), "model `iris:9` does not exist");
    let error = store.latest_asset(&other, Code, &name("iris")).await.unwrap_err();
    assert_eq!(error.to_string(), "code `iris` does not exist");
    let error = store.latest_asset(&name("nowhere"), Code, &name("iris")).await.unwrap_err();
    assert_eq!(error.to_string(), "workspace `nowhere` does not exist");
    // The highest number there is leaves no next one.
    register(&store, "huge", Some(&i64::MAX.to_string()), "a").await;
    let error = store.register(model(&store, "huge", None, "b").await).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Conflict);
}

pub(crate) async fn never_change(place: Place) {
    let store = place.open().await;
    let first = model(&store, "iris", Some("1"), "a").await;
    let registered = store.register(first.clone()).await.unwrap();
    assert!(registered.created);
    let described = NewAsset { body: json!({"description": "new words"}), ..first };
    let again = store.register(described).await.unwrap();
    assert!(!again.created);
    assert_eq!(again.asset, registered.asset);
    let other = model(&store, "IRIS", Some("1"), "b").await;
    let error = store.register(other).await.unwrap_err();
    assert!(matches!(error, StoreError::OtherContent { .. }), "{error:?}");
    assert_eq!(error.class(), ErrorClass::Conflict);
    assert_eq!(store.asset(&default(), Model, &name("iris"), "1").await.unwrap(), registered.asset);
}

pub(crate) async fn get_distinct_versions_at_once(place: Place) {
    let store = place.open().await;
    let mut set = JoinSet::new();
    for index in 0..24 {
        let store = store.clone();
        set.spawn(async move {
            // Some say which version they want; two of each want the same one.
            let wanted = (index % 3 == 0).then(|| format!("v{}", index / 6));
            let new = model(&store, "race", wanted.as_deref(), &format!("content {index}")).await;
            (wanted.is_some(), store.register(new).await)
        });
    }
    let (named, counted): (Vec<_>, Vec<_>) = set.join_all().await.into_iter().partition(|(named, _)| *named);
    let versions: BTreeSet<String> =
        counted.into_iter().map(|(_, result)| result.unwrap().asset.version).collect();
    assert_eq!(versions.len(), 16);
    assert_eq!(named.iter().filter(|(_, result)| result.is_ok()).count(), 4);
    for error in named.into_iter().filter_map(|(_, result)| result.err()) {
        assert!(matches!(error, StoreError::OtherContent { .. }), "{error:?}");
    }
    let all = store.asset_versions(&default(), Model, &name("race"), &Page::default()).await.unwrap();
    assert_eq!(all.len(), 20);
    let latest = store.latest_asset(&default(), Model, &name("race")).await.unwrap();
    assert_eq!(latest, all[0]);
}

pub(crate) async fn need_their_blobs(place: Place) {
    let store = place.open().await;
    let mut new = model(&store, "iris", None, "content").await;
    let absent = Digest::of(b"absent");
    new.files.push(FileEntry { path: "other".to_owned(), size: 6, sha256: absent });
    let error = store.register(new.clone()).await.unwrap_err();
    assert_eq!(error.to_string(), format!("blob {absent} is not in the blob store; upload it first"));
    store.blobs().put(Bytes::from_static(b"absent")).await.unwrap();
    new.files[1].size = 7;
    let error = store.register(new.clone()).await.unwrap_err();
    assert!(matches!(error, StoreError::Size { expected: 7, actual: 6, .. }), "{error:?}");
    assert!(store.assets(&default(), Model, &Page::default()).await.unwrap().is_empty());
    new.files[1].size = 6;
    assert_eq!(store.register(new).await.unwrap().asset.version, "1");
}

pub(crate) async fn are_listed_by_pages(place: Place) {
    let store = place.open().await;
    for text in ["b", "a_1", "a-1", "a.1", "A1", "c"] {
        register(&store, text, None, "first").await;
        register(&store, text, None, "second").await;
    }
    let names = |assets: &[moorline_store::Asset]| {
        assets.iter().map(|asset| format!("{}:{}", asset.name, asset.version)).collect::<Vec<_>>()
    };
    let mut page = Page { limit: 4, ..Page::default() };
    let first = store.assets(&default(), Model, &page).await.unwrap();
    assert_eq!(names(&first), ["a-1:2", "a.1:2", "A1:2", "a_1:2"]);
    page.after = Some(first[3].name.to_string());
    let second = store.assets(&default(), Model, &page).await.unwrap();
    assert_eq!(names(&second), ["b:2", "c:2"]);
    page.after = Some("c".to_owned());
    assert!(store.assets(&default(), Model, &page).await.unwrap().is_empty());
    for _ in 0..3 {
        register(&store, "b", None, "more").await;
    }
    let mut page = Page { limit: 2, ..Page::default() };
    let versions = |page| {
        let store = store.clone();
        async move { names(&store.asset_versions(&default(), Model, &name("B"), &page).await.unwrap()) }
    };
    assert_eq!(versions(page.clone()).await, ["b:5", "b:4"]);
    page.after = Some("4".to_owned());
    assert_eq!(versions(page.clone()).await, ["b:3", "b:2"]);
    page.after = Some("2".to_owned());
    assert_eq!(versions(page).await, ["b:1"]);
    let error = store.asset_versions(&default(), Model, &name("x"), &Page::default()).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::NotFound);
}

pub(crate) async fn are_found_by_digest(place: Place) {
    let store = place.open().await;
    for content in ["a", "b", "a"] {
        register(&store, "iris", None, content).await;
    }
    let find = |text: &'static str, digest: Digest| {
        let store = store.clone();
        async move { store.find_asset_by_digest(&default(), Model, &name(text), &digest).await.unwrap() }
    };
    assert_eq!(find("Iris", Digest::of(b"a")).await.unwrap().version, "3");
    assert_eq!(find("iris", Digest::of(b"c")).await, None);
    assert_eq!(find("other", Digest::of(b"a")).await, None);
    store.archive_asset(&default(), Model, &name("iris"), "3", true).await.unwrap();
    assert_eq!(find("iris", Digest::of(b"a")).await.unwrap().version, "1");
    let anonymous = NewAsset { anonymous: true, ..model(&store, "inline", Some("hash"), "x").await };
    store.register(anonymous).await.unwrap();
    assert!(find("inline", Digest::of(b"x")).await.unwrap().anonymous);
    // Neither listed nor the latest.
    let listed = store.assets(&default(), Model, &Page { include_archived: true, ..Page::default() }).await;
    assert_eq!(listed.unwrap().len(), 1);
    assert!(store.latest_asset(&default(), Model, &name("inline")).await.is_err());
}

pub(crate) async fn are_described_anew(place: Place) {
    let store = place.open().await;
    let before = store.register(model(&store, "iris", None, "a").await).await.unwrap().asset;
    let update = |update: AssetUpdate| {
        let store = store.clone();
        async move { store.update_asset_body(&default(), Model, &name("iris"), "1", update).await }
    };
    let stage = Some(Some("Production".to_owned()));
    let after = update(AssetUpdate { stage, ..AssetUpdate::default() }).await.unwrap();
    assert_eq!((after.stage.as_deref(), &after.body), (Some("Production"), &before.body));
    let after =
        update(AssetUpdate { body: Some(json!({"tags": {}})), ..AssetUpdate::default() }).await.unwrap();
    assert_eq!((after.stage.as_deref(), &after.body), (Some("Production"), &json!({"tags": {}})));
    let after = update(AssetUpdate { stage: Some(None), ..AssetUpdate::default() }).await.unwrap();
    assert_eq!((after.stage, after.digest, after.created_at), (None, before.digest, before.created_at));
    assert!(after.modified_at >= before.modified_at);
    let missing =
        store.update_asset_body(&default(), Model, &name("iris"), "2", AssetUpdate::default()).await;
    assert_eq!(missing.unwrap_err().class(), ErrorClass::NotFound);
}

pub(crate) async fn leave_the_lists_when_archived(place: Place) {
    let store = place.open().await;
    for content in ["a", "b"] {
        register(&store, "iris", None, content).await;
    }
    let archive = |version: &'static str, archived| {
        let store = store.clone();
        async move { store.archive_asset(&default(), Model, &name("iris"), version, archived).await.unwrap() }
    };
    let all = Page { include_archived: true, ..Page::default() };
    assert!(archive("2", true).await.archived);
    assert_eq!(store.latest_asset(&default(), Model, &name("iris")).await.unwrap().version, "1");
    archive("1", true).await;
    assert!(store.latest_asset(&default(), Model, &name("iris")).await.is_err());
    assert!(store.assets(&default(), Model, &Page::default()).await.unwrap().is_empty());
    assert_eq!(store.assets(&default(), Model, &all).await.unwrap()[0].version, "2");
    let versions = |page| {
        let store = store.clone();
        async move { store.asset_versions(&default(), Model, &name("iris"), &page).await.unwrap().len() }
    };
    assert_eq!((versions(Page::default()).await, versions(all).await), (0, 2));
    assert!(store.asset(&default(), Model, &name("iris"), "2").await.unwrap().archived);
    // Its number is not given again.
    assert_eq!(register(&store, "iris", None, "c").await, "3");
    assert!(!archive("2", false).await.archived);
    assert_eq!(store.latest_asset(&default(), Model, &name("iris")).await.unwrap().version, "3");
}

pub(crate) async fn refuse_what_could_never_work(place: Place) {
    let store = place.open().await;
    let new = model(&store, "iris", None, "a").await;
    let class = |new: NewAsset| {
        let store = store.clone();
        async move { store.register(new).await.unwrap_err().class() }
    };
    for version in ["", "latest", "LATEST", "a/b", "..", "é", &"1".repeat(300)] {
        let new = NewAsset { version: Some(version.to_owned()), ..new.clone() };
        assert_eq!(class(new).await, ErrorClass::InvalidInput, "{version}");
    }
    for path in ["", "/etc/passwd", "../x", "a/../x", "a//b", "a/./b", "a\\b", "a\0b", "a/"] {
        let mut new = new.clone();
        path.clone_into(&mut new.files[0].path);
        assert_eq!(class(new).await, ErrorClass::InvalidInput, "{path}");
    }
    let mut twice = new.clone();
    twice.files.push(twice.files[0].clone());
    assert_eq!(class(twice).await, ErrorClass::InvalidInput);
    let large = NewAsset { body: json!("x".repeat(5 * 1024 * 1024)), ..new.clone() };
    assert_eq!(class(large).await, ErrorClass::TooLarge);
    let nowhere = NewAsset { workspace: name("nowhere"), ..new };
    assert_eq!(class(nowhere).await, ErrorClass::NotFound);
    assert!(store.assets(&default(), Model, &Page::default()).await.unwrap().is_empty());
}

/// A list must read one row a name, however many versions there are. No time is asserted; it is printed.
pub(crate) async fn are_listed_by_the_thousand(place: Place) {
    const NAMES: usize = 1000;
    const VERSIONS: usize = 3;
    let store = place.open().await;
    let new = model(&store, "model", None, "content").await;
    let mut set = JoinSet::new();
    for worker in 0..4 {
        let (store, new) = (store.clone(), new.clone());
        set.spawn(async move {
            for index in (0..NAMES).filter(|index| index % 4 == worker) {
                for _ in 0..VERSIONS {
                    let new = NewAsset { name: name(&format!("model-{index:04}")), ..new.clone() };
                    store.register(new).await.unwrap();
                }
            }
        });
    }
    set.join_all().await;
    let start = std::time::Instant::now();
    let listed = store.assets(&default(), Model, &Page::default()).await.unwrap();
    eprintln!("{NAMES} models of {VERSIONS} versions listed in {:?}", start.elapsed());
    assert_eq!(listed.len(), NAMES);
    assert!(listed.iter().all(|asset| asset.version == VERSIONS.to_string()));
    assert!(listed.is_sorted_by(|a, b| a.name < b.name));
}
