//! Why there is no plan for a model.

use moorline_core::ErrorClass;
use thiserror::Error;

use super::Numerics;
use crate::{lower::LowerError, onnx::OnnxError};

/// A model that cannot be planned. The source is never part of the text.
#[derive(Debug, Error)]
pub enum PlanError {
    #[error("could not understand the model")]
    Onnx(#[from] OnnxError),
    #[error("could not lower the model for the device")]
    Lower(#[from] LowerError),
    #[error(
        "only {coverage:.1} % of the model's operations run on the device, and at least {least:.1} % are wanted: lower `min_coverage`, or see what runs where with `moorline fpga plan`"
    )]
    Coverage { coverage: f64, least: f64 },
    #[error(
        "the model says that it agrees with the model of floats for a share of {agreement} of its samples, and at least {least} is wanted: calibrate it with more or other samples (`moorline fpga quantize`), or lower `min_agreement`"
    )]
    Agreement { agreement: f64, least: f64 },
    #[error(
        "an agreement of at least {least} with the model of floats is wanted, and the model has no report of it: quantise it with `moorline fpga quantize`"
    )]
    NoAgreement { least: f64 },
    #[error(
        "the model needs {needed} bytes of device memory, and the device has {available}: take a smaller batch or another device"
    )]
    Memory { needed: u64, available: u64 },
    #[error(
        "the shape or the type of `{tensor}` is not known: run `onnx.shape_inference` on the model and plan the result"
    )]
    Unknown { tensor: String },
    #[error("output `{tensor}` is a constant or an input: remove it from the model's outputs")]
    Output { tensor: String },
    #[error(
        "the bitstream does not keep the numerics `{numerics}`: take one that does (`moorline bitstream show` tells)"
    )]
    Numerics { numerics: Numerics },
    #[error(
        "`{numerics}` is wanted, and the model is not quantised: quantise it with `moorline fpga quantize`, or choose other numerics"
    )]
    NotQuantized { numerics: Numerics },
}

impl PlanError {
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::Onnx(error) => error.class(),
            _ => ErrorClass::InvalidInput,
        }
    }
}
