//! What the rows are measured on: models, releases and requests below `target/bench/`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::json;
use xtask::{Workspace, python, scorer::RunningScorer, shell};

use crate::wrk::Load;

/// The tiny model's features.
const FEATURES: [f32; 10] = [0.04, 0.05, 0.06, 0.02, -0.04, -0.03, -0.04, -0.002, 0.02, -0.02];
/// The conv net's input: an image of one line of text.
pub const IMAGE: [usize; 4] = [1, 3, 48, 320];
/// The name of every release's model.
const NAME: &str = "bench";

/// The prepared folder.
#[derive(Debug)]
pub struct Stage<'a> {
    pub workspace: &'a Workspace,
    folder: PathBuf,
}

impl<'a> Stage<'a> {
    /// An empty stage.
    pub fn new(workspace: &'a Workspace) -> Result<Self> {
        let folder = workspace.target().join("bench");
        if folder.exists() {
            fs_err::remove_dir_all(&folder)?;
        }
        fs_err::create_dir_all(&folder)?;
        Ok(Self { workspace, folder })
    }

    /// The 10-feature classifier, made anew once.
    pub fn tiny_model(&self) -> Result<PathBuf> {
        let model = self.folder.join("tiny.onnx");
        if !model.exists() {
            let mut make = self.workspace.command(python::interpreter(self.workspace, "tools"));
            shell::output(make.arg("benches/models/make_tiny.py").arg(&model))?;
        }
        Ok(model)
    }

    /// Noise under a model's name, made anew once.
    pub fn large_model(&self, bytes: u64) -> Result<PathBuf> {
        let model = self.folder.join("large.onnx");
        if !model.exists() {
            let mut noise = std::io::Read::take(fs_err::File::open("/dev/urandom")?, bytes);
            std::io::copy(&mut noise, &mut fs_err::File::create(&model)?)?;
        }
        Ok(model)
    }

    /// The recogniser of PP-OCRv4: convolutions and attention, about 15 ms a run on one core.
    pub fn conv_model(&self) -> Result<PathBuf> {
        let packages = python::site_packages(self.workspace, "tools")?;
        Ok(packages.join("rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"))
    }

    /// A scorer that serves `model` alone.
    pub fn serve_model(&self, model: &Path, settings: &[&str]) -> Result<RunningScorer> {
        let release = self.release(
            model.file_stem().and_then(|stem| stem.to_str()).context("a model has a name")?,
            |create| {
                create.arg("--model").arg(model);
            },
        )?;
        RunningScorer::start(self.workspace, &release, settings)
    }

    /// The same with all inputs and outputs collected.
    pub fn serve_collecting(&self, model: &Path, settings: &[&str]) -> Result<RunningScorer> {
        let release = self.release("collecting", |create| {
            create.arg("--model").arg(model);
        })?;
        let file = release.join("release.json");
        let mut content: serde_json::Value = serde_json::from_str(&fs_err::read_to_string(&file)?)?;
        content["collection"] = json!({"collections": ["model_inputs", "model_outputs"]});
        fs_err::write(&file, content.to_string())?;
        RunningScorer::start(self.workspace, &release, settings)
    }

    /// A scorer that runs `benches/models/echo/score.py` in the oracle's own environment.
    pub fn serve_echo(&self, workers: usize) -> Result<RunningScorer> {
        let release = self.release("echo", |create| {
            create.args(["--code", "benches/models/echo", "--scoring-script", "score.py"]);
        })?;
        let python = python::interpreter(self.workspace, "oracle");
        let python = python.to_str().context("the path of the Python environment is not UTF-8")?;
        RunningScorer::start(
            self.workspace,
            &release,
            &["--python", python, "--worker-count", &workers.to_string()],
        )
    }

    /// Writes the release `name` once.
    fn release(&self, name: &str, more: impl FnOnce(&mut std::process::Command)) -> Result<PathBuf> {
        let release = self.folder.join(format!("{name}-release"));
        if !release.exists() {
            let mut create = self.workspace.command(self.workspace.binary("moorline"));
            create.args(["release", "create", "--name", NAME]);
            more(&mut create);
            shell::output(create.arg("--output").arg(&release))?;
        }
        Ok(release)
    }

    /// One row of features as `/score` takes it.
    pub fn tiny_json(&self, connections: usize) -> Result<Load> {
        let body = serde_json::to_vec(&json!({"data": [FEATURES]}))?;
        Load::post(&self.folder, "tiny-json", &[("content-type", "application/json")], &body, connections)
    }

    /// The file with that row as a body.
    pub fn tiny_json_body(&self) -> Result<PathBuf> {
        let file = self.folder.join("tiny-row.json");
        fs_err::write(&file, serde_json::to_vec(&json!({"data": [FEATURES]}))?)?;
        Ok(file)
    }

    /// A folder of the stage.
    pub fn folder(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// What a script prints that is run in the environment of models and clients.
    pub fn python(&self, script: &str, arguments: &[&str]) -> Result<String> {
        let mut python = self.workspace.command(python::interpreter(self.workspace, "tools"));
        shell::output(python.arg(script).args(arguments))
    }

    /// The row as JSON with an endpoint's key, which a scorer alone does not look at.
    pub fn tiny_json_with_key(&self, name: &str, key: &str, connections: usize) -> Result<Load> {
        let body = serde_json::to_vec(&json!({"data": [FEATURES]}))?;
        let key = format!("Bearer {key}");
        let headers = [("content-type", "application/json"), ("authorization", &key)];
        Load::post(&self.folder, &format!("tiny-json-{name}-{connections}"), &headers, &body, connections)
    }

    /// The same row in the Open Inference Protocol with raw bytes, in and out.
    pub fn tiny_binary(&self, connections: usize) -> Result<Load> {
        self.binary("tiny-binary", "X", &[1, FEATURES.len()], &FEATURES, connections)
    }

    /// An image for the conv net, likewise.
    pub fn image_binary(&self, connections: usize) -> Result<Load> {
        let pixels = vec![0.5; IMAGE.iter().product()];
        self.binary("image-binary", "x", &IMAGE, &pixels, connections)
    }

    fn binary(
        &self,
        file: &str,
        input: &str,
        shape: &[usize],
        elements: &[f32],
        connections: usize,
    ) -> Result<Load> {
        let size = size_of_val(elements);
        let header = json!({
            "inputs": [{"name": input, "shape": shape, "datatype": "FP32",
                        "parameters": {"binary_data_size": size}}],
            "parameters": {"binary_data_output": true},
        });
        let mut body = serde_json::to_vec(&header)?;
        let length = body.len().to_string();
        body.extend(elements.iter().flat_map(|element| element.to_le_bytes()));
        let headers =
            [("content-type", "application/octet-stream"), ("inference-header-content-length", &length)];
        Load::post(&self.folder, file, &headers, &body, connections)
    }
}

/// The data port's address for the Open Inference Protocol.
pub fn infer_url(scorer: &RunningScorer) -> String {
    format!("http://{}/v2/models/{NAME}/infer", scorer.address)
}
