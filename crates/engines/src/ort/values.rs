//! Our values as ONNX Runtime's, and back.

use std::fmt::Debug;

use moorline_core::{DataType, EngineError, MapKeys, Maps, Tensor, TensorData, TensorSpec, Value, ValueKind};
use ort::{
    session::SessionInputValue,
    value::{
        DynValue, DynValueTypeMarker, PrimitiveTensorElementType, Sequence, Tensor as RawTensor, TensorRef,
        TensorValueType, ValueType,
    },
};

use super::NAME;

/// Lends an input. Numbers are not copied; strings are, since ONNX Runtime has its own.
pub(super) fn lend<'v>(name: &str, value: &'v Value) -> Result<SessionInputValue<'v>, EngineError> {
    match value {
        Value::Tensor(tensor) => lend_tensor(name, tensor),
        Value::Sequence(tensors) => sequence(name, tensors),
        Value::Maps(_) => Err(EngineError::Input(format!("input `{name}` is a map, which cannot be sent"))),
    }
}

fn run_error(error: &ort::Error) -> EngineError {
    EngineError::Run { engine: NAME, reason: error.message().to_owned() }
}

fn lend_tensor<'v>(name: &str, tensor: &'v Tensor) -> Result<SessionInputValue<'v>, EngineError> {
    let shape = tensor.shape();
    macro_rules! lend {
        ($($variant:ident)*) => {
            match tensor.data() {
                $(TensorData::$variant(elements) => {
                    TensorRef::from_array_view((shape, elements.as_slice())).map(SessionInputValue::from)
                })*
                TensorData::String(texts) => return Ok(strings(name, shape, texts)?.into()),
            }
        };
    }
    lend!(Bool U8 U16 U32 U64 I8 I16 I32 I64 F16 Bf16 F32 F64).map_err(|error| run_error(&error))
}

/// ONNX Runtime takes strings as C does, so a NUL character cannot be in one.
fn strings(name: &str, shape: &[usize], texts: &[String]) -> Result<RawTensor<String>, EngineError> {
    if texts.iter().any(|text| text.contains('\0')) {
        return Err(EngineError::Input(format!(
            "input `{name}` has a string with a NUL character, which engine `{NAME}` cannot take"
        )));
    }
    RawTensor::from_string_array((shape, texts)).map_err(|error| run_error(&error))
}

/// A sequence owns its tensors, so these are copied.
fn sequence<'v>(name: &str, tensors: &[Tensor]) -> Result<SessionInputValue<'v>, EngineError> {
    fn of<T>(
        tensors: &[Tensor],
        elements: impl Fn(&TensorData) -> Option<&[T]>,
    ) -> Option<ort::Result<DynValue>>
    where
        T: PrimitiveTensorElementType + Debug + Clone + 'static,
    {
        let parts: Option<Vec<_>> =
            tensors.iter().map(|tensor| Some((tensor.shape(), elements(tensor.data())?))).collect();
        let owned = parts?.into_iter().map(|(shape, data)| RawTensor::from_array((shape, data.to_vec())));
        let owned: ort::Result<Vec<RawTensor<T>>> = owned.collect();
        Some(owned.and_then(Sequence::<TensorValueType<T>>::new).map(Sequence::into_dyn))
    }
    let Some(first) = tensors.first() else {
        return Err(EngineError::Input(format!(
            "input `{name}` is an empty sequence, which engine `{NAME}` cannot take"
        )));
    };
    macro_rules! of {
        ($($variant:ident)*) => {
            match first.data() {
                $(TensorData::$variant(_) => of(tensors, |data| match data {
                    TensorData::$variant(elements) => Some(elements.as_slice()),
                    _ => None,
                }),)*
                TensorData::String(_) => {
                    let texts: Result<Vec<RawTensor<String>>, EngineError> = tensors
                        .iter()
                        .map(|tensor| match tensor.data() {
                            TensorData::String(texts) => strings(name, tensor.shape(), texts),
                            _ => Err(mixed(name)),
                        })
                        .collect();
                    Some(Sequence::<TensorValueType<String>>::new(texts?).map(Sequence::into_dyn))
                }
            }
        };
    }
    of!(Bool U8 U16 U32 U64 I8 I16 I32 I64 F16 Bf16 F32 F64)
        .ok_or_else(|| mixed(name))?
        .map(SessionInputValue::from)
        .map_err(|error| run_error(&error))
}

