//! `cargo xtask <verb>`: every multi-step habit of this repository under one name. Without a verb it lists them.

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory as _, Parser, Subcommand};
use xtask::{Workspace, bench, check, demo, edge, fpga, grafana, portal, shell, test, tools};

/// Everything that takes more than one command in this repository.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// Build, train two small models on real data, serve each and send it real requests.
    Demo,
    /// Run `check`, install what the tests need, build everything and run every test.
    Test(test::Arguments),
    /// Formatting, lints, dependency policy and the house rules.
    Check,
    /// Measure against baselines that run beside us in the same minute.
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Build bitstreams from the kernels in `fpga/kernels`.
    #[command(subcommand)]
    Fpga(fpga::Fpga),
    /// Write the dashboards in `deploy/grafana` from their source.
    Grafana,
    /// Pack what is installed on devices.
    #[command(subcommand)]
    Edge(edge::Edge),
    /// Build the web portal with npm, so that the next build of the server has it.
    Portal,
    /// Install what tests, demo and benches need below `target/`; a second run does nothing.
    Tools(tools::Arguments),
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            shell::complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let Some(verb) = arguments.verb else {
        return Ok(Arguments::command().print_help()?);
    };
    let workspace = Workspace::find()?;
    match verb {
        Verb::Demo => demo::run(&workspace),
        Verb::Test(arguments) => test::run(&workspace, &arguments),
        Verb::Check => check::run(&workspace),
        Verb::Bench(bench) => bench::run(&workspace, &bench),
        Verb::Fpga(verb) => fpga::run(&workspace, &verb),
        Verb::Grafana => grafana::run(&workspace),
        Verb::Edge(verb) => edge::run(&workspace, &verb),
        Verb::Portal => portal::run(&workspace),
        Verb::Tools(arguments) => tools::run(&workspace, &arguments),
    }
}
