//! Constants: the values that a plan computes with, and their form in a file.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    error::OnnxError,
    proto::{TensorProto, element},
};

/// A value that is known before the first request.
#[derive(Clone, Debug)]
pub(crate) enum Constant {
    Floats(Arc<[f32]>),
    /// Shapes, axes and indices; kept as `i64` whether the model has them as that or as `i32`.
    Ints(Arc<[i64]>),
    /// Integers of 8 bits, signed or not: what quantised numbers are held as.
    Codes(Arc<[i16]>),
    /// Of a type that nothing is computed with: passed on as it is.
    Other,
}

impl Constant {
    pub(crate) fn floats(&self) -> Option<&Arc<[f32]>> {
        match self {
            Self::Floats(floats) => Some(floats),
            Self::Ints(_) | Self::Codes(_) | Self::Other => None,
        }
    }

    pub(crate) fn ints(&self) -> Option<&Arc<[i64]>> {
        match self {
            Self::Ints(ints) => Some(ints),
            Self::Floats(_) | Self::Codes(_) | Self::Other => None,
        }
    }

    pub(crate) fn codes(&self) -> Option<&Arc<[i16]>> {
        match self {
            Self::Codes(codes) => Some(codes),
            Self::Floats(_) | Self::Ints(_) | Self::Other => None,
        }
    }

    /// The value of an initializer or of a node `Constant`, with its shape.
    pub(crate) fn read(tensor: &TensorProto) -> Result<(Self, Vec<usize>), OnnxError> {
        let malformed = |reason: String| OnnxError::Initializer { tensor: tensor.name.clone(), reason };
        let shape: Option<Vec<usize>> = tensor.dims.iter().map(|&dim| usize::try_from(dim).ok()).collect();
        let shape = shape.ok_or_else(|| malformed(format!("its shape is {:?}", tensor.dims)))?;
        let count = shape
            .iter()
            .try_fold(1_usize, |product, &dim| product.checked_mul(dim))
            .ok_or_else(|| malformed(format!("its shape is {shape:?}")))?;
        let raw = tensor.raw_data.as_deref();
        let value = match tensor.data_type.unwrap_or_default() {
            element::FLOAT => Self::Floats(match raw {
                Some(raw) => numbers(raw, f32::from_le_bytes),
                None => tensor.float_data.as_slice().into(),
            }),
            element::INT64 => Self::Ints(match raw {
                Some(raw) => numbers(raw, i64::from_le_bytes),
                None => tensor.int64_data.as_slice().into(),
            }),
            element::INT32 => Self::Ints(match raw {
                Some(raw) => numbers(raw, |bytes| i64::from(i32::from_le_bytes(bytes))),
                None => tensor.int32_data.iter().map(|&number| i64::from(number)).collect(),
            }),
            element::U8 => Self::Codes(match raw {
                Some(raw) => raw.iter().map(|&byte| i16::from(byte)).collect(),
                None => tensor.int32_data.iter().map(|&number| number as i16).collect(),
            }),
            element::I8 => Self::Codes(match raw {
                Some(raw) => raw.iter().map(|&byte| i16::from(byte.cast_signed())).collect(),
                None => tensor.int32_data.iter().map(|&number| number as i16).collect(),
            }),
            _ => Self::Other,
        };
        let held = match &value {
            Self::Floats(floats) => floats.len(),
            Self::Ints(ints) => ints.len(),
            Self::Codes(codes) => codes.len(),
            Self::Other => count,
        };
        if held == count {
            Ok((value, shape))
        } else {
            Err(malformed(format!("its shape {shape:?} holds {count} elements, and it has {held}")))
        }
    }

    /// The initializer `name`, for a part of the model that uses a value which was folded.
    pub(crate) fn write(&self, name: &str, shape: &[usize], data_type: i32) -> Option<TensorProto> {
        let raw: Vec<u8> = match (self, data_type) {
            (Self::Floats(floats), element::FLOAT) => {
                floats.iter().flat_map(|number| number.to_le_bytes()).collect()
            }
            (Self::Ints(ints), element::INT64) => {
                ints.iter().flat_map(|number| number.to_le_bytes()).collect()
            }
            (Self::Ints(ints), element::INT32) => {
                let narrow: Option<Vec<i32>> =
                    ints.iter().map(|&number| i32::try_from(number).ok()).collect();
                narrow?.iter().flat_map(|number| number.to_le_bytes()).collect()
            }
            // The low byte of either kind.
            (Self::Codes(codes), element::U8 | element::I8) => {
                codes.iter().map(|code| code.to_le_bytes()[0]).collect()
            }
            _ => return None,
        };
        Some(TensorProto {
            name: name.to_owned(),
            dims: shape.iter().map(|&dim| dim as i64).collect(),
            data_type: Some(data_type),
            raw_data: Some(Bytes::from(raw)),
            ..TensorProto::default()
        })
    }
}

fn numbers<const N: usize, T>(raw: &[u8], from: impl Fn([u8; N]) -> T) -> Arc<[T]> {
    let (chunks, _) = raw.as_chunks::<N>();
    chunks.iter().map(|chunk| from(*chunk)).collect()
}
