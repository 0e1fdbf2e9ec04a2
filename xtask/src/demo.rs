//! `cargo xtask demo`: the main job on real data. Two models are trained here and now, registered in a workspace, and
//! deployed: one as ONNX with no script, one with a scoring script as it would be written for Azure ML.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use crate::{
    Workspace, portal, python, shell,
    tools::{self, Tool},
};

/// How to go on, in the words of a terminal.
const NEXT: &str = "
That was the main job. To go on, with the target folder's `release` on the PATH:

    moorline up                                        a workspace in ~/.moorline, on 127.0.0.1:7440,
                                                       and its portal at http://127.0.0.1:7440/
    moorline model create -n NAME -p FILE-OR-FOLDER    register a model of your own
    moorline online-endpoint create -n NAME            and see docs/examples for documents to begin with
    docs/src/SUMMARY.md                                the guide

The demo's workspace is in `demo/home` of the target folder.";

/// A demo's home, and the ways to speak to it.
struct Demo<'a> {
    workspace: &'a Workspace,
    folder: PathBuf,
    variables: Vec<(String, std::ffi::OsString)>,
}

pub fn run(workspace: &Workspace) -> Result<()> {
    tools::install(workspace, &[Tool::Tools, Tool::OnnxRuntime])?;
    portal::run_if_possible(workspace)?;
    workspace.build()?;
    let folder = workspace.target().join("demo");
    if folder.exists() {
        fs_err::remove_dir_all(&folder)?;
    }
    fs_err::create_dir_all(&folder)?;
    let demo = Demo { workspace, variables: variables(workspace, &folder)?, folder };
    let shown = demo.show();
    demo.stop();
    shown?;
    shell::print(NEXT);
    Ok(())
}

/// What the demo's commands are told: their home, and who makes environments.
fn variables(workspace: &Workspace, folder: &Path) -> Result<Vec<(String, std::ffi::OsString)>> {
    let mut variables = vec![
        ("MOORLINE_HOME".to_owned(), folder.join("home").into_os_string()),
        // Somebody's own server may have the usual port.
        ("MOORLINE_LISTEN".to_owned(), "127.0.0.1:0".into()),
    ];
    if let Some(maker) = python::environment_maker(workspace)? {
        let mut paths: Vec<PathBuf> = maker.uv.parent().map(Path::to_owned).into_iter().collect();
        paths.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        variables.push(("PATH".to_owned(), std::env::join_paths(paths)?));
        variables.extend(maker.settings.into_iter().map(|(name, value)| (name, value.into())));
    }
    Ok(variables)
}

impl Demo<'_> {
    fn show(&self) -> Result<()> {
        shell::print("==> an ONNX model without a script: handwritten digits");
        let digits = train(self.workspace, &self.folder, "digits")?;
        self.deploy("digits", &digits.join("digits.onnx"), &digits)?;
        let address =
            self.answer(&["online-endpoint", "show", "-n", "digits", "--query", "scoring_uri", "-o", "tsv"])?;
        let key =
            ["online-endpoint", "get-credentials", "-n", "digits", "--query", "primaryKey", "-o", "tsv"];
        let infer = address.replace("/score", "/v2/models/digits/infer");
        post(self.workspace, &infer, &self.answer(&key)?, &digits.join("infer.json"))?;
        shell::print("==> a model with its scoring script and its conda file: the progression of diabetes");
        let diabetes = train(self.workspace, &self.folder, "diabetes")?;
        self.deploy("diabetes", &diabetes.join("model"), &diabetes)
    }

    /// Registers a model, deploys it by the documents of `docs/examples/NAME`, and sends a request.
    fn deploy(&self, name: &str, model: &Path, folder: &Path) -> Result<()> {
        let document = |file: &str| format!("docs/examples/{name}/{file}");
        let model = model.to_str().context("the path of a model is not UTF-8")?;
        self.moorline(&["model", "create", "-n", name, "-p", model, "-o", "none"])?;
        self.moorline(&["online-endpoint", "create", "-f", &document("endpoint.yml"), "-o", "none"])?;
        let deployment = document("deployment.yml");
        self.moorline(&["online-deployment", "create", "-f", &deployment, "--all-traffic", "-o", "none"])?;
        let request = folder.join("score.json");
        let request = request.to_str().context("the path of a request is not UTF-8")?;
        self.moorline(&["online-endpoint", "invoke", "-n", name, "--request-file", request])?;
        shell::print("");
        expected(folder)
    }

    /// Runs the command line, printing what is typed.
    fn moorline(&self, arguments: &[&str]) -> Result<()> {
        shell::run(&mut self.command(arguments))
    }

    fn answer(&self, arguments: &[&str]) -> Result<String> {
        Ok(shell::output(&mut self.command(arguments))?.trim().to_owned())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.workspace.command(self.workspace.binary("moorline"));
        command.args(arguments).envs(self.variables.iter().cloned()).stdin(Stdio::null());
        command
    }

    /// Ends the server that the first command started, and with it every replica.
    fn stop(&self) {
        // Where none was started there is nothing to end.
        let _ = shell::output(&mut self.command(&["down", "--everything"]));
    }
}

/// Runs `docs/examples/NAME/train.py`, which writes a model, requests and the truth about them.
fn train(workspace: &Workspace, demo: &Path, name: &str) -> Result<PathBuf> {
    let folder = demo.join(name);
    fs_err::create_dir_all(&folder)?;
    let mut train = workspace.command(python::interpreter(workspace, "tools"));
    shell::run(train.arg(format!("docs/examples/{name}/train.py")).arg(&folder))?;
    Ok(folder)
}

/// Sends a file with curl, printing the request as one would type it, and the answer.
fn post(workspace: &Workspace, url: &str, key: &str, body: &Path) -> Result<()> {
    let mut curl = workspace.command("curl");
    curl.args(["--silent", "--show-error", "--fail-with-body", url]);
    curl.args(["--header", "content-type: application/json", "--data-binary"])
        .arg(format!("@{}", body.display()));
    shell::say(&format!("$ {} --header 'authorization: Bearer KEY'", shell::line(&curl)));
    curl.arg("--header").arg(format!("authorization: Bearer {key}"));
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
