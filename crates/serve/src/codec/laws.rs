//! The laws of the codecs: what is encoded decodes to itself, and no body, however broken, does more than fail.

use std::fmt::Debug;

use moorline_core::{DataType, Signature, Tensor, TensorData, Tensors, Value};
use proptest::prelude::*;
use prost::Message;

use super::{
    CodecError, Limits, ModelIdentity,
    fixtures::{identity, one, several, spec, tensors},
    grpc,
    json::Reader,
    oip::{self, Requested},
    score::{self, Door, Style},
};

const MODEL: ModelIdentity<'_> = ModelIdentity { name: "m", version: "1" };

fn outputs_of(tensor: &Tensor) -> Tensors {
    let mut outputs = Tensors::new();
    outputs.push("x", tensor.clone());
    outputs
}

/// Texts of floats are exact and NaN equals itself, unlike the floats.
fn same(left: &Tensors, right: &Tensors) -> Result<(), TestCaseError> {
    prop_assert_eq!(format!("{left:?}"), format!("{right:?}"));
    Ok(())
}

fn grpc_request(response: grpc::ModelInferResponse) -> grpc::ModelInferRequest {
    let input = |output: grpc::InferOutputTensor| grpc::InferInputTensor {
        name: output.name,
        datatype: output.datatype,
        shape: output.shape,
        parameters: output.parameters,
        contents: output.contents,
    };
    grpc::ModelInferRequest {
        model_name: response.model_name,
        id: response.id,
        inputs: response.outputs.into_iter().map(input).collect(),
        raw_input_contents: response.raw_output_contents,
        ..grpc::ModelInferRequest::default()
    }
}

/// Every decoder, on anything at all.
fn decode_everywhere(body: &[u8], signature: &Signature) {
    let limits = Limits::default();
    for door in [Door::Score, Door::Invocations] {
        drop(score::decode(body, signature, limits, door));
    }
    for header_length in [None, Some(0), Some(body.len() / 2), Some(body.len()), Some(usize::MAX)] {
        drop(oip::decode(body, header_length, signature, limits));
    }
    if let Ok(request) = grpc::ModelInferRequest::decode(body) {
        drop(grpc::decode(request, signature, limits));
    }
}

/// Bodies that are nearly right: a valid one in which some bytes are replaced, and which is cut off.
fn nearly(bodies: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (prop::sample::select(bodies), edits, any::<prop::sample::Index>(), any::<bool>()).prop_map(
        |(mut body, edits, end, cut)| {
            for (at, byte) in edits {
                let at = at.index(body.len());
                body[at] = byte;
            }
            if cut {
                body.truncate(end.index(body.len()));
            }
            body
        },
    )
}

fn valid_bodies() -> Vec<Vec<u8>> {
    let mut raw =
        br#"{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","parameters":{"binary_data_size":12}}]}"#
            .to_vec();
    raw.extend([0; 12]);
    let message = grpc::ModelInferRequest {
        inputs: vec![grpc::InferInputTensor {
            name: "x".into(),
            datatype: "FP32".into(),
            shape: vec![1, 3],
            ..Default::default()
        }],
        raw_input_contents: vec![vec![0; 12].into()],
        ..Default::default()
    };
    let mut bodies: Vec<Vec<u8>> = [
        r#"{"data":[[1.5,-2e3,null],[4,5,6]]}"#,
        r#"{"input_data":{"columns":["town","age"],"index":[0],"data":[["Oslo \u00e6",1]]}}"#,
        r#"{"inputs":{"age":[[1],[2]],"town":["a","b"]}}"#,
        r#"{"dataframe_records":[{"age":1,"town":"a"},{"town":"b","age":2}]}"#,
        r#"{"id":"1","inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","data":[1,2,3]}],"outputs":[{"name":"y","parameters":{"binary_data":true}}]}"#,
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect();
    bodies.extend([raw, message.encode_to_vec()]);
    bodies
}

/// Texts that a JSON grammar meets often.
fn json_like() -> impl Strategy<Value = String> {
    let pieces = [
        "[",
        "]",
        "{",
        "}",
        ",",
        ":",
        "\"a\"",
        "\"\\n\"",
        "\"\\ud83d\\ude00\"",
        "\"\\ud800\"",
        "\"\\x\"",
        "0",
        "-0",
        "01",
        "1.5",
        "1.",
        ".5",
        "-",
        "1e5",
        "1E-2",
        "1e",
        "true",
        "false",
        "null",
        "nul",
        "NaN",
        " ",
        "\n",
        "\t",
        "\"",
        "\\",
        "\u{1}",
        "é",
        "\"é\"",
    ];
    prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..12).prop_map(|pieces| pieces.concat())
}

