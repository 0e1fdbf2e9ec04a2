//! Reading a release's folder: `release.json`, that every file it lists is there unchanged, and what there is to serve.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use moorline_core::{Digest, FileEntry, Release, ReleaseError};
use thiserror::Error;

use crate::settings::Environment;

/// A release whose files were found to be what it says.
#[derive(Debug)]
pub(crate) struct LoadedRelease {
    pub(crate) dir: PathBuf,
    pub(crate) release: Release,
}

/// What a release has to be served by.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `code/` has a scoring script.
    Script,
    /// The model is an MLflow model in this folder.
    Mlflow(PathBuf),
    /// The model is this ONNX file.
    Onnx(PathBuf),
}

/// Why a folder is not a release that can be served.
#[derive(Debug, Error)]
pub(crate) enum ReadError {
    #[error("could not read the release in `{}`", dir.display())]
    Io {
        dir: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the release in `{}` is not valid", dir.display())]
    Release {
        dir: PathBuf,
        #[source]
        source: ReleaseError,
    },
    #[error("`{}` is missing; release.json lists it", path.display())]
    Missing { path: PathBuf },
    #[error("`{}` has {actual} bytes; release.json says {expected}", path.display())]
    Size { path: PathBuf, expected: u64, actual: u64 },
    #[error("`{}` was changed: its digest is {actual}, release.json says {expected}", path.display())]
    Changed { path: PathBuf, expected: Digest, actual: Digest },
    #[error("`{}` is not a JSON object of settings: {reason}", path.display())]
    Config { path: PathBuf, reason: String },
    #[error(
        "release `{name}` has no scoring script, and its model has neither an .onnx file nor an MLmodel file"
    )]
    Nothing { name: String },
    #[error(
        "the model of release `{name}` has {count} .onnx files, and none of them is `model.onnx`; a release without a scoring script needs one"
    )]
    Ambiguous { name: String, count: usize },
}

impl LoadedRelease {
    /// Reads `release.json` and checks every file against it.
    pub(crate) fn read(dir: PathBuf) -> Result<Self, ReadError> {
        let text = fs_err::read_to_string(dir.join(Release::FILE))
            .map_err(|source| ReadError::Io { dir: dir.clone(), source })?;
        let release =
            Release::parse(&text).map_err(|source| ReadError::Release { dir: dir.clone(), source })?;
        // Scripts run elsewhere and get these paths.
        let dir = fs_err::canonicalize(&dir).map_err(|source| ReadError::Io { dir: dir.clone(), source })?;
        let loaded = Self { dir, release };
        let model = loaded.release.model.as_ref().map_or(&[][..], |model| &model.files);
        let code = loaded.release.code.as_ref().map_or(&[][..], |code| &code.files);
        verify(&loaded.model_dir(), model)?;
        verify(&loaded.code_dir(), code)?;
        Ok(loaded)
    }

    pub(crate) fn model_dir(&self) -> PathBuf {
        self.dir.join(Release::MODEL_DIR)
    }

    pub(crate) fn code_dir(&self) -> PathBuf {
        self.dir.join(Release::CODE_DIR)
    }

    /// The folder of the scoring script's server: where `config.json` may lie.
    pub(crate) fn app_root(&self, environment: &Environment) -> PathBuf {
        environment.path("AML_APP_ROOT").unwrap_or_else(|| self.code_dir())
    }

    /// Adds the settings of lower rank to `environment`: the release's variables, then those of `config.json`.
    pub(crate) fn complete(&self, environment: &mut Environment) -> Result<(), ReadError> {
        environment.fall_back_to(&self.release.environment_variables);
        let app_root = self.app_root(environment);
        let beside_script =
            self.release.code.as_ref().and_then(|code| {
                Some(self.code_dir().join(&code.scoring_script).parent()?.join("config.json"))
            });
        let candidates = match environment.path("AZUREML_CONFIG_FILE") {
            Some(own) => vec![app_root.join(own)],
            None => [Some(app_root.join("config.json")), beside_script].into_iter().flatten().collect(),
        };
        // A config.json without any of our names is the script's own affair.
        if let Some(path) = candidates.into_iter().find(|path| path.is_file()) {
            environment.fall_back_to(&read_config(&path)?);
        }
        Ok(())
    }

    /// What serves this release: its script, else what its model's files show.
    pub(crate) fn kind(&self) -> Result<Kind, ReadError> {
        if self.release.code.is_some() {
            return Ok(Kind::Script);
        }
        let files = self.release.model.as_ref().map_or(&[][..], |model| &model.files);
        let named = |name: &str| files.iter().find(|file| file.path.rsplit('/').next() == Some(name));
        if let Some(mlmodel) = named("MLmodel") {
            let path = self.model_dir().join(&mlmodel.path);
            return Ok(Kind::Mlflow(path.parent().map_or_else(|| self.model_dir(), Path::to_owned)));
        }
        let onnx: Vec<&FileEntry> = files
            .iter()
            .filter(|file| Path::new(&file.path).extension().is_some_and(|own| own == "onnx"))
            .collect();
        let name = self.release.name.to_string();
        match (onnx.as_slice(), named("model.onnx")) {
            ([only], _) => Ok(Kind::Onnx(self.model_dir().join(&only.path))),
            ([], _) => Err(ReadError::Nothing { name }),
            (_, Some(main)) => Ok(Kind::Onnx(self.model_dir().join(&main.path))),
            (several, None) => Err(ReadError::Ambiguous { name, count: several.len() }),
        }
    }
}

fn verify(folder: &Path, files: &[FileEntry]) -> Result<(), ReadError> {
    for file in files {
        let path = folder.join(&file.path);
        let opened = fs_err::File::open(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => ReadError::Missing { path: path.clone() },
            _ => ReadError::Io { dir: folder.to_owned(), source },
        })?;
        let (actual, size) =
            Digest::of_reader(opened).map_err(|source| ReadError::Io { dir: folder.to_owned(), source })?;
        if size != file.size {
            return Err(ReadError::Size { path, expected: file.size, actual: size });
        }
        if actual != file.sha256 {
            return Err(ReadError::Changed { path, expected: file.sha256, actual });
        }
    }
    Ok(())
}

/// Settings as Azure ML's server reads them: one JSON object, whose numbers and booleans count as their text.
fn read_config(path: &Path) -> Result<BTreeMap<String, String>, ReadError> {
    let bad = |reason: String| ReadError::Config { path: path.to_owned(), reason };
    let text = fs_err::read_to_string(path).map_err(|error| bad(error.to_string()))?;
    let object: BTreeMap<String, serde_json::Value> =
        serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
    Ok(object
        .into_iter()
        .filter_map(|(name, value)| match value {
            serde_json::Value::String(text) => Some((name, text)),
            serde_json::Value::Number(_) | serde_json::Value::Bool(_) => Some((name, value.to_string())),
            _ => None,
        })
        .collect())
}
