//! Reading a document: text to tree, overrides put in, tree to typed value, and all findings of the way.

use serde::Serialize;
use serde_json::Value;

use crate::{
    diagnostic::{Diagnostic, Diagnostics},
    overrides::Override,
    reader::{Finding, Origin, Reader},
    source::SourceFile,
    yaml::{Content, Node, Place},
};

/// A kind of document. [`load`] and [`from_json`] read one; `Serialize` writes it in Azure ML's field names.
pub trait Document: Serialize + Sized + sealed::Read {
    /// As messages call it: `online endpoint`.
    const KIND: &'static str;
}

pub(crate) mod sealed {
    use crate::{reader::Reader, yaml::Node};

    /// Out of a tree; `None` where something was reported.
    pub trait Read: Sized {
        fn read(reader: &mut Reader, node: &Node) -> Option<Self>;
    }
}

/// A document that was accepted, and what is worth saying about it nevertheless.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded<T> {
    pub document: T,
    pub warnings: Vec<Diagnostic>,
}

/// Reads one document from the text of a file. An empty text is one that `overrides` have to fill.
pub fn load<T: Document>(file: &SourceFile, overrides: &[Override]) -> Result<Loaded<T>, Diagnostics> {
    let origin = Origin::File { folder: file.folder().to_owned(), inner: std::path::PathBuf::new() };
    let mut reader = Reader::new(origin);
    let Some(mut root) = reader.parse(file) else { return Err(reader.refuse()) };
    if root.content == Content::Null && overrides.is_empty() {
        reader.error(root.place, format!("this {} is empty", T::KIND));
        return Err(reader.refuse());
    }
    for change in overrides {
        let source = reader.add_source(Some(change.label().into()), "");
        let place = Place { source, line: 0, column: 0 };
        if let Err(error) = change.apply(&mut root, place) {
            reader.error(root.place, error.to_string());
        }
    }
    read(reader, &root)
}

/// Reads one document from the body of a request. It can name no files: models are their `files`, code and build
/// contexts are references, and `conda_file` is the file's text.
pub fn from_json<T: Document>(body: &Value) -> Result<Loaded<T>, Diagnostics> {
    let mut reader = Reader::new(Origin::Request);
    let source = reader.add_source(None, "");
    read(reader, &Node::of_json(body, Place { source, line: 0, column: 0 }))
}

fn read<T: Document>(mut reader: Reader, root: &Node) -> Result<Loaded<T>, Diagnostics> {
    if !matches!(root.content, Content::Map(_)) {
        let what = crate::reader::describe(root);
        let message = format!("{what} stands where {} is expected", with_article(T::KIND));
        reader.report(Finding::error(root.place, message).expected("an object with keys"));
        return Err(reader.refuse());
    }
    let document = T::read(&mut reader, root);
    if document.is_none() && reader.errors() == 0 {
        // A refusal without a reason would be a riddle.
        reader.error(root.place, format!("this {} cannot be read", T::KIND));
    }
    match document {
        Some(document) if reader.errors() == 0 => Ok(Loaded { document, warnings: reader.finish() }),
        _ => Err(reader.refuse()),
    }
}

fn with_article(kind: &str) -> String {
    let article = if kind.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {kind}")
}
