//! Messages as the protocol's own generated code (Python, protobuf) writes them, which pins every field number.

use prost::Message;

use super::grpc::{
    InferInputTensor, InferOutputTensor, InferParameter, InferRequestedOutputTensor, InferTensorContents,
    ModelInferRequest, ModelInferResponse, ModelMetadataResponse, ParameterChoice, ServerMetadataResponse,
    TensorMetadata,
};

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn agrees<M: Message + Default + PartialEq + std::fmt::Debug>(message: &M, hex: &str) {
    assert_eq!(M::decode(&*bytes(hex)).unwrap(), *message);
    assert_eq!(message.encode_to_vec(), bytes(hex));
}

fn parameter(name: &str, value: ParameterChoice) -> (String, InferParameter) {
    (name.to_owned(), InferParameter { parameter_choice: Some(value) })
}

#[test]
fn requests_have_the_protocols_field_numbers() {
    let request = ModelInferRequest {
        model_name: "m".into(),
        model_version: "1".into(),
        id: "7".into(),
        parameters: [parameter("p", ParameterChoice::Int64Param(5))].into(),
        inputs: vec![InferInputTensor {
            name: "x".into(),
            datatype: "FP32".into(),
            shape: vec![1, 3],
            parameters: [parameter("q", ParameterChoice::BoolParam(true))].into(),
            contents: None,
        }],
        outputs: vec![InferRequestedOutputTensor {
            name: "y".into(),
            parameters: [parameter("binary_data", ParameterChoice::StringParam("s".into()))].into(),
        }],
        raw_input_contents: vec![[1.0_f32, 2.0, 3.0].iter().flat_map(|x| x.to_le_bytes()).collect()],
    };
    agrees(
        &request,
        "0a016d1201311a013722070a0170120210052a160a01781204465033321a02010322070a01711202080132170a017912120a0b62696e\
         6172795f6461746112031a01733a0c0000803f0000004000004040",
    );
}

#[test]
fn contents_have_the_protocols_field_numbers() {
    let contents = InferTensorContents {
        bool_contents: vec![true],
        int_contents: vec![-1],
        int64_contents: vec![2],
        uint_contents: vec![3],
        uint64_contents: vec![4],
        fp32_contents: vec![5.0],
        fp64_contents: vec![6.0],
        bytes_contents: vec!["7".into()],
    };
    agrees(
        &contents,
        "0a0101120affffffffffffffffff011a01022201032a010432040000a0403a080000000000001840420137",
    );
}

#[test]
fn answers_have_the_protocols_field_numbers() {
    let response = ModelInferResponse {
        model_name: "m".into(),
        model_version: "1".into(),
        id: "7".into(),
        parameters: [parameter("d", ParameterChoice::DoubleParam(1.5))].into(),
        outputs: vec![InferOutputTensor {
            name: "y".into(),
            datatype: "FP32".into(),
            shape: vec![1],
            parameters: [parameter("u", ParameterChoice::Uint64Param(9))].into(),
            contents: None,
        }],
        raw_output_contents: vec![1.0_f32.to_le_bytes().to_vec().into()],
    };
    agrees(
        &response,
        "0a016d1201311a0137220e0a0164120921000000000000f83f2a150a01791204465033321a010122070a01751202280932040000803f",
    );
}

#[test]
fn metadata_have_the_protocols_field_numbers() {
    let tensor = |name: &str, shape: &[i64]| TensorMetadata {
        name: name.into(),
        datatype: "FP32".into(),
        shape: shape.to_vec(),
    };
    let model = ModelMetadataResponse {
        name: "m".into(),
        versions: vec!["1".into()],
        platform: "p".into(),
        inputs: vec![tensor("x", &[-1, 3])],
        outputs: vec![tensor("y", &[-1])],
    };
    agrees(
        &model,
        "0a016d1201311a017022160a01781204465033321a0bffffffffffffffffff01032a150a01791204465033321a0affffffffffffffffff\
         01",
    );
    let server =
        ServerMetadataResponse { name: "n".into(), version: "v".into(), extensions: vec!["e".into()] };
    agrees(&server, "0a016e1201761a0165");
}
