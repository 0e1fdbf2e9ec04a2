//! `bitstream`: a program for FPGAs, in one file.

use moorline_core::{FileEntry, Name};
use serde::Serialize;

use super::{Tags, model::files_of};
use crate::{
    document::{Document, sealed::Read},
    fields::Fields,
    paths,
    reader::Reader,
    reference::LocalPath,
    scalars,
    yaml::Node,
};

/// A bitstream: a `.fbit` file, which says itself what it is for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bitstream {
    pub name: Name,
    /// The next integer where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The file. Always there in a document that was read from a file, never in a request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<LocalPath>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
    #[serde(skip_serializing_if = "Tags::is_empty")]
    pub properties: Tags,
    /// What became of `path` once it was uploaded: only in requests.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileEntry>,
}

impl Document for Bitstream {
    const KIND: &'static str = "bitstream";
}

impl Read for Bitstream {
    fn read(reader: &mut Reader, node: &Node) -> Option<Self> {
        let mut fields = Fields::open(reader, node, Self::KIND)?;
        fields.read_only(&["id", "creation_context", "digest", "is_anonymous", "archived"]);
        let name = fields.required(reader, "name", scalars::name);
        let version = fields.optional(reader, "version", scalars::version);
        let description = fields.optional(reader, "description", scalars::text);
        let tags = fields.optional(reader, "tags", scalars::tags);
        let properties = fields.optional(reader, "properties", scalars::tags);
        let (mut path, mut files) = (None, None);
        if reader.is_request() {
            files = fields.optional(reader, "files", files_of);
        } else {
            path = fields.required(reader, "path", paths::local_path);
        }
        fields.close(reader);
        Some(Self {
            name: name?,
            version,
            path,
            description,
            tags: tags.unwrap_or_default(),
            properties: properties.unwrap_or_default(),
            files: files.unwrap_or_default(),
        })
    }
}
