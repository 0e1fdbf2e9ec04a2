//! Messages of the Open Inference Protocol's gRPC side ⇄ tensors.
//!
//! An answer is in kind: raw contents for a request with raw contents, typed contents otherwise. FP16 and BF16 have
//! no typed contents, so an answer that holds one of them is raw.

use bytes::Bytes;
use moorline_core::{DataType, Signature, Tensor, TensorData, Tensors};

use super::{
    Limits, ModelIdentity,
    error::CodecError,
    grpc::{
        InferInputTensor, InferOutputTensor, InferParameter, InferTensorContents, ModelInferRequest,
        ModelInferResponse, ModelMetadataResponse, ParameterChoice, ServerMetadataResponse, TensorMetadata,
    },
    oip, oip_binary,
    oip_metadata::{self, EXTENSIONS, SERVER},
    oip_tensor::{InferRequest, Output, Requested, RequestedOutput, element_count, keys_text, resolve_input},
};

/// Decodes a request. Its `outputs.binary` says whether the request was raw, and with it the answer.
pub fn decode(
    request: ModelInferRequest,
    signature: &Signature,
    limits: Limits,
) -> Result<InferRequest, CodecError> {
    let raw = !request.raw_input_contents.is_empty();
    if raw && request.raw_input_contents.len() != request.inputs.len() {
        return Err(CodecError::Request(format!(
            "the request has {} inputs, but raw contents for {}",
            request.inputs.len(),
            request.raw_input_contents.len()
        )));
    }
    let outputs = request
        .outputs
        .iter()
        .map(|output| {
            if output.parameters.contains_key("classification") {
                return Err(oip::classification());
            }
            refuse_shared_memory(output.parameters.keys())?;
            RequestedOutput::resolve(&output.name, signature)
        })
        .collect::<Result<_, _>>()?;
    let mut inputs = Tensors::with_capacity(request.inputs.len());
    for (position, input) in request.inputs.into_iter().enumerate() {
        refuse_shared_memory(input.parameters.keys())?;
        let InferInputTensor { name, datatype, shape, contents, .. } = input;
        let spec = resolve_input(&name, &datatype, signature)?;
        let size = |dim: i64| {
            usize::try_from(dim)
                .map_err(|_| CodecError::tensor(&name, format!("its shape has {dim}, which is no size")))
        };
        let dims = shape.into_iter().map(size).collect::<Result<Vec<usize>, _>>()?;
        let count = element_count(&name, &dims, limits.max_depth)?;
        let data = match (request.raw_input_contents.get(position), contents) {
            (Some(_), Some(contents)) if contents != InferTensorContents::default() => {
                return Err(CodecError::tensor(&name, "it has both contents and raw contents"));
            }
            (Some(raw), _) => oip_binary::decode(&name, spec.data_type, count, raw)?,
            (None, contents) => typed(&name, spec.data_type, contents.unwrap_or_default())?,
        };
        let tensor = Tensor::new(dims, data).map_err(|error| CodecError::tensor(&name, error.to_string()))?;
        inputs.push(spec.name.clone(), tensor);
    }
    signature.check_inputs(&inputs).map_err(CodecError::Request)?;
    let id = (!request.id.is_empty()).then_some(request.id);
    Ok(InferRequest { id, inputs, outputs: Requested::new(outputs, raw)? })
}

fn refuse_shared_memory<'p>(mut parameters: impl Iterator<Item = &'p String>) -> Result<(), CodecError> {
    if parameters.any(|name| name.starts_with("shared_memory")) { Err(oip::shared_memory()) } else { Ok(()) }
}

