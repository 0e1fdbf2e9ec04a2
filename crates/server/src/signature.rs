//! Signatures out of files: of an ONNX model, without what it has learnt, and of an `MLmodel` file.
//!
//! The control plane runs no engine and reads no weights: of a model of gigabytes, everything but names and shapes is
//! leapt over. The files are anybody's, so every length is held against what is there, and every list is bounded.

use std::{
    collections::HashSet,
    io::{self, BufRead, Read, Seek, SeekFrom},
};

use moorline_core::FileEntry;
use prost::Message;

/// Inputs, or outputs.
const MOST_TENSORS: usize = 4096;
/// What is said of one of them.
const MOST_BYTES: u64 = 64 << 10;
/// Constants whose names are remembered, because they may be inputs with a default.
const MOST_CONSTANTS: usize = 100_000;
/// Of an `MLmodel` file.
const MOST_TEXT: u64 = 4 << 20;

/// What a model takes and gives.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Signature {
    pub(crate) inputs: Vec<Tensor>,
    pub(crate) outputs: Vec<Tensor>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) datatype: String,
    pub(crate) shape: Option<Vec<String>>,
    pub(crate) optional: bool,
}

/// What a file is that has a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Onnx,
    MlModel,
}

/// The file of a model that says what it takes: the only ONNX file, or that of the MLflow model.
pub(crate) fn file_of(files: &[FileEntry]) -> Option<(&FileEntry, Kind)> {
    let last = |file: &FileEntry| file.path.rsplit('/').next().unwrap_or_default().to_owned();
    if let Some(file) = files.iter().find(|file| last(file) == "MLmodel") {
        return Some((file, Kind::MlModel));
    }
    let is_onnx = |file: &&FileEntry| {
        let name = last(file);
        name.rsplit_once('.').is_some_and(|(_, end)| end.eq_ignore_ascii_case("onnx"))
    };
    let mut found = files.iter().filter(is_onnx);
    match (found.next(), found.next()) {
        (Some(file), None) => Some((file, Kind::Onnx)),
        _ => None,
    }
}

/// Reads a file of this kind.
pub(crate) fn read(kind: Kind, file: impl BufRead + Seek) -> io::Result<Signature> {
    match kind {
        Kind::Onnx => onnx(file),
        Kind::MlModel => {
            let mut text = String::new();
            file.take(MOST_TEXT).read_to_string(&mut text)?;
            Ok(ml_model(&text))
        }
    }
}

// Of ONNX's messages, what a signature is made of; prost leaves out the rest.

#[derive(Clone, PartialEq, Message)]
struct ValueInfo {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    kind: Option<ValueType>,
}

