//! One statement with its parameters, and one row of its answer, for either database.

use jiff::Timestamp;
use moorline_core::{Digest, Name};
use serde_json::Value;
use sqlx::{
    Postgres, Row as _, Sqlite,
    postgres::{PgArguments, PgRow},
    sqlite::{SqliteArguments, SqliteRow},
};

use crate::{StoreError, names};

/// A statement whose parameters are given in the order of `$1`, `$2`, …
#[derive(Debug)]
pub(crate) struct Query {
    statement: &'static str,
    parameters: Vec<Parameter>,
}

#[derive(Debug)]
enum Parameter {
    Text(Option<String>),
    Integer(Option<i64>),
}

impl Query {
    pub(crate) fn new(statement: &'static str) -> Self {
        Self { statement, parameters: Vec::new() }
    }

    pub(crate) fn text(self, value: impl Into<String>) -> Self {
        self.optional_text(Some(value))
    }

    /// PostgreSQL's text cannot hold NUL, and nothing that people write has it.
    pub(crate) fn optional_text(mut self, value: Option<impl Into<String>>) -> Self {
        let clean = |text: String| if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text };
        self.parameters.push(Parameter::Text(value.map(Into::into).map(clean)));
        self
    }

    pub(crate) fn integer(self, value: i64) -> Self {
        self.optional_integer(Some(value))
    }

    pub(crate) fn optional_integer(mut self, value: Option<i64>) -> Self {
        self.parameters.push(Parameter::Integer(value));
        self
    }

    pub(crate) fn flag(self, value: bool) -> Self {
        self.integer(i64::from(value))
    }

    pub(crate) fn time(self, value: Timestamp) -> Self {
        self.integer(value.as_microsecond())
    }

    pub(super) fn sqlite(self) -> sqlx::query::Query<'static, Sqlite, SqliteArguments> {
        self.parameters.into_iter().fold(sqlx::query(self.statement), |query, parameter| match parameter {
            Parameter::Text(value) => query.bind(value),
            Parameter::Integer(value) => query.bind(value),
        })
    }

    pub(super) fn postgres(self) -> sqlx::query::Query<'static, Postgres, PgArguments> {
        self.parameters.into_iter().fold(sqlx::query(self.statement), |query, parameter| match parameter {
            Parameter::Text(value) => query.bind(value),
            Parameter::Integer(value) => query.bind(value),
        })
    }
}

/// One row of an answer, read by the names of its columns.
#[derive(Debug)]
pub(crate) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

impl Row {
    pub(crate) fn text(&self, column: &'static str) -> Result<String, StoreError> {
        self.optional_text(column)?.ok_or_else(|| StoreError::unreadable(format!("`{column}` is null")))
    }

    pub(crate) fn optional_text(&self, column: &'static str) -> Result<Option<String>, StoreError> {
        Ok(match self {
            Self::Sqlite(row) => row.try_get(column)?,
            Self::Postgres(row) => row.try_get(column)?,
        })
    }

    pub(crate) fn integer(&self, column: &'static str) -> Result<i64, StoreError> {
        self.optional_integer(column)?.ok_or_else(|| StoreError::unreadable(format!("`{column}` is null")))
    }

    pub(crate) fn optional_integer(&self, column: &'static str) -> Result<Option<i64>, StoreError> {
        Ok(match self {
            Self::Sqlite(row) => row.try_get(column)?,
            Self::Postgres(row) => row.try_get(column)?,
        })
    }

    pub(crate) fn flag(&self, column: &'static str) -> Result<bool, StoreError> {
        Ok(self.integer(column)? != 0)
    }

    pub(crate) fn count(&self, column: &'static str) -> Result<u64, StoreError> {
        u64::try_from(self.integer(column)?).map_err(|_| StoreError::unreadable(format!("`{column}` < 0")))
    }

    pub(crate) fn time(&self, column: &'static str) -> Result<Timestamp, StoreError> {
        Self::to_time(column, self.integer(column)?)
    }

    pub(crate) fn optional_time(&self, column: &'static str) -> Result<Option<Timestamp>, StoreError> {
        self.optional_integer(column)?.map(|value| Self::to_time(column, value)).transpose()
    }

    fn to_time(column: &'static str, microseconds: i64) -> Result<Timestamp, StoreError> {
        Timestamp::from_microsecond(microseconds)
            .map_err(|_| StoreError::unreadable(format!("`{column}` is not a time")))
    }

    pub(crate) fn name(&self, column: &'static str) -> Result<Name, StoreError> {
        self.text(column)?.parse().map_err(|_| StoreError::unreadable(format!("`{column}` is not a name")))
    }

    pub(crate) fn optional_name(&self, column: &'static str) -> Result<Option<Name>, StoreError> {
        let text = self.optional_text(column)?;
        let parse = |text: String| {
            text.parse().map_err(|_| StoreError::unreadable(format!("`{column}` is not a name")))
        };
        text.map(parse).transpose()
    }

    pub(crate) fn digest(&self, column: &'static str) -> Result<Digest, StoreError> {
        self.text(column)?.parse().map_err(|_| StoreError::unreadable(format!("`{column}` is not a digest")))
    }

    pub(crate) fn json(&self, column: &'static str) -> Result<Value, StoreError> {
        names::parse(&self.text(column)?)
    }
}
