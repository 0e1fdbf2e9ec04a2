//! Why a device did not answer. How a worker failed tells who must act: whoever built the bitstream, whoever chose it,
//! or whoever keeps the device.

use std::{io, path::PathBuf, time::Duration};

use moorline_core::ErrorClass;
use thiserror::Error;

use crate::{bitstream::BitstreamError, lease::LeaseError, runtime::RuntimeError};

/// What can go wrong between a request and a device.
#[derive(Debug, Error)]
pub enum WorkerError {
    #[error(transparent)]
    Bitstream(#[from] BitstreamError),
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// The device or its driver said no; the worker lives on.
    #[error(transparent)]
    Refused(#[from] RuntimeError),
    /// The driver knows that the image is not for its device.
    #[error(
        "the image `{file}` is for {expected}, and the driver of {found} refused it; build the bitstream anew for this device"
    )]
    Incompatible {
        file: String,
        expected: String,
        found: String,
        #[source]
        source: Box<RuntimeError>,
    },
    /// The driver ended the process that gave it the image.
    #[error(
        "the driver broke down over the image `{file}` ({status}): the image is corrupt; fetch or build the bitstream anew. Last output:\n{output}"
    )]
    Corrupt { file: String, status: String, output: String },
    /// A limit passed, and the worker was killed.
    #[error("the device did not finish {what} within {} s, and its worker was ended", limit.as_secs_f64())]
    Hung { what: String, limit: Duration },
    /// The worker ended by itself.
    #[error("the device's worker ended ({status}). Last output:\n{output}")]
    Died { status: String, output: String },
    /// The end of the second one; that of the first was told when it happened.
    #[error("two workers of devices ended over this request, and it is not run again")]
    Twice {
        #[source]
        last: Box<WorkerError>,
    },
    /// Workers ended, and no device can take their place.
    #[error("no device is left to run this: neither that of the worker which ended nor another one")]
    NoneLeft {
        #[source]
        source: Box<WorkerError>,
    },
    #[error("there is no device for {wanted}; the devices are: {found}")]
    NoDevice { wanted: String, found: String },
    #[error("could not start the device's worker as `{}`", program.display())]
    Spawn {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the device's worker broke the protocol: {reason}; it is of another version, or defective")]
    Protocol { reason: String },
    #[error("there is no program {number} on the device; load it first")]
    NoProgram { number: usize },
}

impl WorkerError {
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::Bitstream(error) => error.class(),
            Self::Lease(error) => error.class(),
            Self::Refused(error) => error.class(),
            Self::Incompatible { .. } | Self::NoDevice { .. } | Self::NoneLeft { .. } | Self::Died { .. } => {
                ErrorClass::Unavailable
            }
            Self::Corrupt { .. } => ErrorClass::InvalidInput,
            Self::Hung { .. } => ErrorClass::Timeout,
            Self::Spawn { .. } | Self::Protocol { .. } | Self::NoProgram { .. } | Self::Twice { .. } => {
                ErrorClass::Internal
            }
        }
    }

    /// Whether the same request may succeed when it is sent again, to a worker that is started anew or to another
    /// device.
    pub const fn is_restartable(&self) -> bool {
        matches!(self, Self::Hung { .. } | Self::Died { .. } | Self::Protocol { .. })
    }
}
