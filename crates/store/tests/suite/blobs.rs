//! Blobs in a folder and in a bucket: whole or not there, once, and what their names say.

use std::{os::unix::fs::PermissionsExt as _, path::Path};

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt as _, stream};
use moorline_core::{Digest, ErrorClass};
use moorline_store::{BlobStore, StoreError};
use tokio::task::JoinSet;

use crate::place::Place;

fn once(bytes: impl Into<Bytes>) -> impl Stream<Item = Result<Bytes, StoreError>> + Send {
    stream::iter([Ok(bytes.into())])
}

/// Bytes that differ from one another everywhere.
fn content(seed: u32, length: usize) -> Bytes {
    (0..length as u32).map(|index| (index.wrapping_mul(2654435761).wrapping_add(seed) >> 13) as u8).collect()
}

async fn read(blobs: &BlobStore, digest: &Digest) -> Vec<u8> {
    let (size, stream) = blobs.read(digest).await.unwrap();
    let content = stream.try_fold(Vec::new(), |mut all, piece| async move {
        all.extend_from_slice(&piece);
        Ok(all)
    });
    let content = content.await.unwrap();
    assert_eq!(content.len() as u64, size);
    content
}

/// What holds wherever blobs lie.
pub(crate) async fn holds_everywhere(place: Place) {
    let store = place.open().await;
    let blobs = store.blobs();
    whole(blobs, place.path()).await;
    resumed(blobs).await;
    refused(blobs).await;
    at_once(blobs).await;
    // Nothing is left on the way.
    assert_eq!(fs_err::read_dir(place.path().join("uploads")).unwrap().count(), 0);
}

async fn whole(blobs: &BlobStore, folder: &Path) {
    // More than one chunk, and more than one part of a multi-part upload.
    for length in [0, 1, 1024 * 1024, 40 * 1024 * 1024 + 7] {
        let content = content(1, length);
        let digest = blobs.put(content.clone()).await.unwrap();
        assert_eq!(digest, Digest::of(&content));
        assert_eq!(blobs.size(&digest).await.unwrap(), Some(length as u64));
        assert_eq!(blobs.upload_offset(&digest).await.unwrap(), length as u64);
        assert!(read(blobs, &digest).await == content);
        let target = folder.join(format!("copy-{length}"));
        blobs.write_to(&digest, &target).await.unwrap();
        assert!(fs_err::read(&target).unwrap() == content);
        assert_eq!(fs_err::metadata(&target).unwrap().permissions().mode() & 0o777, 0o444);
        assert!(blobs.write_to(&digest, &target).await.is_err());
        assert_eq!(blobs.put_file(&target).await.unwrap(), (digest, length as u64));
    }
    let absent = Digest::of(b"absent");
    assert_eq!(blobs.size(&absent).await.unwrap(), None);
    assert_eq!(blobs.path(&absent), None);
    assert_eq!(blobs.read(&absent).await.err().unwrap().class(), ErrorClass::NotFound);
    let target = folder.join("absent");
    assert_eq!(blobs.write_to(&absent, &target).await.unwrap_err().class(), ErrorClass::NotFound);
    assert!(!target.exists());
    let error = blobs.put_file(folder).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::InvalidInput);
    assert!(blobs.put_file(folder.join("nothing")).await.is_err());
}

async fn resumed(blobs: &BlobStore) {
    let content = content(2, 3 * 1024 * 1024 + 5);
    let (digest, size) = (Digest::of(&content), content.len() as u64);
    let pieces = |from: usize, to: usize| {
        stream::iter(
            content
                .slice(from..to)
                .chunks(10_007)
                .map(Bytes::copy_from_slice)
                .map(Ok::<_, StoreError>)
                .collect::<Vec<_>>(),
        )
    };
    assert_eq!(blobs.append(&digest, 0, pieces(0, 2_000_000)).await.unwrap(), 2_000_000);
    assert_eq!(blobs.upload_offset(&digest).await.unwrap(), 2_000_000);
    for wrong in [0, 1_999_999, 2_000_001] {
        let error = blobs.append(&digest, wrong, pieces(0, 10)).await.unwrap_err();
        assert!(matches!(error, StoreError::Offset { actual: 2_000_000, .. }), "{error:?}");
        assert_eq!(error.class(), ErrorClass::Conflict);
    }
    let error = blobs.commit(&digest, size).await.unwrap_err();
    assert!(matches!(error, StoreError::Size { actual: 2_000_000, .. }), "{error:?}");
    // A client that goes away in the middle: what it had sent is kept.
    let broken = stream::iter([
        Ok(content.slice(2_000_000..2_500_000)),
        Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset)),
    ]);
    let error = blobs.append(&digest, 2_000_000, broken).await.unwrap_err();
    assert!(matches!(error, StoreError::Interrupted { .. }), "{error:?}");
    let offset = blobs.upload_offset(&digest).await.unwrap() as usize;
    assert_eq!(offset, 2_500_000);
    assert_eq!(blobs.append(&digest, offset as u64, pieces(offset, content.len())).await.unwrap(), size);
    assert_eq!(blobs.size(&digest).await.unwrap(), None);
    blobs.commit(&digest, size).await.unwrap();
    assert!(read(blobs, &digest).await == content);
    // Once more is fine, as is sending what is there already.
    blobs.commit(&digest, size).await.unwrap();
    assert!(blobs.commit(&digest, size + 1).await.is_err());
    let error = blobs.append(&digest, 0, pieces(0, 10)).await.unwrap_err();
    assert!(matches!(error, StoreError::Offset { actual, .. } if actual == size), "{error:?}");
    // Of nothing, no piece needs to be sent.
    blobs.commit(&Digest::of(b""), 0).await.unwrap();
}

