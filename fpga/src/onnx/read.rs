//! Reads a model file: bounds, the version of its operators, and the weights that lie beside it.

use std::{
    io::{Read, Seek, SeekFrom},
    path::{Component, Path, PathBuf},
};

use bytes::Bytes;
use prost::Message;

use super::{
    error::OnnxError,
    proto::{GraphProto, ModelProto, TensorProto, is_standard},
};

/// What protobuf itself can hold.
const LARGEST_FILE: u64 = (1 << 31) - 1;
/// What external data may add up to; a device has less memory.
const LARGEST_EXTERNAL: u64 = 1 << 36;
const MOST_NODES: usize = 100_000;
/// Older operators have other attributes.
const OLDEST_OPSET: i64 = 7;
const NEWEST_OPSET: i64 = 28;
/// `TensorProto.DataLocation.EXTERNAL`.
const EXTERNAL: i32 = 1;

/// A model as it is in the file, with all its weights in memory.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) proto: ModelProto,
    pub(crate) opset: i64,
}

impl Model {
    pub(crate) fn read(path: &Path) -> Result<Self, OnnxError> {
        let io = |source| OnnxError::Io { path: path.to_owned(), source };
        let file = fs_err::File::open(path).map_err(io)?;
        if file.metadata().map_err(io)?.len() > LARGEST_FILE {
            return Err(OnnxError::TooLarge { path: path.to_owned(), limit: LARGEST_FILE });
        }
        let mut bytes = Vec::new();
        file.take(LARGEST_FILE).read_to_end(&mut bytes).map_err(io)?;
        let proto = ModelProto::decode(Bytes::from(bytes))
            .map_err(|source| OnnxError::Protobuf { path: path.to_owned(), source })?;
        Self::new(proto, path.parent().unwrap_or(Path::new(".")))
    }

    /// A model in memory, whose external data lies in `folder`.
    fn new(mut proto: ModelProto, folder: &Path) -> Result<Self, OnnxError> {
        let opset = proto
            .opset_import
            .iter()
            .find(|set| is_standard(&set.domain))
            .map(|set| set.version)
            .ok_or(OnnxError::NoOpset)?;
        if !(OLDEST_OPSET..=NEWEST_OPSET).contains(&opset) {
            return Err(OnnxError::Opset { version: opset, least: OLDEST_OPSET, most: NEWEST_OPSET });
        }
        let graph = proto.graph.as_mut().ok_or(OnnxError::NoGraph)?;
        if graph.node.len() > MOST_NODES {
            return Err(OnnxError::TooManyNodes { count: graph.node.len(), limit: MOST_NODES });
        }
        let mut left = LARGEST_EXTERNAL;
        load_external(graph, folder, &mut left)?;
        Ok(Self { proto, opset })
    }

    pub(crate) fn graph(&self) -> Result<&GraphProto, OnnxError> {
        self.proto.graph.as_ref().ok_or(OnnxError::NoGraph)
    }
}

/// Brings external data into the message, also that of graphs inside of nodes and of constants: parts of the model are
/// written to other folders.
fn load_external(graph: &mut GraphProto, folder: &Path, left: &mut u64) -> Result<(), OnnxError> {
    for tensor in &mut graph.initializer {
        load_tensor(tensor, folder, left)?;
    }
    for attribute in graph.node.iter_mut().flat_map(|node| &mut node.attribute) {
        for tensor in attribute.t.iter_mut().chain(&mut attribute.tensors) {
            load_tensor(tensor, folder, left)?;
        }
        for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
            load_external(graph, folder, left)?;
        }
    }
    Ok(())
}

fn load_tensor(tensor: &mut TensorProto, folder: &Path, left: &mut u64) -> Result<(), OnnxError> {
    if tensor.data_location != Some(EXTERNAL) {
        return Ok(());
    }
    let malformed =
        |reason: &str| OnnxError::Initializer { tensor: tensor.name.clone(), reason: reason.to_owned() };
    let location =
        tensor.external_data.get("location").ok_or_else(|| malformed("its place is not stated"))?;
    // A model must not be able to name any file of the machine.
    if Path::new(location).components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir))
    {
        return Err(malformed("its external data is outside of the model's folder"));
    }
    let path = folder.join(location);
    let number = |key: &str| match tensor.external_data.get(key) {
        None => Ok(None),
        Some(text) => text.parse::<u64>().map(Some).map_err(|_| malformed("its place is not a number")),
    };
    let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
    let external = |source| OnnxError::External { tensor: tensor.name.clone(), path: path.clone(), source };
    let bytes = read_part(&path, offset, length, *left).map_err(external)?;
    *left -= bytes.len() as u64;
    tensor.raw_data = Some(Bytes::from(bytes));
    tensor.external_data.clear();
    tensor.data_location = None;
    Ok(())
}

fn read_part(path: &PathBuf, offset: u64, length: Option<u64>, most: u64) -> std::io::Result<Vec<u8>> {
    let mut file = fs_err::File::open(path)?;
    let there = file.metadata()?.len().saturating_sub(offset);
    let length = length.unwrap_or(there);
    if length > there || length > most {
        return Err(std::io::Error::new(
            std::io::ErrorKind::UnexpectedEof,
            "the file is shorter than stated",
        ));
    }
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}
