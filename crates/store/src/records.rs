//! Records: desired state, which people change and the reconciler makes true, with the status that it reports.

use jiff::Timestamp;
use moorline_core::Name;
use serde_json::Value;

use crate::{
    Store, StoreError,
    database::{Query, Row},
    names,
};

/// What a record describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordKind {
    Compute,
    /// Its name is unique over all workspaces.
    Endpoint,
    /// Named `endpoint/deployment`; exists only under an endpoint.
    Deployment,
    /// Its name is unique over all workspaces.
    Device,
}

impl RecordKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Compute => "compute",
            Self::Endpoint => "endpoint",
            Self::Deployment => "deployment",
            Self::Device => "device",
        }
    }

    fn parse(text: &str) -> Result<Self, StoreError> {
        match text {
            "compute" => Ok(Self::Compute),
            "endpoint" => Ok(Self::Endpoint),
            "deployment" => Ok(Self::Deployment),
            "device" => Ok(Self::Device),
            other => Err(StoreError::unreadable(format!("a record of kind `{other}`"))),
        }
    }
}

/// A record as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub workspace: Name,
    pub kind: RecordKind,
    pub name: String,
    /// 1 at first; one more with every change of `body`.
    pub generation: u64,
    /// What is desired.
    pub body: Value,
    /// What was last reported; `null` at first.
    pub status: Value,
    pub created_at: Timestamp,
    /// When `body` changed last.
    pub modified_at: Timestamp,
}

/// Columns of a record with the name of its workspace.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT r.*, w.name AS workspace FROM records r JOIN workspaces w ON w.id = r.workspace_id ",
            $rest
        )
    };
}

