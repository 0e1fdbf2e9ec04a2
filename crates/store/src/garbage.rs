//! Garbage collection: what nothing needs any more, and nobody is about to need.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::TryStreamExt as _;
use moorline_core::Digest;

use crate::{
    BlobStore, StoreError,
    database::{Database, Query},
};

/// Blobs that are looked at while registrations wait.
const BATCH: usize = 64;

/// What a garbage collection has removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    pub blobs: u64,
    /// Of the blobs.
    pub bytes: u64,
    /// Uploads that nobody went on with.
    pub uploads: u64,
}

impl BlobStore {
    /// Removes blobs that no asset, no record and no list of what was collected names, and uploads that nobody goes on with, if they are older than
    /// this. It must be longer than any client takes from its upload to its registration; one that takes longer is told
    /// that the blob is missing. A crash in the middle leaves some for the next time.
    ///
    /// One process at a time may use a blob store.
    pub async fn collect_garbage(&self, older_than: Duration) -> Result<Collected, StoreError> {
        let before = SystemTime::now().checked_sub(older_than).unwrap_or(SystemTime::UNIX_EPOCH);
        let mut collected =
            Collected { uploads: self.collect_uploads(before).await?, ..Collected::default() };
        let old: Vec<(Digest, u64)> = self.older_than(before).try_collect().await?;
        for batch in old.chunks(BATCH) {
            let turn = Arc::new(self.stop_registrations().await);
            let mut needed = named_by_records(self.database()).await?;
            needed.extend(named_by_rows(self.database(), batch).await?);
            for (digest, size) in batch.iter().filter(|(digest, _)| !needed.contains(digest)) {
                if self.remove(digest, before, Arc::clone(&turn)).await? {
                    collected.blobs += 1;
                    collected.bytes += size;
                }
            }
        }
        Ok(collected)
    }
}

/// Which of these some asset needs, or are a file of what was collected.
async fn named_by_rows(
    database: &Database,
    candidates: &[(Digest, u64)],
) -> Result<BTreeSet<Digest>, StoreError> {
    let mut needed = BTreeSet::new();
    for (digest, _) in candidates {
        let query = Query::new(
            "SELECT digest FROM asset_blobs WHERE digest = $1 UNION ALL SELECT digest FROM collected WHERE digest = $1
             LIMIT 1",
        )
        .text(digest.to_string());
        if database.row(query).await?.is_some() {
            needed.insert(*digest);
        }
    }
    Ok(needed)
}

/// Every digest that some record's document or status contains, whatever it means there.
async fn named_by_records(database: &Database) -> Result<BTreeSet<Digest>, StoreError> {
    let rows = database.rows(Query::new("SELECT body, status FROM records")).await?;
    let mut needed = BTreeSet::new();
    for row in rows {
        needed.extend(digests_in(&row.text("body")?));
        needed.extend(digests_in(&row.text("status")?));
    }
    Ok(needed)
}

/// The digests that a text contains.
pub(crate) fn digests_in(text: &str) -> BTreeSet<Digest> {
    const PREFIX: &str = "sha256:";
    text.match_indices(PREFIX)
        .filter_map(|(start, _)| text.get(start..start + PREFIX.len() + 64)?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_found_wherever_they_stand() {
        let (one, other) = (Digest::of(b"1"), Digest::of(b"2"));
        let text = format!(
            r#"{{"a": "{one}", "b": ["azureml:{other}", "sha256:12", "sha256:{}é"]}}"#,
            "0".repeat(63)
        );
        assert_eq!(digests_in(&text), BTreeSet::from([one, other]));
        assert!(digests_in("sha256:").is_empty());
    }
}
