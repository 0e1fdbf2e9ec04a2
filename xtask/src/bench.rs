//! `cargo xtask bench <what>`: installs what the measurement needs, builds it and hands over to the harness in
//! `benches/`.

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::{
    Workspace, shell,
    tools::{self, Tool},
};

/// What can be measured.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// The scorer beside its baselines, one table of ratios.
    Scorer(ScorerArguments),
    /// The pieces of a request's way, alone: codecs, batches, recording.
    HotPath,
}

/// Of `cargo xtask bench scorer`.
#[derive(Args, Debug)]
pub struct ScorerArguments {
    /// A minute instead of several; the figures are rough.
    #[arg(long)]
    quick: bool,
    /// Write the table to `benches/results/<date>-<machine>.md`.
    #[arg(long)]
    save: bool,
    /// Only the rows whose name contains this.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

pub fn run(workspace: &Workspace, bench: &Bench) -> Result<()> {
    let Bench::Scorer(arguments) = bench else {
        let hot_path =
            ["bench", "--profile", "release", "--package", "moorline-benches", "--bench", "hot_path"];
        return shell::run(&mut workspace.cargo(&hot_path));
    };
    tools::install(workspace, &[Tool::Oracle, Tool::Tools, Tool::OnnxRuntime, Tool::Wrk])?;
    workspace.build()?;
    let mut harness = workspace.command(workspace.binary("side-by-side"));
    if arguments.quick {
        harness.arg("--quick");
    }
    if arguments.save {
        harness.arg("--save");
    }
    if let Some(only) = &arguments.only {
        harness.args(["--only", only]);
    }
    shell::run(&mut harness)
}
