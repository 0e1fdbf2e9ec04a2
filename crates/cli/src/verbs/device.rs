//! `moorline device`: what bitstreams can be loaded into on this machine.

use std::path::PathBuf;

use anyhow::Context;
use clap::Subcommand;
use moorline_fpga::{
    lease::Leases,
    worker::{self, Launcher, Limits},
};
use serde_json::{Value, json};

use crate::{
    output::{Columns, Printing},
    session::{Session, environment_of_process},
};

/// The hidden verb that such a process is started with.
pub(crate) const WORKER: &str = "device-worker";

const COLUMNS: Columns = Columns(&[
    ("Platform", "platform"),
    ("Device", "name"),
    ("Index", "index"),
    ("Class", "class"),
    ("Memory", "memory"),
    ("Driver", "driver"),
    ("Lease", "lease.holder"),
    ("Quarantine", "lease.quarantine"),
]);

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List the OpenCL devices of this machine, whether they are hardware or emulation, and who has them
    #[command(after_help = "Examples:\n  moorline device list\n  \
        moorline device list --query \"[].name\" -o tsv\n\n\
        Drivers are found as the OpenCL loader finds them: in /etc/OpenCL/vendors, or where OCL_ICD_VENDORS says.")]
    List {
        /// The folder with the leases of this machine's devices [default: devices in the home folder]
        #[arg(long, value_name = "DIR")]
        leases: Option<PathBuf>,
        #[command(flatten)]
        printing: Printing,
    },
}

pub(crate) fn run(session: &Session, verb: Verb) -> anyhow::Result<()> {
    let Verb::List { leases, printing } = verb;
    let leases = match leases {
        Some(folder) => folder,
        None => session.home()?.join("devices"),
    };
    let leases = Leases::new(leases);
    let scratch = tempfile::tempdir().context("could not make a temporary folder")?;
    // In a process of its own: a driver that breaks down must not end this one.
    let launcher = Launcher {
        program: std::env::current_exe().context("could not find this program")?,
        arguments: vec![WORKER.into()],
        environment: environment_of_process(),
        scratch: scratch.path().to_owned(),
    };
    let devices = worker::discover(&launcher, &Limits::default())?;
    let listed = devices.into_iter().map(|device| {
        let lease = leases.state(&device.id())?;
        let mut told = serde_json::to_value(device)?;
        told["lease"] = json!(lease);
        Ok(told)
    });
    printing.print(Value::Array(listed.collect::<anyhow::Result<_>>()?), COLUMNS)
}
