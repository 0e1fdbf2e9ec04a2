//! The schema, version by version. A version that was released is never edited; a change is a new file.
//!
//! Each version is applied in one transaction together with the note that it was, so that a crash leaves the one before.

use std::borrow::Cow;

use sqlx::{
    AssertSqlSafe, PgPool, SqlSafeStr as _, SqlitePool,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
};

use crate::StoreError;

/// Number, name and text of every version.
const VERSIONS: &[(i64, &str, &str)] = &[
    (1, "workspace", include_str!("../../migrations/0001_workspace.sql")),
    (2, "devices", include_str!("../../migrations/0002_devices.sql")),
    (3, "operation phases", include_str!("../../migrations/0003_operation_phases.sql")),
    (4, "collected", include_str!("../../migrations/0004_collected.sql")),
];

/// What the databases write differently: a text that sorts by its bytes, and a number that every new row gets.
struct Dialect {
    key_text: &'static str,
    row_id: &'static str,
}

const SQLITE: Dialect = Dialect { key_text: "TEXT", row_id: "INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT" };
const POSTGRES: Dialect =
    Dialect { key_text: "TEXT COLLATE \"C\"", row_id: "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY" };

fn migrator(dialect: &Dialect) -> Migrator {
    let migration = |&(version, name, text): &(i64, &'static str, &str)| {
        let text = text
            .lines()
            .filter(|line| !line.starts_with("--"))
            .map(|line| line.replace("KEY_TEXT", dialect.key_text).replace("ROW_ID", dialect.row_id) + "\n")
            .collect::<String>();
        let text = AssertSqlSafe(text).into_sql_str();
        Migration::new(version, Cow::Borrowed(name), MigrationType::Simple, text, false)
    };
    Migrator::with_migrations(VERSIONS.iter().map(migration).collect())
}

pub(super) async fn migrate_sqlite(pool: &SqlitePool) -> Result<(), StoreError> {
    migrator(&SQLITE).run(pool).await.map_err(refusal)
}

pub(super) async fn migrate_postgres(pool: &PgPool) -> Result<(), StoreError> {
    migrator(&POSTGRES).run(pool).await.map_err(refusal)
}

fn refusal(error: MigrateError) -> StoreError {
    let known = VERSIONS.last().map_or(0, |(version, ..)| *version);
    match error {
        MigrateError::VersionMissing(found) => StoreError::Newer { found, known },
        MigrateError::VersionMismatch(version) => StoreError::OtherSchema { version },
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => error.into(),
        other => StoreError::Database { source: other.into() },
    }
}
