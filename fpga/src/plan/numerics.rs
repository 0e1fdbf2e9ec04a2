//! The contracts that results keep, of which a plan is made for one or for what the model itself asks.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How a device computes: each says every rounding, so that results are the same on every device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Numerics {
    /// Floats of 32 bits, in a fixed order.
    #[serde(rename = "f32-fma-v1")]
    F32Fma,
    /// Codes of 8 bits, summed exactly.
    #[serde(rename = "i8-rne-v1")]
    I8Rne,
    /// Operands of 9 bits, of which 16 share an exponent.
    #[serde(rename = "bfp9-v1")]
    Bfp9,
}

impl Numerics {
    /// As in manifests and settings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::F32Fma => "f32-fma-v1",
            Self::I8Rne => "i8-rne-v1",
            Self::Bfp9 => "bfp9-v1",
        }
    }
}

impl fmt::Display for Numerics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A name that is none of a contract.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}` names no numerics: expected `f32-fma-v1`, `i8-rne-v1` or `bfp9-v1`")]
pub struct UnknownNumerics(String);

impl FromStr for Numerics {
    type Err = UnknownNumerics;

    fn from_str(text: &str) -> Result<Self, UnknownNumerics> {
        let all = [Self::F32Fma, Self::I8Rne, Self::Bfp9];
        all.into_iter()
            .find(|numerics| numerics.as_str() == text)
            .ok_or_else(|| UnknownNumerics(text.to_owned()))
    }
}
