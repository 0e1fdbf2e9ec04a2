//! The metadata database: SQLite or PostgreSQL behind one small surface, so that every statement is written once.
//!
//! Both take `$1` as a parameter, `RETURNING` and `ON CONFLICT`; what they write differently is in [`schema`]. Values
//! are text and 64-bit integers only.
//!
//! SQLite has one connection for writing, so that writers queue here and never meet `SQLITE_BUSY` among themselves, and
//! a few for reading, which its write-ahead log lets go on meanwhile. A commit is on disk when it is acknowledged:
//! `synchronous` is `FULL` there, and PostgreSQL's `synchronous_commit` is on by default.

mod query;
mod schema;

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    str::FromStr as _,
    time::Duration,
};

use futures_util::future::BoxFuture;
use moorline_core::Secret;
use sqlx::{
    Connection as _, PgPool, Postgres, Sqlite, SqlitePool,
    postgres::{PgConnectOptions, PgPoolOptions},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::{StoreError, blobs::blocking};

pub(crate) use query::{Query, Row};

/// How long a statement waits for another process that holds the database, or for PostgreSQL to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a writer to SQLite waits for the writers before it.
const QUEUE: Duration = Duration::from_secs(30);
/// SQLite's connections for reading.
const READERS: u32 = 4;
/// PostgreSQL's connections.
const CONNECTIONS: u32 = 8;
/// Prepared statements that a connection keeps.
const CACHED_STATEMENTS: usize = 100;

/// Pools of connections; a clone uses the same ones.
#[derive(Clone, Debug)]
pub(crate) enum Database {
    Sqlite { writer: SqlitePool, readers: SqlitePool, file: File },
    Postgres(PgPool),
}

/// Which file was opened. SQLite would go on writing to one that was removed, and every acknowledged write would be lost.
#[derive(Clone, Debug)]
pub(crate) struct File {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl File {
    fn of(path: &Path) -> Result<Self, StoreError> {
        let found = fs_err::metadata(path).map_err(|source| StoreError::File { source })?;
        Ok(Self { path: path.to_owned(), device: found.dev(), inode: found.ino() })
    }

    fn check(&self) -> Result<(), StoreError> {
        match fs_err::metadata(&self.path) {
            Ok(found) if found.dev() == self.device && found.ino() == self.inode => Ok(()),
            _ => Err(StoreError::Gone { path: self.path.display().to_string() }),
        }
    }
}

// The driver's futures are boxed here: they are large, and would be compiled again in every crate that waits for one.
impl Database {
    pub(crate) fn open(config: &crate::config::Database) -> BoxFuture<'_, Result<Self, StoreError>> {
        Box::pin(async move {
            match config {
                crate::config::Database::Sqlite(path) => Self::sqlite(path).await,
                crate::config::Database::Postgres(url) => Self::postgres(url).await,
            }
        })
    }

    async fn sqlite(path: &Path) -> Result<Self, StoreError> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // Of two that open it at once, one makes the schema: SQLite's migrations have no lock of their own.
        let _opening = lock(folder.to_owned()).await?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(PATIENCE)
            .statement_cache_capacity(CACHED_STATEMENTS);
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(QUEUE)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            // SQLite ends a transaction by itself when the disk is full; the driver then takes the connection to be
            // inside one for ever. Such a connection is replaced.
            .before_acquire(|connection, _| {
                Box::pin(async move {
                    connection.ping().await?;
                    Ok(!connection.is_in_transaction())
                })
            })
            .connect_with(options.clone())
            .await?;
        schema::migrate_sqlite(&writer).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(PATIENCE)
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_with(options.create_if_missing(false).pragma("query_only", "1"))
            .await?;
        let file = File::of(path)?;
        Ok(Self::Sqlite { writer, readers, file })
    }

    async fn postgres(url: &Secret) -> Result<Self, StoreError> {
        let options = PgConnectOptions::from_str(url.expose())
            .map_err(|error| StoreError::Configuration {
                what: "the address of PostgreSQL is not one",
                // The driver's own words might repeat the password.
                source: match error {
                    sqlx::Error::Configuration(_) => "it is not a `postgres://` address".into(),
                    other => other.into(),
                },
            })?
            .application_name("moorline")
            .statement_cache_capacity(CACHED_STATEMENTS);
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(PATIENCE)
            .connect_with(options)
            .await?;
        schema::migrate_postgres(&pool).await?;
        Ok(Self::Postgres(pool))
    }

    /// Waits for what is under way and closes the connections.
    pub(crate) async fn close(&self) {
        match self {
            Self::Sqlite { writer, readers, .. } => {
                readers.close().await;
                writer.close().await;
            }
            Self::Postgres(pool) => pool.close().await,
        }
    }

    /// Begins to write. Dropped before [`Transaction::commit`], nothing of it has happened.
    pub(crate) fn write(&self) -> BoxFuture<'_, Result<Transaction, StoreError>> {
        Box::pin(async move {
            match self {
                Self::Sqlite { writer, file, .. } => {
                    file.check()?;
                    // At once, not at the first statement that writes: then a read before it cannot be outdated.
                    Ok(Transaction::Sqlite(writer.begin_with("BEGIN IMMEDIATE").await?))
                }
                Self::Postgres(pool) => Ok(Transaction::Postgres(pool.begin().await?)),
            }
        })
    }

    /// All rows of a query that does not write.
    pub(crate) fn rows(&self, query: Query) -> BoxFuture<'_, Result<Vec<Row>, StoreError>> {
        Box::pin(async move {
            Ok(match self {
                Self::Sqlite { readers, file, .. } => {
                    file.check()?;
                    query.sqlite().fetch_all(readers).await?.into_iter().map(Row::Sqlite).collect()
                }
                Self::Postgres(pool) => {
                    query.postgres().fetch_all(pool).await?.into_iter().map(Row::Postgres).collect()
                }
            })
        })
    }

    /// The first row, if there is any.
    pub(crate) async fn row(&self, query: Query) -> Result<Option<Row>, StoreError> {
        Ok(self.rows(query).await?.into_iter().next())
    }
}

