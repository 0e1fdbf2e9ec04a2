//! `moorline`: the one command people type.

mod arguments;
mod assets;
mod client;
mod confirm;
mod doctor;
mod document;
mod download;
mod edits;
mod events;
mod exit;
mod files;
mod gateway;
mod ignore;
mod live;
mod local_server;
mod observation;
mod operation;
mod output;
mod release;
mod screen;
mod session;
mod stream;
mod up;
mod upload;
mod verbs;

use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser};
use tracing_subscriber::EnvFilter;

use crate::{
    arguments::{Cli, Command},
    screen::Screen,
    session::{Session, Variables},
};

fn main() -> ExitCode {
    let cli = Cli::parse_from(arguments::without_ml(std::env::args_os()));
    let variables = Variables::of(&session::environment_of_process());
    let screen = Screen::new(cli.globals.only_show_errors, variables.no_colour);
    let session = Session { globals: cli.globals, screen, variables };
    log(&session, matches!(cli.command, Command::Up(_) | Command::Gateway(_)));
    install_crypto();
    match run(&session, cli.command) {
        Ok(()) => ExitCode::from(exit::SUCCESS),
        Err(error) => exit::report(&error, &session.screen),
    }
}

fn run(session: &Session, command: Command) -> anyhow::Result<()> {
    let asynchronous = async {
        match command {
            Command::Workspace(verb) => verbs::workspace::run(session, verb).await,
            Command::Model(verb) => verbs::model::run(session, verb).await,
            Command::Environment(verb) => verbs::environment::run(session, verb).await,
            Command::Bitstream(verb) => verbs::bitstream::run(session, verb).await,
            Command::Fpga(verb) => verbs::fpga::run(session, verb),
            Command::Device(verb) => verbs::device::run(session, verb),
            Command::DeviceWorker => Ok(moorline_fpga::worker::main()?),
            Command::Edge(verb) => verbs::edge::run(session, verb).await,
            Command::Compute(verb) => verbs::compute::run(session, verb).await,
            Command::OnlineEndpoint(verb) => verbs::online_endpoint::run(session, verb).await,
            Command::OnlineDeployment(verb) => verbs::online_deployment::run(session, verb).await,
            Command::Image(verb) => verbs::image::run(session, verb).await,
            Command::Secret(verb) => verbs::secret::run(session, verb).await,
            Command::Kubernetes(verb) => verbs::kubernetes::run(session, verb).await,
            Command::Token(verb) => verbs::token::run(session, verb).await,
            Command::Up(up) => Box::pin(up::run(session, *up)).await,
            Command::Gateway(gateway) => gateway::run(gateway).await,
            Command::Down(down) => up::down(session, down).await,
            Command::Doctor(doctor) => doctor::run(session, doctor).await,
            Command::Release(command) => release::run(command),
            Command::Completion { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Cli::command(), "moorline", &mut script);
                output::write(&String::from_utf8_lossy(&script))
            }
            Command::Man { output } => {
                fs_err::create_dir_all(&output)?;
                clap_mangen::generate_to(Cli::command(), &output)
                    .with_context(|| format!("could not write the manual to `{}`", output.display()))
            }
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("could not start the async runtime")?;
    let outcome = runtime.block_on(asynchronous);
    // A server that must not serve any more is gone at once, whatever its threads are in the middle of.
    runtime.shutdown_background();
    outcome
}

/// Logs to standard error: a server what it does, every other verb only what it was asked for.
fn log(session: &Session, server: bool) {
    let level = match (session.globals.debug, session.globals.verbose || server) {
        (true, _) => "debug",
        (false, true) => "info",
        (false, false) => "off",
    };
    let libraries = if session.globals.debug { "info" } else { "warn" };
    let libraries = if level == "off" { "off" } else { libraries };
    let ours = [
        "moorline",
        "moorline_server",
        "moorline_store",
        "moorline_gateway",
        "moorline_deploy",
        "moorline_edge",
        "moorline_listen",
        "moorline_observe",
    ];
    let directives = ours.iter().fold(libraries.to_owned(), |all, target| format!("{all},{target}={level}"));
    tracing_subscriber::fmt().with_env_filter(EnvFilter::new(directives)).with_writer(std::io::stderr).init();
}

/// One provider of cryptography for everything in this process that speaks TLS.
pub(crate) fn install_crypto() {
    // It fails only where one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
