//! `environment`: what a scoring script needs around it.

use moorline_core::{Digest, InferenceConfig, Name, Route};
use serde::Serialize;

use super::{Tags, model};
use crate::{
    conda,
    document::{Document, sealed::Read},
    fields::Fields,
    paths,
    reader::{Finding, Reader},
    reference::LocalPath,
    scalars,
    yaml::Node,
};

/// An environment, of a document of its own or inline in a deployment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Environment {
    /// Always there in a document of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The text of the conda file, whether it was written inline or as a path; requirements that it includes are in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conda_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<BuildContext>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inference_config: Option<InferenceConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os_type: Option<OsType>,
}

/// What an image is built from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BuildContext {
    #[serde(flatten)]
    pub source: BuildSource,
    /// `Dockerfile` where it is left out.
    pub dockerfile_path: String,
}

/// A folder with a Dockerfile, or what became of it once it was uploaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum BuildSource {
    #[serde(rename = "path")]
    Local(LocalPath),
    /// The digest of its list of files: only in requests.
    #[serde(rename = "context")]
    Context(Digest),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OsType {
    Linux,
    Windows,
}

impl Document for Environment {
    const KIND: &'static str = "environment";
}

impl Environment {
    /// What has to be built, without names and tags; `None` while the build context is a folder.
    pub fn described(&self) -> Option<moorline_core::Environment> {
        let build = match &self.build {
            None => None,
            Some(BuildContext { source: BuildSource::Local(_), .. }) => return None,
            Some(BuildContext { source: BuildSource::Context(context), dockerfile_path }) => {
                Some(moorline_core::BuildContext {
                    context: *context,
                    dockerfile_path: dockerfile_path.clone(),
                })
            }
        };
        Some(moorline_core::Environment {
            image: self.image.clone(),
            conda_file: self.conda_file.clone(),
            build,
            inference_config: self.inference_config.clone(),
        })
    }
}

impl Read for Environment {
    fn read(reader: &mut Reader, node: &Node) -> Option<Self> {
        read(reader, node, true)
    }
}

/// An environment that stands in a deployment: it needs no name.
pub(super) fn inline(reader: &mut Reader, node: &Node) -> Option<Environment> {
    read(reader, node, false)
}

fn read(reader: &mut Reader, node: &Node, named: bool) -> Option<Environment> {
    let mut fields = Fields::open(reader, node, Environment::KIND)?;
    if let Some(entry) = fields.peek("dependencies").or_else(|| fields.peek("channels")) {
        let message = format!("`{}` belongs to a conda file, not to an environment", entry.key);
        let hint = "put the conda file under `conda_file:`, as an object or by its path";
        reader.report(Finding::error(entry.place, message).hint(hint));
        return None;
    }
    fields.read_only(&["$schema", "id", "creation_context", "latest_version", "intellectual_property"]);
    fields.read_only(&["digest", "is_anonymous", "archived"]);
    let name = if named {
        fields.required(reader, "name", scalars::name)
    } else {
        fields.optional(reader, "name", scalars::name)
    };
    let version = fields.optional(reader, "version", scalars::version);
    let description = fields.optional(reader, "description", scalars::text);
    let tags = fields.optional(reader, "tags", scalars::tags);
    let image = fields.optional(reader, "image", scalars::filled);
    let conda_file = fields.optional(reader, "conda_file", conda::conda_file);
    let build = fields.optional(reader, "build", build_context);
    let inference_config = fields.optional(reader, "inference_config", inference_config);
    let os_type = fields.optional(reader, "os_type", os_type);
    fields.azure_only(reader, "datastore", "files go to the workspace's own store", scalars::text);
    fields.azure_only(
        reader,
        "auto_delete_setting",
        "versions are kept until they are deleted",
        scalars::object,
    );
    check_bases(reader, &fields);
    fields.close(reader);
    Some(Environment {
        name,
        version,
        description,
        tags: tags.unwrap_or_default(),
        image,
        conda_file,
        build,
        inference_config,
        os_type,
    })
}

/// An environment begins with an image or builds one, and conda needs an image to install into.
fn check_bases(reader: &mut Reader, fields: &Fields<'_>) {
    match (fields.peek("image"), fields.peek("build"), fields.peek("conda_file")) {
        (Some(_), Some(build), _) => {
            let finding = Finding::error(build.place, "`image` and `build` exclude one another");
            reader.report(finding.hint("a Dockerfile names its base image itself"));
        }
        (None, Some(_), Some(conda)) => {
            let finding = Finding::error(conda.place, "`conda_file` and `build` exclude one another");
            reader.report(finding.hint("install from the conda file in the Dockerfile"));
        }
        (None, None, Some(conda)) => {
            let finding = Finding::error(conda.place, "`conda_file` needs an `image` to install into");
            reader.report(finding.hint("any will do where scorers run as processes; Azure ML needs one"));
        }
        (None, None, None) => {
            let finding = Finding::error(fields.place(), "environment has neither `image` nor `build`");
            reader
                .report(finding.expected("an `image`, with or without a `conda_file`, or a `build` context"));
        }
        (Some(_), None, _) | (None, Some(_), None) => {}
    }
}

fn build_context(reader: &mut Reader, node: &Node) -> Option<BuildContext> {
    let mut fields = Fields::open(reader, node, "build context")?;
    let source = if reader.is_request() {
        fields.required(reader, "context", model::digest).map(BuildSource::Context)
    } else {
        fields.required(reader, "path", paths::local_folder).map(BuildSource::Local)
    };
    let dockerfile_path = fields.optional(reader, "dockerfile_path", paths::inner_path);
    let given = fields.peek("dockerfile_path").is_some();
    fields.close(reader);
    let (source, dockerfile_path) = (
        source?,
        match dockerfile_path {
            None if given => return None,
            None => "Dockerfile".to_owned(),
            Some(path) => path,
        },
    );
    if let BuildSource::Local(path) = &source
        && !path.resolve().join(&dockerfile_path).is_file()
    {
        let message = format!("`{}` holds no `{dockerfile_path}`", path.resolve().display());
        reader.error(node.place, message);
        return None;
    }
    Some(BuildContext { source, dockerfile_path })
}

fn inference_config(reader: &mut Reader, node: &Node) -> Option<InferenceConfig> {
    let mut fields = Fields::open(reader, node, "inference config")?;
    let liveness_route = fields.required(reader, "liveness_route", route);
    let readiness_route = fields.required(reader, "readiness_route", route);
    let scoring_route = fields.required(reader, "scoring_route", route);
    fields.close(reader);
    Some(InferenceConfig {
        liveness_route: liveness_route?,
        readiness_route: readiness_route?,
        scoring_route: scoring_route?,
    })
}

fn route(reader: &mut Reader, node: &Node) -> Option<Route> {
    let mut fields = Fields::open(reader, node, "route")?;
    let port = fields.required(reader, "port", scalars::between(1, u32::from(u16::MAX)));
    let path = fields.required(reader, "path", |reader, node| {
        let path = scalars::filled(reader, node)?;
        if !path.starts_with('/') {
            reader.mismatch(node, "a path that begins with `/`");
            return None;
        }
        Some(path)
    });
    fields.close(reader);
    Some(Route { port: u16::try_from(port?).ok()?, path: path? })
}

fn os_type(reader: &mut Reader, node: &Node) -> Option<OsType> {
    let os = scalars::choice(&[("linux", OsType::Linux), ("windows", OsType::Windows)])(reader, node)?;
    if os == OsType::Windows {
        let finding = Finding::warning(node.place, "`os_type` is `windows`; scorers run on Linux");
        reader.report(finding);
    }
    Some(os)
}
