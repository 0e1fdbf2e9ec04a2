//! What a device or its driver refuses. It crosses the worker's socket, so it is data and has no source.

use moorline_core::{Digest, ErrorClass};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::device::DeviceId;

/// Why a device did not do what it was asked. The driver lives on.
#[derive(Clone, Debug, PartialEq, Error, Serialize, Deserialize)]
pub enum RuntimeError {
    #[error(
        "there is no OpenCL on this machine (libOpenCL.so.1); install its loader and a driver, as ocl-icd-libopencl1 and pocl-opencl-icd"
    )]
    NoOpenCl,
    #[error("the device `{device}` is not there; the devices are: {found}")]
    NoDevice { device: DeviceId, found: String },
    /// The driver knows the binary not to be for this device.
    #[error(
        "the driver refused the binary in {call} with {text} ({code}): it is no binary for this device and driver"
    )]
    Refused { call: String, code: i32, text: String },
    #[error("the kernels could not be built:\n{log}")]
    Build { log: String },
    #[error(
        "kernel `{kernel}` is not what the manifest says: {reason}; the bitstream was put together wrongly, build it anew"
    )]
    Abi { kernel: String, reason: String },
    #[error(
        "the device failed the golden test `{name}`: its output {output} has the digest {found} and not {expected}; do not use this device with this bitstream"
    )]
    Golden { name: String, output: usize, expected: Digest, found: Digest },
    #[error(
        "the program needs {needed} bytes of device memory ({largest} in one piece), and the device has {free} ({largest_possible} in one piece); take a smaller model or a larger device"
    )]
    Memory { needed: u64, largest: u64, free: u64, largest_possible: u64 },
    /// What was lowered does not fit the kernels, or itself.
    #[error("the program cannot be executed: {reason}; lower the model again for this bitstream")]
    Program { reason: String },
    #[error("the inputs do not fit the program: {reason}")]
    Input { reason: String },
    #[error("{call} failed with {text} ({code})")]
    Call { call: String, code: i32, text: String },
}

impl RuntimeError {
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::Input { .. } | Self::Program { .. } => ErrorClass::InvalidInput,
            Self::Memory { .. } => ErrorClass::TooLarge,
            Self::NoOpenCl | Self::NoDevice { .. } | Self::Refused { .. } => ErrorClass::Unavailable,
            Self::Build { .. } | Self::Abi { .. } | Self::Golden { .. } | Self::Call { .. } => {
                ErrorClass::Internal
            }
        }
    }
}
