//! `model`: a versioned set of files.

use moorline_core::{FileEntry, ModelType, Name};
use serde::Serialize;
use serde_json::{Map, Value};

use super::Tags;
use crate::{document::Document, reference::LocalPath};

/// A model, of a document of its own or inline in a deployment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Model {
    /// Always there in a document of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// The next integer where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// `custom_model` where it is left out; never `onnx`, which is found by looking.
    #[serde(rename = "type")]
    pub model_type: ModelType,
    /// A file or a folder. Always there in a document that was read from a file, never in a request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<LocalPath>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
    #[serde(skip_serializing_if = "Tags::is_empty")]
    pub properties: Tags,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// What an MLflow model says of itself; kept, not read.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub flavors: Map<String, Value>,
    /// What became of `path` once it was uploaded: only in requests.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileEntry>,
}

impl Document for Model {
    const KIND: &'static str = "model";
}