/// The elements of typed contents, taken from the field that the data type has.
fn typed(name: &str, data_type: DataType, contents: InferTensorContents) -> Result<TensorData, CodecError> {
    /// Elements that came in a wider type.
    fn narrow<W: Copy + std::fmt::Display, N: TryFrom<W>>(
        name: &str,
        data_type: DataType,
        elements: Vec<W>,
    ) -> Result<Vec<N>, CodecError> {
        let element = |(position, element): (usize, W)| {
            N::try_from(element).map_err(|_| {
                let reason = format!("element {position} is {element}, out of the range of {data_type}");
                CodecError::tensor(name, reason)
            })
        };
        elements.into_iter().enumerate().map(element).collect()
    }
    let text = |(position, bytes): (usize, Bytes)| {
        String::from_utf8(bytes.into())
            .map_err(|_| CodecError::tensor(name, format!("element {position} is not UTF-8")))
    };
    Ok(match data_type {
        DataType::Bool => contents.bool_contents.into(),
        DataType::U8 => narrow::<_, u8>(name, data_type, contents.uint_contents)?.into(),
        DataType::U16 => narrow::<_, u16>(name, data_type, contents.uint_contents)?.into(),
        DataType::U32 => contents.uint_contents.into(),
        DataType::U64 => contents.uint64_contents.into(),
        DataType::I8 => narrow::<_, i8>(name, data_type, contents.int_contents)?.into(),
        DataType::I16 => narrow::<_, i16>(name, data_type, contents.int_contents)?.into(),
        DataType::I32 => contents.int_contents.into(),
        DataType::I64 => contents.int64_contents.into(),
        DataType::F32 => contents.fp32_contents.into(),
        DataType::F64 => contents.fp64_contents.into(),
        DataType::String => {
            contents.bytes_contents.into_iter().enumerate().map(text).collect::<Result<Vec<_>, _>>()?.into()
        }
        DataType::F16 | DataType::Bf16 => {
            return Err(CodecError::tensor(name, format!("{data_type} has raw contents only")));
        }
    })
}

/// Encodes the answer to a request: `id` and `requested` are the request's.
pub fn encode(
    model: ModelIdentity<'_>,
    id: Option<String>,
    requested: &Requested,
    outputs: &Tensors,
) -> Result<ModelInferResponse, CodecError> {
    let outputs = requested.select(outputs)?;
    let raw_only = |output: &Output<'_>| matches!(output.tensor.data_type(), DataType::F16 | DataType::Bf16);
    let raw = requested.binary || outputs.iter().any(raw_only);
    let mut response = ModelInferResponse {
        model_name: model.name.to_owned(),
        model_version: model.version.to_owned(),
        id: id.unwrap_or_default(),
        outputs: Vec::with_capacity(outputs.len()),
        ..ModelInferResponse::default()
    };
    for output in outputs {
        let shape = output.tensor.shape().iter().map(|dim| *dim as i64).collect();
        let mut message = InferOutputTensor {
            name: output.name.to_string(),
            datatype: output.tensor.data_type().oip_name().to_owned(),
            shape,
            ..InferOutputTensor::default()
        };
        if let Some(keys) = output.keys {
            let keys = ParameterChoice::StringParam(keys_text(keys));
            message.parameters.insert("keys".to_owned(), InferParameter { parameter_choice: Some(keys) });
        }
        let data = output.tensor.data();
        if raw {
            let mut bytes = Vec::with_capacity(oip_binary::encoded_length(data));
            oip_binary::encode(&mut bytes, output.name, data)?;
            response.raw_output_contents.push(bytes.into());
        } else {
            message.contents = Some(contents_of(data));
        }
        response.outputs.push(message);
    }
    Ok(response)
}

