//! Releases: the immutable, content-addressed unit that a scorer serves, written as `release.json`.
//!
//! Beside `release.json` lie the folders that it names, `model/` and `code/`. Where it runs, under which endpoint and
//! with how many replicas is not part of a release.

use std::{collections::BTreeMap, fmt, num::NonZeroUsize, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{collection::CollectionSettings, digest::Digest, image::ImageInput};

/// A name of an asset: 1 to 255 of letters, digits, `-`, `_` and `.`, beginning with a letter, a digit or `_`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text that is not a name.
#[derive(Debug, Error)]
#[error(
    "`{0}` is not a name; names are 1 to 255 letters, digits, `-`, `_` and `.`, and begin with a letter, a digit or `_`"
)]
pub struct NameError(String);

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let first = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if (1..=255).contains(&text.len()) && text.starts_with(first) && text.chars().all(inner) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError(text.chars().take(300).collect()))
        }
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What kind of files a model is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelType {
    CustomModel,
    MlflowModel,
    TritonModel,
    Onnx,
}

impl ModelType {
    /// What files are, where a document says no more than `custom_model`: an `MLmodel` file makes an MLflow model, an
    /// ONNX file an ONNX model.
    pub fn by_looking(said: Self, files: &[FileEntry]) -> Self {
        let any = |is: fn(&str) -> bool| files.iter().any(|file| is(&file.path));
        match said {
            Self::CustomModel if any(|path| path == "MLmodel" || path.ends_with("/MLmodel")) => {
                Self::MlflowModel
            }
            Self::CustomModel if any(|path| path.rsplit_once('.').is_some_and(|(_, end)| end == "onnx")) => {
                Self::Onnx
            }
            said => said,
        }
    }
}

/// One file of a release; `path` is relative to the folder that lists it, with `/` between parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    pub path: String,
    pub size: u64,
    pub sha256: Digest,
}

/// The model of a release, in the folder `model/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseModel {
    pub name: Name,
    pub version: String,
    #[serde(rename = "type")]
    pub model_type: ModelType,
    pub files: Vec<FileEntry>,
}

/// The scoring script of a release and what lies beside it, in the folder `code/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseCode {
    /// Relative to `code/`.
    pub scoring_script: String,
    pub files: Vec<FileEntry>,
}

/// What the scoring script needs around it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseEnvironment {
    pub digest: Digest,
    /// `3.11` or `>=3.9,<3.12`, where the environment asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub python: Option<String>,
    /// The environment's image brings its own server, and no scorer runs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub own_server: bool,
}

/// Azure ML's `request_settings`, its names and its defaults where a document leaves them out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestSettings {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_timeout_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrent_requests_per_instance: Option<NonZeroUsize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_queue_wait_ms: Option<u64>,
}

/// The engines by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineName {
    Ort,
    Tract,
}

/// Which engine runs an ONNX model, and how it uses the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineSettings {
    /// Left out: `ort` where it can be loaded, else `tract`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<EngineName>,
    /// Runs at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<NonZeroUsize>,
    /// Threads inside one run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<NonZeroUsize>,
}

/// Dynamic batching; a release without it never batches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchSettings {
    /// Rows (ONNX) or requests (scripts) in one batch, at most.
    pub max_size: NonZeroUsize,
    /// How long the first of a batch waits for others, in microseconds.
    #[serde(default)]
    pub max_delay_us: u64,
    /// Sizes at which a batch goes at once, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub preferred_sizes: Vec<NonZeroUsize>,
}

/// What one scorer serves. Its identity is the digest of its JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// The version of this format: [`Release::FORMAT`].
    pub format: u32,
    pub name: Name,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ReleaseModel>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<ReleaseCode>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<ReleaseEnvironment>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment_variables: BTreeMap<String, String>,
    #[serde(default)]
    pub request_settings: RequestSettings,
    #[serde(default)]
    pub engine: EngineSettings,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batching: Option<BatchSettings>,
    /// Images are an input of the model, and become one as it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageInput>,
    /// Which requests and answers are kept; none where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collection: Option<CollectionSettings>,
}

/// Why a `release.json` is refused.
#[derive(Debug, Error)]
pub enum ReleaseError {
    #[error("release.json:{}:{}: {source}", source.line(), source.column())]
    Json { source: serde_json::Error },
    #[error("release.json has format {actual}; this build reads format {}", Release::FORMAT)]
    Format { actual: u32 },
    #[error(
        "release.json: path `{path}` must be relative, with `/` between parts and neither `.` nor `..` among them"
    )]
    Path { path: String },
    #[error("release.json: `{path}` is listed twice")]
    Duplicate { path: String },
    #[error("release.json: scoring_script `{path}` is not among the files of `code`")]
    ScriptNotListed { path: String },
    #[error("release.json has neither `model` nor `code`; there is nothing to serve")]
    Empty,
    #[error("release.json: preferred_sizes must ascend and not exceed max_size ({max_size})")]
    PreferredSizes { max_size: NonZeroUsize },
    #[error("release.json: collection: {fault}")]
    Collection { fault: String },
}

