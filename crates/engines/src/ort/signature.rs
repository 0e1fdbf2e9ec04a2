//! ONNX Runtime's description of a session as a [`Signature`].

use moorline_core::{DataType, Dim, Signature, TensorSpec, ValueKind};
use ort::{
    session::Session,
    value::{TensorElementType, ValueType},
};

use super::header::{Declared, Header};

/// The signature of `session`, in the order of the file where `header` is known: ONNX Runtime itself lists inputs
/// that have a default apart from the others.
pub(super) fn read(session: &Session, header: Option<&Header>) -> Result<Signature, String> {
    let (declared_inputs, declared_outputs) =
        header.map_or((&[][..], &[][..]), |header| (&header.inputs[..], &header.outputs[..]));
    let overridable = session.overridable_initializers();
    let mut inputs: Vec<TensorSpec> = Vec::with_capacity(session.inputs().len() + overridable.len());
    for input in session.inputs() {
        inputs.push(spec("input", input.name(), input.dtype(), declared_inputs, false)?);
    }
    for input in &overridable {
        inputs.push(spec("input", input.name(), input.dtype(), declared_inputs, true)?);
    }
    // A stable sort: what the file does not name stays last.
    inputs.sort_by_key(|spec| {
        declared_inputs.iter().position(|declared| declared.name == *spec.name).unwrap_or(usize::MAX)
    });
    let outputs = session
        .outputs()
        .iter()
        .map(|output| spec("output", output.name(), output.dtype(), declared_outputs, false))
        .collect::<Result<_, _>>()?;
    Ok(Signature { inputs, outputs })
}

fn spec(
    side: &str,
    name: &str,
    value_type: &ValueType,
    declared: &[Declared],
    optional: bool,
) -> Result<TensorSpec, String> {
    let unsupported = || format!("{side} `{name}` is a {value_type}, which no request can carry");
    let (value_type, optional) = match value_type {
        ValueType::Optional(inner) => (&**inner, true),
        plain => (plain, optional),
    };
    let (data_type, shape, kind) = match value_type {
        ValueType::Tensor { ty, shape, dimension_symbols } => {
            let ranked =
                declared.iter().find(|declared| declared.name == name).is_none_or(|found| found.ranked);
            let dims = shape.iter().zip(dimension_symbols.iter()).map(|(size, symbol)| dim(*size, symbol));
            let shape = (ranked || !shape.is_empty()).then(|| dims.collect());
            (data_type(*ty), shape, ValueKind::Tensor)
        }
        ValueType::Sequence(element) => match &**element {
            ValueType::Tensor { ty, .. } => (data_type(*ty), None, ValueKind::Sequence),
            ValueType::Map { key, value } => {
                (data_type(*value), None, ValueKind::Maps { key: data_type(*key).ok_or_else(unsupported)? })
            }
            _ => return Err(unsupported()),
        },
        ValueType::Map { key, value } => {
            (data_type(*value), None, ValueKind::Maps { key: data_type(*key).ok_or_else(unsupported)? })
        }
        ValueType::Optional(_) => return Err(unsupported()),
    };
    let data_type = data_type.ok_or_else(unsupported)?;
    Ok(TensorSpec { name: name.into(), data_type, shape, kind, optional })
}

/// Negative sizes are dynamic: `-1` by definition, other ones by the habit of some exporters.
fn dim(size: i64, symbol: &str) -> Dim {
    usize::try_from(size)
        .map_or_else(|_| Dim::Dynamic((!symbol.is_empty()).then(|| symbol.into())), Dim::Fixed)
}

const fn data_type(element: TensorElementType) -> Option<DataType> {
    Some(match element {
        TensorElementType::Bool => DataType::Bool,
        TensorElementType::Uint8 => DataType::U8,
        TensorElementType::Uint16 => DataType::U16,
        TensorElementType::Uint32 => DataType::U32,
        TensorElementType::Uint64 => DataType::U64,
        TensorElementType::Int8 => DataType::I8,
        TensorElementType::Int16 => DataType::I16,
        TensorElementType::Int32 => DataType::I32,
        TensorElementType::Int64 => DataType::I64,
        TensorElementType::Float16 => DataType::F16,
        TensorElementType::Bfloat16 => DataType::Bf16,
        TensorElementType::Float32 => DataType::F32,
        TensorElementType::Float64 => DataType::F64,
        TensorElementType::String => DataType::String,
        _ => return None,
    })
}
