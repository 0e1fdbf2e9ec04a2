//! Assets: models, environments and code, in versions that never change.
//!
//! Only what describes a version (its document, its stage, whether it is archived) can be changed; its files and its
//! digest cannot.

use std::collections::BTreeSet;

use jiff::Timestamp;
use moorline_core::{Digest, FileEntry, Name};
use serde_json::Value;

use crate::{
    Store, StoreError,
    database::{Query, Row, Transaction},
    garbage, names,
};

/// What an asset is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AssetKind {
    Model,
    Environment,
    Code,
    Bitstream,
}

impl AssetKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Environment => "environment",
            Self::Code => "code",
            Self::Bitstream => "bitstream",
        }
    }

    fn parse(text: &str) -> Result<Self, StoreError> {
        match text {
            "model" => Ok(Self::Model),
            "environment" => Ok(Self::Environment),
            "code" => Ok(Self::Code),
            "bitstream" => Ok(Self::Bitstream),
            other => Err(StoreError::unreadable(format!("an asset of kind `{other}`"))),
        }
    }
}

/// One version as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Asset {
    pub workspace: Name,
    pub kind: AssetKind,
    /// As it was written first; found in any case.
    pub name: Name,
    pub version: String,
    /// The document.
    pub body: Value,
    /// What makes it the same as another one.
    pub digest: Digest,
    pub files: Vec<FileEntry>,
    /// Registered by content because a document held it inline; not listed, never the latest.
    pub anonymous: bool,
    /// Not listed and never the latest, and still found by its version.
    pub archived: bool,
    pub stage: Option<String>,
    pub created_at: Timestamp,
    /// When the document, the stage or `archived` changed last.
    pub modified_at: Timestamp,
}

/// A version to be.
#[derive(Clone, Debug, PartialEq)]
pub struct NewAsset {
    pub workspace: Name,
    pub kind: AssetKind,
    pub name: Name,
    /// Left out: one more than the highest number among the versions, 1 at first.
    pub version: Option<String>,
    pub body: Value,
    pub digest: Digest,
    /// Their blobs must be in the blob store.
    pub files: Vec<FileEntry>,
    pub anonymous: bool,
}

/// What came of registering.
#[derive(Clone, Debug, PartialEq)]
pub struct Registered {
    pub asset: Asset,
    /// False where the same version with the same content was there before.
    pub created: bool,
}

/// What may be changed about a version; what is left out stays as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AssetUpdate {
    pub body: Option<Value>,
    /// `Some(None)` takes the stage away.
    pub stage: Option<Option<String>>,
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// 1000 at most.
    pub limit: usize,
    /// The name (or, among the versions of a name, the version) that the page before ended with.
    pub after: Option<String>,
    pub include_archived: bool,
}

impl Default for Page {
    fn default() -> Self {
        Self { limit: names::MAX_PAGE, after: None, include_archived: false }
    }
}

impl Page {
    fn limit(&self) -> i64 {
        self.limit.min(names::MAX_PAGE) as i64
    }
}

/// Columns of an asset with those of its name and its workspace.
macro_rules! select {
    ($from:literal) => {
        concat!(
            "SELECT a.*, n.kind, n.name, w.name AS workspace FROM ",
            $from,
            " JOIN workspaces w ON w.id = n.workspace_id "
        )
    };
    ($from:literal, $rest:literal) => {
        concat!(select!($from), $rest)
    };
}

