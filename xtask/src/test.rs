//! `cargo xtask test`: the one command that says whether this checkout is good. Last comes the test runner, so that
//! the last line is its summary.

use std::{env, ffi::OsString, path};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{
    Workspace, check, containers, helm,
    podman::Podman,
    portal, prometheus, python, shell,
    tools::{self, Tool},
};

/// Of `cargo xtask test`.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Leave out `cargo xtask check`.
    #[arg(long)]
    no_check: bool,
    /// Handed to the test runner: a name to filter by, for instance.
    #[arg(last = true)]
    runner: Vec<String>,
}

pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    if !arguments.no_check {
        check::run(workspace)?;
    }
    tools::install(workspace, &Tool::FOR_TESTS)?;
    portal::run_if_possible(workspace)?;
    // Before the ordinary one, which Cargo gives the same name.
    let static_scorer = containers::static_scorer(workspace)?;
    // The tests with the binaries: alone, those would be compiled with fewer features of what both depend on, and all
    // of it again for the tests.
    shell::step("build all binaries and tests", || {
        shell::run(&mut workspace.cargo(&["build", "--release", "--workspace", "--bins", "--tests"]))
    })?;
    if arguments.runner.is_empty() {
        // nextest does not run these.
        shell::step("documentation tests", || {
            shell::run(&mut workspace.cargo(&["test", "--release", "--workspace", "--doc", "--quiet"]))
        })?;
    }
    let nextest = shell::find("cargo-nextest").is_some();
    let verb: &[&str] = if nextest { &["nextest", "run"] } else { &["test", "--lib", "--bins", "--tests"] };
    let mut command = workspace.cargo(verb);
    command.args(["--release", "--workspace"]);
    if !nextest && !arguments.runner.is_empty() {
        command.arg("--");
    }
    let engine = containers::Engine::start(workspace)?;
    let podman = Podman::start(workspace)?;
    command.args(&arguments.runner).envs(environment(workspace)?).envs(cluster()?);
    command.envs(containers::variables(workspace, engine.as_ref(), podman.as_ref(), &static_scorer));
    shell::print("==> tests");
    shell::run(&mut command)
}

/// What the tests are told. `ORT_DYLIB_PATH` is not among it: the search for the library is tested too.
fn environment(workspace: &Workspace) -> Result<Vec<(String, OsString)>> {
    let pythons = env::join_paths(python::interpreters())?;
    let mut variables: Vec<(String, OsString)> = vec![
        ("MOORLINE_TEST_VENVS".into(), python::venvs(workspace).into()),
        ("MOORLINE_TEST_PYTHON".into(), python::interpreter(workspace, "oracle").into()),
        ("MOORLINE_TEST_MLFLOW_PYTHON".into(), python::interpreter(workspace, "mlflow").into()),
        ("MOORLINE_TEST_PYTHONS".into(), pythons),
    ];
    if let Some(maker) = python::environment_maker(workspace)? {
        variables.push(("MOORLINE_TEST_UV".into(), maker.uv.into()));
        variables.extend(maker.settings.into_iter().map(|(name, value)| (name, value.into())));
    }
    if let Some(helm) = helm::program(workspace) {
        variables.push(("MOORLINE_TEST_HELM".into(), helm.into()));
    }
    if let Some(programs) = prometheus::programs(workspace) {
        variables.push(("MOORLINE_TEST_PROMETHEUS".into(), programs.into()));
    }
    Ok(variables)
}

/// The cluster that tests may work on, wherever they run: the first of those files that `KUBECONFIG` names.
fn cluster() -> Result<Option<(&'static str, OsString)>> {
    let named = env::var_os("KUBECONFIG").unwrap_or_default();
    let Some(file) = env::split_paths(&named).find(|file| file.is_file()) else {
        shell::warn(
            "KUBECONFIG names no cluster: nothing is tested against a real Kubernetes (see `.ci/cluster`)",
        );
        return Ok(None);
    };
    let file = path::absolute(&file).with_context(|| format!("could not find {}", file.display()))?;
    Ok(Some(("MOORLINE_TEST_KUBECONFIG", file.into())))
}
