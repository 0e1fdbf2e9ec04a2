//! `cargo xtask demo`: the main job on real data. Two models are trained here and now; one is served as ONNX with no
//! script, one by a scoring script as it would be written for Azure ML.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::{
    Workspace, python,
    scorer::RunningScorer,
    shell,
    tools::{self, Tool},
};

/// How to go on, in the words of a terminal.
const NEXT: &str = "
That was the main job. To go on:

    moorline release create --name NAME --model FILE --output DIR    make a release of your own model
    moorline-scorer --release DIR                                    serve it on 127.0.0.1:5001
    moorline-scorer --help                                           every setting, with its variable
    docs/src/scorer.md                                               the guide

Both binaries are in the target folder; the demo's releases are in `demo/` there.";

pub fn run(workspace: &Workspace) -> Result<()> {
    tools::install(workspace, &[Tool::Tools, Tool::OnnxRuntime])?;
    workspace.build()?;
    let demo = workspace.target().join("demo");
    if demo.exists() {
        fs_err::remove_dir_all(&demo)?;
    }
    fs_err::create_dir_all(&demo)?;
    shell::print("==> an ONNX model without a script: handwritten digits");
    digits(workspace, &demo)?;
    shell::print("==> a model with its scoring script: the progression of diabetes");
    diabetes(workspace, &demo)?;
    shell::print(NEXT);
    Ok(())
}

fn digits(workspace: &Workspace, demo: &Path) -> Result<()> {
    let folder = train(workspace, demo, "digits")?;
    let release = demo.join("digits-release");
    create_release(
        workspace,
        &["--name", "digits", "--model"],
        &[&folder.join("digits.onnx"), Path::new("--output"), &release],
    )?;
    let scorer = RunningScorer::start(workspace, &release, &[])?;
    served(&scorer);
    let url = format!("http://{}", scorer.address);
    post(workspace, &format!("{url}/score"), &folder.join("score.json"))?;
    post(workspace, &format!("{url}/v2/models/digits/infer"), &folder.join("infer.json"))?;
    expected(&folder)?;
    scorer.stop()
}

fn diabetes(workspace: &Workspace, demo: &Path) -> Result<()> {
    let folder = train(workspace, demo, "diabetes")?;
    let release = demo.join("diabetes-release");
    let code = workspace.root().join("docs/examples/diabetes/code");
    create_release(
        workspace,
        &["--name", "diabetes", "--scoring-script", "score.py", "--model"],
        &[&folder.join("model"), Path::new("--code"), &code, Path::new("--output"), &release],
    )?;
    let python = python::interpreter(workspace, "tools");
    let python = python.to_str().context("the path of the Python environment is not UTF-8")?;
    let scorer = RunningScorer::start(workspace, &release, &["--python", python, "--worker-count", "2"])?;
    served(&scorer);
    post(workspace, &format!("http://{}/score", scorer.address), &folder.join("score.json"))?;
    expected(&folder)?;
    scorer.stop()
}

/// Runs `docs/examples/NAME/train.py`, which writes a model, requests and the truth about them.
fn train(workspace: &Workspace, demo: &Path, name: &str) -> Result<PathBuf> {
    let folder = demo.join(name);
    fs_err::create_dir_all(&folder)?;
    let mut train = workspace.command(python::interpreter(workspace, "tools"));
    shell::run(train.arg(format!("docs/examples/{name}/train.py")).arg(&folder))?;
    Ok(folder)
}

fn create_release(workspace: &Workspace, options: &[&str], rest: &[&Path]) -> Result<()> {
    let mut create = workspace.command(workspace.binary("moorline"));
    shell::run(create.args(["release", "create"]).args(options).args(rest))
}

fn served(scorer: &RunningScorer) {
    shell::say(&format!(
        "moorline-scorer serves on http://{} after {:.0} ms",
        scorer.address,
        scorer.start_time.as_secs_f64() * 1000.0
    ));
}

/// Sends a file with curl, printing the request as one would type it, and the answer.
fn post(workspace: &Workspace, url: &str, body: &Path) -> Result<()> {
    let mut curl = workspace.command("curl");
    curl.args([
        "--silent",
        "--show-error",
        "--fail-with-body",
        url,
        "--header",
        "content-type: application/json",
    ]);
    curl.arg("--data-binary").arg(format!("@{}", body.display()));
    shell::say(&format!("$ {}", shell::line(&curl)));
    shell::say(&format!("> {}", excerpt(&fs_err::read_to_string(body)?)));
    let answer = shell::output(&mut curl).context("the demo sends its requests with curl")?;
    shell::say(&format!("< {}", excerpt(&answer)));
    Ok(())
}

fn expected(folder: &Path) -> Result<()> {
    let truth = fs_err::read_to_string(folder.join("truth.txt"))?;
    shell::say(&format!("the truth was: {}", truth.trim()));
    Ok(())
}

/// The beginning of a body, on one line.
fn excerpt(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(300) {
        Some((end, _)) => format!("{}… ({} bytes)", &line[..end], text.len()),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_bodies_are_cut_between_characters() {
        assert_eq!(excerpt("{\n  \"a\": 1 }"), "{ \"a\": 1 }");
        let long = "é".repeat(400);
        assert_eq!(excerpt(&long), format!("{}… (800 bytes)", "é".repeat(300)));
    }
}
