//! `moorline-edge`: what runs on a device.

mod command;

use std::{io::Write as _, process::ExitCode};

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "moorline-edge", version, about = "Runs releases as modules of a device")]
struct Arguments {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Gets this device its certificate, with a token of the server.
    Enrol(command::enrol::Arguments),
    /// Runs the modules that the server wishes for.
    Run(command::run::Arguments),
    /// Runs a hub for the identities of a file: for modules under development, and for gateways without a server.
    Hub(command::hub::Arguments),
}

fn main() -> ExitCode {
    // Whoever embeds this has chosen already, and chose the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let log = tracing_subscriber::EnvFilter::builder()
        .with_env_var("MOORLINE_LOG")
        .with_default_directive(tracing::Level::INFO.into())
        .from_env_lossy();
    tracing_subscriber::fmt().with_env_filter(log).with_writer(std::io::stderr).init();
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Verb::Enrol(enrol) => command::enrol::run(&enrol),
        Verb::Run(run) => command::run::run(&run),
        Verb::Hub(hub) => command::hub::run(&hub),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A closed standard error must not hide the exit code.
            let _ = writeln!(std::io::stderr(), "moorline-edge: {error:#}");
            ExitCode::FAILURE
        }
    }
}
