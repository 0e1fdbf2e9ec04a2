//! Tokens of the API: `mrl_<id>_<secret>`, of which only the secret's digest is stored.

use std::fmt::Write as _;

use jiff::Timestamp;
use moorline_core::{Digest, Name, Secret};
use uuid::Uuid;

use crate::{
    Store, StoreError,
    database::{Query, Row},
};

const PREFIX: &str = "mrl";
const NOUN: &str = "token";
/// A token's name, at most.
const MAX_NAME: usize = 255;

/// What the bearer of a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    Owner,
    Contributor,
    Reader,
    /// Only calls endpoints.
    Scorer,
}

impl Role {
    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Contributor => "contributor",
            Self::Reader => "reader",
            Self::Scorer => "scorer",
        }
    }
}

/// A text that is no role.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a role; roles are owner, contributor, reader and scorer")]
pub struct RoleError(String);

impl std::str::FromStr for Role {
    type Err = RoleError;

    fn from_str(text: &str) -> Result<Self, RoleError> {
        [Self::Owner, Self::Contributor, Self::Reader, Self::Scorer]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| RoleError(text.chars().take(100).collect()))
    }
}

/// A token as it is stored: everything but its secret part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub id: String,
    /// The only one that it is good for; `None` is all.
    pub workspace: Option<Name>,
    /// For people.
    pub name: String,
    pub role: Role,
    /// The only one that it is good for; `None` is all.
    pub endpoint: Option<Name>,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
}

/// A token to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewToken {
    pub workspace: Option<Name>,
    pub name: String,
    pub role: Role,
    pub endpoint: Option<Name>,
    pub expires_at: Option<Timestamp>,
}

/// Columns of a token with the name of its workspace.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT t.*, w.name AS workspace FROM tokens t LEFT JOIN workspaces w ON w.id = t.workspace_id ",
            $rest
        )
    };
}

impl Store {
    /// Makes a token. The text is given this once: it cannot be found out again.
    pub async fn create_token(&self, new: NewToken) -> Result<(Token, Secret), StoreError> {
        crate::names::check_size("the name of a token", new.name.len(), "bytes", MAX_NAME)?;
        let mut transaction = self.database().write().await?;
        let workspace = match &new.workspace {
            Some(workspace) => Some(transaction.workspace(workspace).await?),
            None => None,
        };
        let id = Uuid::new_v4().simple().to_string();
        let secret = random_secret()?;
        let query = Query::new(
            "INSERT INTO tokens (id, workspace_id, name, role, endpoint, hash, created_at, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .text(&id)
        .optional_integer(workspace)
        .text(new.name)
        .text(new.role.as_str())
        .optional_text(new.endpoint)
        .text(Digest::of(secret.as_bytes()).to_string())
        .time(Timestamp::now())
        .optional_integer(new.expires_at.map(Timestamp::as_microsecond));
        transaction.execute(query).await?;
        let row = transaction.row(by_id(&id)).await?;
        transaction.commit().await?;
        let token = read(&row.ok_or_else(|| missing(&id))?)?;
        Ok((token, Secret::new(format!("{PREFIX}_{id}_{secret}"))))
    }

    /// The token that this is the text of; `None` if there is none, if it was revoked or if it has expired.
    pub async fn verify_token(&self, text: &str) -> Result<Option<Token>, StoreError> {
        let mut parts = text.splitn(3, '_');
        let (Some(PREFIX), Some(id), Some(secret)) = (parts.next(), parts.next(), parts.next()) else {
            return Ok(None);
        };
        // The length of an id, so that no long text is sent to the database.
        if id.len() != Uuid::nil().simple().to_string().len() {
            return Ok(None);
        }
        let Some(row) = self.database().row(by_id(id)).await? else { return Ok(None) };
        let token = read(&row)?;
        let same = same(&row.text("hash")?, &Digest::of(secret.as_bytes()).to_string());
        let expired = token.expires_at.is_some_and(|expiry| expiry <= Timestamp::now());
        Ok((same && !expired).then_some(token))
    }

    /// All of them, oldest first, expired ones too.
    pub async fn tokens(&self) -> Result<Vec<Token>, StoreError> {
        let rows = self.database().rows(Query::new(select!("ORDER BY t.seq"))).await?;
        rows.iter().map(read).collect()
    }

    /// From now on the token is unknown. `NotFound` if it is already.
    pub async fn revoke_token(&self, id: &str) -> Result<(), StoreError> {
        let mut transaction = self.database().write().await?;
        if transaction.execute(Query::new("DELETE FROM tokens WHERE id = $1").text(id)).await? == 0 {
            return Err(missing(id));
        }
        transaction.commit().await
    }
}

/// 256 bits from the operating system, as hexadecimal digits.
fn random_secret() -> Result<String, StoreError> {
    let mut bits = [0; 32];
    getrandom::fill(&mut bits).map_err(|error| StoreError::Configuration {
        what: "the operating system gives no random numbers",
        source: error.into(),
    })?;
    Ok(bits.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a text cannot fail");
        text
    }))
}

/// Compares in a time that does not depend on where the texts differ.
fn same(one: &str, other: &str) -> bool {
    let differences =
        one.bytes().zip(other.bytes()).fold(0, |sum, (a, b)| std::hint::black_box(sum | (a ^ b)));
    one.len() == other.len() && differences == 0
}

fn by_id(id: &str) -> Query {
    Query::new(select!("WHERE t.id = $1")).text(id)
}

fn missing(id: &str) -> StoreError {
    StoreError::NotFound { noun: NOUN, name: id.chars().take(100).collect() }
}

fn read(row: &Row) -> Result<Token, StoreError> {
    Ok(Token {
        id: row.text("id")?,
        workspace: row.optional_name("workspace")?,
        name: row.text("name")?,
        role: row.text("role")?.parse().map_err(|_| StoreError::unreadable("a token's role"))?,
        endpoint: row.optional_name("endpoint")?,
        created_at: row.time("created_at")?,
        expires_at: row.optional_time("expires_at")?,
    })
}
