//! Tensors as rows, as a data frame is written by records: one object a row, one member a column. A tensor `x` of shape
//! `[n]` or `[n, 1]` is the column `x`, one of shape `[n, k]` the columns `x_0` to `x_(k-1)`; more dimensions are a list.

use moorline_core::{MapKeys, Maps, Tensor, TensorData, Tensors, Value};
use serde_json::json;

use super::record::{text, write_json};

/// A tensor with more columns is a list: it is no table.
const MOST_COLUMNS: usize = 1024;

pub(super) fn write(line: &mut Vec<u8>, tensors: &Tensors) {
    let rows = tensors.iter().map(|(_, value)| rows_of(value)).max().unwrap_or(0);
    line.push(b'[');
    for row in 0..rows {
        if row > 0 {
            line.push(b',');
        }
        line.push(b'{');
        let before = line.len();
        for (name, value) in tensors.iter() {
            match value {
                Value::Tensor(tensor) => columns(line, name, tensor, row),
                Value::Sequence(several) => {
                    if let Some(tensor) = several.get(row) {
                        name_of(line, name, None);
                        list(line, tensor.data(), 0, tensor.data().len());
                        line.push(b',');
                    }
                }
                Value::Maps(maps) => keys(line, name, maps, row),
            }
        }
        if line.len() > before {
            line.pop();
        }
        line.push(b'}');
    }
    line.push(b']');
}

fn rows_of(value: &Value) -> usize {
    match value {
        Value::Tensor(tensor) => tensor.shape().first().copied().unwrap_or(1),
        Value::Sequence(several) => several.len(),
        Value::Maps(maps) => maps.values.shape().first().copied().unwrap_or(0),
    }
}

/// The columns of one row; none where the tensor has fewer rows.
fn columns(line: &mut Vec<u8>, name: &str, tensor: &Tensor, row: usize) {
    let rows = tensor.shape().first().copied().unwrap_or(1);
    if row >= rows {
        return;
    }
    let width = tensor.data().len() / rows;
    let start = row * width;
    if tensor.shape().len() > 2 || width > MOST_COLUMNS {
        name_of(line, name, None);
        list(line, tensor.data(), start, start + width);
        return line.push(b',');
    }
    for column in 0..width {
        name_of(line, name, (width > 1).then_some(column));
        element(line, tensor.data(), start + column);
        line.push(b',');
    }
}

fn keys(line: &mut Vec<u8>, name: &str, maps: &Maps, row: usize) {
    let width = maps.keys.len();
    if maps.values.data().len() < (row + 1) * width {
        return;
    }
    for column in 0..width {
        let key = match &maps.keys {
            MapKeys::I64(keys) => keys[column].to_string(),
            MapKeys::String(keys) => keys[column].clone(),
        };
        text(line, &format!("{name}_{key}"));
        line.push(b':');
        element(line, maps.values.data(), row * width + column);
        line.push(b',');
    }
}

fn name_of(line: &mut Vec<u8>, name: &str, column: Option<usize>) {
    match column {
        Some(column) => text(line, &format!("{name}_{column}")),
        None => text(line, name),
    }
    line.push(b':');
}

fn list(line: &mut Vec<u8>, data: &TensorData, from: usize, to: usize) {
    line.push(b'[');
    for index in from..to {
        if index > from {
            line.push(b',');
        }
        element(line, data, index);
    }
    line.push(b']');
}

/// One element; what JSON has no number for is `null`.
fn element(line: &mut Vec<u8>, data: &TensorData, index: usize) {
    match data {
        TensorData::Bool(all) => write_json(line, &json!(all[index])),
        TensorData::U8(all) => write_json(line, &json!(all[index])),
        TensorData::U16(all) => write_json(line, &json!(all[index])),
        TensorData::U32(all) => write_json(line, &json!(all[index])),
        TensorData::U64(all) => write_json(line, &json!(all[index])),
        TensorData::I8(all) => write_json(line, &json!(all[index])),
        TensorData::I16(all) => write_json(line, &json!(all[index])),
        TensorData::I32(all) => write_json(line, &json!(all[index])),
        TensorData::I64(all) => write_json(line, &json!(all[index])),
        TensorData::F16(all) => single(line, all[index].to_f32()),
        TensorData::Bf16(all) => single(line, all[index].to_f32()),
        TensorData::F32(all) => single(line, all[index]),
        TensorData::F64(all) => write_json(line, &json!(all[index])),
        TensorData::String(all) => text(line, &all[index]),
    }
}

/// As the shortest text that is this number in single precision.
fn single(line: &mut Vec<u8>, value: f32) {
    let _ = serde_json::to_writer(line, &value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(shape: &[usize], data: impl Into<TensorData>) -> Tensor {
        Tensor::new(shape.to_vec(), data.into()).unwrap()
    }

    #[test]
    fn rows_and_columns_are_those_of_a_data_frame() {
        let written = |tensors: &Tensors| {
            let mut line = Vec::new();
            write(&mut line, tensors);
            String::from_utf8(line).unwrap()
        };
        let mut tensors = Tensors::new();
        tensors.push("x", tensor(&[2, 2], vec![0.1_f32, 2.0, f32::NAN, -4.5]));
        tensors.push("label", tensor(&[2], vec!["a\"b".to_owned(), "c".to_owned()]));
        tensors.push("id", tensor(&[2, 1], vec![7_i64, 8]));
        assert_eq!(
            written(&tensors),
            r#"[{"x_0":0.1,"x_1":2.0,"label":"a\"b","id":7},{"x_0":null,"x_1":-4.5,"label":"c","id":8}]"#
        );
        let mut tensors = Tensors::new();
        tensors.push("image", tensor(&[1, 2, 2], vec![1_u8, 2, 3, 4]));
        let maps = Maps { keys: MapKeys::I64(vec![0, 1]), values: tensor(&[1, 2], vec![0.25_f32, 0.75]) };
        tensors.push("p", Value::Maps(maps));
        assert_eq!(written(&tensors), r#"[{"image":[1,2,3,4],"p_0":0.25,"p_1":0.75}]"#);
        assert_eq!(written(&Tensors::new()), "[]");
        let mut scalar = Tensors::new();
        scalar.push("t", tensor(&[], vec![true]));
        assert_eq!(written(&scalar), r#"[{"t":true}]"#);
        let mut empty = Tensors::new();
        empty.push("x", tensor(&[0, 4], Vec::<f32>::new()));
        assert_eq!(written(&empty), "[]");
    }
}