impl Store {
    /// Registers a version. The same version with the same digest is the one that is there; with another digest it is a
    /// `Conflict`. Callers at once who leave the version out get different ones.
    pub async fn register(&self, new: NewAsset) -> Result<Registered, StoreError> {
        if let Some(version) = &new.version {
            names::check_version(version)?;
        }
        names::check_files(&new.files)?;
        let body = names::json(new.kind.as_str(), &new.body)?;
        let files = serde_json::to_string(&new.files)
            .map_err(|error| StoreError::unreadable(format!("a list of files ({error})")))?;
        // Until the commit, no blob is collected that this version is going to need.
        let _blobs_stay = self.blobs().hold().await;
        self.blobs().require(&new.files).await?;
        let mut transaction = self.database().write().await?;
        let workspace = transaction.workspace(&new.workspace).await?;
        // Taking the row of the name puts registrations of one name in order.
        let query = Query::new(
            "INSERT INTO asset_names (workspace_id, kind, name, name_key, next_version) VALUES ($1, $2, $3, $4, 1)
             ON CONFLICT (workspace_id, kind, name_key) DO UPDATE SET next_version = asset_names.next_version
             RETURNING id, next_version",
        )
        .integer(workspace)
        .text(new.kind.as_str())
        .text(new.name.as_str())
        .text(names::key(new.name.as_str()));
        let row = transaction.row(query).await?.ok_or_else(|| missing(new.kind, &new.name, None))?;
        let (name, next) = (row.integer("id")?, row.integer("next_version")?);
        let version = new.version.clone().unwrap_or_else(|| next.to_string());
        let query = Query::new(
            "INSERT INTO assets (name_id, version, body, digest, files, anonymous, archived, created_at, modified_at)
             VALUES ($1, $2, $3, $4, $5, $6, 0, $7, $7) ON CONFLICT (name_id, version) DO NOTHING RETURNING id",
        )
        .integer(name)
        .text(&version)
        .text(&body)
        .text(new.digest.to_string())
        .text(files)
        .flag(new.anonymous)
        .time(Timestamp::now());
        let created = transaction.row(query).await?;
        if let Some(row) = &created {
            let asset = row.integer("id")?;
            let files = new.files.iter().map(|file| file.sha256);
            transaction
                .refer(asset, files.chain([new.digest]).chain(garbage::digests_in(&body)).collect())
                .await?;
            if let Some(number) = version.parse::<i64>().ok().filter(|number| *number >= next) {
                let query = Query::new("UPDATE asset_names SET next_version = $1 WHERE id = $2")
                    .integer(number.saturating_add(1))
                    .integer(name);
                transaction.execute(query).await?;
            }
            transaction.find_latest(name).await?;
        }
        let row = transaction.row(one(&new.workspace, new.kind, &new.name, &version)).await?;
        let asset = read(&row.ok_or_else(|| missing(new.kind, &new.name, Some(&version)))?)?;
        if created.is_some() {
            transaction.commit().await?;
            self.told().tell(&asset.workspace, asset.kind.as_str(), asset.name.as_str(), None);
        } else if asset.digest != new.digest {
            return Err(StoreError::OtherContent {
                noun: new.kind.as_str(),
                name: new.name.to_string(),
                version,
            });
        }
        Ok(Registered { asset, created: created.is_some() })
    }

    /// One version, archived or not.
    pub async fn asset(
        &self,
        workspace: &Name,
        kind: AssetKind,
        name: &Name,
        version: &str,
    ) -> Result<Asset, StoreError> {
        match self.database().row(one(workspace, kind, name, version)).await? {
            Some(row) => read(&row),
            None => Err(self.what_asset_is_missing(workspace, kind, name, Some(version)).await),
        }
    }

    /// The version that was registered last and is neither archived nor anonymous.
    pub async fn latest_asset(
        &self,
        workspace: &Name,
        kind: AssetKind,
        name: &Name,
    ) -> Result<Asset, StoreError> {
        let query = Query::new(select!(
            "asset_names n JOIN assets a ON a.id = n.latest_active",
            "WHERE w.name_key = $1 AND n.kind = $2 AND n.name_key = $3"
        ))
        .text(names::key(workspace.as_str()))
        .text(kind.as_str())
        .text(names::key(name.as_str()));
        match self.database().row(query).await? {
            Some(row) => read(&row),
            None => Err(self.what_asset_is_missing(workspace, kind, name, None).await),
        }
    }

