//! The Open Inference Protocol, version 2, over REST: inference requests and answers as JSON, with the binary tensor
//! extension (`Inference-Header-Content-Length` bytes of JSON, then the binary data of those tensors that have
//! `binary_data_size`, in their order).
//!
//! In JSON, `data` may be flat or nested as its shape says. Data types must be the model's own. An output that is
//! made of maps is a tensor `[rows, keys]` whose parameter `keys` is the text of the list of its keys. NaN and the
//! infinities are `null` in JSON and themselves in binary data.

use std::borrow::Cow;

use moorline_core::{Signature, Tensor, TensorData, TensorSpec, Tensors};

use super::{
    Limits, ModelIdentity,
    error::CodecError,
    json::Reader,
    nested::{self, write_flat, write_text},
    oip_binary,
    oip_tensor::{Output, element_count, keys_text, resolve_input},
};
pub use super::{
    oip_metadata::{model_metadata, server_metadata},
    oip_tensor::{InferRequest, Requested, RequestedOutput},
};

/// An encoded answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    pub body: Vec<u8>,
    /// The length of the JSON at the start of `body`, for `Inference-Header-Content-Length`; `None` where `body` is
    /// JSON and nothing else.
    pub header_length: Option<usize>,
}

/// Decodes the body of an inference request. `header_length` is what `Inference-Header-Content-Length` says.
pub fn decode(
    body: &[u8],
    header_length: Option<usize>,
    signature: &Signature,
    limits: Limits,
) -> Result<InferRequest, CodecError> {
    let (header, binary) = match header_length {
        None => (body, &body[..0]),
        Some(length) => body.split_at_checked(length).ok_or_else(|| {
            CodecError::Request(format!(
                "the header length is {length} bytes, but the body has {} only",
                body.len()
            ))
        })?,
    };
    let mut decoder = Decoder { signature, limits, binary };
    let mut reader = Reader::new(header, limits);
    let mut id = None;
    let mut inputs = None;
    let mut requested = None;
    let mut binary_output = false;
    let mut member = reader.open_object()?;
    while let Some(name) = member {
        match &*name {
            "id" => once(&mut id, "id", read_text(&mut reader, "`id`")?.into_owned())?,
            "inputs" => once(&mut inputs, "inputs", decoder.read_inputs(&mut reader)?)?,
            "outputs" => once(&mut requested, "outputs", decoder.read_outputs(&mut reader)?)?,
            "parameters" => read_parameters(&mut reader, |name, reader| {
                if name == "binary_data_output" {
                    binary_output = read_flag(reader, "`binary_data_output`")?;
                    return Ok(true);
                }
                Ok(false)
            })?,
            _ => reader.skip()?,
        }
        member = reader.next_member()?;
    }
    reader.end()?;
    if !decoder.binary.is_empty() {
        return Err(CodecError::Request(format!(
            "{} bytes of binary data belong to no input",
            decoder.binary.len()
        )));
    }
    let Some(inputs) = inputs else {
        return Err(CodecError::Request("the request has no `inputs`".to_owned()));
    };
    signature.check_inputs(&inputs).map_err(CodecError::Request)?;
    let outputs = Requested::new(requested.unwrap_or_default(), binary_output)?;
    Ok(InferRequest { id, inputs, outputs })
}

/// A request while it is read.
struct Decoder<'a, 's> {
    signature: &'s Signature,
    limits: Limits,
    /// Binary data that no input has taken yet.
    binary: &'a [u8],
}

/// The members of one input, in whatever order they come.
#[derive(Default)]
struct Input<'a> {
    name: Option<Cow<'a, str>>,
    datatype: Option<Cow<'a, str>>,
    shape: Option<Vec<usize>>,
    binary_size: Option<usize>,
    /// Where its data begins.
    data: Option<Reader<'a>>,
    /// Its data, if what explains it came before.
    elements: Option<(Vec<usize>, TensorData)>,
}