/// Typed contents; the half floats have none and are never asked for.
fn contents_of(data: &TensorData) -> InferTensorContents {
    let mut contents = InferTensorContents::default();
    match data {
        TensorData::Bool(elements) => contents.bool_contents.clone_from(elements),
        TensorData::U8(elements) => contents.uint_contents = widened(elements),
        TensorData::U16(elements) => contents.uint_contents = widened(elements),
        TensorData::U32(elements) => contents.uint_contents.clone_from(elements),
        TensorData::U64(elements) => contents.uint64_contents.clone_from(elements),
        TensorData::I8(elements) => contents.int_contents = widened(elements),
        TensorData::I16(elements) => contents.int_contents = widened(elements),
        TensorData::I32(elements) => contents.int_contents.clone_from(elements),
        TensorData::I64(elements) => contents.int64_contents.clone_from(elements),
        TensorData::F16(elements) => contents.fp32_contents = widened(elements),
        TensorData::Bf16(elements) => contents.fp32_contents = widened(elements),
        TensorData::F32(elements) => contents.fp32_contents.clone_from(elements),
        TensorData::F64(elements) => contents.fp64_contents.clone_from(elements),
        TensorData::String(elements) => {
            contents.bytes_contents =
                elements.iter().map(|text| Bytes::copy_from_slice(text.as_bytes())).collect();
        }
    }
    contents
}

fn widened<N: Copy + Into<W>, W>(elements: &[N]) -> Vec<W> {
    elements.iter().map(|element| (*element).into()).collect()
}

/// The server's metadata; `version` is this program's.
pub fn server_metadata(version: &str) -> ServerMetadataResponse {
    ServerMetadataResponse {
        name: SERVER.to_owned(),
        version: version.to_owned(),
        extensions: EXTENSIONS.map(str::to_owned).to_vec(),
    }
}

/// The model's metadata. `platform` is such as `onnxruntime_onnx`.
pub fn model_metadata(
    model: ModelIdentity<'_>,
    platform: &str,
    signature: &Signature,
) -> ModelMetadataResponse {
    let tensors = |specs: &[moorline_core::TensorSpec]| {
        specs
            .iter()
            .map(|spec| {
                let metadata = oip_metadata::tensor_metadata(spec);
                TensorMetadata {
                    name: metadata.name.to_owned(),
                    datatype: metadata.datatype.to_owned(),
                    shape: metadata.shape,
                }
            })
            .collect()
    };
    ModelMetadataResponse {
        name: model.name.to_owned(),
        versions: vec![model.version.to_owned()],
        platform: platform.to_owned(),
        inputs: tensors(&signature.inputs),
        outputs: tensors(&signature.outputs),
    }
}

#[cfg(test)]
mod tests {
    use moorline_core::{ErrorClass, Value};

    use super::*;
    use crate::codec::{
        fixtures::{one, spec},
        grpc::InferRequestedOutputTensor,
    };

    const MODEL: ModelIdentity<'_> = ModelIdentity { name: "m", version: "1" };

    fn request(shape: &[i64], contents: Option<InferTensorContents>, raw: &[&[u8]]) -> ModelInferRequest {
        ModelInferRequest {
            inputs: vec![InferInputTensor {
                name: "x".into(),
                datatype: "FP32".into(),
                shape: shape.to_vec(),
                contents,
                ..InferInputTensor::default()
            }],
            raw_input_contents: raw.iter().map(|bytes| Bytes::copy_from_slice(bytes)).collect(),
            ..ModelInferRequest::default()
        }
    }

    fn floats(count: usize) -> InferTensorContents {
        InferTensorContents { fp32_contents: vec![1.0; count], ..InferTensorContents::default() }
    }

    fn read(request: ModelInferRequest) -> Result<InferRequest, CodecError> {
        decode(request, &one(), Limits::default())
    }

    #[test]
    fn answers_are_raw_if_the_request_was() {
        for (request, raw) in
            [(request(&[1, 3], Some(floats(3)), &[]), false), (request(&[1, 3], None, &[&[0; 12]]), true)]
        {
            let decoded = read(request).unwrap();
            assert_eq!(decoded.outputs, Requested { outputs: Vec::new(), binary: raw });
            let mut outputs = Tensors::new();
            outputs.push("y", Tensor::new(vec![1], vec![0.5_f32].into()).unwrap());
            let response = encode(MODEL, None, &decoded.outputs, &outputs).unwrap();
            assert_eq!(response.raw_output_contents.len(), usize::from(raw));
            assert_eq!(response.outputs[0].contents.is_some(), !raw);
        }
    }

