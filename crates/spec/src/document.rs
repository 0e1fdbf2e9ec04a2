//! Reading a document: text to tree, overrides put in, tree to typed value, and all findings of the way.

use serde::Serialize;
use serde_json::Value;

use crate::{
    diagnostic::{Diagnostic, Diagnostics},
    overrides::Override,
    source::SourceFile,
};

/// A kind of document. [`load`] and [`from_json`] read one; `Serialize` writes it in Azure ML's field names.
pub trait Document: Serialize + Sized {
    /// As messages call it: `online endpoint`.
    const KIND: &'static str;
}

/// A document that was accepted, and what is worth saying about it nevertheless.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded<T> {
    pub document: T,
    pub warnings: Vec<Diagnostic>,
}

/// Reads one document from the text of a file.
pub fn load<T: Document>(_file: &SourceFile, _overrides: &[Override]) -> Result<Loaded<T>, Diagnostics> {
    unimplemented!()
}

/// Reads one document from the body of a request. It can name no files: models are their `files`, code and build
/// contexts are references, and `conda_file` is the file's text.
pub fn from_json<T: Document>(_body: &Value) -> Result<Loaded<T>, Diagnostics> {
    unimplemented!()
}
