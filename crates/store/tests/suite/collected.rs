//! The list of what was collected: each file once, newest first, and gone by age and by size.

use bytes::Bytes;
use jiff::Timestamp;
use moorline_core::DeploymentId;
use moorline_store::{NewCollectedFile, Store};

use crate::place::{Place, default};

fn blue() -> DeploymentId {
    DeploymentId {
        workspace: default(),
        endpoint: "iris".parse().unwrap(),
        deployment: "blue".parse().unwrap(),
    }
}

/// A file of 10 bytes whose period began so many seconds after 1970.
async fn add(store: &Store, segment: &str, collection: &str, begins: i64) {
    let content = Bytes::from(format!("{segment:<9}\n"));
    let new = NewCollectedFile {
        collection: collection.parse().unwrap(),
        segment: segment.to_owned(),
        begins_at: Timestamp::from_second(begins).unwrap(),
        records: 1,
        size: content.len() as u64,
        digest: store.blobs().put(content).await.unwrap(),
    };
    store.add_collected(&blue(), new).await.unwrap();
}

async fn segments(store: &Store, collection: Option<&str>, before: Option<i64>, limit: usize) -> Vec<String> {
    let collection = collection.map(|name| name.parse().unwrap());
    let files = store.collected(&blue(), collection.as_ref(), before, limit).await.unwrap();
    files.into_iter().map(|file| file.segment).collect()
}

pub(crate) async fn is_listed_once_and_forgotten(place: Place) {
    let store = place.open().await;
    for (segment, collection, begins) in
        [("a-0", "x", 60), ("a-1", "y", 60), ("b-0", "x", 120), ("a-0", "x", 60)]
    {
        add(&store, segment, collection, begins).await;
    }
    assert_eq!(segments(&store, None, None, 9).await, ["b-0", "a-1", "a-0"]);
    assert_eq!(segments(&store, Some("X"), None, 9).await, ["b-0", "a-0"]);
    let newest = store.collected(&blue(), None, None, 1).await.unwrap().remove(0);
    assert_eq!((newest.records, newest.size, newest.begins_at.as_second()), (1, 10, 120));
    assert_eq!(segments(&store, None, Some(newest.id), 1).await, ["a-1"]);
    let other = DeploymentId { deployment: "green".parse().unwrap(), ..blue() };
    assert!(store.collected(&other, None, None, 9).await.unwrap().is_empty());

    // What is listed is no garbage, and what is forgotten is.
    let garbage = async || store.blobs().collect_garbage(std::time::Duration::ZERO).await.unwrap().blobs;
    assert_eq!(garbage().await, 0);
    let begin = Timestamp::UNIX_EPOCH;
    assert_eq!(store.forget_collected(begin, 30).await.unwrap(), 0);
    assert_eq!(store.forget_collected(begin, 29).await.unwrap(), 1);
    assert_eq!(segments(&store, None, None, 9).await, ["b-0", "a-1"]);
    assert_eq!(store.forget_collected(Timestamp::from_second(61).unwrap(), 1000).await.unwrap(), 1);
    assert_eq!(segments(&store, None, None, 9).await, ["b-0"]);
    assert_eq!(garbage().await, 2);
}
