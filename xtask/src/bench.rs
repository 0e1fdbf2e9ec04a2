//! `cargo xtask bench <what>`: installs what the measurement needs, builds it and hands over to the harness in
//! `benches/`.

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::{
    Workspace, containers, shell,
    tools::{self, Tool},
};

/// What can be measured.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// The scorer beside its baselines, one table of ratios.
    Scorer(TableArguments),
    /// The gateway before a scorer beside that scorer alone.
    Gateway(TableArguments),
    /// Images and containers beside `sha256sum`, `docker build` and the scorer without a container.
    Image(TableArguments),
    /// A thousand deployments on the cluster of `KUBECONFIG`, beside `kubectl apply`.
    Kubernetes(TableArguments),
    /// A device's agent and hub beside mosquitto, and a change for a fleet.
    Edge(TableArguments),
    /// What it costs the server to look at 200 replicas, and how smoothly the portal shows them and 1,000 devices.
    Monitor(TableArguments),
    /// ResNet-50 on the device that PoCL emulates beside ONNX Runtime.
    Fpga,
    /// The pieces of a request's way, alone: codecs, batches, recording.
    HotPath,
}

/// Of `cargo xtask bench scorer`, `gateway`, `image`, `kubernetes`, `edge` and `monitor`.
#[derive(Args, Debug)]
pub struct TableArguments {
    /// A minute or two instead of several; the figures are rough.
    #[arg(long)]
    quick: bool,
    /// Write the table to `benches/results/<date>-<subject>-<machine>.md`.
    #[arg(long)]
    save: bool,
    /// Only the rows whose name contains this.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

pub fn run(workspace: &Workspace, bench: &Bench) -> Result<()> {
    let (subject, arguments) = match bench {
        Bench::Scorer(arguments) => ("scorer", arguments),
        Bench::Gateway(arguments) => ("gateway", arguments),
        Bench::Image(arguments) => ("image", arguments),
        Bench::Kubernetes(arguments) => ("kubernetes", arguments),
        Bench::Edge(arguments) => ("edge", arguments),
        Bench::Monitor(arguments) => ("monitor", arguments),
        Bench::HotPath => {
            let hot_path =
                ["bench", "--profile", "release", "--package", "moorline-benches", "--bench", "hot_path"];
            return shell::run(&mut workspace.cargo(&hot_path));
        }
        Bench::Fpga => {
            tools::install(workspace, &[Tool::Tools, Tool::Pocl])?;
            let resnet = ["bench", "--profile", "release", "--package", "moorline-fpga", "--bench", "resnet"];
            let mut run = workspace.cargo(&resnet);
            run.env("MOORLINE_TEST_VENVS", crate::python::venvs(workspace));
            return shell::run(&mut run);
        }
    };
    if matches!(bench, Bench::Edge(_)) {
        tools::install(workspace, &[Tool::Tools, Tool::OnnxRuntime, Tool::Mosquitto])?;
    } else if !matches!(bench, Bench::Kubernetes(_)) {
        tools::install(workspace, &[Tool::Oracle, Tool::Tools, Tool::OnnxRuntime, Tool::Wrk])?;
    }
    let of_containers = if matches!(bench, Bench::Image(_)) {
        tools::install(workspace, &[Tool::Containers, Tool::BaseImage])?;
        // Before the ordinary one, which Cargo gives the same name.
        Some(containers::static_scorer(workspace)?)
    } else {
        None
    };
    if matches!(bench, Bench::Monitor(_)) {
        crate::portal::run_if_possible(workspace)?;
    }
    workspace.build()?;
    let mut harness = workspace.command(workspace.binary("side-by-side"));
    harness.arg(subject);
    if arguments.quick {
        harness.arg("--quick");
    }
    if arguments.save {
        harness.arg("--save");
    }
    if let Some(only) = &arguments.only {
        harness.args(["--only", only]);
    }
    let Some(static_scorer) = of_containers else { return shell::run(&mut harness) };
    let engine = containers::Engine::start(workspace)?;
    harness.envs(containers::variables(workspace, engine.as_ref(), None, &static_scorer));
    shell::run(&mut harness)
}
