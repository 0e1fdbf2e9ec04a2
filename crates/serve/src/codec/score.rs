//! `/score` and `/invocations` for models without a scoring script: what the scoring scripts that people write for
//! ONNX models take, and answers in kind.
//!
//! | body | read as | answer |
//! | --- | --- | --- |
//! | `{"data": …}`, `{"input_data": …}` | see below | the predictions alone |
//! | `{"inputs": …}` | see below | `{"outputs": {name: …}}` |
//! | `{"instances": …}`, `{"dataframe_records": […]}` | see below | `{"predictions": …}` |
//! | `{"dataframe_split": {…}}` | a table | `{"predictions": …}` |
//!
//! A value is one of:
//! - a list: the tensor of a model's only input, or rows with one cell for each of several inputs;
//! - a list of objects: records, one a row;
//! - an object with `columns`, `data` and perhaps `index`: a table as pandas' `split` orientation writes it;
//! - an object of input names: one tensor each.
//!
//! Predictions are one nested list where the model has one output, and an object of them by name where it has
//! several. `/invocations` always answers `{"predictions": …}`, as MLflow does. A classifier's maps are a list of
//! objects from label to probability. Other members beside the payload (`method`, `params`, …) mean nothing to a
//! model and are passed over.
//!
//! One row may stand for a batch of one: where a model takes `[batch, n]`, `[1, 2, 3]` is read as `[[1, 2, 3]]`, and
//! where it takes `[batch, 1]`, as `[[1], [2], [3]]`. A trailing dimension of 1 too many is dropped likewise.
//!
//! `null` is NaN for float types, and NaN and the infinities are answered as `null`, so that every answer is JSON.

use moorline_core::{Dim, MapKeys, Maps, Signature, Tensor, TensorSpec, Tensors, Value, ValueKind};

use super::{
    Limits,
    error::{CodecError, name_list},
    json::Reader,
    nested::{self, write_nested, write_text},
    table::{self, Collected},
};

/// Which door a body came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// `/score`.
    Score,
    /// MLflow's `/invocations`.
    Invocations,
}

/// How an answer is written: in kind with how the request was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// The predictions alone.
    Bare,
    /// `{"outputs": {name: …}}`.
    Outputs,
    /// `{"predictions": …}`.
    Predictions,
}

/// A decoded request.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreRequest {
    /// They fit the signature.
    pub inputs: Tensors,
    pub style: Style,
}

/// The members that carry a payload.
const PAYLOADS: [(&str, Style); 6] = [
    ("data", Style::Bare),
    ("input_data", Style::Bare),
    ("inputs", Style::Outputs),
    ("instances", Style::Predictions),
    ("dataframe_split", Style::Predictions),
    ("dataframe_records", Style::Predictions),
];

/// Decodes a JSON body into inputs that fit `signature`.
pub fn decode(
    body: &[u8],
    signature: &Signature,
    limits: Limits,
    door: Door,
) -> Result<ScoreRequest, CodecError> {
    if let Some(spec) = signature.inputs.iter().find(|spec| spec.kind != ValueKind::Tensor) {
        return Err(CodecError::Unsupported(format!(
            "the model's input `{}` is not a tensor, and JSON can carry tensors only",
            spec.name
        )));
    }
    let mut reader = Reader::new(body, limits);
    if reader.peek()? != b'{' {
        let found = reader.describe()?;
        return Err(CodecError::Request(format!("the body is {found}; {}", expectation())));
    }
    let mut payload: Option<(&str, Style, Vec<Collected<'_>>)> = None;
    let mut member = reader.open_object()?;
    while let Some(name) = member {
        match PAYLOADS.iter().find(|(known, _)| *known == name) {
            None => reader.skip()?,
            Some((name, style)) => {
                if let Some((earlier, ..)) = payload {
                    return Err(CodecError::Request(if earlier == *name {
                        format!("the body has `{name}` twice")
                    } else {
                        format!("the body has both `{earlier}` and `{name}`; send one of them")
                    }));
                }
                payload = Some((name, *style, read_payload(&mut reader, name, signature)?));
            }
        }
        member = reader.next_member()?;
    }
    reader.end()?;
    let Some((_, style, collected)) = payload else {
        return Err(CodecError::Request(format!("the body has no payload; {}", expectation())));
    };
    let mut inputs = Tensors::with_capacity(collected.len());
    for (spec, shape, data) in collected {
        let shape = fit(shape, spec);
        let tensor =
            Tensor::new(shape, data).map_err(|error| CodecError::tensor(&spec.name, error.to_string()))?;
        inputs.push(spec.name.clone(), tensor);
    }
    signature.check_inputs(&inputs).map_err(CodecError::Request)?;
    let style = match door {
        Door::Score => style,
        Door::Invocations => Style::Predictions,
    };
    Ok(ScoreRequest { inputs, style })
}

fn expectation() -> String {
    let known = PAYLOADS.iter().map(|(name, _)| *name);
    format!("expected an object with one of {}", name_list(known))
}

fn read_payload<'s>(
    reader: &mut Reader<'_>,
    name: &str,
    signature: &'s Signature,
) -> Result<Vec<Collected<'s>>, CodecError> {
    match (name, reader.peek()?) {
        ("dataframe_split", _) => table::read_split(reader, signature),
        ("dataframe_records", _) => table::read_records(reader, signature),
        (_, b'{') if is_table(reader, signature) => table::read_split(reader, signature),
        (_, b'{') => read_named(reader, signature),
        (_, b'[') => table::read_list(reader, signature),
        _ => {
            if let [spec] = signature.inputs.as_slice() {
                return Ok(vec![table::read_whole(reader, spec)?]);
            }
            let found = reader.describe()?;
            Err(CodecError::Request(format!(
                "`{name}` is {found}, but the model takes several inputs; expected a list or an object"
            )))
        }
    }
}

