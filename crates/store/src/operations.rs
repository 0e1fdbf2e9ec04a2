//! Operations: what a request set going, how far it is, and what it said, for whoever polls or follows it.

use jiff::Timestamp;
use moorline_core::Name;
use serde_json::Value;
use uuid::Uuid;

use crate::{
    Store, StoreError,
    database::{Query, Row, Transaction},
    names,
};

/// Finished operations that are kept; older ones go when a new one begins.
pub const FINISHED_OPERATIONS_KEPT: u64 = 1000;
/// Lines of an operation's log that are kept: the newest.
pub const OPERATION_LINES_KEPT: u64 = 1000;
/// Phases of an operation that are kept: the first.
pub const OPERATION_PHASES_KEPT: u64 = 100;
/// A longer line is cut.
const MAX_LINE: usize = 4096;
const NOUN: &str = "operation";

/// Whether an operation is under way, and how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OperationState {
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

impl OperationState {
    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Cancelled => "Cancelled",
        }
    }

    fn parse(text: &str) -> Result<Self, StoreError> {
        match text {
            "Running" => Ok(Self::Running),
            "Succeeded" => Ok(Self::Succeeded),
            "Failed" => Ok(Self::Failed),
            "Cancelled" => Ok(Self::Cancelled),
            other => Err(StoreError::unreadable(format!("an operation that is `{other}`"))),
        }
    }
}

/// An operation as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    pub id: String,
    pub workspace: Name,
    /// What is done: `create_deployment`, for instance.
    pub kind: String,
    /// What it is done to: `endpoint/deployment`, for instance.
    pub subject: String,
    pub state: OperationState,
    /// Where it is, or where it ended.
    pub phase: Option<String>,
    /// The phases so far, [`OPERATION_PHASES_KEPT`] at most.
    pub phases: Vec<OperationPhase>,
    /// Oldest first, [`OPERATION_LINES_KEPT`] at most.
    pub log: Vec<String>,
    /// Why it failed.
    pub error: Option<Value>,
    pub created_at: Timestamp,
    pub finished_at: Option<Timestamp>,
}

/// When an operation came to one of its phases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationPhase {
    pub name: String,
    pub at: Timestamp,
}

/// Which part of the list of operations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationPart {
    /// Those on this alone, however it is written.
    pub subject: Option<String>,
    /// Those that began before this one.
    pub before: Option<String>,
    pub limit: usize,
}

/// An operation to be; it is `Running` from its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewOperation {
    pub workspace: Name,
    pub kind: String,
    pub subject: String,
}

/// What is new about an operation; what is left out stays as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OperationUpdate {
    /// Anything but `Running` ends it.
    pub state: Option<OperationState>,
    pub phase: Option<String>,
    /// Lines after those that it has.
    pub log: Vec<String>,
    pub error: Option<Value>,
}

impl Store {
    /// Begins one, under an id of its own.
    pub async fn create_operation(&self, new: NewOperation) -> Result<Operation, StoreError> {
        let mut transaction = self.database().write().await?;
        let workspace = transaction.workspace(&new.workspace).await?;
        let id = Uuid::new_v4().simple().to_string();
        let query = Query::new(
            "INSERT INTO operations (id, workspace_id, kind, subject, state, created_at)
             VALUES ($1, $2, $3, $4, 'Running', $5)",
        )
        .text(&id)
        .integer(workspace)
        .text(cut(&new.kind))
        .text(cut(&new.subject))
        .time(Timestamp::now());
        transaction.execute(query).await?;
        let query = Query::new(
            "DELETE FROM operations WHERE state <> 'Running' AND seq <= COALESCE(
                 (SELECT seq FROM operations WHERE state <> 'Running' ORDER BY seq DESC LIMIT 1 OFFSET $1), 0)",
        )
        .integer(FINISHED_OPERATIONS_KEPT as i64);
        transaction.execute(query).await?;
        let operation = one(&mut transaction, &id).await?;
        transaction.commit().await?;
        self.told().tell(&operation.workspace, NOUN, &operation.id, None);
        Ok(operation)
    }

    /// Adds what is new. An operation that has ended is a `Conflict`: it does not change any more.
    pub async fn update_operation(&self, id: &str, update: OperationUpdate) -> Result<Operation, StoreError> {
        let error = update.error.as_ref().map(|error| names::json("the error", error)).transpose()?;
        let ended = update.state.is_some_and(|state| state != OperationState::Running);
        let mut transaction = self.database().write().await?;
        let query = Query::new(
            "UPDATE operations SET state = COALESCE($1, state), phase = COALESCE($2, phase),
                                   error = COALESCE($3, error), finished_at = COALESCE($4, finished_at)
             WHERE id = $5 AND state = 'Running' RETURNING seq",
        )
        .optional_text(update.state.map(OperationState::as_str))
        .optional_text(update.phase.as_deref().map(cut))
        .optional_text(error)
        .optional_integer(ended.then(|| Timestamp::now().as_microsecond()))
        .text(id);
        let Some(row) = transaction.row(query).await? else {
            // Which of both it is.
            one(&mut transaction, id).await?;
            return Err(StoreError::Ended { id: id.to_owned() });
        };
        let seq = row.integer("seq")?;
        if let Some(phase) = &update.phase {
            enter_phase(&mut transaction, seq, cut(phase)).await?;
        }
        append_lines(&mut transaction, seq, &update.log).await?;
        let operation = one(&mut transaction, id).await?;
        transaction.commit().await?;
        self.told().tell(&operation.workspace, NOUN, &operation.id, None);
        Ok(operation)
    }

    /// `NotFound` also for one that ended long ago: [`FINISHED_OPERATIONS_KEPT`] are kept.
    pub async fn operation(&self, id: &str) -> Result<Operation, StoreError> {
        let row = self.database().row(by_id(id)).await?.ok_or_else(|| missing(id))?;
        let seq = row.integer("seq")?;
        let lines = self.database().rows(lines_of(seq)).await?;
        let phases = self.database().rows(phases_of(seq)).await?;
        read(&row, &lines, &phases)
    }

    /// The operations of a workspace, newest first. Their `log` and `phases` are left out.
    pub async fn operations(
        &self,
        workspace: &Name,
        part: &OperationPart,
    ) -> Result<Vec<Operation>, StoreError> {
        self.workspace(workspace).await?;
        let query = Query::new(
            "SELECT o.*, w.name AS workspace FROM operations o JOIN workspaces w ON w.id = o.workspace_id
             WHERE w.name_key = $1
                 AND ($2 = '' OR LOWER(o.subject) = $2)
                 AND ($3 = '' OR o.seq < COALESCE((SELECT seq FROM operations WHERE id = $3), 0))
             ORDER BY o.seq DESC LIMIT $4",
        )
        .text(names::key(workspace.as_str()))
        .text(part.subject.as_deref().unwrap_or_default().to_ascii_lowercase())
        .text(part.before.as_deref().unwrap_or_default())
        .integer(i64::try_from(part.limit).unwrap_or(i64::MAX));
        self.database().rows(query).await?.iter().map(|row| read(row, &[], &[])).collect()
    }

    /// Those that have not ended, oldest first: after a restart, what was cut short. Their `log` is left out.
    pub async fn running_operations(&self) -> Result<Vec<Operation>, StoreError> {
        let query = Query::new(
            "SELECT o.*, w.name AS workspace FROM operations o JOIN workspaces w ON w.id = o.workspace_id
             WHERE o.state = 'Running' ORDER BY o.seq",
        );
        self.database().rows(query).await?.iter().map(|row| read(row, &[], &[])).collect()
    }
}

