//! Workspaces: what everything else belongs to.

use jiff::Timestamp;
use moorline_core::Name;
use serde_json::Value;

use crate::{
    Store, StoreError,
    database::{Query, Row, Transaction},
    names,
};

/// The workspace that every store has after it was opened.
pub const DEFAULT_WORKSPACE: &str = "default";
const NOUN: &str = "workspace";

/// A workspace as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Workspace {
    /// As it was written first; found in any case.
    pub name: Name,
    /// The workspace's document.
    pub body: Value,
    pub created_at: Timestamp,
    pub modified_at: Timestamp,
}

/// A workspace to be.
#[derive(Clone, Debug, PartialEq)]
pub struct NewWorkspace {
    pub name: Name,
    pub body: Value,
}

impl Store {
    /// `Conflict` if there is one of that name.
    pub async fn create_workspace(&self, new: NewWorkspace) -> Result<Workspace, StoreError> {
        let mut transaction = self.database().write().await?;
        let created = insert(&mut transaction, &new).await?;
        transaction.commit().await?;
        created.ok_or_else(|| StoreError::Exists { noun: NOUN, name: new.name.to_string() })
    }

    /// `NotFound` if there is none of that name.
    pub async fn workspace(&self, name: &Name) -> Result<Workspace, StoreError> {
        let query =
            Query::new("SELECT * FROM workspaces WHERE name_key = $1").text(names::key(name.as_str()));
        match self.database().row(query).await? {
            Some(row) => read(&row),
            None => Err(missing(name)),
        }
    }

    /// All of them, by name.
    pub async fn workspaces(&self) -> Result<Vec<Workspace>, StoreError> {
        let rows = self.database().rows(Query::new("SELECT * FROM workspaces ORDER BY name_key")).await?;
        rows.iter().map(read).collect()
    }

    /// Replaces the document.
    pub async fn update_workspace(&self, name: &Name, body: Value) -> Result<Workspace, StoreError> {
        let body = names::json("the workspace", &body)?;
        let mut transaction = self.database().write().await?;
        let query =
            Query::new("UPDATE workspaces SET body = $1, modified_at = $2 WHERE name_key = $3 RETURNING *")
                .text(body)
                .time(Timestamp::now())
                .text(names::key(name.as_str()));
        let row = transaction.row(query).await?.ok_or_else(|| missing(name))?;
        transaction.commit().await?;
        read(&row)
    }

    /// Removes the workspace. With `with_contents`, everything that belongs to it goes with it; without, a workspace
    /// that holds assets, records or secrets is a `Conflict`. Blobs are freed by the next garbage collection.
    pub async fn delete_workspace(&self, name: &Name, with_contents: bool) -> Result<(), StoreError> {
        let mut transaction = self.database().write().await?;
        let id = transaction.workspace(name).await?;
        if !with_contents {
            let query = Query::new(
                "SELECT (SELECT COUNT(*) FROM asset_names WHERE workspace_id = $1) AS assets,
                        (SELECT COUNT(*) FROM records WHERE workspace_id = $1) AS records,
                        (SELECT COUNT(*) FROM secrets WHERE workspace_id = $1) AS secrets",
            )
            .integer(id);
            let row = transaction.row(query).await?.ok_or_else(|| missing(name))?;
            let mut holds = Vec::new();
            for (column, noun) in [
                ("assets", "models, environments or code"),
                ("records", "computes, endpoints or deployments"),
                ("secrets", "secrets"),
            ] {
                if row.integer(column)? > 0 {
                    holds.push(noun);
                }
            }
            if !holds.is_empty() {
                let holds = holds.join(", ");
                return Err(StoreError::NotEmpty { noun: NOUN, name: name.to_string(), holds });
            }
        }
        transaction.execute(Query::new("DELETE FROM workspaces WHERE id = $1").integer(id)).await?;
        transaction.commit().await
    }

    /// Makes [`DEFAULT_WORKSPACE`] where it is missing.
    pub(crate) async fn ensure_default_workspace(&self) -> Result<(), StoreError> {
        let name: Name = DEFAULT_WORKSPACE.parse().expect("it is a name");
        if !matches!(self.workspace(&name).await, Err(StoreError::NotFound { .. })) {
            return Ok(());
        }
        let mut transaction = self.database().write().await?;
        insert(&mut transaction, &NewWorkspace { name, body: Value::Object(serde_json::Map::new()) }).await?;
        transaction.commit().await
    }
}

impl Transaction {
    /// The row of a workspace.
    pub(crate) async fn workspace(&mut self, name: &Name) -> Result<i64, StoreError> {
        let query =
            Query::new("SELECT id FROM workspaces WHERE name_key = $1").text(names::key(name.as_str()));
        self.row(query).await?.ok_or_else(|| missing(name))?.integer("id")
    }
}

fn missing(name: &Name) -> StoreError {
    StoreError::NotFound { noun: NOUN, name: name.to_string() }
}

async fn insert(transaction: &mut Transaction, new: &NewWorkspace) -> Result<Option<Workspace>, StoreError> {
    let now = Timestamp::now();
    let query = Query::new(
        "INSERT INTO workspaces (name, name_key, body, created_at, modified_at) VALUES ($1, $2, $3, $4, $4)
         ON CONFLICT (name_key) DO NOTHING RETURNING *",
    )
    .text(new.name.as_str())
    .text(names::key(new.name.as_str()))
    .text(names::json("the workspace", &new.body)?)
    .time(now);
    transaction.row(query).await?.as_ref().map(read).transpose()
}

fn read(row: &Row) -> Result<Workspace, StoreError> {
    Ok(Workspace {
        name: row.name("name")?,
        body: row.json("body")?,
        created_at: row.time("created_at")?,
        modified_at: row.time("modified_at")?,
    })
}