async fn refused(blobs: &BlobStore) {
    let digest = Digest::of(b"announced");
    blobs.append(&digest, 0, once("something")).await.unwrap();
    let error = blobs.commit(&digest, 9).await.unwrap_err();
    assert!(
        matches!(error, StoreError::Digest { actual, .. } if actual == Digest::of(b"something")),
        "{error:?}"
    );
    assert_eq!(error.class(), ErrorClass::InvalidInput);
    // It begins anew.
    assert_eq!(blobs.upload_offset(&digest).await.unwrap(), 0);
    blobs.append(&digest, 0, once("announced and more")).await.unwrap();
    let error = blobs.commit(&digest, 9).await.unwrap_err();
    assert!(matches!(error, StoreError::Size { expected: 9, actual: 18, .. }), "{error:?}");
    assert_eq!(blobs.upload_offset(&digest).await.unwrap(), 0);
    assert!(matches!(blobs.commit(&digest, 9).await.unwrap_err(), StoreError::Size { actual: 0, .. }));
    assert_eq!(blobs.size(&digest).await.unwrap(), None);
}

/// Clients that send the same thing at once; each goes on where it is told to, until it is there.
async fn at_once(blobs: &BlobStore) {
    let content = content(3, 5 * 1024 * 1024 + 1);
    let (digest, size) = (Digest::of(&content), content.len() as u64);
    let mut clients = JoinSet::new();
    for client in 0..6 {
        let (blobs, content) = (blobs.clone(), content.clone());
        clients.spawn(async move {
            loop {
                let offset = blobs.upload_offset(&digest).await.unwrap();
                if offset < size {
                    let rest = content.slice(offset as usize..);
                    let pieces: Vec<_> = rest
                        .chunks(300_000 + client)
                        .map(|piece| Ok::<_, StoreError>(Bytes::copy_from_slice(piece)))
                        .collect();
                    match blobs.append(&digest, offset, stream::iter(pieces)).await {
                        Ok(end) => assert_eq!(end, size),
                        Err(StoreError::Offset { .. }) => continue,
                        Err(error) => panic!("{error:?}"),
                    }
                }
                match blobs.commit(&digest, size).await {
                    Ok(()) => return,
                    // Somebody else has just begun again.
                    Err(StoreError::Size { .. }) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
        });
    }
    clients.join_all().await;
    assert!(read(blobs, &digest).await == content);
    let mut clients = JoinSet::new();
    for _ in 0..6 {
        let (blobs, content) = (blobs.clone(), content.clone());
        clients.spawn(async move { blobs.put(content).await.unwrap() });
    }
    assert!(clients.join_all().await.iter().all(|put| *put == digest));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_folder() {
    holds_everywhere(Place::sqlite()).await;
}

#[tokio::test]
async fn in_a_folder_they_are_read_only_files_that_are_there_once() {
    let place = Place::sqlite();
    let store = place.open().await;
    let content = content(4, 5000);
    let digest = store.blobs().put(content.clone()).await.unwrap();
    let hex = digest.hex();
    let path = place.path().join("blobs/sha256").join(&hex[..2]).join(&hex);
    assert_eq!(store.blobs().path(&digest).unwrap(), path);
    assert_eq!(fs_err::metadata(&path).unwrap().permissions().mode() & 0o777, 0o444);
    store.blobs().append(&Digest::of(b"other"), 0, once("other")).await.unwrap();
    store.blobs().commit(&Digest::of(b"other"), 5).await.unwrap();
    assert_eq!(store.blobs().put(content).await.unwrap(), digest);
    let files = |folder: &Path| fs_err::read_dir(folder).unwrap().count();
    assert_eq!(files(&place.path().join("blobs/sha256")), 2);
    assert_eq!(files(path.parent().unwrap()), 1);
}

/// Uploads on another file system cannot be moved; a blob still appears whole.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn in_a_folder_on_another_file_system() {
    let Ok(memory) = tempfile::tempdir_in("/dev/shm") else {
        crate::place::skip("there is no /dev/shm to be another file system");
        return;
    };
    let place = Place::sqlite();
    let mut config = place.config();
    config.uploads = memory.path().to_owned();
    let store = moorline_store::Store::open(config).await.unwrap();
    let content = content(5, 3_000_000);
    let digest = store.blobs().put(content.clone()).await.unwrap();
    assert!(read(store.blobs(), &digest).await == content);
    let path = store.blobs().path(&digest).unwrap();
    assert_eq!(fs_err::metadata(path).unwrap().permissions().mode() & 0o777, 0o444);
    assert_eq!(fs_err::read_dir(place.path().join("blobs")).unwrap().count(), 1);
    assert_eq!(fs_err::read_dir(memory.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn in_a_folder_an_upload_resumes_after_the_store_is_opened_again() {
    let place = Place::sqlite();
    let digest = Digest::of(b"0123456789");
    let store = place.open().await;
    store.blobs().append(&digest, 0, once("01234")).await.unwrap();
    drop(store);
    let store = place.open().await;
    assert_eq!(store.blobs().upload_offset(&digest).await.unwrap(), 5);
    store.blobs().append(&digest, 5, once("56789")).await.unwrap();
    store.blobs().commit(&digest, 10).await.unwrap();
}