impl<'a, 's> Decoder<'a, 's> {
    fn read_inputs(&mut self, reader: &mut Reader<'a>) -> Result<Tensors, CodecError> {
        let mut inputs = Tensors::with_capacity(self.signature.inputs.len());
        let mut more = reader.open_list()?;
        while more {
            let (spec, tensor) = self.read_input(reader)?;
            inputs.push(spec.name.clone(), tensor);
            more = reader.next_element()?;
        }
        Ok(inputs)
    }

    fn read_input(&mut self, reader: &mut Reader<'a>) -> Result<(&'s TensorSpec, Tensor), CodecError> {
        let mut input = Input::default();
        let mut spec = None;
        let mut member = reader.open_object()?;
        while let Some(name) = member {
            match &*name {
                "name" => once(&mut input.name, "name", read_text(reader, "`name`")?)?,
                "datatype" => once(&mut input.datatype, "datatype", read_text(reader, "`datatype`")?)?,
                "shape" => once(&mut input.shape, "shape", read_shape(reader)?)?,
                "parameters" => input.binary_size = read_input_parameters(reader)?,
                "data" => {
                    reader.peek()?;
                    once(&mut input.data, "data", reader.clone())?;
                    if let Some(spec) = spec {
                        input.elements = Some(read_elements(reader, spec, input.shape.as_deref())?);
                    } else {
                        reader.skip()?;
                    }
                }
                _ => reader.skip()?,
            }
            if let (None, Some(name), Some(datatype)) = (spec, &input.name, &input.datatype) {
                spec = Some(resolve_input(name, datatype, self.signature)?);
            }
            member = reader.next_member()?;
        }
        let name = required(input.name, "name")?;
        let shape = required(input.shape, "shape")?;
        let spec = required(spec, "datatype")?;
        let count = element_count(&name, &shape, self.limits.max_depth)?;
        let written = match (input.elements, input.data) {
            (None, Some(mut data)) => Some(read_elements(&mut data, spec, Some(&shape))?),
            (elements, _) => elements,
        };
        let data = match (written, input.binary_size) {
            (Some(_), Some(_)) => {
                return Err(CodecError::tensor(&name, "it has both `data` and `binary_data_size`"));
            }
            (None, None) => return Err(CodecError::tensor(&name, "it has no `data`")),
            (Some((written, data)), None) => {
                check_written(&name, &shape, count, &written, &data)?;
                data
            }
            (None, Some(size)) => {
                oip_binary::decode(&name, spec.data_type, count, self.take_binary(&name, size)?)?
            }
        };
        let tensor =
            Tensor::new(shape, data).map_err(|error| CodecError::tensor(&name, error.to_string()))?;
        Ok((spec, tensor))
    }

    fn take_binary(&mut self, name: &str, size: usize) -> Result<&'a [u8], CodecError> {
        let Some((own, rest)) = self.binary.split_at_checked(size) else {
            let left = self.binary.len();
            let reason =
                format!("`binary_data_size` is {size}, but only {left} bytes of binary data are left");
            return Err(CodecError::tensor(name, reason));
        };
        self.binary = rest;
        Ok(own)
    }

    fn read_outputs(&self, reader: &mut Reader<'a>) -> Result<Vec<RequestedOutput>, CodecError> {
        let mut outputs = Vec::new();
        let mut more = reader.open_list()?;
        while more {
            let mut requested = None;
            let mut binary = None;
            let mut member = reader.open_object()?;
            while let Some(name) = member {
                match &*name {
                    "name" => {
                        let name = read_text(reader, "`name`")?;
                        let output = RequestedOutput::resolve(&name, self.signature)?;
                        once(&mut requested, "name", output)?;
                    }
                    "parameters" => read_parameters(reader, |name, reader| match name {
                        "binary_data" => {
                            binary = Some(read_flag(reader, "`binary_data`")?);
                            Ok(true)
                        }
                        "classification" => Err(classification()),
                        name if name.starts_with("shared_memory") => Err(shared_memory()),
                        _ => Ok(false),
                    })?,
                    _ => reader.skip()?,
                }
                member = reader.next_member()?;
            }
            let Some(mut requested) = requested else {
                return Err(CodecError::Request("a requested output has no `name`".to_owned()));
            };
            requested.binary = binary;
            outputs.push(requested);
            more = reader.next_element()?;
        }
        Ok(outputs)
    }
}

