//! Our tensors as tract's, and back. Each direction copies once: tract aligns its memory in its own way.

use moorline_core::{DataType, Tensor, TensorData};
use tract_onnx::prelude::{
    DatumType, Tensor as RawTensor, TractResult,
    tract_ndarray::{ArrayD, IxDyn},
};

/// The data type in tract, which has no bf16.
pub(super) const fn datum_type(data_type: DataType) -> Option<DatumType> {
    Some(match data_type {
        DataType::Bool => DatumType::Bool,
        DataType::U8 => DatumType::U8,
        DataType::U16 => DatumType::U16,
        DataType::U32 => DatumType::U32,
        DataType::U64 => DatumType::U64,
        DataType::I8 => DatumType::I8,
        DataType::I16 => DatumType::I16,
        DataType::I32 => DatumType::I32,
        DataType::I64 => DatumType::I64,
        DataType::F16 => DatumType::F16,
        DataType::F32 => DatumType::F32,
        DataType::F64 => DatumType::F64,
        DataType::String => DatumType::String,
        DataType::Bf16 => return None,
    })
}

/// An input; `None` for bf16, which no signature of this engine has.
pub(super) fn give(tensor: Tensor) -> Option<TractResult<RawTensor>> {
    let (shape, data) = tensor.into_parts();
    macro_rules! give {
        ($($variant:ident)*) => {
            match data {
                $(TensorData::$variant(elements) => RawTensor::from_shape(&shape, &elements),)*
                TensorData::String(texts) => ArrayD::from_shape_vec(IxDyn(&shape), texts)
                    .map(RawTensor::from)
                    .map_err(Into::into),
                TensorData::Bf16(_) => return None,
            }
        };
    }
    Some(give!(Bool U8 U16 U32 U64 I8 I16 I32 I64 F16 F32 F64))
}

/// An output as `data_type`. The reason of a failure continues "output `y` …".
pub(super) fn take(data_type: DataType, tensor: &RawTensor) -> Result<Tensor, String> {
    let wanted = datum_type(data_type).ok_or_else(|| format!("is {data_type}, which tract does not have"))?;
    let unreadable =
        |error| format!("is {:?} and cannot be read as {data_type}: {error}", tensor.datum_type());
    // Quantized integers are integers for the outside, and are read as they are.
    let cast = if tensor.datum_type().unquantized() == wanted {
        std::borrow::Cow::Borrowed(tensor)
    } else {
        tensor.cast_to_dt(wanted).map_err(unreadable)?
    };
    let plain = cast.try_as_plain_ram().map_err(unreadable)?;
    macro_rules! take {
        ($($variant:ident)*) => {
            match data_type {
                $(DataType::$variant => TensorData::$variant(plain.as_slice().map_err(unreadable)?.to_vec()),)*
                DataType::Bf16 => return Err("is bf16, which tract does not have".to_owned()),
            }
        };
    }
    let data = take!(Bool U8 U16 U32 U64 I8 I16 I32 I64 F16 F32 F64 String);
    Tensor::new(tensor.shape().to_vec(), data).map_err(|error| error.to_string())
}
