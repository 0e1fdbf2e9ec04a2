//! Release folders for tests, made by the real `moorline release create`.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::{
    place::binary,
    scorer::{Scorer, ScorerCommand},
};

/// A release in a temporary folder that goes away with it.
#[derive(Debug)]
pub struct ReleaseDir {
    folder: TempDir,
}

/// What goes into a release.
#[derive(Debug)]
pub struct ReleaseContents {
    folder: TempDir,
    has_script: bool,
    model: Option<PathBuf>,
    arguments: Vec<String>,
}

impl ReleaseDir {
    /// A release of one ONNX model.
    pub fn of_model(model: &[u8]) -> Self {
        Self::contents().model("model.onnx", model).make()
    }

    /// A release whose model is not what it should be: the file is swapped, and what the release says of it follows,
    /// so that `release create` has no say in it.
    pub fn of_model_unchecked(model: &[u8]) -> Self {
        let release = Self::of_model(&crate::onnx::linear_model());
        fs_err::write(release.model().join("model.onnx"), model).expect("a model can be written");
        let mut sum = "sha256:".to_owned();
        for byte in Sha256::digest(model) {
            write!(sum, "{byte:02x}").expect("a String takes everything");
        }
        release.edit(|value| {
            value["model"]["files"][0]["size"] = model.len().into();
            value["model"]["files"][0]["sha256"] = sum.into();
        });
        release
    }

    /// A release of one scoring script.
    pub fn of_script(source: &str) -> Self {
        Self::contents().script(source).make()
    }

    /// Begins with nothing in it.
    pub fn contents() -> ReleaseContents {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        ReleaseContents { folder, has_script: false, model: None, arguments: Vec::new() }
    }

    /// A scorer of it, to be started; it keeps the folder for as long as it lives.
    pub fn serve(self) -> ScorerCommand {
        Scorer::of(&self.path()).keeping(self)
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("release")
    }

    /// Where the model's files lie.
    pub fn model(&self) -> PathBuf {
        self.path().join("model")
    }

    /// Where the scoring script lies.
    pub fn code(&self) -> PathBuf {
        self.path().join("code")
    }

    /// Changes `release.json` by hand, as somebody who should not.
    pub fn edit(&self, change: impl FnOnce(&mut Value)) {
        let path = self.path().join("release.json");
        let text = fs_err::read_to_string(&path).expect("a release has a release.json");
        let mut value = serde_json::from_str(&text).expect("release.json is JSON");
        change(&mut value);
        fs_err::write(&path, value.to_string()).expect("release.json can be written");
    }
}

impl ReleaseContents {
    /// The scoring script, `score.py`.
    pub fn script(mut self, source: &str) -> Self {
        self.has_script = true;
        self.code("score.py", source.as_bytes())
    }

    /// A file beside the scoring script.
    pub fn code(self, name: &str, content: &[u8]) -> Self {
        write(&self.folder.path().join("code").join(name), content);
        self
    }

    /// The model: one file.
    pub fn model(mut self, name: &str, content: &[u8]) -> Self {
        let path = self.folder.path().join(name);
        write(&path, content);
        self.model = Some(path);
        self
    }

    /// The model: a file or a folder that lies elsewhere.
    pub fn model_at(mut self, path: &Path) -> Self {
        self.model = Some(path.to_owned());
        self
    }

    /// An environment variable of the scoring script.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.arguments.extend(["--env".into(), format!("{name}={value}")]);
        self
    }

    pub fn make(self) -> ReleaseDir {
        let mut command = Command::new(binary("moorline"));
        command.args(["release", "create", "--name", "tested"]).args(&self.arguments);
        if let Some(model) = &self.model {
            command.arg("--model").arg(model);
        }
        if self.has_script {
            command.arg("--code").arg(self.folder.path().join("code")).args(["--scoring-script", "score.py"]);
        }
        let output = command.arg("--output").arg(self.folder.path().join("release")).output();
        let output = output.expect("`moorline` can be started");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "`moorline release create` failed: {stderr}");
        ReleaseDir { folder: self.folder }
    }
}

fn write(path: &Path, content: &[u8]) {
    fs_err::create_dir_all(path.parent().expect("a file has a folder")).expect("a folder can be made");
    fs_err::write(path, content).expect("a file can be written");
}
