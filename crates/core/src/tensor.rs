//! Tensors: what is decoded once from a request, moved through batcher and engine, and encoded once.
//!
//! Elements live in typed vectors, so that every engine and codec can borrow an aligned slice without `unsafe`.

use std::{fmt, sync::Arc};

use half::{bf16, f16};
use thiserror::Error;

/// The element types of ONNX that a request or an answer can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DataType {
    Bool,
    U8,
    U16,
    U32,
    U64,
    I8,
    I16,
    I32,
    I64,
    F16,
    Bf16,
    F32,
    F64,
    String,
}

impl DataType {
    /// Every data type, in the order of the enum.
    pub const ALL: [Self; 14] = [
        Self::Bool,
        Self::U8,
        Self::U16,
        Self::U32,
        Self::U64,
        Self::I8,
        Self::I16,
        Self::I32,
        Self::I64,
        Self::F16,
        Self::Bf16,
        Self::F32,
        Self::F64,
        Self::String,
    ];

    /// The name in the Open Inference Protocol, version 2 (`FP32`, `BYTES`, …).
    pub const fn oip_name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::U8 => "UINT8",
            Self::U16 => "UINT16",
            Self::U32 => "UINT32",
            Self::U64 => "UINT64",
            Self::I8 => "INT8",
            Self::I16 => "INT16",
            Self::I32 => "INT32",
            Self::I64 => "INT64",
            Self::F16 => "FP16",
            Self::Bf16 => "BF16",
            Self::F32 => "FP32",
            Self::F64 => "FP64",
            Self::String => "BYTES",
        }
    }

    /// The data type of an Open Inference Protocol name.
    pub fn from_oip_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|data_type| data_type.oip_name() == name)
    }

    /// Bytes per element; `None` for strings, whose length varies.
    pub const fn size(self) -> Option<usize> {
        match self {
            Self::Bool | Self::U8 | Self::I8 => Some(1),
            Self::U16 | Self::I16 | Self::F16 | Self::Bf16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::String => None,
        }
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.oip_name())
    }
}

/// The elements of a tensor in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub enum TensorData {
    Bool(Vec<bool>),
    U8(Vec<u8>),
    U16(Vec<u16>),
    U32(Vec<u32>),
    U64(Vec<u64>),
    I8(Vec<i8>),
    I16(Vec<i16>),
    I32(Vec<i32>),
    I64(Vec<i64>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    String(Vec<String>),
}

/// Evaluates `$body` with `$elements` bound to the typed vector of whichever variant `$data` is.
#[macro_export]
macro_rules! with_elements {
    ($data:expr, $elements:ident => $body:expr) => {
        match $data {
            $crate::TensorData::Bool($elements) => $body,
            $crate::TensorData::U8($elements) => $body,
            $crate::TensorData::U16($elements) => $body,
            $crate::TensorData::U32($elements) => $body,
            $crate::TensorData::U64($elements) => $body,
            $crate::TensorData::I8($elements) => $body,
            $crate::TensorData::I16($elements) => $body,
            $crate::TensorData::I32($elements) => $body,
            $crate::TensorData::I64($elements) => $body,
            $crate::TensorData::F16($elements) => $body,
            $crate::TensorData::Bf16($elements) => $body,
            $crate::TensorData::F32($elements) => $body,
            $crate::TensorData::F64($elements) => $body,
            $crate::TensorData::String($elements) => $body,
        }
    };
}

impl TensorData {
    /// An empty vector of `data_type` with room for `capacity` elements.
    pub fn with_capacity(data_type: DataType, capacity: usize) -> Self {
        match data_type {
            DataType::Bool => Self::Bool(Vec::with_capacity(capacity)),
            DataType::U8 => Self::U8(Vec::with_capacity(capacity)),
            DataType::U16 => Self::U16(Vec::with_capacity(capacity)),
            DataType::U32 => Self::U32(Vec::with_capacity(capacity)),
            DataType::U64 => Self::U64(Vec::with_capacity(capacity)),
            DataType::I8 => Self::I8(Vec::with_capacity(capacity)),
            DataType::I16 => Self::I16(Vec::with_capacity(capacity)),
            DataType::I32 => Self::I32(Vec::with_capacity(capacity)),
            DataType::I64 => Self::I64(Vec::with_capacity(capacity)),
            DataType::F16 => Self::F16(Vec::with_capacity(capacity)),
            DataType::Bf16 => Self::Bf16(Vec::with_capacity(capacity)),
            DataType::F32 => Self::F32(Vec::with_capacity(capacity)),
            DataType::F64 => Self::F64(Vec::with_capacity(capacity)),
            DataType::String => Self::String(Vec::with_capacity(capacity)),
        }
    }

