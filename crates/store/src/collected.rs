//! The catalogue of what scorers kept of requests and answers: files of records, each a blob. They outlive their
//! deployment, and go by age and by size.

use jiff::Timestamp;
use moorline_core::{DeploymentId, Digest, Name};

use crate::{
    Store, StoreError,
    database::{Query, Row},
    names,
};

/// Rows that are removed in one transaction.
const BATCH: i64 = 1000;

/// A file of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectedFile {
    /// Its place among all, later ones are greater.
    pub id: i64,
    pub collection: Name,
    /// The id that its scorer gave it.
    pub segment: String,
    /// When its period began.
    pub begins_at: Timestamp,
    pub records: u64,
    pub size: u64,
    pub digest: Digest,
}

/// A file of records that was stored as a blob.
#[derive(Clone, Debug)]
pub struct NewCollectedFile {
    pub collection: Name,
    pub segment: String,
    pub begins_at: Timestamp,
    pub records: u64,
    pub size: u64,
    pub digest: Digest,
}

impl Store {
    /// Lists a file, once, however often it is given.
    pub async fn add_collected(&self, of: &DeploymentId, new: NewCollectedFile) -> Result<(), StoreError> {
        let mut transaction = self.database().write().await?;
        let workspace = transaction.workspace(&of.workspace).await?;
        let query = Query::new(
            "INSERT INTO collected (workspace_id, endpoint, deployment, collection, segment, begins_at, records, size,
                                    digest)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (segment) DO NOTHING",
        )
        .integer(workspace)
        .text(names::key(of.endpoint.as_str()))
        .text(names::key(of.deployment.as_str()))
        .text(names::key(new.collection.as_str()))
        .text(new.segment)
        .time(new.begins_at)
        .integer(signed(new.records))
        .integer(signed(new.size))
        .text(new.digest.to_string());
        transaction.execute(query).await?;
        transaction.commit().await
    }

    /// The files of a deployment, of one collection or of all, the newest first: `limit` of those before `before`.
    pub async fn collected(
        &self,
        of: &DeploymentId,
        collection: Option<&Name>,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<CollectedFile>, StoreError> {
        let query = Query::new(
            "SELECT c.* FROM collected c JOIN workspaces w ON w.id = c.workspace_id
             WHERE w.name_key = $1 AND c.endpoint = $2 AND c.deployment = $3
               AND c.collection = COALESCE($4, c.collection) AND c.id < $5
             ORDER BY c.id DESC LIMIT $6",
        )
        .text(names::key(of.workspace.as_str()))
        .text(names::key(of.endpoint.as_str()))
        .text(names::key(of.deployment.as_str()))
        .optional_text(collection.map(|collection| names::key(collection.as_str())))
        .integer(before.unwrap_or(i64::MAX))
        .integer(signed(limit as u64));
        self.database().rows(query).await?.iter().map(read).collect()
    }

    /// Forgets the files that began before this, and of a workspace the oldest until what is left is within `most` bytes;
    /// how many. Their blobs go with the next garbage collection.
    pub async fn forget_collected(&self, before: Timestamp, most: u64) -> Result<u64, StoreError> {
        let mut forgotten = 0;
        loop {
            let mut transaction = self.database().write().await?;
            let query = Query::new(
                "DELETE FROM collected WHERE id IN
                   (SELECT id FROM
                      (SELECT id, begins_at, SUM(size) OVER (PARTITION BY workspace_id ORDER BY id DESC) AS newer
                       FROM collected) AS c
                    WHERE begins_at < $1 OR newer > $2 ORDER BY id LIMIT $3)",
            );
            let gone = transaction.execute(query.time(before).integer(signed(most)).integer(BATCH)).await?;
            transaction.commit().await?;
            forgotten += gone;
            if gone < BATCH as u64 {
                return Ok(forgotten);
            }
        }
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn read(row: &Row) -> Result<CollectedFile, StoreError> {
    Ok(CollectedFile {
        id: row.integer("id")?,
        collection: row.name("collection")?,
        segment: row.text("segment")?,
        begins_at: row.time("begins_at")?,
        records: row.count("records")?,
        size: row.count("size")?,
        digest: row.digest("digest")?,
    })
}