#[derive(Clone, PartialEq, Message)]
struct ValueType {
    #[prost(message, optional, tag = "1")]
    tensor: Option<TensorType>,
    #[prost(message, optional, boxed, tag = "4")]
    sequence: Option<Box<ElementType>>,
    #[prost(message, optional, boxed, tag = "5")]
    map: Option<Box<MapType>>,
    #[prost(message, optional, boxed, tag = "9")]
    optional: Option<Box<ElementType>>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorType {
    #[prost(int32, tag = "1")]
    element: i32,
    #[prost(message, optional, tag = "2")]
    shape: Option<Shape>,
}

#[derive(Clone, PartialEq, Message)]
struct Shape {
    #[prost(message, repeated, tag = "1")]
    dims: Vec<Dim>,
}

#[derive(Clone, PartialEq, Message)]
struct Dim {
    #[prost(int64, optional, tag = "1")]
    value: Option<i64>,
    #[prost(string, optional, tag = "2")]
    name: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct ElementType {
    #[prost(message, optional, boxed, tag = "1")]
    element: Option<Box<ValueType>>,
}

#[derive(Clone, PartialEq, Message)]
struct MapType {
    #[prost(int32, tag = "1")]
    key: i32,
    #[prost(message, optional, boxed, tag = "2")]
    value: Option<Box<ValueType>>,
}

const GRAPH: u64 = 7;
const INITIALIZER: u64 = 5;
const INITIALIZER_NAME: u64 = 8;
const INPUT: u64 = 11;
const OUTPUT: u64 = 12;

fn onnx(file: impl BufRead + Seek) -> io::Result<Signature> {
    let mut file = Wire::new(file)?;
    let (mut found, mut constants) = (Signature::default(), HashSet::new());
    let end = file.end;
    while let Some((field, length)) = file.next(end)? {
        if field != GRAPH {
            file.leap(length)?;
            continue;
        }
        let end = file.at + length;
        while let Some((field, length)) = file.next(end)? {
            match field {
                INPUT => keep(&mut found.inputs, value(&file.bytes(length)?)?)?,
                OUTPUT => keep(&mut found.outputs, value(&file.bytes(length)?)?)?,
                INITIALIZER => {
                    let end = file.at + length;
                    while let Some((field, length)) = file.next(end)? {
                        if field == INITIALIZER_NAME && constants.len() < MOST_CONSTANTS {
                            constants.insert(String::from_utf8_lossy(&file.bytes(length)?).into_owned());
                        } else {
                            file.leap(length)?;
                        }
                    }
                }
                _ => file.leap(length)?,
            }
        }
    }
    // Models of old list their constants among their inputs; such an input has a default.
    for input in &mut found.inputs {
        input.optional |= constants.contains(&input.name);
    }
    Ok(found)
}

fn keep(tensors: &mut Vec<Tensor>, tensor: Tensor) -> io::Result<()> {
    if tensors.len() >= MOST_TENSORS {
        return Err(invalid("it has too many inputs or outputs"));
    }
    tensors.push(tensor);
    Ok(())
}

fn value(bytes: &[u8]) -> io::Result<Tensor> {
    let value = ValueInfo::decode(bytes).map_err(|_| invalid("it is no ONNX model"))?;
    let (datatype, shape) = value.kind.as_ref().map_or(("?".to_owned(), None), type_of);
    let optional = value.kind.is_some_and(|kind| kind.optional.is_some());
    Ok(Tensor { name: value.name, datatype, shape, optional })
}

fn type_of(kind: &ValueType) -> (String, Option<Vec<String>>) {
    if let Some(tensor) = &kind.tensor {
        let dim = |dim: &Dim| match (dim.value, &dim.name) {
            (Some(size), _) => size.to_string(),
            (None, Some(name)) if !name.is_empty() => name.clone(),
            _ => "?".to_owned(),
        };
        let shape = tensor.shape.as_ref().map(|shape| shape.dims.iter().map(dim).collect());
        return (datatype(tensor.element), shape);
    }
    let inner = |element: Option<&ValueType>| element.map_or("?".to_owned(), |kind| type_of(kind).0);
    if let Some(sequence) = &kind.sequence {
        return (format!("sequence({})", inner(sequence.element.as_deref())), None);
    }
    if let Some(map) = &kind.map {
        return (format!("map({}, {})", datatype(map.key), inner(map.value.as_deref())), None);
    }
    match kind.optional.as_ref().and_then(|optional| optional.element.as_deref()) {
        Some(element) => type_of(element),
        None => ("?".to_owned(), None),
    }
}

/// ONNX's number of a type in the words of the Open Inference Protocol.
fn datatype(element: i32) -> String {
    let name = match element {
        1 => "FP32",
        2 => "UINT8",
        3 => "INT8",
        4 => "UINT16",
        5 => "INT16",
        6 => "INT32",
        7 => "INT64",
        8 => "BYTES",
        9 => "BOOL",
        10 => "FP16",
        11 => "FP64",
        12 => "UINT32",
        13 => "UINT64",
        16 => "BF16",
        other => return format!("type {other}"),
    };
    name.to_owned()
}

/// Protobuf as it lies in a file.
struct Wire<R> {
    file: R,
    at: u64,
    end: u64,
}

impl<R: BufRead + Seek> Wire<R> {
    fn new(mut file: R) -> io::Result<Self> {
        let end = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(0))?;
        Ok(Self { file, at: 0, end })
    }

