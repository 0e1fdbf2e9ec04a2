//! What a document points at: registered assets (`azureml:name:version`) and files on this machine.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use moorline_core::Name;
use serde::{Serialize, Serializer};
use thiserror::Error;

/// An asset by reference, or written where it is needed.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum AssetRef<T> {
    Reference(Reference),
    /// Registered without a name of its own, by the digest of its content.
    Inline(Box<T>),
}

/// A registered asset: `azureml:name:version`, `azureml:name@label`, `azureml:name`, a registry's, or an ARM id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    pub scope: Scope,
    pub name: Name,
    pub version: VersionRef,
}

/// Where a reference looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The workspace that the document is for.
    Workspace,
    /// `azureml://registries/NAME/…`; whether it can be reached is for the server to say.
    Registry(String),
    /// A full ARM id; its workspace may be another one.
    Arm { subscription: String, resource_group: String, workspace: Name },
}

/// Which version is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VersionRef {
    Version(String),
    /// `latest`, and whatever labels a workspace has.
    Label(String),
    /// None was written; the latest.
    Default,
}

/// A text that is not a reference.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{text}` is not a reference: {why}")]
pub struct ReferenceError {
    text: String,
    why: String,
}

/// A path as it was written, and the folder that it starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPath {
    pub text: String,
    /// Of the document; empty for the current folder.
    pub base: PathBuf,
}

/// Where code lies: a folder, or what became of it once it was uploaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum CodeSource {
    Reference(Reference),
    Local(LocalPath),
}

impl Reference {
    /// A version of an asset of the document's own workspace.
    pub fn to_version(name: Name, version: impl Into<String>) -> Self {
        Self { scope: Scope::Workspace, name, version: VersionRef::Version(version.into()) }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(_text: &str) -> Result<Self, ReferenceError> {
        unimplemented!()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        unimplemented!()
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl LocalPath {
    /// The path that the operating system is asked for: `text`, from `base` where it is relative.
    pub fn resolve(&self) -> PathBuf {
        self.base.join(Path::new(&self.text))
    }
}

impl Serialize for LocalPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}