pub(super) fn classification() -> CodecError {
    CodecError::Unsupported(
        "the classification extension is not offered; ask for the output itself".to_owned(),
    )
}

pub(super) fn shared_memory() -> CodecError {
    CodecError::Unsupported("the shared memory extensions are not offered; send the data itself".to_owned())
}

/// Fills a member that may be given once.
fn once<T>(slot: &mut Option<T>, member: &str, value: T) -> Result<(), CodecError> {
    if slot.replace(value).is_some() {
        return Err(CodecError::Request(format!("`{member}` is given twice")));
    }
    Ok(())
}

fn required<T>(member: Option<T>, name: &str) -> Result<T, CodecError> {
    member.ok_or_else(|| CodecError::Request(format!("an input has no `{name}`")))
}

/// Reads `data` with room for what `shape` says, but never for more than a request of some megabytes could fill.
fn read_elements(
    reader: &mut Reader<'_>,
    spec: &TensorSpec,
    shape: Option<&[usize]>,
) -> Result<(Vec<usize>, TensorData), CodecError> {
    const MOST: usize = 1 << 16;
    let count =
        shape.map_or(MOST, |shape| shape.iter().fold(1_usize, |product, dim| product.saturating_mul(*dim)));
    nested::read_tensor(reader, &spec.name, spec.data_type, count.min(MOST))
}

/// `data` may be flat, or nested exactly as the shape says.
fn check_written(
    name: &str,
    shape: &[usize],
    count: usize,
    written: &[usize],
    data: &TensorData,
) -> Result<(), CodecError> {
    if data.len() != count {
        let reason = format!("shape {shape:?} holds {count} elements, but `data` has {}", data.len());
        return Err(CodecError::tensor(name, reason));
    }
    if written.len() > 1 && written != shape && count > 0 {
        let reason = format!("`data` is nested as {written:?}, but the shape is {shape:?}");
        return Err(CodecError::tensor(name, reason));
    }
    Ok(())
}

fn read_text<'a>(reader: &mut Reader<'a>, member: &str) -> Result<Cow<'a, str>, CodecError> {
    match reader.peek()? {
        b'"' => reader.string(),
        _ => Err(unexpected(reader, member, "a string")),
    }
}

fn read_flag(reader: &mut Reader<'_>, member: &str) -> Result<bool, CodecError> {
    match reader.peek()? {
        b't' | b'f' => reader.boolean(),
        _ => Err(unexpected(reader, member, "true or false")),
    }
}

fn read_size(reader: &mut Reader<'_>, member: &str) -> Result<usize, CodecError> {
    const EXPECTED: &str = "a size";
    if !matches!(reader.peek()?, b'-' | b'0'..=b'9') {
        return Err(unexpected(reader, member, EXPECTED));
    }
    let mut start = reader.clone();
    reader.number()?.to_integer().ok_or_else(|| unexpected(&mut start, member, EXPECTED))
}

fn read_shape(reader: &mut Reader<'_>) -> Result<Vec<usize>, CodecError> {
    let mut shape = Vec::with_capacity(4);
    let mut more = reader.open_list()?;
    while more {
        shape.push(read_size(reader, "a dimension of `shape`")?);
        more = reader.next_element()?;
    }
    Ok(shape)
}

