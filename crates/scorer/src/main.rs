//! `moorline-scorer`: the data-plane server that runs one release, and nothing else.

mod copy;
mod engines;
mod failure;
mod fpga;
#[cfg(feature = "fpga")]
mod fpga_profile;
mod inspect;
mod logging;
mod probe;
#[cfg(feature = "fpga")]
mod quantize;
mod release;
mod script;
mod serve;
mod settings;

use std::process::ExitCode;

use crate::{
    release::LoadedRelease,
    settings::{Command, Environment},
};

fn main() -> ExitCode {
    let mut environment = Environment::of_process();
    let first = settings::parse(&environment).unwrap_or_else(|error| error.exit());
    let result = match (first.command, first.settings.release) {
        (Some(Command::Inspect(inspect)), _) => inspect::run(&inspect, &environment),
        (Some(Command::Probe(probe)), _) => probe::run(&probe),
        (Some(Command::Copy(copy)), _) => copy::run(&copy),
        #[cfg(feature = "fpga")]
        (Some(Command::FpgaWorker), _) => {
            moorline_fpga::worker::main().map_err(|error| anyhow::Error::from(error).into())
        }
        #[cfg(feature = "fpga")]
        (Some(Command::FpgaQuantize(request)), _) => quantize::run(&request, &environment),
        #[cfg(feature = "fpga")]
        (Some(Command::FpgaProfile(profile)), _) => fpga_profile::run(&profile, &environment),
        (None, None) => unreachable!("clap requires --release without a subcommand"),
        (None, Some(dir)) => LoadedRelease::read(dir).map_err(Into::into).and_then(|release| {
            // The release's own variables, and the script's config.json, are settings too, of lower rank.
            release.complete(&mut environment)?;
            let settings = settings::parse(&environment).unwrap_or_else(|error| error.exit()).settings;
            serve::run(settings, release, environment)
        }),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
