//! The executor in a process of its own: drivers end the process that gives them a binary they cannot read, and a kernel
//! that never ends cannot be stopped in any other way. The process is the same binary as its parent, by a hidden verb
//! that calls [`main`].

mod device_worker;
mod error;
mod executor;
mod line;
mod process;
mod serve;
mod watch;
mod wire;

use std::{collections::BTreeMap, time::Duration};

use crate::{
    bitstream::Kernel,
    device::{Device, DeviceFilter, names},
    runtime::RuntimeError,
};

pub(crate) use device_worker::Reason;
pub use error::WorkerError;
pub use executor::{Executor, ExecutorSettings, ProgramId};
pub use process::Launcher;
use process::{Process, Silence};
pub use serve::main;
use wire::{MOST_BYTES, Reply, Request};

/// What is waited for at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For the kernels, or a program, to be loaded.
    pub start: Duration,
    /// For one launch. The error names the kernel.
    pub launch: Duration,
    /// For a whole request, whatever the driver does: longer than what its launches may take together.
    pub request: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            start: Duration::from_mins(2),
            launch: Duration::from_secs(10),
            request: Duration::from_mins(1),
        }
    }
}

/// What was made of a source text for one device.
#[derive(Clone, Debug)]
pub struct Built {
    pub device: Device,
    pub kernels: Vec<Kernel>,
    pub binary: Vec<u8>,
}

/// Every device that the drivers of the launcher's environment offer. Drivers are looked at in a process of its own,
/// because some of them end it.
pub fn discover(launcher: &Launcher, limits: &Limits) -> Result<Vec<Device>, WorkerError> {
    let request = Request::Discover { told_to_emulate: launcher.told_to_emulate() };
    match ask_once(launcher, &request, &[], "looking for devices", limits.start)? {
        (Reply::Devices(devices), _) => Ok(devices),
        (reply, _) => Err(WorkerError::Protocol { reason: format!("it answered with {reply:?}") }),
    }
}

/// Builds kernels from source for the first device that is admitted, which is not leased for it.
pub fn build(
    launcher: &Launcher,
    limits: &Limits,
    device: &DeviceFilter,
    source: &str,
) -> Result<Built, WorkerError> {
    let devices = discover(launcher, limits)?;
    let Some(chosen) = devices.iter().find(|candidate| device.admits(candidate)) else {
        return Err(WorkerError::NoDevice { wanted: device.to_string(), found: names(devices.iter()) });
    };
    let request = Request::Build { device: chosen.id(), told_to_emulate: launcher.told_to_emulate() };
    match ask_once(launcher, &request, source.as_bytes(), "building the kernels", limits.start)? {
        (Reply::Built { device, kernels }, binary) => Ok(Built { device, kernels, binary }),
        (reply, _) => Err(WorkerError::Protocol { reason: format!("it answered with {reply:?}") }),
    }
}

/// What is said where nobody is there to send it to another worker.
fn unsent() -> WorkerError {
    WorkerError::Died { status: "it had ended before".to_owned(), output: String::new() }
}

fn ask_once(
    launcher: &Launcher,
    request: &Request,
    bytes: &[u8],
    what: &str,
    limit: Duration,
) -> Result<(Reply, Vec<u8>), WorkerError> {
    let process = Process::start(launcher, &BTreeMap::new(), None)?;
    let answer: Result<_, RuntimeError> =
        process.ask(request, bytes, MOST_BYTES, limit).map_err(|silence| match silence {
            Silence::Unsent => unsent(),
            Silence::Ended(end) => WorkerError::Died { status: end.status, output: end.output },
            Silence::Late { .. } => WorkerError::Hung { what: what.to_owned(), limit },
            Silence::Garbage(reason) => WorkerError::Protocol { reason },
        })?;
    Ok(answer?)
}