/// Notes that an operation has come to this phase, unless it is there already.
async fn enter_phase(transaction: &mut Transaction, seq: i64, phase: &str) -> Result<(), StoreError> {
    let query = Query::new(
        "INSERT INTO operation_phases (operation_seq, name, at)
         SELECT $1, $2, $3 WHERE
             (SELECT COUNT(*) FROM operation_phases WHERE operation_seq = $1) < $4
             AND COALESCE((SELECT name FROM operation_phases WHERE operation_seq = $1 ORDER BY id DESC LIMIT 1), '')
                 <> $2",
    )
    .integer(seq)
    .text(phase)
    .time(Timestamp::now())
    .integer(OPERATION_PHASES_KEPT as i64);
    transaction.execute(query).await?;
    Ok(())
}

async fn append_lines(transaction: &mut Transaction, seq: i64, lines: &[String]) -> Result<(), StoreError> {
    let kept = OPERATION_LINES_KEPT as usize;
    let newest = &lines[lines.len().saturating_sub(kept)..];
    for line in newest {
        let query = Query::new("INSERT INTO operation_lines (operation_seq, line) VALUES ($1, $2)")
            .integer(seq)
            .text(cut(line));
        transaction.execute(query).await?;
    }
    if !newest.is_empty() {
        let query = Query::new(
            "DELETE FROM operation_lines WHERE operation_seq = $1 AND id <= COALESCE(
                 (SELECT id FROM operation_lines WHERE operation_seq = $1 ORDER BY id DESC LIMIT 1 OFFSET $2), 0)",
        )
        .integer(seq)
        .integer(kept as i64);
        transaction.execute(query).await?;
    }
    Ok(())
}

async fn one(transaction: &mut Transaction, id: &str) -> Result<Operation, StoreError> {
    let row = transaction.row(by_id(id)).await?.ok_or_else(|| missing(id))?;
    let seq = row.integer("seq")?;
    let lines = transaction.rows(lines_of(seq)).await?;
    let phases = transaction.rows(phases_of(seq)).await?;
    read(&row, &lines, &phases)
}

fn by_id(id: &str) -> Query {
    Query::new(
        "SELECT o.*, w.name AS workspace FROM operations o JOIN workspaces w ON w.id = o.workspace_id WHERE o.id = $1",
    )
    .text(id)
}

fn lines_of(seq: i64) -> Query {
    Query::new("SELECT line FROM operation_lines WHERE operation_seq = $1 ORDER BY id").integer(seq)
}

fn phases_of(seq: i64) -> Query {
    Query::new("SELECT name, at FROM operation_phases WHERE operation_seq = $1 ORDER BY id").integer(seq)
}

fn missing(id: &str) -> StoreError {
    StoreError::NotFound { noun: NOUN, name: id.chars().take(100).collect() }
}

/// The first [`MAX_LINE`] bytes, at a character's end.
fn cut(line: &str) -> &str {
    &line[..line.floor_char_boundary(MAX_LINE)]
}

fn read(row: &Row, lines: &[Row], phases: &[Row]) -> Result<Operation, StoreError> {
    let phase =
        |row: &Row| Ok::<_, StoreError>(OperationPhase { name: row.text("name")?, at: row.time("at")? });
    Ok(Operation {
        id: row.text("id")?,
        workspace: row.name("workspace")?,
        kind: row.text("kind")?,
        subject: row.text("subject")?,
        state: OperationState::parse(&row.text("state")?)?,
        phase: row.optional_text("phase")?,
        phases: phases.iter().map(phase).collect::<Result<_, _>>()?,
        log: lines.iter().map(|line| line.text("line")).collect::<Result<_, _>>()?,
        error: row.optional_text("error")?.as_deref().map(names::parse).transpose()?,
        created_at: row.time("created_at")?,
        finished_at: row.optional_time("finished_at")?,
    })
}
