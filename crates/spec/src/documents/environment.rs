//! `environment`: what a scoring script needs around it.

use moorline_core::{Digest, InferenceConfig, Name};
use serde::Serialize;

use super::Tags;
use crate::{document::Document, reference::LocalPath};

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
