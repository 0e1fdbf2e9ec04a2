//! Secrets: encrypted with age in the database, to an identity that lies beside it and never in it.

use std::{
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
    str::FromStr as _,
};

use age::{secrecy::ExposeSecret as _, x25519::Identity};
use fs_err::os::unix::fs::OpenOptionsExt as _;
use jiff::Timestamp;
use moorline_core::{Name, Secret};

use crate::{
    Store, StoreError,
    database::{Database, Query},
    names,
};

/// The identity's file in the folder of keys.
const IDENTITY_FILE: &str = "secrets.agekey";
/// The fact that holds whom secrets are encrypted to.
const RECIPIENT: &str = "secrets_recipient";

/// What is shown of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretEntry {
    pub key: String,
    /// Grows whenever the value is set.
    pub version: u64,
    pub modified_at: Timestamp,
}

impl Store {
    /// Sets a secret and gives its version. A key with `/` is the server's own.
    pub async fn set_secret(&self, workspace: &Name, key: &str, value: Secret) -> Result<u64, StoreError> {
        names::check_key(key)?;
        names::check_size("the value of a secret", value.expose().len(), "bytes", names::MAX_SECRET)?;
        let ciphertext = age::encrypt(&self.identity().to_public(), value.expose().as_bytes())
            .map_err(|error| StoreError::Configuration { what: "encrypting failed", source: error.into() })?;
        let mut transaction = self.database().write().await?;
        let workspace = transaction.workspace(workspace).await?;
        let now = Timestamp::now();
        // A version is the time in microseconds, so that a secret which was deleted and set again has no version that it had before.
        let query = Query::new(
            "INSERT INTO secrets (workspace_id, name, name_key, version, ciphertext, modified_at)
             VALUES ($1, $2, $3, $4, $5, $4)
             ON CONFLICT (workspace_id, name_key) DO UPDATE SET
                 version = CASE WHEN excluded.version > secrets.version THEN excluded.version ELSE secrets.version + 1 END,
                 ciphertext = excluded.ciphertext, modified_at = excluded.modified_at
             RETURNING version",
        )
        .integer(workspace)
        .text(key)
        .text(names::key(key))
        .time(now)
        .text(to_hex(&ciphertext));
        let row = transaction.row(query).await?.ok_or_else(|| StoreError::unreadable("no version"))?;
        transaction.commit().await?;
        row.count("version")
    }

    /// A secret's version and value, if it is set.
    pub async fn secret(&self, workspace: &Name, key: &str) -> Result<Option<(u64, Secret)>, StoreError> {
        let query = Query::new(
            "SELECT s.version, s.ciphertext FROM secrets s JOIN workspaces w ON w.id = s.workspace_id
             WHERE w.name_key = $1 AND s.name_key = $2",
        )
        .text(names::key(workspace.as_str()))
        .text(names::key(key));
        let Some(row) = self.database().row(query).await? else { return Ok(None) };
        let failure = |source| StoreError::Decrypt { key: key.to_owned(), source };
        let ciphertext =
            from_hex(&row.text("ciphertext")?).ok_or_else(|| failure("it is no age file".into()))?;
        let plain = age::decrypt(self.identity(), &ciphertext).map_err(|error| failure(error.into()))?;
        let value = String::from_utf8(plain).map_err(|_| failure("it is not UTF-8".into()))?;
        Ok(Some((row.count("version")?, Secret::new(value))))
    }

    /// The keys without `/`, sorted; never a value.
    pub async fn secrets(&self, workspace: &Name) -> Result<Vec<SecretEntry>, StoreError> {
        self.workspace(workspace).await?;
        let query = Query::new(
            "SELECT s.name, s.version, s.modified_at FROM secrets s JOIN workspaces w ON w.id = s.workspace_id
             WHERE w.name_key = $1 AND s.name NOT LIKE '%/%' ORDER BY s.name_key",
        )
        .text(names::key(workspace.as_str()));
        let read = |row: &crate::database::Row| {
            Ok(SecretEntry {
                key: row.text("name")?,
                version: row.count("version")?,
                modified_at: row.time("modified_at")?,
            })
        };
        self.database().rows(query).await?.iter().map(read).collect()
    }

    /// `NotFound` if it is not set.
    pub async fn delete_secret(&self, workspace: &Name, key: &str) -> Result<(), StoreError> {
        let mut transaction = self.database().write().await?;
        let id = transaction.workspace(workspace).await?;
        let query = Query::new("DELETE FROM secrets WHERE workspace_id = $1 AND name_key = $2")
            .integer(id)
            .text(names::key(key));
        if transaction.execute(query).await? == 0 {
            let name = key.chars().take(names::MAX_KEY).collect();
            return Err(StoreError::NotFound { noun: "secret", name });
        }
        transaction.commit().await
    }
}

/// The identity in this folder, which is made with the database's first opening. A database whose secrets were encrypted
/// to another one is refused, since all of them would be lost without anyone noticing.
pub(crate) async fn open_identity(keys: &Path, database: &Database) -> Result<Identity, StoreError> {
    let path = keys.join(IDENTITY_FILE);
    let known = recipient(database).await?;
    let identity = match read_identity(&path)? {
        Some(identity) => identity,
        None if known.is_some() => {
            return Err(StoreError::NoIdentity { path: path.display().to_string() });
        }
        None => create_identity(keys, &path)?,
    };
    let own = identity.to_public().to_string();
    if known.is_none() {
        let mut transaction = database.write().await?;
        let query =
            Query::new("INSERT INTO facts (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING")
                .text(RECIPIENT)
                .text(&own);
        transaction.execute(query).await?;
        transaction.commit().await?;
    }
    // Read again: another process may have opened the database first.
    match recipient(database).await? {
        Some(recipient) if recipient == own => Ok(identity),
        _ => Err(StoreError::OtherIdentity { path: path.display().to_string() }),
    }
}

async fn recipient(database: &Database) -> Result<Option<String>, StoreError> {
    let query = Query::new("SELECT value FROM facts WHERE name = $1").text(RECIPIENT);
    database.row(query).await?.map(|row| row.text("value")).transpose()
}

fn read_identity(path: &Path) -> Result<Option<Identity>, StoreError> {
    let text = match fs_err::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::file("keys", error)),
    };
    let bad = |reason: &str| StoreError::BadIdentity {
        path: path.display().to_string(),
        reason: reason.to_owned(),
    };
    let line = text.lines().find(|line| !line.starts_with('#')).ok_or_else(|| bad("it is empty"))?;
    Identity::from_str(line.trim()).map(Some).map_err(bad)
}

/// Written under another name and linked, so that it is there whole or not at all, and never over another one.
fn create_identity(keys: &Path, path: &Path) -> Result<Identity, StoreError> {
    let identity = Identity::generate();
    let file_error = |error| StoreError::file("keys", error);
    let draft: PathBuf = keys.join(format!(".{}", uuid::Uuid::new_v4().simple()));
    let write = || {
        let mut file = fs_err::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        writeln!(
            file,
            "# Secrets of the workspace are encrypted to this. Whoever reads it can read them.\n{}",
            identity.to_string().expose_secret()
        )?;
        file.sync_all()?;
        match fs_err::hard_link(&draft, path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    };
    let written = write();
    let _ = fs_err::remove_file(&draft);
    written.map_err(file_error)?;
    fs_err::File::open(keys).and_then(|folder| folder.sync_all()).map_err(file_error)?;
    // The one that is there, if another process was faster.
    read_identity(path)?.ok_or_else(|| StoreError::NoIdentity { path: path.display().to_string() })
}

fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a text cannot fail");
        text
    })
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}