/// Makes the folder and takes its lock, which goes with the file that is given.
async fn lock(folder: PathBuf) -> Result<fs_err::File, StoreError> {
    blocking(move || {
        let lock = || {
            fs_err::create_dir_all(&folder)?;
            let folder = fs_err::File::open(&folder)?;
            folder.lock().map(|()| folder)
        };
        lock().map_err(|source| StoreError::file("the database", source))
    })
    .await
}

/// Writes that happen together or not at all.
#[derive(Debug)]
pub(crate) enum Transaction {
    Sqlite(sqlx::Transaction<'static, Sqlite>),
    Postgres(sqlx::Transaction<'static, Postgres>),
}

impl Transaction {
    /// How many rows it changed.
    pub(crate) fn execute(&mut self, query: Query) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(async move {
            Ok(match self {
                Self::Sqlite(transaction) => {
                    query.sqlite().execute(&mut **transaction).await?.rows_affected()
                }
                Self::Postgres(transaction) => {
                    query.postgres().execute(&mut **transaction).await?.rows_affected()
                }
            })
        })
    }

    pub(crate) fn rows(&mut self, query: Query) -> BoxFuture<'_, Result<Vec<Row>, StoreError>> {
        Box::pin(async move {
            Ok(match self {
                Self::Sqlite(transaction) => {
                    query.sqlite().fetch_all(&mut **transaction).await?.into_iter().map(Row::Sqlite).collect()
                }
                Self::Postgres(transaction) => query
                    .postgres()
                    .fetch_all(&mut **transaction)
                    .await?
                    .into_iter()
                    .map(Row::Postgres)
                    .collect(),
            })
        })
    }

    pub(crate) async fn row(&mut self, query: Query) -> Result<Option<Row>, StoreError> {
        Ok(self.rows(query).await?.into_iter().next())
    }

    /// When it returns, the writes outlive a crash. An error leaves it open whether they do, if the connection broke in
    /// between.
    pub(crate) fn commit(self) -> BoxFuture<'static, Result<(), StoreError>> {
        Box::pin(async move {
            match self {
                Self::Sqlite(transaction) => transaction.commit().await?,
                Self::Postgres(transaction) => transaction.commit().await?,
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_disk_is_named_and_undoes_the_whole_transaction() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("workspace.db");
        let database = Database::open(&crate::config::Database::Sqlite(path)).await.unwrap();
        let Database::Sqlite { writer, .. } = &database else { unreachable!() };
        // Of the one connection that writes: what SQLite says of a full disk, it says of this too.
        sqlx::query("PRAGMA max_page_count = 100").execute(writer).await.unwrap();
        let insert = |number: u32, size: usize| {
            Query::new("INSERT INTO facts (name, value) VALUES ($1, $2)")
                .text(format!("fact {number}"))
                .text("x".repeat(size))
        };
        let mut transaction = database.write().await.unwrap();
        let mut number = 0;
        let error = loop {
            number += 1;
            if let Err(error) = transaction.execute(insert(number, 20_000)).await {
                break error;
            }
        };
        assert!(matches!(error, StoreError::Full { what: "the database", .. }), "{error:?}");
        drop(transaction);
        let mut transaction = database.write().await.unwrap();
        transaction.execute(insert(0, 1)).await.unwrap();
        transaction.commit().await.unwrap();
        let facts = database.rows(Query::new("SELECT name FROM facts")).await.unwrap();
        assert_eq!(facts.len(), 1);
    }
}