fn mixed(name: &str) -> EngineError {
    EngineError::Input(format!("input `{name}` mixes data types"))
}

/// Copies an output out. The reason of a failure continues "output `y` …".
pub(super) fn take(spec: &TensorSpec, value: &DynValue) -> Result<Value, String> {
    match &spec.kind {
        ValueKind::Tensor => take_tensor(spec.data_type, value).map(Value::Tensor),
        ValueKind::Sequence => elements(value)?
            .iter()
            .map(|element| take_tensor(spec.data_type, element))
            .collect::<Result<_, _>>()
            .map(Value::Sequence),
        ValueKind::Maps { key } => take_maps(*key, spec.data_type, value).map(Value::Maps),
    }
}

fn unreadable(error: &ort::Error) -> String {
    format!("cannot be read: {}", error.message())
}

fn elements(value: &DynValue) -> Result<Vec<DynValue>, String> {
    value.try_extract_sequence::<DynValueTypeMarker>().map_err(|error| unreadable(&error))
}

fn take_tensor(data_type: DataType, value: &DynValue) -> Result<Tensor, String> {
    macro_rules! take {
        ($($variant:ident)*) => {
            match data_type {
                $(DataType::$variant => {
                    let (shape, elements) = value.try_extract_tensor().map_err(|error| unreadable(&error))?;
                    (shape, TensorData::$variant(elements.to_vec()))
                })*
                DataType::String => {
                    let (shape, texts) = value.try_extract_strings().map_err(|error| unreadable(&error))?;
                    (shape, TensorData::String(texts))
                }
            }
        };
    }
    let (shape, data) = take!(Bool U8 U16 U32 U64 I8 I16 I32 I64 F16 Bf16 F32 F64);
    Tensor::new(shape.iter().map(|size| *size as usize).collect(), data).map_err(|error| error.to_string())
}

/// A sequence of maps, or one map, as a table. Every row must have the keys of the first, in any order.
fn take_maps(key: DataType, data_type: DataType, value: &DynValue) -> Result<Maps, String> {
    let rows = match value.dtype() {
        ValueType::Map { .. } => None,
        _ => Some(elements(value)?),
    };
    let rows = rows.as_deref().unwrap_or(std::slice::from_ref(value));
    macro_rules! table {
        ($($variant:ident)*) => {
            match (key, data_type) {
                $((DataType::I64, DataType::$variant) => {
                    let (keys, values) = table(rows)?;
                    (MapKeys::I64(keys), TensorData::$variant(values))
                }
                (DataType::String, DataType::$variant) => {
                    let (keys, values) = table(rows)?;
                    (MapKeys::String(keys), TensorData::$variant(values))
                })*
                _ => return Err(format!("is a map from {key} to {data_type}, which no answer can carry")),
            }
        };
    }
    let (keys, data) = table!(F32 F64 I64);
    Tensor::new(vec![rows.len(), keys.len()], data)
        .map(|values| Maps { keys, values })
        .map_err(|error| error.to_string())
}

fn table<K, V>(rows: &[DynValue]) -> Result<(Vec<K>, Vec<V>), String>
where
    K: ort::value::IntoTensorElementType + Clone + std::hash::Hash + Eq,
    V: PrimitiveTensorElementType + Clone,
{
    let mut keys: Vec<K> = vec![];
    let mut values = vec![];
    for (index, row) in rows.iter().enumerate() {
        let pairs = row.try_extract_key_values::<K, V>().map_err(|error| unreadable(&error))?;
        if index == 0 {
            keys = pairs.iter().map(|(key, _)| key.clone()).collect();
        }
        let same = pairs.len() == keys.len() && pairs.iter().zip(&keys).all(|((key, _), known)| key == known);
        if !same {
            return Err("has maps with different keys".to_owned());
        }
        values.extend(pairs.into_iter().map(|(_, value)| value));
    }
    Ok((keys, values))
}