impl Store {
    /// `Conflict` if it exists: of two callers at once exactly one wins. An endpoint's or a device's name must be free
    /// in every workspace; a deployment's endpoint must exist (`NotFound`).
    pub async fn create_record(
        &self,
        workspace: &Name,
        kind: RecordKind,
        name: &str,
        body: Value,
    ) -> Result<Record, StoreError> {
        let parent = check_name(kind, name)?;
        let mut transaction = self.database().write().await?;
        let id = transaction.workspace(workspace).await?;
        let parent = match parent {
            None => None,
            Some(endpoint) => {
                let query = Query::new(
                    "SELECT id FROM records WHERE workspace_id = $1 AND kind = 'endpoint' AND name_key = $2",
                )
                .integer(id)
                .text(names::key(endpoint));
                let found = transaction.row(query).await?;
                Some(found.ok_or_else(|| missing(RecordKind::Endpoint, endpoint))?.integer("id")?)
            }
        };
        let query = Query::new(
            "INSERT INTO records (workspace_id, kind, name, name_key, parent_id, generation, body, status, created_at,
                                  modified_at)
             VALUES ($1, $2, $3, $4, $5, 1, $6, 'null', $7, $7) ON CONFLICT DO NOTHING",
        )
        .integer(id)
        .text(kind.as_str())
        .text(name)
        .text(names::key(name))
        .optional_integer(parent)
        .text(names::json(kind.as_str(), &body)?)
        .time(Timestamp::now());
        if transaction.execute(query).await? == 0 {
            return Err(StoreError::Exists { noun: kind.as_str(), name: name.to_owned() });
        }
        let created = transaction.row(one(workspace, kind, name)).await?;
        transaction.commit().await?;
        let created = read(&created.ok_or_else(|| missing(kind, name))?)?;
        self.told().tell(&created.workspace, kind.as_str(), &created.name, Some(created.generation));
        Ok(created)
    }

    /// Replaces what is desired; the generation grows by one. With `expected_generation`, a record that has another one
    /// by now is a `Conflict`.
    pub async fn update_record(
        &self,
        workspace: &Name,
        kind: RecordKind,
        name: &str,
        expected_generation: Option<u64>,
        body: Value,
    ) -> Result<Record, StoreError> {
        let body = names::json(kind.as_str(), &body)?;
        let mut transaction = self.database().write().await?;
        let query = Query::new(
            "UPDATE records SET body = $1, modified_at = $2, generation = generation + 1
             WHERE workspace_id = (SELECT id FROM workspaces WHERE name_key = $3) AND kind = $4 AND name_key = $5
               AND generation = COALESCE($6, generation)",
        )
        .text(body)
        .time(Timestamp::now())
        .text(names::key(workspace.as_str()))
        .text(kind.as_str())
        .text(names::key(name))
        .optional_integer(expected_generation.map(|generation| i64::try_from(generation).unwrap_or(i64::MAX)));
        let changed = transaction.execute(query).await?;
        let row = transaction.row(one(workspace, kind, name)).await?;
        let Some(row) = row else {
            drop(transaction);
            return Err(self.what_is_missing(workspace, kind, name).await);
        };
        let record = read(&row)?;
        match expected_generation {
            Some(expected) if changed == 0 => Err(StoreError::Stale {
                noun: kind.as_str(),
                name: name.to_owned(),
                expected,
                actual: record.generation,
            }),
            _ => {
                transaction.commit().await?;
                self.told().tell(&record.workspace, kind.as_str(), &record.name, Some(record.generation));
                Ok(record)
            }
        }
    }

    /// Reports what is true; the generation stays.
    pub async fn set_status(
        &self,
        workspace: &Name,
        kind: RecordKind,
        name: &str,
        status: Value,
    ) -> Result<(), StoreError> {
        let status = names::json("the status", &status)?;
        let mut transaction = self.database().write().await?;
        let query = Query::new(
            "UPDATE records SET status = $1
             WHERE workspace_id = (SELECT id FROM workspaces WHERE name_key = $2) AND kind = $3 AND name_key = $4
             RETURNING generation",
        )
        .text(status)
        .text(names::key(workspace.as_str()))
        .text(kind.as_str())
        .text(names::key(name));
        let Some(row) = transaction.row(query).await? else {
            drop(transaction);
            return Err(self.what_is_missing(workspace, kind, name).await);
        };
        let generation = row.count("generation")?;
        transaction.commit().await?;
        self.told().tell(workspace, kind.as_str(), name, Some(generation));
        Ok(())
    }

    /// `NotFound` if it does not exist.
    pub async fn record(&self, workspace: &Name, kind: RecordKind, name: &str) -> Result<Record, StoreError> {
        match self.database().row(one(workspace, kind, name)).await? {
            Some(row) => read(&row),
            None => Err(self.what_is_missing(workspace, kind, name).await),
        }
    }

    /// The endpoint of this name, in whichever workspace it is.
    pub async fn find_endpoint(&self, name: &str) -> Result<Option<Record>, StoreError> {
        let query =
            Query::new(select!("WHERE r.kind = 'endpoint' AND r.name_key = $1")).text(names::key(name));
        self.database().row(query).await?.as_ref().map(read).transpose()
    }

    /// The device of this name, in whichever workspace it is.
    pub async fn find_device(&self, name: &str) -> Result<Option<Record>, StoreError> {
        let query = Query::new(select!("WHERE r.kind = 'device' AND r.name_key = $1")).text(names::key(name));
        self.database().row(query).await?.as_ref().map(read).transpose()
    }

    /// All of a kind, of one workspace or of all, by workspace and name.
    pub async fn records(
        &self,
        kind: RecordKind,
        workspace: Option<&Name>,
    ) -> Result<Vec<Record>, StoreError> {
        let query = match workspace {
            Some(workspace) => {
                self.workspace(workspace).await?;
                Query::new(select!("WHERE r.kind = $1 AND w.name_key = $2 ORDER BY r.name_key"))
                    .text(kind.as_str())
                    .text(names::key(workspace.as_str()))
            }
            None => {
                Query::new(select!("WHERE r.kind = $1 ORDER BY w.name_key, r.name_key")).text(kind.as_str())
            }
        };
        self.database().rows(query).await?.iter().map(read).collect()
    }

    /// The deployments of an endpoint, by name; none where the endpoint does not exist.
    pub async fn deployments_of(&self, workspace: &Name, endpoint: &Name) -> Result<Vec<Record>, StoreError> {
        let query = Query::new(select!(
            "JOIN records e ON e.id = r.parent_id
             WHERE r.kind = 'deployment' AND e.kind = 'endpoint' AND w.name_key = $1 AND e.name_key = $2
             ORDER BY r.name_key"
        ))
        .text(names::key(workspace.as_str()))
        .text(names::key(endpoint.as_str()));
        self.database().rows(query).await?.iter().map(read).collect()
    }

    /// `Conflict` for an endpoint that has deployments; `NotFound` if it does not exist.
    pub async fn delete_record(
        &self,
        workspace: &Name,
        kind: RecordKind,
        name: &str,
    ) -> Result<(), StoreError> {
        let mut transaction = self.database().write().await?;
        let query = Query::new(
            "DELETE FROM records
             WHERE workspace_id = (SELECT id FROM workspaces WHERE name_key = $1) AND kind = $2 AND name_key = $3",
        )
        .text(names::key(workspace.as_str()))
        .text(kind.as_str())
        .text(names::key(name));
        match transaction.execute(query).await {
            Ok(0) => {
                drop(transaction);
                Err(self.what_is_missing(workspace, kind, name).await)
            }
            Ok(_) => {
                transaction.commit().await?;
                self.told().tell(workspace, kind.as_str(), name, None);
                Ok(())
            }
            // The only thing that refers to a record is a deployment to its endpoint.
            Err(StoreError::Deleted { .. }) => Err(StoreError::NotEmpty {
                noun: kind.as_str(),
                name: name.to_owned(),
                holds: "deployments".to_owned(),
            }),
            Err(other) => Err(other),
        }
    }

    /// Says whether it is the workspace that does not exist, or the record.
    async fn what_is_missing(&self, workspace: &Name, kind: RecordKind, name: &str) -> StoreError {
        match self.workspace(workspace).await {
            Ok(_) => missing(kind, name),
            Err(error) => error,
        }
    }
}