    /// The latest version of every name, by name. Anonymous ones are not listed.
    pub async fn assets(
        &self,
        workspace: &Name,
        kind: AssetKind,
        page: &Page,
    ) -> Result<Vec<Asset>, StoreError> {
        self.workspace(workspace).await?;
        let statement = if page.include_archived {
            select!(
                "asset_names n JOIN assets a ON a.id = n.latest",
                "WHERE w.name_key = $1 AND n.kind = $2 AND n.name_key > $3 ORDER BY n.name_key LIMIT $4"
            )
        } else {
            select!(
                "asset_names n JOIN assets a ON a.id = n.latest_active",
                "WHERE w.name_key = $1 AND n.kind = $2 AND n.name_key > $3 ORDER BY n.name_key LIMIT $4"
            )
        };
        let query = Query::new(statement)
            .text(names::key(workspace.as_str()))
            .text(kind.as_str())
            .text(page.after.as_deref().map(names::key).unwrap_or_default())
            .integer(page.limit());
        self.database().rows(query).await?.iter().map(read).collect()
    }

    /// The versions of a name, newest first. `NotFound` if the name has none at all.
    pub async fn asset_versions(
        &self,
        workspace: &Name,
        kind: AssetKind,
        name: &Name,
        page: &Page,
    ) -> Result<Vec<Asset>, StoreError> {
        let query = Query::new(
            "SELECT n.id FROM asset_names n JOIN workspaces w ON w.id = n.workspace_id
             WHERE w.name_key = $1 AND n.kind = $2 AND n.name_key = $3",
        )
        .text(names::key(workspace.as_str()))
        .text(kind.as_str())
        .text(names::key(name.as_str()));
        let Some(row) = self.database().row(query).await? else {
            return Err(self.what_asset_is_missing(workspace, kind, name, None).await);
        };
        let query = Query::new(select!(
            "assets a JOIN asset_names n ON n.id = a.name_id",
            "WHERE a.name_id = $1 AND (a.archived = 0 OR $2 = 1)
               AND ($3 IS NULL OR a.id < (SELECT id FROM assets WHERE name_id = $1 AND version = $3))
             ORDER BY a.id DESC LIMIT $4"
        ))
        .integer(row.integer("id")?)
        .flag(page.include_archived)
        .optional_text(page.after.as_deref())
        .integer(page.limit());
        self.database().rows(query).await?.iter().map(read).collect()
    }

    /// Changes what describes a version.
    pub async fn update_asset_body(
        &self,
        workspace: &Name,
        kind: AssetKind,
        name: &Name,
        version: &str,
        update: AssetUpdate,
    ) -> Result<Asset, StoreError> {
        let body = update.body.as_ref().map(|body| names::json(kind.as_str(), body)).transpose()?;
        let named = body.as_deref().map(garbage::digests_in).unwrap_or_default();
        let (sets_stage, stage) = match update.stage {
            Some(stage) => (true, stage),
            None => (false, None),
        };
        let query = Query::new(
            "UPDATE assets SET body = COALESCE($1, body), stage = CASE WHEN $2 = 1 THEN $3 ELSE stage END,
                               modified_at = $4
             WHERE id = $5",
        )
        .optional_text(body)
        .flag(sets_stage)
        .optional_text(stage)
        .time(Timestamp::now());
        match self.change(|| one(workspace, kind, name, version), query, named).await? {
            Some(asset) => Ok(asset),
            None => Err(self.what_asset_is_missing(workspace, kind, name, Some(version)).await),
        }
    }

    /// Takes a version off the lists, or puts it back.
    pub async fn archive_asset(
        &self,
        workspace: &Name,
        kind: AssetKind,
        name: &Name,
        version: &str,
        archived: bool,
    ) -> Result<Asset, StoreError> {
        let query = Query::new("UPDATE assets SET archived = $1, modified_at = $2 WHERE id = $3")
            .flag(archived)
            .time(Timestamp::now());
        match self.change(|| one(workspace, kind, name, version), query, BTreeSet::new()).await? {
            Some(asset) => Ok(asset),
            None => Err(self.what_asset_is_missing(workspace, kind, name, Some(version)).await),
        }
    }

    /// The newest version of a name with this digest that is not archived.
    pub async fn find_asset_by_digest(
        &self,
        workspace: &Name,
        kind: AssetKind,
        name: &Name,
        digest: &Digest,
    ) -> Result<Option<Asset>, StoreError> {
        let query = Query::new(select!(
            "assets a JOIN asset_names n ON n.id = a.name_id",
            "WHERE a.digest = $1 AND a.archived = 0 AND w.name_key = $2 AND n.kind = $3 AND n.name_key = $4
             ORDER BY a.id DESC LIMIT 1"
        ))
        .text(digest.to_string())
        .text(names::key(workspace.as_str()))
        .text(kind.as_str())
        .text(names::key(name.as_str()));
        self.database().row(query).await?.as_ref().map(read).transpose()
    }