/// A number in a body becomes what the standard library makes of it, or is refused where that is infinite.
fn check_number(text: &str) -> Result<(), TestCaseError> {
    fn check<E: Copy + Debug + Into<f64>>(
        text: &str,
        data_type: DataType,
        nearest: E,
        data: fn(Vec<E>) -> TensorData,
    ) -> Result<(), TestCaseError> {
        let body = format!("{{\"data\":{text}}}");
        let signature = Signature { inputs: vec![spec("x", data_type, &[])], outputs: Vec::new() };
        match score::decode(body.as_bytes(), &signature, Limits::default(), Door::Score) {
            Ok(request) => {
                let Some(Value::Tensor(tensor)) = request.inputs.get("x") else { panic!("no tensor") };
                prop_assert_eq!(format!("{:?}", tensor.data()), format!("{:?}", data(vec![nearest])));
            }
            Err(CodecError::Element { .. }) => prop_assert!(nearest.into().is_infinite()),
            Err(error) => prop_assert!(false, "{}", error),
        }
        Ok(())
    }
    check::<f32>(text, DataType::F32, text.parse().unwrap(), TensorData::from)?;
    check::<f64>(text, DataType::F64, text.parse().unwrap(), TensorData::from)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn score_answers_decode_to_what_they_were(tensor in tensors()) {
        let outputs = outputs_of(&tensor);
        let text = String::from_utf8(score::encode(&outputs, Style::Outputs)).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).expect("an answer is JSON");
        let body = text.replacen("outputs", "inputs", 1);
        let request = score::decode(body.as_bytes(), &identity(&tensor), Limits::default(), Door::Score).unwrap();
        same(&request.inputs, &outputs)?;
    }

    #[test]
    fn oip_answers_decode_to_what_they_were(tensor in tensors(), binary in any::<bool>()) {
        let outputs = outputs_of(&tensor);
        let requested = Requested { outputs: Vec::new(), binary };
        let encoded = oip::encode(MODEL, Some("7"), &requested, &outputs).unwrap();
        let split = encoded.header_length.unwrap_or(encoded.body.len());
        let header = std::str::from_utf8(&encoded.body[..split]).unwrap();
        serde_json::from_str::<serde_json::Value>(header).expect("an answer's header is JSON");
        let header = header.replacen("outputs", "inputs", 1);
        let body = [header.as_bytes(), &encoded.body[split..]].concat();
        let length = encoded.header_length.map(|_| header.len());
        let request = oip::decode(&body, length, &identity(&tensor), Limits::default()).unwrap();
        prop_assert_eq!(request.id.as_deref(), Some("7"));
        same(&request.inputs, &outputs)?;
    }

    #[test]
    fn grpc_answers_decode_to_what_they_were(tensor in tensors(), binary in any::<bool>()) {
        let outputs = outputs_of(&tensor);
        let requested = Requested { outputs: Vec::new(), binary };
        let response = grpc::encode(MODEL, Some("7".into()), &requested, &outputs).unwrap();
        let bytes = response.encode_to_vec();
        let request = grpc_request(grpc::ModelInferResponse::decode(&*bytes).unwrap());
        let request = grpc::decode(request, &identity(&tensor), Limits::default()).unwrap();
        same(&request.inputs, &outputs)?;
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(body in prop::collection::vec(any::<u8>(), 0..64)) {
        decode_everywhere(&body, &one());
        decode_everywhere(&body, &several());
    }

    #[test]
    fn no_broken_body_makes_a_decoder_panic(body in nearly(valid_bodies())) {
        decode_everywhere(&body, &one());
        decode_everywhere(&body, &several());
    }

    #[test]
    fn the_reader_takes_what_serde_json_takes(text in json_like()) {
        let mut reader = Reader::new(text.as_bytes(), Limits::default());
        let own = reader.skip().and_then(|()| reader.end());
        let theirs = serde_json::from_str::<serde_json::Value>(&text);
        // What is passed over is never turned into a number, so it cannot be out of range.
        prop_assume!(!matches!(&theirs, Err(error) if error.to_string().contains("out of range")));
        prop_assert_eq!(own.is_ok(), theirs.is_ok(), "{:?}: {:?} but {:?}", text, own, theirs);
    }

    #[test]
    fn numbers_become_the_nearest_of_their_type(
        text in "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,20})?([eE][-+]?[0-9]{1,2})?"
    ) {
        check_number(&text)?;
    }

    #[test]
    fn short_numbers_become_the_nearest_of_their_type(text in "-?(0|[1-9][0-9]{0,8})(\\.[0-9]{1,8})?(e-?[0-9])?") {
        check_number(&text)?;
    }

    #[test]
    fn numbers_between_two_floats_become_the_nearest(bits in any::<u32>(), beyond in "[0-9]{0,3}") {
        let (low, high) = (f32::from_bits(bits), f32::from_bits(bits.wrapping_add(1)));
        prop_assume!(low.is_finite() && high.is_finite());
        let middle = f64::midpoint(f64::from(low), f64::from(high));
        check_number(&format!("{middle:?}"))?;
        if format!("{middle:?}").contains('.') && !format!("{middle:?}").contains('e') {
            check_number(&format!("{middle:?}{beyond}"))?;
        }
    }
}
