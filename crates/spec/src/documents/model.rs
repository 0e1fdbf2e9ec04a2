//! `model`: a versioned set of files.

use moorline_core::{Digest, FileEntry, ModelType, Name};
use serde::Serialize;
use serde_json::{Map, Value};

use super::Tags;
use crate::{
    document::{Document, sealed::Read},
    fields::Fields,
    paths,
    reader::{Finding, Reader},
    reference::LocalPath,
    scalars,
    yaml::Node,
};

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

impl Read for Model {
    fn read(reader: &mut Reader, node: &Node) -> Option<Self> {
        read(reader, node, true)
    }
}

/// A model that stands in a deployment: it needs no name.
pub(super) fn inline(reader: &mut Reader, node: &Node) -> Option<Model> {
    read(reader, node, false)
}

fn read(reader: &mut Reader, node: &Node, named: bool) -> Option<Model> {
    let mut fields = Fields::open(reader, node, Model::KIND)?;
    fields.read_only(&[
        "$schema",
        "id",
        "utc_time_created",
        "creation_context",
        "job_name",
        "latest_version",
        "intellectual_property",
    ]);
    fields.read_only(&["digest", "is_anonymous", "archived"]);
    let name = if named {
        Some(fields.required(reader, "name", scalars::name))
    } else {
        fields.optional(reader, "name", scalars::name).map(Some)
    };
    let version = fields.optional(reader, "version", scalars::version);
    let model_type = fields.optional(reader, "type", model_type);
    let description = fields.optional(reader, "description", scalars::text);
    let tags = fields.optional(reader, "tags", scalars::tags);
    let properties = fields.optional(reader, "properties", scalars::tags);
    let stage = fields.optional(reader, "stage", scalars::text);
    let flavors = fields.optional(reader, "flavors", |reader, node| {
        scalars::object(reader, node)?;
        match node.to_json() {
            Value::Object(flavors) => Some(flavors),
            _ => None,
        }
    });
    let templates = "deployment templates are a thing of Azure's registries";
    fields.azure_only(reader, "datastore", "files go to the workspace's own store", scalars::text);
    fields.azure_only(reader, "system_metadata", "it is Azure's own", scalars::object);
    fields.azure_only(reader, "default_deployment_template", templates, scalars::object);
    fields.azure_only(reader, "allowed_deployment_templates", templates, scalars::items);
    let (mut path, mut files) = (None, None);
    if reader.is_request() {
        files = fields.optional(reader, "files", files_of);
    } else {
        path = fields.required(reader, "path", paths::local_path);
    }
    if !named
        && fields.peek("name").is_none()
        && let Some(entry) = fields.peek("version")
    {
        reader.at_key("version", |reader| {
            let finding = Finding::error(entry.place, "`version` needs a `name` that it is a version of");
            reader.report(finding.hint("without both, the content is the version"));
        });
    }
    fields.close(reader);
    Some(Model {
        name: name.flatten(),
        version,
        model_type: model_type.unwrap_or(ModelType::CustomModel),
        path,
        description,
        tags: tags.unwrap_or_default(),
        properties: properties.unwrap_or_default(),
        stage,
        flavors: flavors.unwrap_or_default(),
        files: files.unwrap_or_default(),
    })
}

fn model_type(reader: &mut Reader, node: &Node) -> Option<ModelType> {
    if node.written().is_some_and(|text| text.eq_ignore_ascii_case("onnx")) {
        let finding = Finding::error(node.place, "`type` is `onnx`, which is found by looking at the files");
        reader.report(finding.hint("leave `type` out"));
        return None;
    }
    let types = [
        ("custom_model", ModelType::CustomModel),
        ("mlflow_model", ModelType::MlflowModel),
        ("triton_model", ModelType::TritonModel),
    ];
    scalars::choice(&types)(reader, node)
}

/// What became of a path: `[{path, size, sha256}]`.
pub(super) fn files_of(reader: &mut Reader, node: &Node) -> Option<Vec<FileEntry>> {
    scalars::list(reader, node, |reader, node| {
        let mut fields = Fields::open(reader, node, "file")?;
        let path = fields.required(reader, "path", paths::inner_path);
        let size = fields.required(reader, "size", |reader, node| {
            let size = scalars::integer(reader, node)?;
            u64::try_from(size).ok()
        });
        let sha256 = fields.required(reader, "sha256", digest);
        fields.close(reader);
        Some(FileEntry { path: path?, size: size?, sha256: sha256? })
    })
}

pub(super) fn digest(reader: &mut Reader, node: &Node) -> Option<Digest> {
    let text = scalars::text(reader, node)?;
    let parsed = text.parse().ok();
    if parsed.is_none() {
        reader.mismatch(node, "a digest, `sha256:` and 64 digits of `0-9a-f`");
    }
    parsed
}