fn missing(kind: RecordKind, name: &str) -> StoreError {
    StoreError::NotFound { noun: kind.as_str(), name: name.to_owned() }
}

/// The endpoint that a record belongs to, if its kind has one.
fn check_name(kind: RecordKind, name: &str) -> Result<Option<&str>, StoreError> {
    let invalid = |reason: String| StoreError::invalid(format!("the name of the {}", kind.as_str()), reason);
    let check = |part: &str| part.parse::<Name>().map(drop).map_err(|error| invalid(error.to_string()));
    if kind != RecordKind::Deployment {
        return check(name).map(|()| None);
    }
    let (endpoint, deployment) =
        name.split_once('/').ok_or_else(|| invalid("it is written `endpoint/deployment`".to_owned()))?;
    check(endpoint)?;
    check(deployment)?;
    Ok(Some(endpoint))
}

fn one(workspace: &Name, kind: RecordKind, name: &str) -> Query {
    Query::new(select!("WHERE w.name_key = $1 AND r.kind = $2 AND r.name_key = $3"))
        .text(names::key(workspace.as_str()))
        .text(kind.as_str())
        .text(names::key(name))
}

fn read(row: &Row) -> Result<Record, StoreError> {
    Ok(Record {
        workspace: row.name("workspace")?,
        kind: RecordKind::parse(&row.text("kind")?)?,
        name: row.text("name")?,
        generation: row.count("generation")?,
        body: row.json("body")?,
        status: row.json("status")?,
        created_at: row.time("created_at")?,
        modified_at: row.time("modified_at")?,
    })
}