/// Whether the object that comes next is a table and not a set of named inputs: it has `columns`, and no input is
/// called so. Only an object that begins like a table is looked through.
fn is_table(reader: &Reader<'_>, signature: &Signature) -> bool {
    let mut ahead = reader.clone();
    let mut member = ahead.open_object();
    while let Ok(Some(name)) = member {
        match &*name {
            "columns" => return signature.input("columns").is_none(),
            "index" | "data" => {}
            _ => return false,
        }
        member = ahead.skip().and_then(|()| ahead.next_member());
    }
    false
}

/// An object of input names.
fn read_named<'s>(
    reader: &mut Reader<'_>,
    signature: &'s Signature,
) -> Result<Vec<Collected<'s>>, CodecError> {
    let mut collected: Vec<Collected<'s>> = Vec::with_capacity(signature.inputs.len());
    let mut member = reader.open_object()?;
    while let Some(name) = member {
        let Some(spec) = signature.input(&name) else {
            return Err(table::unknown_input(&name, signature));
        };
        if collected.iter().any(|(earlier, ..)| earlier.name == spec.name) {
            return Err(CodecError::Request(format!("input `{name}` is given twice")));
        }
        collected.push(table::read_whole(reader, spec)?);
        member = reader.next_member()?;
    }
    Ok(collected)
}

/// The shape to read `shape` as, so that it has the rank that the model takes; unchanged where nothing is obvious.
/// The number of elements stays.
fn fit(mut shape: Vec<usize>, spec: &TensorSpec) -> Vec<usize> {
    let Some(declared) = &spec.shape else { return shape };
    if shape.len() == declared.len() {
        return shape;
    }
    let ones = |dims: &[Dim]| dims.iter().all(|dim| *dim == Dim::Fixed(1));
    if shape.contains(&0) && shape.len() < declared.len() {
        // An empty list says nothing of the levels below it.
        shape.extend(declared[shape.len()..].iter().map(|dim| match dim {
            Dim::Fixed(size) => *size,
            Dim::Dynamic(_) => 0,
        }));
    } else if shape.len() < declared.len() && ones(&declared[shape.len()..]) {
        shape.resize(declared.len(), 1);
    } else if shape.len() + 1 == declared.len() && declared.first().is_some_and(takes_one_row) {
        shape.insert(0, 1);
    } else if shape.len() > declared.len() && shape[declared.len()..].iter().all(|size| *size == 1) {
        shape.truncate(declared.len());
    }
    shape
}

fn takes_one_row(dim: &Dim) -> bool {
    matches!(dim, Dim::Dynamic(_) | Dim::Fixed(1))
}

/// Encodes the outputs of a run as JSON.
pub fn encode(outputs: &Tensors, style: Style) -> Vec<u8> {
    let mut out = Vec::with_capacity(capacity(outputs));
    match style {
        Style::Bare => write_predictions(&mut out, outputs),
        Style::Outputs => {
            out.extend_from_slice(b"{\"outputs\":");
            write_members(&mut out, outputs);
            out.push(b'}');
        }
        Style::Predictions => {
            out.extend_from_slice(b"{\"predictions\":");
            write_predictions(&mut out, outputs);
            out.push(b'}');
        }
    }
    out
}

/// A guess of the answer's length that spares most answers a second allocation.
fn capacity(outputs: &Tensors) -> usize {
    let length = |tensor: &Tensor| tensor.data().len().saturating_mul(12);
    let outputs = outputs.iter().map(|(name, value)| {
        let elements = match value {
            Value::Tensor(tensor) => length(tensor),
            Value::Sequence(tensors) => tensors.iter().map(length).sum(),
            Value::Maps(maps) => length(&maps.values).saturating_mul(2),
        };
        elements + name.len() + 8
    });
    outputs.sum::<usize>() + 32
}

fn write_predictions(out: &mut Vec<u8>, outputs: &Tensors) {
    let mut values = outputs.iter();
    match (values.next(), values.next()) {
        (Some((_, only)), None) => write_value(out, only),
        _ => write_members(out, outputs),
    }
}

fn write_members(out: &mut Vec<u8>, outputs: &Tensors) {
    out.push(b'{');
    for (index, (name, value)) in outputs.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_text(out, name);
        out.push(b':');
        write_value(out, value);
    }
    out.push(b'}');
}

fn write_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Tensor(tensor) => write_nested(out, tensor),
        Value::Sequence(tensors) => {
            out.push(b'[');
            for (index, tensor) in tensors.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_nested(out, tensor);
            }
            out.push(b']');
        }
        Value::Maps(maps) => write_maps(out, maps),
    }
}

/// A list of objects. Keys become texts, as JSON demands.
fn write_maps(out: &mut Vec<u8>, maps: &Maps) {
    let keys: Vec<Vec<u8>> = match &maps.keys {
        MapKeys::I64(keys) => keys.iter().map(|key| format!("\"{key}\":").into_bytes()).collect(),
        MapKeys::String(keys) => keys
            .iter()
            .map(|key| {
                let mut text = Vec::with_capacity(key.len() + 3);
                write_text(&mut text, key);
                text.push(b':');
                text
            })
            .collect(),
    };
    nested::write_records(out, &keys, &maps.values);
}

#[cfg(test)]
mod tests;