    /// The next field with bytes of its own, and how many they are; `None` at the end of its message. Numbers are passed
    /// over.
    fn next(&mut self, end: u64) -> io::Result<Option<(u64, u64)>> {
        while self.at < end {
            let tag = self.varint()?;
            let length = match tag & 7 {
                0 => {
                    self.varint()?;
                    continue;
                }
                1 => 8,
                2 => self.varint()?,
                5 => 4,
                _ => return Err(invalid("it is no ONNX model")),
            };
            if self.at.checked_add(length).is_none_or(|after| after > end) {
                return Err(invalid("it is cut off, or no ONNX model"));
            }
            if tag & 7 == 2 {
                return Ok(Some((tag >> 3, length)));
            }
            self.leap(length)?;
        }
        Ok(None)
    }

    fn varint(&mut self) -> io::Result<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let mut byte = [0];
            self.file.read_exact(&mut byte)?;
            self.at += 1;
            value |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(invalid("it is no ONNX model"))
    }

    fn leap(&mut self, length: u64) -> io::Result<()> {
        let distance = i64::try_from(length).map_err(|_| invalid("it is no ONNX model"))?;
        self.file.seek_relative(distance)?;
        self.at += length;
        Ok(())
    }

    fn bytes(&mut self, length: u64) -> io::Result<Vec<u8>> {
        if length > MOST_BYTES {
            return Err(invalid("it says too much of one of its inputs or outputs"));
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
        self.file.read_exact(&mut bytes)?;
        self.at += length;
        Ok(bytes)
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// MLflow writes inputs and outputs as JSON, each on a line of its own below `signature:`.
fn ml_model(text: &str) -> Signature {
    let mut lines = text.lines().skip_while(|line| !line.starts_with("signature:")).skip(1);
    let block: Vec<&str> = lines.by_ref().take_while(|line| line.starts_with([' ', '\t'])).collect();
    let side = |key: &str| -> Vec<Tensor> {
        let value = block.iter().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(':'));
        let value = value.map(str::trim).map(|value| value.trim_matches('\'').replace("''", "'"));
        let columns: Vec<serde_json::Value> =
            value.and_then(|value| serde_json::from_str(&value).ok()).unwrap_or_default();
        columns.iter().take(MOST_TENSORS).enumerate().map(|(index, column)| tensor(index, column)).collect()
    };
    Signature { inputs: side("inputs"), outputs: side("outputs") }
}

fn tensor(index: usize, column: &serde_json::Value) -> Tensor {
    let spec = &column["tensor-spec"];
    let name = column["name"].as_str().map_or_else(|| index.to_string(), ToOwned::to_owned);
    let text = |value: &serde_json::Value| value.as_str().unwrap_or("?").to_owned();
    let dim = |dim: &serde_json::Value| match dim.as_i64() {
        Some(size) if size >= 0 => size.to_string(),
        _ => "?".to_owned(),
    };
    let shape = spec["shape"].as_array().map(|shape| shape.iter().map(dim).collect());
    let datatype = if column["type"] == "tensor" { text(&spec["dtype"]) } else { text(&column["type"]) };
    Tensor { name, datatype, shape, optional: column["required"] == false }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut field = vec![number << 3 | 2];
        let mut length = bytes.len();
        loop {
            let more = length >> 7 > 0;
            field.push(u8::try_from(length & 0x7f).unwrap() | if more { 0x80 } else { 0 });
            length >>= 7;
            if !more {
                break;
            }
        }
        field.extend(bytes);
        field
    }

    fn info(name: &str, element: i32, dims: &[Result<i64, &str>]) -> Vec<u8> {
        let dims = dims.iter().map(|dim| Dim { value: dim.ok(), name: dim.err().map(ToOwned::to_owned) });
        let tensor = TensorType { element, shape: Some(Shape { dims: dims.collect() }) };
        let kind = ValueType { tensor: Some(tensor), ..ValueType::default() };
        ValueInfo { name: name.to_owned(), kind: Some(kind) }.encode_to_vec()
    }

    fn model() -> Vec<u8> {
        let weights = [field(9, &vec![7; 300_000]), field(8, b"w")].concat();
        let graph = [
            field(1, b"a node"),
            field(5, &weights),
            field(11, &info("x", 1, &[Err("batch"), Ok(4)])),
            field(11, &info("w", 1, &[Ok(2)])),
            field(12, &info("y", 7, &[Err(""), Ok(3)])),
        ]
        .concat();
        [vec![0x08, 0x07], field(2, b"somebody"), field(7, &graph)].concat()
    }

    #[test]
    fn onnx_is_read_without_its_weights() {
        let found = read(Kind::Onnx, Cursor::new(model())).unwrap();
        let shown: Vec<_> = found
            .inputs
            .iter()
            .chain(&found.outputs)
            .map(|tensor| {
                let shape = tensor.shape.as_ref().unwrap().join(",");
                format!("{} {} [{shape}] {}", tensor.name, tensor.datatype, tensor.optional)
            })
            .collect();
        assert_eq!(shown, ["x FP32 [batch,4] false", "w FP32 [2] true", "y INT64 [?,3] false"]);
    }

    #[test]
    fn what_is_no_model_is_refused_and_never_panics() {
        let model = model();
        for cut in [1, 2, 5, 40, 70, model.len() / 2, model.len() - 1] {
            assert!(read(Kind::Onnx, Cursor::new(&model[..cut])).is_err() || cut <= 2, "{cut}");
        }
        for bytes in [&b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"[..], &[0xff; 64], b"<html>", &[0x3f]] {
            assert!(read(Kind::Onnx, Cursor::new(bytes)).is_err(), "{bytes:?}");
        }
        let large = field(7, &field(11, &vec![0; 70_000]));
        assert!(read(Kind::Onnx, Cursor::new(large)).is_err());
    }

    #[test]
    fn mlflow_says_columns_or_tensors() {
        let text = r#"
flavors: {}
signature:
  inputs: '[{"type": "double", "name": "it''s", "required": true}, {"type": "long", "name": "b", "required": false}]'
  outputs: '[{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 3]}}]'
  params: null
run_id: x
"#;
        let found = read(Kind::MlModel, Cursor::new(text)).unwrap();
        assert_eq!(found.inputs[0].name, "it's");
        assert_eq!((found.inputs[0].datatype.as_str(), found.inputs[1].optional), ("double", true));
        assert_eq!(found.outputs[0].shape.as_deref(), Some(&["?".to_owned(), "3".to_owned()][..]));
        assert_eq!(found.outputs[0].datatype, "float64");
        assert_eq!(read(Kind::MlModel, Cursor::new("no signature")).unwrap(), Signature::default());
    }

    #[test]
    fn the_file_is_found_where_there_is_one() {
        let file = |path: &str| FileEntry {
            path: path.to_owned(),
            size: 1,
            sha256: moorline_core::Digest::of(path.as_bytes()),
        };
        let kind = |paths: &[&str]| {
            let files: Vec<_> = paths.iter().map(|path| file(path)).collect();
            file_of(&files).map(|(file, kind)| (file.path.clone(), kind))
        };
        assert_eq!(kind(&["a/b.ONNX", "labels.txt"]), Some(("a/b.ONNX".to_owned(), Kind::Onnx)));
        assert_eq!(kind(&["m/MLmodel", "m/model.onnx"]), Some(("m/MLmodel".to_owned(), Kind::MlModel)));
        assert_eq!(kind(&["a.onnx", "b.onnx"]), None);
        assert_eq!(kind(&["model.pkl"]), None);
    }
}