#[cold]
fn unexpected(reader: &mut Reader<'_>, member: &str, expected: &str) -> CodecError {
    match reader.describe() {
        Ok(found) => CodecError::Request(format!("{member} is {found}, expected {expected}")),
        Err(error) => error,
    }
}

/// Reads an object of parameters; `read` says whether it has read the one that it was shown.
fn read_parameters<'a>(
    reader: &mut Reader<'a>,
    mut read: impl FnMut(&str, &mut Reader<'a>) -> Result<bool, CodecError>,
) -> Result<(), CodecError> {
    let mut member = reader.open_object()?;
    while let Some(name) = member {
        if !read(&name, reader)? {
            reader.skip()?;
        }
        member = reader.next_member()?;
    }
    Ok(())
}

fn read_input_parameters(reader: &mut Reader<'_>) -> Result<Option<usize>, CodecError> {
    let mut size = None;
    read_parameters(reader, |name, reader| {
        if name.starts_with("shared_memory") {
            return Err(shared_memory());
        }
        if name == "binary_data_size" {
            size = Some(read_size(reader, "`binary_data_size`")?);
            return Ok(true);
        }
        Ok(false)
    })?;
    Ok(size)
}

/// Encodes the answer to a request: `id` and `requested` are the request's.
pub fn encode(
    model: ModelIdentity<'_>,
    id: Option<&str>,
    requested: &Requested,
    outputs: &Tensors,
) -> Result<Encoded, CodecError> {
    let outputs = requested.select(outputs)?;
    let binary_length: usize =
        outputs.iter().filter(|o| o.binary).map(|o| oip_binary::encoded_length(o.tensor.data())).sum();
    let text_length: usize = outputs.iter().filter(|o| !o.binary).map(|o| o.tensor.data().len() * 12).sum();
    let mut out = Vec::with_capacity(binary_length + text_length + 128 + 128 * outputs.len());
    out.extend_from_slice(b"{\"model_name\":");
    write_text(&mut out, model.name);
    out.extend_from_slice(b",\"model_version\":");
    write_text(&mut out, model.version);
    if let Some(id) = id {
        out.extend_from_slice(b",\"id\":");
        write_text(&mut out, id);
    }
    out.extend_from_slice(b",\"outputs\":[");
    for (index, output) in outputs.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_output(&mut out, output);
    }
    out.extend_from_slice(b"]}");
    let header_length = outputs.iter().any(|output| output.binary).then_some(out.len());
    for output in outputs.iter().filter(|output| output.binary) {
        oip_binary::encode(&mut out, output.name, output.tensor.data())?;
    }
    Ok(Encoded { body: out, header_length })
}

fn write_output(out: &mut Vec<u8>, output: &Output<'_>) {
    let data = output.tensor.data();
    out.extend_from_slice(b"{\"name\":");
    write_text(out, output.name);
    out.extend_from_slice(b",\"datatype\":\"");
    out.extend_from_slice(data.data_type().oip_name().as_bytes());
    out.extend_from_slice(b"\",\"shape\":");
    nested::write_shape(out, output.tensor.shape());
    if output.binary || output.keys.is_some() {
        out.extend_from_slice(b",\"parameters\":{");
        if let Some(keys) = output.keys {
            out.extend_from_slice(b"\"keys\":");
            write_text(out, &keys_text(keys));
        }
        if output.binary {
            let comma = if output.keys.is_some() { "," } else { "" };
            let size = oip_binary::encoded_length(data);
            out.extend_from_slice(format!("{comma}\"binary_data_size\":{size}").as_bytes());
        }
        out.push(b'}');
    }
    if !output.binary {
        out.extend_from_slice(b",\"data\":");
        write_flat(out, data);
    }
    out.push(b'}');
}

/// The body of an error.
pub fn error_body(message: &str) -> Vec<u8> {
    let mut out = b"{\"error\":".to_vec();
    write_text(&mut out, message);
    out.push(b'}');
    out
}

#[cfg(test)]
mod tests;
