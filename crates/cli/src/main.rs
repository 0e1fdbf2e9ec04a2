//! `moorline`: the one command people type.

mod files;
mod release;

use std::{io::Write, process::ExitCode};

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

/// Deploy models and scoring scripts on machines you own.
#[derive(Debug, Parser)]
#[command(
    name = "moorline",
    version,
    arg_required_else_help = true,
    after_help = "Examples:\n  moorline release create --name iris --model iris.onnx --output ./iris\n  \
                  moorline-scorer --release ./iris"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make and look at releases: what a scorer serves
    #[command(subcommand)]
    Release(release::Command),
    /// Print the completions of a shell
    #[command(after_help = "Example:\n  moorline completion bash > /etc/bash_completion.d/moorline")]
    Completion {
        /// The shell
        shell: Shell,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Release(command) => release::run(command),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "moorline", &mut std::io::stdout());
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A standard error that is closed leaves the exit code to speak.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
