//! `cargo xtask fpga`: bitstreams from the kernels in `fpga/kernels`.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Subcommand, ValueEnum};

use crate::{Workspace, shell};

/// What can be done with bitstreams here.
#[derive(Debug, Subcommand)]
pub enum Fpga {
    /// Build the kernels for a platform, have its device pass the golden tests, and write a signed bitstream.
    Build(Build),
}

/// What is built, and for what.
#[derive(Debug, clap::Args)]
pub struct Build {
    #[arg(long, value_enum)]
    platform: Platform,
    /// An Ed25519 key in PEM that signs the bitstream; a new one is made where there is none.
    #[arg(long, value_name = "FILE", help_heading = "Where")]
    key: Option<PathBuf>,
    /// The folder for the result. Default: `target/fpga`.
    #[arg(long, value_name = "FOLDER", help_heading = "Where")]
    out: Option<PathBuf>,
    /// The board for `aoc`, or the platform for `vitis`, by its name there.
    #[arg(long)]
    board: Option<String>,
    /// For `aoc`: with the kernels that channels join.
    #[arg(long)]
    channels: bool,
}

/// A family of devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Platform {
    /// Emulation on the CPU by PoCL (Debian: pocl-opencl-icd).
    Pocl,
    /// Emulation by Intel's FPGA emulation platform; `OCL_ICD_VENDORS` names its library.
    IntelEmu,
    /// Intel's boards, by the offline compiler of the FPGA SDK for OpenCL.
    Aoc,
    /// AMD's boards, by Vitis.
    Vitis,
}

pub fn run(workspace: &Workspace, verb: &Fpga) -> Result<()> {
    let Fpga::Build(build) = verb;
    if build.board.is_none() && matches!(build.platform, Platform::Aoc | Platform::Vitis) {
        bail!("name the board with `--board`: its compiler wants it");
    }
    if build.channels && !matches!(build.platform, Platform::Aoc) {
        bail!("`--channels` is for `--platform aoc`: only Intel's compiler has them");
    }
    let folder = workspace.target().join("fpga");
    let out = build.out.clone().unwrap_or_else(|| folder.clone());
    let key = build.key.clone().unwrap_or_else(|| folder.join("key.pem"));
    shell::run(&mut workspace.cargo(&["build", "--release", "-p", "moorline-fpga", "--bins"]))?;
    let program = workspace.binary("moorline-fpga");
    let on_device = |platform: &str, name: &str| {
        let mut command = workspace.command(&program);
        command.args(["build", platform]).arg(&key).arg(out.join(name));
        shell::run(&mut command)
    };
    match build.platform {
        Platform::Pocl => on_device("Portable Computing Language", "pocl.fbit"),
        Platform::IntelEmu => on_device("Intel(R) FPGA Emulation Platform", "intel-emu.fbit"),
        Platform::Aoc | Platform::Vitis => {
            let (tool, image) = match build.platform {
                Platform::Aoc => ("aoc", "conv16.aocx"),
                _ => ("v++", "conv16.xclbin"),
            };
            let board = build.board.as_deref().unwrap_or_default();
            let mut command = workspace.command(&program);
            command.args(["vendor", tool, board]).arg(&out);
            if build.channels {
                command.arg("CHANNELS");
            }
            let commands = shell::output(&mut command)?;
            compile(workspace, tool, &commands)?;
            shell::say(&format!("`{}` is made; put it into a bitstream:", out.join(image).display()));
            shell::print(&format!(
                "moorline bitstream add-image --from pocl.fbit --image {image} --platform PLATFORM --board {board} \
                 --interface-uuid UUID --key key.pem --out {board}.fbit"
            ));
            Ok(())
        }
    }
}

/// Runs a vendor's commands, or says what they are where there is no such compiler.
fn compile(workspace: &Workspace, tool: &str, commands: &str) -> Result<()> {
    if shell::find(tool).is_none() {
        shell::print(commands.trim_end());
        bail!("`{tool}` is not on this machine; run the commands above where it is");
    }
    for line in commands.lines() {
        shell::run(workspace.command("sh").args(["-c", line]))?;
    }
    Ok(())
}
