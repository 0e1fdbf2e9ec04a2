//! The history on disk: a SQLite file of its own, so that it is never in the way of what must not be lost.
//!
//! It may be lost: the last commits are not forced to the disk, and a file that cannot be read is put aside for a new one.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use moorline_core::DeploymentId;
use sqlx::{
    Row as _, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use thiserror::Error;

use crate::{block::Block, range::Grain};

/// How the file is laid out. One of another build is put aside.
const LAYOUT: i64 = 1;
/// How long a statement waits for the one before it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why the history could not be used.
#[derive(Debug, Error)]
pub enum HistoryError {
    #[error("the history `{}` could not be read or written", path.display())]
    Database { path: PathBuf, source: sqlx::Error },
    #[error("the history `{}` is of another build", path.display())]
    Layout { path: PathBuf },
    #[error("the history could not be put aside for a new one")]
    Aside { source: io::Error },
}

impl HistoryError {
    /// Whether this file will not be readable at any other time either.
    fn is_for_good(&self) -> bool {
        match self {
            Self::Layout { .. } => true,
            Self::Aside { .. } => false,
            Self::Database { source, .. } => {
                let code = source.as_database_error().and_then(sqlx::error::DatabaseError::code);
                // The lowest byte is the kind: SQLITE_CORRUPT and SQLITE_NOTADB.
                let kind = code.and_then(|code| code.parse::<u32>().ok()).map(|code| code & 0xff);
                matches!(kind, Some(11 | 26))
            }
        }
    }
}

fn source(error: &HistoryError) -> String {
    std::error::Error::source(error).map(ToString::to_string).unwrap_or_default()
}

/// Blocks on disk.
#[derive(Clone, Debug)]
pub(crate) struct History {
    path: PathBuf,
    /// Of one connection: what is read is little, and what is written is written once a minute.
    pool: SqlitePool,
}

impl History {
    /// Opens the file, or puts aside what can never be read and begins a new one. Where there can be no file, what is seen
    /// is kept in memory: whoever is watched is not to suffer from it.
    pub(crate) async fn open(path: &Path) -> Result<Self, HistoryError> {
        let error = match Self::open_or_begin(path).await {
            Ok(history) => return Ok(history),
            Err(error) => error,
        };
        tracing::warn!(%error, cause = source(&error), "the history is kept in memory, and ends with this server");
        Self::connect(path, SqliteConnectOptions::new().in_memory(true)).await
    }

    async fn open_or_begin(path: &Path) -> Result<Self, HistoryError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(PATIENCE);
        match Self::connect(path, options.clone()).await {
            Err(error) if error.is_for_good() => {
                tracing::warn!(%error, cause = source(&error), "the history is put aside, and a new one begun");
                put_aside(path).map_err(|source| HistoryError::Aside { source })?;
                Self::connect(path, options).await
            }
            connected => connected,
        }
    }

    async fn connect(path: &Path, options: SqliteConnectOptions) -> Result<Self, HistoryError> {
        let failed = |source| HistoryError::Database { path: path.to_owned(), source };
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(PATIENCE)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options)
            .await
            .map_err(failed)?;
        let history = Self { path: path.to_owned(), pool };
        match history.lay_out().await {
            Ok(()) => Ok(history),
            Err(error) => {
                history.pool.close().await;
                Err(error)
            }
        }
    }

    async fn lay_out(&self) -> Result<(), HistoryError> {
        let failed = |source| self.failed(source);
        let (layout,): (i64,) =
            sqlx::query_as("PRAGMA user_version").fetch_one(&self.pool).await.map_err(failed)?;
        match layout {
            LAYOUT => {}
            0 => {
                let statement = "
                    CREATE TABLE deployments (
                        id INTEGER PRIMARY KEY,
                        workspace TEXT NOT NULL, endpoint TEXT NOT NULL, deployment TEXT NOT NULL,
                        UNIQUE (workspace, endpoint, deployment));
                    CREATE TABLE blocks (
                        grain INTEGER NOT NULL, deployment INTEGER NOT NULL, start INTEGER NOT NULL,
                        samples BLOB NOT NULL, PRIMARY KEY (grain, deployment, start)) WITHOUT ROWID;
                    PRAGMA user_version = 1;";
                sqlx::raw_sql(statement).execute(&self.pool).await.map_err(failed)?;
            }
            _ => return Err(HistoryError::Layout { path: self.path.clone() }),
        }
        Ok(())
    }

    pub(crate) async fn deployments(&self) -> Result<Vec<DeploymentId>, HistoryError> {
        let rows = sqlx::query("SELECT workspace, endpoint, deployment FROM deployments");
        let rows = rows.fetch_all(&self.pool).await.map_err(|error| self.failed(error))?;
        let id = |row: &sqlx::sqlite::SqliteRow| {
            let name = |column: &str| row.try_get::<&str, _>(column).ok()?.parse().ok();
            Some(DeploymentId {
                workspace: name("workspace")?,
                endpoint: name("endpoint")?,
                deployment: name("deployment")?,
            })
        };
        Ok(rows.iter().filter_map(id).collect())
    }

    /// Writes all of these or none. Of each deployment, what is older than is kept goes.
    pub(crate) async fn write(
        &self,
        blocks: &[(DeploymentId, Grain, u64, Vec<u8>)],
        now: u64,
    ) -> Result<(), HistoryError> {
        let failed = |source| self.failed(source);
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        for (id, grain, start, samples) in blocks {
            // The update changes nothing, and is there for its answer.
            let row: (i64,) = sqlx::query_as(
                "INSERT INTO deployments (workspace, endpoint, deployment) VALUES ($1, $2, $3)
                 ON CONFLICT (workspace, endpoint, deployment) DO UPDATE SET workspace = excluded.workspace
                 RETURNING id",
            )
            .bind(id.workspace.as_str())
            .bind(id.endpoint.as_str())
            .bind(id.deployment.as_str())
            .fetch_one(&mut *transaction)
            .await
            .map_err(failed)?;
            let write = sqlx::query(
                "INSERT INTO blocks (grain, deployment, start, samples) VALUES ($1, $2, $3, $4)
                 ON CONFLICT (grain, deployment, start) DO UPDATE SET samples = excluded.samples",
            );
            write
                .bind(grain.number())
                .bind(row.0)
                .bind(*start as i64)
                .bind(samples.as_slice())
                .execute(&mut *transaction)
                .await
                .map_err(failed)?;
            let oldest = now.saturating_sub(grain.kept() + Block::length(*grain));
            sqlx::query("DELETE FROM blocks WHERE grain = $1 AND deployment = $2 AND start < $3")
                .bind(grain.number())
                .bind(row.0)
                .bind(oldest as i64)
                .execute(&mut *transaction)
                .await
                .map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)
    }

    /// The blocks that have something of the time from `from` on and before `to`.
    pub(crate) async fn read(
        &self,
        id: &DeploymentId,
        grain: Grain,
        from: u64,
        to: u64,
    ) -> Result<Vec<Block>, HistoryError> {
        let rows = sqlx::query(
            "SELECT b.start, b.samples FROM blocks b JOIN deployments d ON d.id = b.deployment
             WHERE b.grain = $1 AND d.workspace = $2 AND d.endpoint = $3 AND d.deployment = $4
               AND b.start >= $5 AND b.start < $6",
        )
        .bind(grain.number())
        .bind(id.workspace.as_str())
        .bind(id.endpoint.as_str())
        .bind(id.deployment.as_str())
        .bind(Block::start_of(grain, from) as i64)
        .bind(to as i64)
        .fetch_all(&self.pool)
        .await
        .map_err(|error| self.failed(error))?;
        let block = |row: &sqlx::sqlite::SqliteRow| {
            let start = u64::try_from(row.try_get::<i64, _>("start").ok()?).ok()?;
            Some(Block::decode(grain, start, row.try_get("samples").ok()?))
        };
        Ok(rows.iter().filter_map(block).collect())
    }

    pub(crate) async fn forget(&self, id: &DeploymentId) -> Result<(), HistoryError> {
        let failed = |source| self.failed(source);
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let found: Option<(i64,)> = sqlx::query_as(
            "DELETE FROM deployments WHERE workspace = $1 AND endpoint = $2 AND deployment = $3 RETURNING id",
        )
        .bind(id.workspace.as_str())
        .bind(id.endpoint.as_str())
        .bind(id.deployment.as_str())
        .fetch_optional(&mut *transaction)
        .await
        .map_err(failed)?;
        if let Some((id,)) = found {
            for grain in Grain::ALL {
                sqlx::query("DELETE FROM blocks WHERE grain = $1 AND deployment = $2")
                    .bind(grain.number())
                    .bind(id)
                    .execute(&mut *transaction)
                    .await
                    .map_err(failed)?;
            }
        }
        transaction.commit().await.map_err(failed)
    }

    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }

    fn failed(&self, source: sqlx::Error) -> HistoryError {
        HistoryError::Database { path: self.path.clone(), source }
    }
}

/// Moves the file out of the way; one that was moved before is gone then.
fn put_aside(path: &Path) -> io::Result<()> {
    let with = |ending: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    for ending in ["-wal", "-shm"] {
        match fs_err::remove_file(with(ending)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs_err::rename(path, with(".unreadable"))
}