    /// Runs an update whose last parameter is the row of the version, if there is such a version.
    async fn change(
        &self,
        which: impl Fn() -> Query,
        update: Query,
        named: BTreeSet<Digest>,
    ) -> Result<Option<Asset>, StoreError> {
        let mut transaction = self.database().write().await?;
        let Some(row) = transaction.row(which()).await? else { return Ok(None) };
        let (id, name_id) = (row.integer("id")?, row.integer("name_id")?);
        // As registering does, so that `latest` is never found from what another one is about to change.
        let lock =
            Query::new("UPDATE asset_names SET next_version = next_version WHERE id = $1").integer(name_id);
        transaction.execute(lock).await?;
        transaction.execute(update.integer(id)).await?;
        transaction.refer(id, named).await?;
        transaction.find_latest(name_id).await?;
        let changed = transaction.row(which()).await?;
        transaction.commit().await?;
        let changed = changed.as_ref().map(read).transpose()?;
        if let Some(asset) = &changed {
            self.told().tell(&asset.workspace, asset.kind.as_str(), asset.name.as_str(), None);
        }
        Ok(changed)
    }

    async fn what_asset_is_missing(
        &self,
        workspace: &Name,
        kind: AssetKind,
        name: &Name,
        version: Option<&str>,
    ) -> StoreError {
        match self.workspace(workspace).await {
            Ok(_) => missing(kind, name, version),
            Err(error) => error,
        }
    }
}

impl Transaction {
    /// Notes that a version needs these blobs.
    async fn refer(&mut self, asset: i64, digests: BTreeSet<Digest>) -> Result<(), StoreError> {
        for digest in digests {
            let query = Query::new(
                "INSERT INTO asset_blobs (digest, asset_id) VALUES ($1, $2) ON CONFLICT (digest, asset_id) DO NOTHING",
            )
                .text(digest.to_string())
                .integer(asset);
            self.execute(query).await?;
        }
        Ok(())
    }

    /// Looks again which version of a name is the latest.
    async fn find_latest(&mut self, name: i64) -> Result<(), StoreError> {
        let query = Query::new(
            "UPDATE asset_names SET
                 latest = (SELECT MAX(id) FROM assets WHERE name_id = $1 AND anonymous = 0),
                 latest_active = (SELECT MAX(id) FROM assets WHERE name_id = $1 AND anonymous = 0 AND archived = 0)
             WHERE id = $1",
        )
        .integer(name);
        self.execute(query).await.map(drop)
    }
}

fn missing(kind: AssetKind, name: &Name, version: Option<&str>) -> StoreError {
    let name = match version {
        Some(version) => format!("{name}:{}", version.chars().take(300).collect::<String>()),
        None => name.to_string(),
    };
    StoreError::NotFound { noun: kind.as_str(), name }
}

fn one(workspace: &Name, kind: AssetKind, name: &Name, version: &str) -> Query {
    Query::new(select!(
        "assets a JOIN asset_names n ON n.id = a.name_id",
        "WHERE w.name_key = $1 AND n.kind = $2 AND n.name_key = $3 AND a.version = $4"
    ))
    .text(names::key(workspace.as_str()))
    .text(kind.as_str())
    .text(names::key(name.as_str()))
    .text(version)
}

fn read(row: &Row) -> Result<Asset, StoreError> {
    Ok(Asset {
        workspace: row.name("workspace")?,
        kind: AssetKind::parse(&row.text("kind")?)?,
        name: row.name("name")?,
        version: row.text("version")?,
        body: row.json("body")?,
        digest: row.digest("digest")?,
        files: serde_json::from_str(&row.text("files")?)
            .map_err(|error| StoreError::unreadable(format!("a list of files ({error})")))?,
        anonymous: row.flag("anonymous")?,
        archived: row.flag("archived")?,
        stage: row.optional_text("stage")?,
        created_at: row.time("created_at")?,
        modified_at: row.time("modified_at")?,
    })
}
