//! What a model is calibrated with: arrays of NumPy and requests of the Open Inference Protocol, cut into what the model
//! takes in one run.

use std::path::{Path, PathBuf};

use moorline_core::{DataType, Dim, Signature, Tensor, TensorData, TensorSpec, Tensors};
use serde::Deserialize;

use super::{QuantizeError, npy};

/// A request, of which only the inputs matter.
#[derive(Deserialize)]
struct Request {
    inputs: Vec<Input>,
}

#[derive(Deserialize)]
struct Input {
    name: String,
    shape: Vec<usize>,
    data: serde_json::Value,
}

/// The samples of a file, or of the files of a folder in the order of their names.
pub(super) fn read(path: &Path, signature: &Signature) -> Result<Vec<Tensors>, QuantizeError> {
    let io = |source| QuantizeError::Io { path: path.to_owned(), source };
    let mut files = vec![path.to_owned()];
    if path.is_dir() {
        let entries = fs_err::read_dir(path).map_err(io)?;
        let entries: Vec<PathBuf> =
            entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>().map_err(io)?;
        files = entries.into_iter().filter(|file| kind(file).is_some()).collect();
        files.sort();
    }
    let mut samples = Vec::new();
    for file in &files {
        let failed = |reason: String| QuantizeError::Samples { path: file.clone(), reason };
        let bytes = fs_err::read(file).map_err(|source| QuantizeError::Io { path: file.clone(), source })?;
        for arrays in arrays(file, &bytes, signature).map_err(failed)? {
            samples.extend(runs(arrays, signature).map_err(failed)?);
        }
    }
    if samples.is_empty() {
        let reason = "put `.npy`, `.npz` or `.json` files there".to_owned();
        return Err(QuantizeError::Samples { path: path.to_owned(), reason });
    }
    Ok(samples)
}

fn kind(file: &Path) -> Option<&str> {
    file.extension()?.to_str().filter(|kind| ["npy", "npz", "json"].contains(kind))
}

/// Arrays by the names of the inputs, one list for each request of the file.
fn arrays(file: &Path, bytes: &[u8], signature: &Signature) -> Result<Vec<Vec<(String, Tensor)>>, String> {
    match kind(file) {
        Some("npy") => match &signature.inputs[..] {
            [input] => Ok(vec![vec![(input.name.to_string(), npy::array(bytes)?)]]),
            inputs => Err(format!("the model has {} inputs: save them by name in a `.npz`", inputs.len())),
        },
        Some("npz") => Ok(vec![npy::archive(bytes)?]),
        Some("json") => {
            let malformed = |error: serde_json::Error| format!("it is no request: {error}");
            let value: serde_json::Value = serde_json::from_slice(bytes).map_err(malformed)?;
            let requests: Vec<Request> = match value {
                serde_json::Value::Array(_) => serde_json::from_value(value).map_err(malformed)?,
                one => vec![serde_json::from_value(one).map_err(malformed)?],
            };
            requests.into_iter().map(|request| request.inputs.into_iter().map(of_input).collect()).collect()
        }
        _ => Err("a `.npy`, `.npz` or `.json` file is wanted".to_owned()),
    }
}

fn of_input(input: Input) -> Result<(String, Tensor), String> {
    fn flatten(value: &serde_json::Value, into: &mut Vec<f64>) -> Result<(), String> {
        match value {
            serde_json::Value::Array(values) => values.iter().try_for_each(|value| flatten(value, into)),
            value => {
                into.push(value.as_f64().ok_or_else(|| format!("`{value}` is not a number"))?);
                Ok(())
            }
        }
    }
    let mut numbers = Vec::new();
    flatten(&input.data, &mut numbers)?;
    let tensor = Tensor::new(input.shape, numbers.into()).map_err(|error| error.to_string())?;
    Ok((input.name, tensor))
}

/// What is run at once: as many rows as the model states, or one.
fn runs(mut arrays: Vec<(String, Tensor)>, signature: &Signature) -> Result<Vec<Tensors>, String> {
    let mut all: Vec<(&TensorSpec, Tensor)> = Vec::new();
    for spec in &signature.inputs {
        let at = arrays.iter().position(|(name, _)| **name == *spec.name);
        let at = at.ok_or_else(|| format!("the model's input `{}` is not in it", spec.name))?;
        all.push((spec, converted(arrays.swap_remove(at).1, spec)?));
    }
    let mut runs: Vec<Tensors> = Vec::new();
    for (spec, tensor) in all {
        let shape = tensor.shape().to_vec();
        let wanted = spec.shape.as_deref().unwrap_or_default();
        let fits = shape.len() == wanted.len()
            && shape.iter().zip(wanted).skip(1).all(|(size, dim)| match dim {
                Dim::Fixed(own) => own == size,
                Dim::Dynamic(_) => true,
            });
        if !fits || shape.is_empty() {
            let name = &spec.name;
            return Err(format!("`{name}` has shape {shape:?}, and the model takes {}", dims(wanted)));
        }
        let rows = match wanted.first() {
            Some(Dim::Fixed(rows)) => *rows,
            _ => 1,
        };
        if rows == 0 || !shape[0].is_multiple_of(rows) {
            return Err(format!("it has {} rows, and the model takes {rows} at once", shape[0]));
        }
        let count = shape[0] / rows;
        if runs.is_empty() {
            runs.resize_with(count, Tensors::new);
        }
        if runs.len() != count {
            return Err("its inputs have different numbers of rows".to_owned());
        }
        for (index, run) in runs.iter_mut().enumerate() {
            let part = crate::engine::rows(&tensor, index * rows, rows);
            run.push(spec.name.clone(), part.ok_or_else(|| "its rows cannot be told apart".to_owned())?);
        }
    }
    Ok(runs)
}

fn dims(dims: &[Dim]) -> String {
    let dim = |dim: &Dim| match dim {
        Dim::Fixed(size) => size.to_string(),
        Dim::Dynamic(name) => name.as_deref().unwrap_or("any").to_owned(),
    };
    format!("[{}]", dims.iter().map(dim).collect::<Vec<_>>().join(", "))
}

/// The same numbers in the type that the model takes.
fn converted(tensor: Tensor, spec: &TensorSpec) -> Result<Tensor, String> {
    if tensor.data_type() == spec.data_type {
        return Ok(tensor);
    }
    let (shape, data) = tensor.into_parts();
    let numbers: Vec<f64> = match &data {
        TensorData::F32(values) => values.iter().map(|&value| value.into()).collect(),
        TensorData::F64(values) => values.clone(),
        TensorData::U8(values) => values.iter().map(|&value| value.into()).collect(),
        TensorData::I8(values) => values.iter().map(|&value| value.into()).collect(),
        TensorData::I32(values) => values.iter().map(|&value| value.into()).collect(),
        TensorData::I64(values) => values.iter().map(|&value| value as f64).collect(),
        _ => Vec::new(),
    };
    let data: TensorData = match spec.data_type {
        DataType::F32 => numbers.iter().map(|&number| number as f32).collect::<Vec<f32>>().into(),
        DataType::F64 => numbers.into(),
        DataType::I64 => numbers.iter().map(|&number| number as i64).collect::<Vec<i64>>().into(),
        DataType::I32 => numbers.iter().map(|&number| number as i32).collect::<Vec<i32>>().into(),
        DataType::U8 => numbers.iter().map(|&number| number as u8).collect::<Vec<u8>>().into(),
        other => return Err(format!("the model's input `{}` is of {other}, which is not read", spec.name)),
    };
    Tensor::new(shape, data).map_err(|error| error.to_string())
}
