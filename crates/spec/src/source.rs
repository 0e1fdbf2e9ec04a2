//! The text of a document and where it lies: every file that this crate reads comes through here, within its bound.

use std::{
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use moorline_core::ErrorClass;
use thiserror::Error;

/// No document is larger.
pub const MAX_FILE_BYTES: u64 = 10 * 1024 * 1024;

/// Windows editors put one at the beginning of a file.
pub(crate) const BYTE_ORDER_MARK: char = '\u{feff}';

/// A document's text, and its name for messages; relative paths in it start from the folder of that name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    pub name: PathBuf,
    pub text: String,
}

impl SourceFile {
    pub fn new(name: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        Self { name: name.into(), text: text.into() }
    }

    /// Where relative paths start; empty for the current folder.
    pub fn folder(&self) -> &Path {
        self.name.parent().unwrap_or(Path::new(""))
    }
}

/// Why a file could not be read as text.
#[derive(Debug, Error)]
pub enum SourceError {
    #[error("`{path}` does not exist", path = path.display())]
    Missing {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("`{path}` is a folder; a file is needed here", path = path.display())]
    Folder { path: PathBuf },
    #[error("`{path}` is neither a file nor a pipe", path = path.display())]
    Special { path: PathBuf },
    #[error("`{path}` could not be read", path = path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("`{path}` is larger than {} MiB, the bound of a document", MAX_FILE_BYTES >> 20, path = path.display())]
    TooLarge { path: PathBuf },
    #[error("`{path}` is not text: byte {offset} (line {line}) is not UTF-8", path = path.display())]
    NotText { path: PathBuf, offset: usize, line: usize },
}

impl SourceError {
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Missing { .. } => ErrorClass::NotFound,
            Self::TooLarge { .. } => ErrorClass::TooLarge,
            Self::Read { .. } => ErrorClass::Unavailable,
            Self::Folder { .. } | Self::Special { .. } | Self::NotText { .. } => ErrorClass::InvalidInput,
        }
    }
}

/// Reads a document: at most [`MAX_FILE_BYTES`] of UTF-8. A byte order mark is left out.
pub fn read_file(path: &Path) -> Result<SourceFile, SourceError> {
    let own = || path.to_owned();
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => SourceError::Missing { path: own(), source },
        _ => SourceError::Read { path: own(), source },
    };
    let kind = fs_err::metadata(path).map_err(failed)?.file_type();
    if kind.is_dir() {
        return Err(SourceError::Folder { path: own() });
    }
    if is_special(kind) {
        return Err(SourceError::Special { path: own() });
    }
    let mut bytes = Vec::new();
    let file = fs_err::File::open(path).map_err(failed)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(SourceError::TooLarge { path: own() });
    }
    let mut text = String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..offset].split(|byte| *byte == b'\n').count();
        SourceError::NotText { path: own(), offset, line }
    })?;
    if text.starts_with(BYTE_ORDER_MARK) {
        text.remove(0);
    }
    Ok(SourceFile { name: own(), text })
}

/// Sockets and devices: reading one would block or never end. A pipe (`-f <(…)`) is what a shell gives.
fn is_special(kind: std::fs::FileType) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt as _;
        kind.is_socket() || kind.is_block_device() || kind.is_char_device()
    }
    #[cfg(not(unix))]
    {
        let _ = kind;
        false
    }
}
