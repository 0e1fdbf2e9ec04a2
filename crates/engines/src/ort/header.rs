//! Reads from a model file what ONNX Runtime does not tell: the declared order of all inputs, those with a default
//! among them, and whether a value has a declared rank (its own answer for "no rank" is that of a scalar).
//!
//! Only the names and types of inputs and outputs are read; weights are skipped by seeking, so that a model of any
//! size costs a few reads.

use std::{
    io::{self, BufReader, Read, Seek},
    path::Path,
};

use prost::Message;
use tract_onnx::pb::{ValueInfoProto, type_proto};

/// One declared input or output.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Declared {
    pub(super) name: String,
    /// Whether the file states the rank; `true` for what is not a tensor.
    pub(super) ranked: bool,
}

/// The inputs and outputs of the graph, in the order of the file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) inputs: Vec<Declared>,
    pub(super) outputs: Vec<Declared>,
}

/// Field numbers of `ModelProto` and `GraphProto`, which the format never changes.
const MODEL_GRAPH: u64 = 7;
const GRAPH_INPUT: u64 = 11;
const GRAPH_OUTPUT: u64 = 12;

/// Inputs and outputs are described in far less than this.
const LARGEST_DESCRIPTION: u64 = 1 << 20;

/// Reads the header; an error means that the file is not ONNX in protobuf form (it may still be one of ORT's own).
pub(super) fn read(path: &Path) -> io::Result<Header> {
    let file = fs_err::File::open(path)?;
    let length = file.metadata()?.len();
    read_model(&mut BufReader::new(file), length)
}

fn read_model(reader: &mut (impl Read + Seek), length: u64) -> io::Result<Header> {
    let mut header = Header::default();
    while reader.stream_position()? < length {
        let (field, wire_type) = read_tag(reader)?;
        if field == MODEL_GRAPH && wire_type == 2 {
            let graph = read_varint(reader)?;
            let end = bounded(reader.stream_position()?, graph, length)?;
            read_graph(reader, end, &mut header)?;
        } else {
            skip(reader, wire_type, length)?;
        }
    }
    Ok(header)
}

fn read_graph(reader: &mut (impl Read + Seek), end: u64, header: &mut Header) -> io::Result<()> {
    while reader.stream_position()? < end {
        let (field, wire_type) = read_tag(reader)?;
        let list = match field {
            GRAPH_INPUT => &mut header.inputs,
            GRAPH_OUTPUT => &mut header.outputs,
            _ => {
                skip(reader, wire_type, end)?;
                continue;
            }
        };
        let size = read_varint(reader)?;
        bounded(reader.stream_position()?, size, end)?;
        if size > LARGEST_DESCRIPTION {
            return Err(malformed());
        }
        let mut bytes = vec![0; size as usize];
        reader.read_exact(&mut bytes)?;
        let info = ValueInfoProto::decode(bytes.as_slice()).map_err(io::Error::other)?;
        let ranked = match info.r#type.and_then(|declared| declared.value) {
            Some(type_proto::Value::TensorType(tensor)) => tensor.shape.is_some(),
            None => true,
        };
        list.push(Declared { name: info.name, ranked });
    }
    Ok(())
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not a protobuf message")
}

/// The end of `size` bytes from `position`, which must not lie beyond `limit`.
fn bounded(position: u64, size: u64, limit: u64) -> io::Result<u64> {
    position.checked_add(size).filter(|end| *end <= limit).ok_or_else(malformed)
}

fn read_tag(reader: &mut impl Read) -> io::Result<(u64, u8)> {
    let tag = read_varint(reader)?;
    Ok((tag >> 3, (tag & 7) as u8))
}

fn read_varint(reader: &mut impl Read) -> io::Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let mut byte = [0];
        reader.read_exact(&mut byte)?;
        value |= u64::from(byte[0] & 0x7f) << shift;
        if byte[0] & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(malformed())
}

fn skip(reader: &mut (impl Read + Seek), wire_type: u8, limit: u64) -> io::Result<()> {
    let size = match wire_type {
        0 => {
            read_varint(reader)?;
            return Ok(());
        }
        1 => 8,
        2 => read_varint(reader)?,
        5 => 4,
        _ => return Err(malformed()),
    };
    bounded(reader.stream_position()?, size, limit)?;
    // A size within a file's length is no more than `i64::MAX`; a relative seek keeps the buffer where it can.
    reader.seek_relative(size as i64)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn declared(name: &str, ranked: bool) -> Declared {
        Declared { name: name.to_owned(), ranked }
    }

    #[test]
    fn order_and_ranks_are_read() {
        let header = read(&moorline_testkit::fixture("optional_input.onnx")).unwrap();
        assert_eq!(header.inputs, [declared("scale", true), declared("x", true)]);
        assert_eq!(header.outputs, [declared("y", true)]);
        let header = read(&moorline_testkit::fixture("unranked.onnx")).unwrap();
        assert_eq!(header.inputs, [declared("x", false)]);
        let header = read(&moorline_testkit::fixture("sequence_out.onnx")).unwrap();
        assert_eq!(header.outputs, [declared("pair", true)]);
    }

    #[test]
    fn a_truncated_file_is_an_error_or_a_shorter_header_but_never_a_panic() {
        let bytes = fs_err::read(moorline_testkit::fixture("two_in_two_out.onnx")).unwrap();
        for length in 0..bytes.len() {
            let _ = read_model(&mut Cursor::new(&bytes[..length]), length as u64);
        }
    }

    #[test]
    fn lengths_beyond_the_file_are_refused() {
        // Field 7 (the graph) claims 2⁶³ bytes and more.
        let mut bytes = vec![0x3a];
        bytes.extend([0xff; 9]);
        bytes.push(0x01);
        assert!(read_model(&mut Cursor::new(&bytes), bytes.len() as u64).is_err());
    }
}