    pub const fn data_type(&self) -> DataType {
        match self {
            Self::Bool(_) => DataType::Bool,
            Self::U8(_) => DataType::U8,
            Self::U16(_) => DataType::U16,
            Self::U32(_) => DataType::U32,
            Self::U64(_) => DataType::U64,
            Self::I8(_) => DataType::I8,
            Self::I16(_) => DataType::I16,
            Self::I32(_) => DataType::I32,
            Self::I64(_) => DataType::I64,
            Self::F16(_) => DataType::F16,
            Self::Bf16(_) => DataType::Bf16,
            Self::F32(_) => DataType::F32,
            Self::F64(_) => DataType::F64,
            Self::String(_) => DataType::String,
        }
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        with_elements!(self, elements => elements.len())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

macro_rules! from_vec {
    ($($variant:ident $element:ty),*) => {
        $(impl From<Vec<$element>> for TensorData {
            fn from(elements: Vec<$element>) -> Self {
                Self::$variant(elements)
            }
        })*
    };
}
from_vec!(Bool bool, U8 u8, U16 u16, U32 u32, U64 u64, I8 i8, I16 i16, I32 i32, I64 i64,
    F16 f16, Bf16 bf16, F32 f32, F64 f64, String String);

/// A dense tensor. The product of `shape` is always the number of elements.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    shape: Vec<usize>,
    data: TensorData,
}

/// Why a tensor cannot exist.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TensorError {
    #[error("shape {shape:?} holds {expected} elements, but {actual} were given")]
    ElementCount { shape: Vec<usize>, expected: usize, actual: usize },
    #[error("shape {shape:?} holds more elements than this machine can count")]
    Overflow { shape: Vec<usize> },
}

impl Tensor {
    /// A tensor of `shape` over `data`, which must hold exactly as many elements as `shape` says.
    pub fn new(shape: Vec<usize>, data: TensorData) -> Result<Self, TensorError> {
        let Some(expected) = shape.iter().try_fold(1_usize, |product, dim| product.checked_mul(*dim)) else {
            return Err(TensorError::Overflow { shape });
        };
        let actual = data.len();
        if actual == expected {
            Ok(Self { shape, data })
        } else {
            Err(TensorError::ElementCount { shape, expected, actual })
        }
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub const fn data(&self) -> &TensorData {
        &self.data
    }

    pub const fn data_type(&self) -> DataType {
        self.data.data_type()
    }

    /// Takes the tensor apart, so that an engine or a codec can own the elements.
    pub fn into_parts(self) -> (Vec<usize>, TensorData) {
        (self.shape, self.data)
    }
}

/// The keys of [`Maps`].
#[derive(Clone, Debug, PartialEq)]
pub enum MapKeys {
    I64(Vec<i64>),
    String(Vec<String>),
}

impl MapKeys {
    pub fn len(&self) -> usize {
        match self {
            Self::I64(keys) => keys.len(),
            Self::String(keys) => keys.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A sequence of maps with the same keys, as `ai.onnx.ml`'s `ZipMap` makes of a classifier's probabilities, kept as
/// a table: one row a map, one column a key.
#[derive(Clone, Debug, PartialEq)]
pub struct Maps {
    pub keys: MapKeys,
    /// Shape `[rows, keys]`.
    pub values: Tensor,
}

/// What an engine takes and gives under one name.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Tensor(Tensor),
    /// An ONNX sequence of tensors.
    Sequence(Vec<Tensor>),
    /// An ONNX sequence of maps.
    Maps(Maps),
}

impl From<Tensor> for Value {
    fn from(tensor: Tensor) -> Self {
        Self::Tensor(tensor)
    }
}

/// Named values in order: the inputs of one run, or its outputs. Lookup is linear; models have few inputs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tensors(Vec<(Arc<str>, Value)>);

impl Tensors {
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    pub fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }

    pub fn push(&mut self, name: impl Into<Arc<str>>, value: impl Into<Value>) {
        self.0.push((name.into(), value.into()));
    }

    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(own, _)| **own == *name).map(|(_, value)| value)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, &Value)> {
        self.0.iter().map(|(name, value)| (name, value))
    }
}

impl IntoIterator for Tensors {
    type Item = (Arc<str>, Value);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl FromIterator<(Arc<str>, Value)> for Tensors {
    fn from_iter<I: IntoIterator<Item = (Arc<str>, Value)>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_holds_exactly_what_its_shape_says() {
        assert!(Tensor::new(vec![2, 2], TensorData::F32(vec![0.0; 4])).is_ok());
        assert_eq!(
            Tensor::new(vec![2, 2], TensorData::F32(vec![0.0; 3])).unwrap_err().to_string(),
            "shape [2, 2] holds 4 elements, but 3 were given"
        );
        assert!(matches!(
            Tensor::new(vec![usize::MAX, 2], TensorData::F32(vec![])),
            Err(TensorError::Overflow { .. })
        ));
    }

    #[test]
    fn oip_names_round_trip() {
        for data_type in DataType::ALL {
            assert_eq!(DataType::from_oip_name(data_type.oip_name()), Some(data_type));
        }
    }
}
