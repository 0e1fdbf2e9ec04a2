//! Environments: what a scoring script needs around it, as a document names it and before anything is built.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// A versioned description of an environment. Its identity is [`Environment::digest`]: equal descriptions are built once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Environment {
    /// The base image; noted, and not needed where scorers run as processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The text of the conda file, as it was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conda_file: Option<String>,
    /// The Dockerfile context, by the digest of its list of files, and the Dockerfile's path in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<BuildContext>,
    /// The routes of a custom container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inference_config: Option<InferenceConfig>,
}

/// What an image is built from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuildContext {
    pub context: Digest,
    pub dockerfile_path: String,
}

/// The routes of a container that brings its own server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InferenceConfig {
    pub liveness_route: Route,
    pub readiness_route: Route,
    pub scoring_route: Route,
}

/// A port and a path on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    pub port: u16,
    pub path: String,
}

impl Environment {
    pub fn digest(&self) -> Digest {
        Digest::of(&serde_json::to_vec(self).expect("an environment has only string keys"))
    }
}
