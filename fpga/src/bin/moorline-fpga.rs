//! What `cargo xtask fpga` and the tests of this crate start: a worker on a device, and the build of a bitstream, whose
//! compiler is the driver itself and runs in such a worker.

use std::{env, process::ExitCode};

use anyhow::{Result, bail};

fn main() -> ExitCode {
    let arguments: Vec<String> =
        env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "the last words of a program")]
fn complain(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}

fn run(arguments: &[String]) -> Result<()> {
    match arguments {
        [verb] if verb == "worker" => Ok(moorline_fpga::worker::main()?),
        _ => bail!("expected `worker`; bitstreams are built by `cargo xtask fpga build`"),
    }
}