    #[test]
    fn half_floats_make_an_answer_raw() {
        let mut outputs = Tensors::new();
        outputs.push("y", Tensor::new(vec![1], vec![half::f16::ONE].into()).unwrap());
        outputs.push("z", Value::Tensor(Tensor::new(vec![1], vec![1_u8].into()).unwrap()));
        let response = encode(MODEL, None, &Requested::default(), &outputs).unwrap();
        assert_eq!(response.raw_output_contents, [Bytes::from_static(&[0, 0x3c]), Bytes::from_static(&[1])]);
    }

    #[test]
    fn what_is_wrong_is_told() {
        let cases = [
            (request(&[1, 3], None, &[&[0; 12], &[]]), "the request has 1 inputs, but raw contents for 2"),
            (request(&[-1, 3], Some(floats(3)), &[]), "input `x`: its shape has -1, which is no size"),
            (
                request(&[1, 3], Some(floats(2)), &[]),
                "input `x`: shape [1, 3] holds 3 elements, but 2 were given",
            ),
            (request(&[1, 3], None, &[]), "input `x`: shape [1, 3] holds 3 elements, but 0 were given"),
            (
                request(&[1, 3], Some(floats(3)), &[&[0; 12]]),
                "input `x`: it has both contents and raw contents",
            ),
            (
                request(&[1, 3], None, &[&[0; 11]]),
                "input `x`: its binary data has 11 bytes, but 3 elements of FP32 have 12",
            ),
            (
                request(&[i64::MAX, i64::MAX], None, &[&[]]),
                "input `x`: shape [9223372036854775807, 9223372036854775807] is larger than can be worked with",
            ),
            (
                request(&[2, 2], Some(floats(4)), &[]),
                "input `x` has shape [2, 2], but the model takes [?, 3]",
            ),
        ];
        for (request, message) in cases {
            assert_eq!(read(request).unwrap_err().to_string(), message);
        }
        let mut asks = request(&[1, 3], Some(floats(3)), &[]);
        asks.outputs.push(InferRequestedOutputTensor { name: "z".into(), ..Default::default() });
        assert_eq!(read(asks).unwrap_err().to_string(), "output `z` is unknown; the model gives `y`");
        let mut asks = request(&[1, 3], Some(floats(3)), &[]);
        let parameters = [("classification".to_owned(), InferParameter::default())].into();
        asks.outputs.push(InferRequestedOutputTensor { name: "y".into(), parameters });
        assert_eq!(read(asks).unwrap_err().class(), ErrorClass::Unsupported);
    }

    #[test]
    fn narrow_integers_are_checked() {
        let signature = Signature { inputs: vec![spec("x", DataType::U8, &[-1])], outputs: Vec::new() };
        let with = |elements: Vec<u32>| {
            let contents = InferTensorContents { uint_contents: elements, ..InferTensorContents::default() };
            let mut request = request(&[2], Some(contents), &[]);
            request.inputs[0].datatype = "UINT8".into();
            decode(request, &signature, Limits::default())
        };
        let inputs = with(vec![0, 255]).unwrap().inputs;
        let expected = Tensor::new(vec![2], vec![0_u8, 255].into()).unwrap();
        assert_eq!(inputs.get("x"), Some(&Value::Tensor(expected)));
        assert_eq!(
            with(vec![0, 256]).unwrap_err().to_string(),
            "input `x`: element 1 is 256, out of the range of UINT8"
        );
    }

    #[test]
    fn metadata_tell_the_signature() {
        let metadata = model_metadata(MODEL, "onnxruntime_onnx", &one());
        assert_eq!(metadata.inputs[0].shape, [-1, 3]);
        assert_eq!(metadata.outputs[0].name, "y");
        assert_eq!(server_metadata("1").extensions, ["binary_tensor_data"]);
    }
}