impl Release {
    /// The format that this build writes and reads.
    pub const FORMAT: u32 = 1;
    /// The file's name in a release's folder.
    pub const FILE: &str = "release.json";
    /// The folder of [`ReleaseModel::files`].
    pub const MODEL_DIR: &str = "model";
    /// The folder of [`ReleaseCode::files`].
    pub const CODE_DIR: &str = "code";

    /// Reads and validates the text of a `release.json`.
    pub fn parse(text: &str) -> Result<Self, ReleaseError> {
        let release: Self = serde_json::from_str(text).map_err(|source| ReleaseError::Json { source })?;
        release.validate()?;
        Ok(release)
    }

    /// The text of `release.json`, the same for the same release.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a release has only string keys");
        text.push('\n');
        text
    }

    /// The identity of this release.
    pub fn digest(&self) -> Digest {
        Digest::of(self.to_json().as_bytes())
    }

    fn validate(&self) -> Result<(), ReleaseError> {
        if self.format != Self::FORMAT {
            return Err(ReleaseError::Format { actual: self.format });
        }
        let own_server = self.environment.as_ref().is_some_and(|environment| environment.own_server);
        if self.model.is_none() && self.code.is_none() && !own_server {
            return Err(ReleaseError::Empty);
        }
        for files in
            [self.model.as_ref().map(|model| &model.files), self.code.as_ref().map(|code| &code.files)]
        {
            check_files(files.map_or(&[], Vec::as_slice))?;
        }
        if let Some(code) = &self.code
            && !code.files.iter().any(|file| file.path == code.scoring_script)
        {
            return Err(ReleaseError::ScriptNotListed { path: code.scoring_script.clone() });
        }
        if let Some(fault) = self.collection.as_ref().and_then(CollectionSettings::fault) {
            return Err(ReleaseError::Collection { fault });
        }
        if let Some(batching) = &self.batching {
            let sizes = &batching.preferred_sizes;
            let fits = sizes.last().is_none_or(|last| *last <= batching.max_size);
            if !fits || sizes.windows(2).any(|pair| pair[0] >= pair[1]) {
                return Err(ReleaseError::PreferredSizes { max_size: batching.max_size });
            }
        }
        Ok(())
    }
}

/// Refuses paths that could leave the folder, and files listed twice.
fn check_files(files: &[FileEntry]) -> Result<(), ReleaseError> {
    let mut seen = std::collections::HashSet::new();
    for FileEntry { path, .. } in files {
        let bad_part = |part: &str| matches!(part, "" | "." | "..");
        if path.contains(['\\', '\0']) || path.split('/').any(bad_part) {
            return Err(ReleaseError::Path { path: path.clone() });
        }
        if !seen.insert(path) {
            return Err(ReleaseError::Duplicate { path: path.clone() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = r#"{"format": 1, "name": "iris", "model": {"name": "iris", "version": "1", "type": "onnx",
        "files": [{"path": "model.onnx", "size": 0,
                   "sha256": "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}]}}"#;

    #[test]
    fn a_release_round_trips_and_keeps_its_digest() {
        let release = Release::parse(MINIMAL).unwrap();
        let again = Release::parse(&release.to_json()).unwrap();
        assert_eq!(again, release);
        assert_eq!(again.digest(), release.digest());
    }

    #[test]
    fn refusals_name_the_thing() {
        let refusal =
            |from: &str, to: &str| Release::parse(&MINIMAL.replace(from, to)).unwrap_err().to_string();
        assert!(refusal(r#""format": 1"#, r#""format": 1, "colour": 1"#).contains("unknown field `colour`"));
        assert!(refusal(r#""format": 1"#, r#""format": 9"#).contains("format 9"));
        assert!(refusal("model.onnx", "../model.onnx").contains("`../model.onnx`"));
        assert!(refusal("model.onnx", "/model.onnx").contains("`/model.onnx`"));
        assert!(refusal(r#""name": "iris", "model""#, r#""name": "../iris", "model""#).contains("`../iris`"));
        assert!(refusal("sha256:e3", "sha256:E3").contains("is not a digest"));
        let batching = r#""format": 1, "batching": {"max_size": 4, "preferred_sizes": [2, 8]}"#;
        assert!(refusal(r#""format": 1"#, batching).contains("preferred_sizes"));
        for (collection, fault) in [
            (r#"{"collections": []}"#, "1 to 32"),
            (r#"{"collections": ["A"]}"#, "lower case"),
            (r#"{"collections": ["a"], "sampling_rate": 1.5}"#, "0 to 1"),
        ] {
            let with = format!(r#""format": 1, "collection": {collection}"#);
            assert!(refusal(r#""format": 1"#, &with).contains(fault));
        }
    }
}
