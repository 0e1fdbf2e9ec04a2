//! OpenCL: discovery, bitstreams in a driver, and programs on a device. Only a worker's process calls it, because drivers
//! end the process that gives them what they cannot read.

mod check;
mod discovery;
mod error;
mod execute;
mod image;
mod opencl;

use opencl3::program::Program as Code;

use crate::{
    bitstream::Kernel,
    device::{Device, DeviceId},
    program::Program,
};

pub use error::RuntimeError;
pub use execute::{Flight, Landed, Launches, Loaded, Profile, Span};
pub(crate) use opencl::Staged;
use opencl::{Driver, Lanes};

/// Every device of this machine. `told_to_emulate` says that the environment makes drivers of hardware emulate it.
pub fn discover(told_to_emulate: bool) -> Result<Vec<Device>, RuntimeError> {
    Ok(discovery::discover(told_to_emulate)?.into_iter().map(|(device, _)| device).collect())
}

/// What kernels are made of.
#[derive(Debug)]
pub enum Image<'a> {
    Binary(&'a [u8]),
    /// Only for emulation: hardware would take hours.
    Source(&'a str),
}

/// A device with kernels in it.
#[derive(Debug)]
pub struct Accelerator {
    device: Device,
    kernels: Vec<Kernel>,
    /// In the order in which they must be dropped: what was made, and what it was made of.
    lanes: Lanes,
    code: Code,
    driver: Driver,
    /// Device memory that programs have taken.
    taken: u64,
}

/// What was made of a source text.
#[derive(Debug)]
pub struct Built {
    pub device: Device,
    pub kernels: Vec<Kernel>,
    pub binary: Vec<u8>,
}

/// Builds kernels for a device.
pub fn build(device: &DeviceId, told_to_emulate: bool, source: &str) -> Result<Built, RuntimeError> {
    let (device, id) = discovery::find(device, told_to_emulate)?;
    let driver = Driver::open(id)?;
    let code = image::from_source(&driver, source)?;
    Ok(Built { device, kernels: image::kernels(&code)?, binary: image::binary(&code)? })
}

impl Accelerator {
    /// Loads kernels into a device and compares them with what the manifest says of them.
    pub fn open(
        device: &DeviceId,
        told_to_emulate: bool,
        image: &Image<'_>,
        kernels: Vec<Kernel>,
    ) -> Result<Self, RuntimeError> {
        let (device, id) = discovery::find(device, told_to_emulate)?;
        let driver = Driver::open(id)?;
        let code = match image {
            Image::Binary(binary) => image::from_binary(&driver, binary)?,
            Image::Source(source) => image::from_source(&driver, source)?,
        };
        image::check_abi(&code, &kernels)?;
        let lanes = Lanes::open(&driver)?;
        Ok(Self { device, kernels, lanes, code, driver, taken: 0 })
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Takes memory for a program and makes it ready.
    pub fn load(&mut self, program: Program, constants: &[u8]) -> Result<Loaded, RuntimeError> {
        let room = check::Room {
            free: self.device.memory.saturating_sub(self.taken),
            largest: self.device.largest_buffer,
        };
        let bytes = check::check(&program, constants.len() as u64, &self.kernels, room)?;
        let loaded = Loaded::new(&self.driver, &self.lanes, &self.code, program, (constants, bytes))?;
        self.taken += bytes;
        Ok(loaded)
    }

    /// Gives a program's memory back.
    pub fn unload(&mut self, loaded: Loaded) {
        self.taken = self.taken.saturating_sub(loaded.bytes);
    }

    /// Sends one request on its way, with a set that no other one uses.
    pub(crate) fn start(&self, loaded: &Loaded, set: usize, staged: Staged) -> Result<Flight, RuntimeError> {
        loaded.start(&self.lanes, set, staged).map(Flight)
    }
}
