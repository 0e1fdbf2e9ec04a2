//! Requests and answers over REST, right and wrong, with the texts that clients see.

use moorline_core::{ErrorClass, MapKeys, Maps, Value};

use super::*;
use crate::codec::fixtures::{one, several};

const MODEL: ModelIdentity<'_> = ModelIdentity { name: "m", version: "1" };

fn read(body: &[u8], header_length: Option<usize>) -> Result<InferRequest, CodecError> {
    decode(body, header_length, &one(), Limits::default())
}

fn tensor(request: &InferRequest) -> &Tensor {
    match request.inputs.get("x") {
        Some(Value::Tensor(tensor)) => tensor,
        other => panic!("{other:?}"),
    }
}

#[test]
fn members_come_in_any_order_and_data_flat_or_nested() {
    let bodies = [
        r#"{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","data":[1,2,3]}]}"#,
        r#"{"inputs":[{"data":[[1,2,3]],"shape":[1,3],"datatype":"FP32","name":"x","parameters":{"a":{}}}]}"#,
        r#"{"parameters":{"binary_data_output":false,"b":1},"inputs":[{"datatype":"FP32","data":[1,2,3],"name":"x","shape":[1,3]}],"outputs":[],"more":[{}]}"#,
    ];
    for body in bodies {
        let request = read(body.as_bytes(), None).unwrap_or_else(|error| panic!("{body}: {error}"));
        assert_eq!(*tensor(&request), Tensor::new(vec![1, 3], vec![1.0_f32, 2.0, 3.0].into()).unwrap());
        assert_eq!(request.outputs, Requested::default());
    }
}

#[test]
fn binary_data_follow_the_header_in_the_inputs_order() {
    let header = br#"{"inputs":[{"name":"town","shape":[2,1],"datatype":"BYTES","parameters":{"binary_data_size":11}},{"name":"age","shape":[2,1],"datatype":"INT64","parameters":{"binary_data_size":16}}],"parameters":{"binary_data_output":true},"outputs":[{"name":"label"},{"name":"probabilities","parameters":{"binary_data":false}}]}"#;
    let mut body = header.to_vec();
    body.extend(b"\x03\0\0\0a\0b\0\0\0\0");
    body.extend([7_i64, -7].iter().flat_map(|age| age.to_le_bytes()));
    let request = decode(&body, Some(header.len()), &several(), Limits::default()).unwrap();
    let texts = vec!["a\0b".to_owned(), String::new()];
    let mut expected = Tensors::new();
    expected.push("town", Tensor::new(vec![2, 1], texts.into()).unwrap());
    expected.push("age", Tensor::new(vec![2, 1], vec![7_i64, -7].into()).unwrap());
    assert_eq!(request.inputs, expected);
    let output = |name: &str, binary| RequestedOutput { name: name.into(), binary };
    let outputs = vec![output("label", None), output("probabilities", Some(false))];
    assert_eq!(request.outputs, Requested { outputs, binary: true });
}

#[test]
fn what_is_wrong_is_told() {
    let cases = [
        ("[]", "the body is not valid JSON: expected an object at line 1 column 1"),
        ("{}", "the request has no `inputs`"),
        (r#"{"inputs":[]}"#, "input `x` is missing"),
        (r#"{"inputs":[],"inputs":[]}"#, "`inputs` is given twice"),
        (r#"{"id":5,"inputs":[]}"#, "`id` is 5, expected a string"),
        (r#"{"inputs":[{"shape":[1]}]}"#, "an input has no `name`"),
        (r#"{"inputs":[{"name":"x"}]}"#, "an input has no `shape`"),
        (r#"{"inputs":[{"name":"x","shape":[1,3]}]}"#, "an input has no `datatype`"),
        (r#"{"inputs":[{"name":"x","name":"x"}]}"#, "`name` is given twice"),
        (
            r#"{"inputs":[{"name":"z","shape":[1,3],"datatype":"FP32","data":[]}]}"#,
            "input `z` is unknown; the model takes `x`",
        ),
    ];
    for (body, message) in cases {
        let error = read(body.as_bytes(), None).unwrap_err();
        assert_eq!(error.to_string(), message, "{body}");
        assert_eq!(error.class(), ErrorClass::InvalidInput, "{body}");
    }
    let rest = [
        (r#""shape":[1,3],"datatype":"FP32""#, "input `x`: it has no `data`"),
        (
            r#""shape":[1,3],"datatype":"INT64","data":[1,2,3]"#,
            "input `x`: it has data type INT64, but the model takes FP32",
        ),
        (r#""shape":[1,3],"datatype":"FLOAT","data":[1,2,3]"#, "input `x`: `FLOAT` is not a data type"),
        (
            r#""shape":[1,3],"datatype":"FP32","data":[1,2,"a"]"#,
            "input `x`[2]: expected FP32, found a string (line 1 column 68)",
        ),
        (r#""shape":[-1,3],"datatype":"FP32","data":[]"#, "a dimension of `shape` is -1, expected a size"),
        (r#""shape":[1.5],"datatype":"FP32","data":[]"#, "a dimension of `shape` is 1.5, expected a size"),
        (
            r#""shape":[9999999999999999999,3],"datatype":"FP32","data":[]"#,
            "input `x`: shape [9999999999999999999, 3] is larger than can be worked with",
        ),
        (
            r#""shape":[9999999999999999999,0],"datatype":"FP32","data":[]"#,
            "input `x`: shape [9999999999999999999, 0] is larger than can be worked with",
        ),
        (
            r#""shape":[1,3],"datatype":"FP32","data":[1,2]"#,
            "input `x`: shape [1, 3] holds 3 elements, but `data` has 2",
        ),
        (
            r#""shape":[1,3],"datatype":"FP32","data":[[1],[2],[3]]"#,
            "input `x`: `data` is nested as [3, 1], but the shape is [1, 3]",
        ),
        (
            r#""shape":[1,4],"datatype":"FP32","data":[1,2,3,4]"#,
            "input `x` has shape [1, 4], but the model takes [?, 3]",
        ),
        (
            r#""shape":[1,3],"datatype":"FP32","parameters":{"binary_data_size":12}"#,
            "input `x`: `binary_data_size` is 12, but only 0 bytes of binary data are left",
        ),
        (
            r#""shape":[1,3],"datatype":"FP32","parameters":{"binary_data_size":"12"}"#,
            "`binary_data_size` is a string, expected a size",
        ),
        (
            r#""shape":[1,3],"datatype":"FP32","data":[1,2,3],"parameters":{"binary_data_size":0}"#,
            "input `x`: it has both `data` and `binary_data_size`",
        ),
    ];
    for (members, message) in rest {
        let body = format!("{{\"inputs\":[{{\"name\":\"x\",{members}}}]}}");
        assert_eq!(read(body.as_bytes(), None).unwrap_err().to_string(), message, "{body}");
    }
}

#[test]
fn lies_about_binary_data_are_found() {
    let cases = [
        (12, 10, "input `x`: `binary_data_size` is 12, but only 10 bytes of binary data are left"),
        (8, 8, "input `x`: its binary data has 8 bytes, but 3 elements of FP32 have 12"),
        (12, 14, "2 bytes of binary data belong to no input"),
    ];
    for (size, given, message) in cases {
        let header = format!(
            r#"{{"inputs":[{{"name":"x","shape":[1,3],"datatype":"FP32","parameters":{{"binary_data_size":{size}}}}}]}}"#
        );
        let mut body = header.clone().into_bytes();
        body.resize(header.len() + given, 0);
        assert_eq!(read(&body, Some(header.len())).unwrap_err().to_string(), message);
    }
    let error = read(b"{}", Some(3)).unwrap_err();
    assert_eq!(error.to_string(), "the header length is 3 bytes, but the body has 2 only");
}

#[test]
fn outputs_are_checked_before_anything_runs() {
    let cases = [
        (r#"{"name":"z"}"#, "output `z` is unknown; the model gives `y`"),
        (r#"{"name":"y"},{"name":"y"}"#, "output `y` is asked for twice"),
        ("{}", "a requested output has no `name`"),
        (r#"{"name":"y","parameters":{"binary_data":1}}"#, "`binary_data` is 1, expected true or false"),
        (
            r#"{"name":"y","parameters":{"classification":3}}"#,
            "the classification extension is not offered; ask for the output itself",
        ),
        (
            r#"{"name":"y","parameters":{"shared_memory_region":"r"}}"#,
            "the shared memory extensions are not offered; send the data itself",
        ),
    ];
    for (outputs, message) in cases {
        let body = format!(
            r#"{{"outputs":[{outputs}],"inputs":[{{"name":"x","shape":[1,3],"datatype":"FP32","data":[1,2,3]}}]}}"#
        );
        assert_eq!(read(body.as_bytes(), None).unwrap_err().to_string(), message);
    }
}

#[test]
fn answers_are_written_as_asked_for() {
    let mut outputs = Tensors::new();
    outputs.push("label", Tensor::new(vec![2], vec![1_i64, 0].into()).unwrap());
    let values = Tensor::new(vec![2, 2], vec![0.5_f32, 0.5, f32::NAN, 1.0].into()).unwrap();
    let keys = MapKeys::String(vec!["no".into(), "yes".into()]);
    outputs.push("probabilities", Value::Maps(Maps { keys, values }));
    let encoded = encode(MODEL, Some("7"), &Requested::default(), &outputs).unwrap();
    assert_eq!(encoded.header_length, None);
    insta::assert_snapshot!(String::from_utf8(encoded.body).unwrap(), @r#"{"model_name":"m","model_version":"1","id":"7","outputs":[{"name":"label","datatype":"INT64","shape":[2],"data":[1,0]},{"name":"probabilities","datatype":"FP32","shape":[2,2],"parameters":{"keys":"[\"no\",\"yes\"]"},"data":[0.5,0.5,null,1.0]}]}"#);

    let wanted = |name: &str, binary| RequestedOutput { name: name.into(), binary };
    let requested = Requested {
        outputs: vec![wanted("probabilities", Some(true)), wanted("label", None)],
        binary: false,
    };
    let encoded = encode(MODEL, None, &requested, &outputs).unwrap();
    let (header, binary) = encoded.body.split_at(encoded.header_length.unwrap());
    insta::assert_snapshot!(std::str::from_utf8(header).unwrap(), @r#"{"model_name":"m","model_version":"1","outputs":[{"name":"probabilities","datatype":"FP32","shape":[2,2],"parameters":{"keys":"[\"no\",\"yes\"]","binary_data_size":16}},{"name":"label","datatype":"INT64","shape":[2],"data":[1,0]}]}"#);
    let floats: Vec<u8> = [0.5_f32, 0.5, f32::NAN, 1.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    assert_eq!(binary, floats);
}

#[test]
fn sequences_of_like_tensors_are_stacked_and_others_refused() {
    let of = |data: Vec<i64>| Tensor::new(vec![data.len()], data.into()).unwrap();
    let encoded = |tensors: Vec<Tensor>| {
        let mut outputs = Tensors::new();
        outputs.push("s", Value::Sequence(tensors));
        encode(MODEL, None, &Requested::default(), &outputs)
    };
    let body = encoded(vec![of(vec![1, 2]), of(vec![3, 4])]).unwrap().body;
    insta::assert_snapshot!(String::from_utf8(body).unwrap(), @r#"{"model_name":"m","model_version":"1","outputs":[{"name":"s","datatype":"INT64","shape":[2,2],"data":[1,2,3,4]}]}"#);
    let error = encoded(vec![of(vec![1]), of(vec![3, 4])]).unwrap_err();
    assert_eq!(error.class(), ErrorClass::Unsupported);
}

#[test]
fn metadata_tell_the_signature() {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    insta::assert_snapshot!(text(server_metadata("0.1.0")), @r#"{"name":"moorline","version":"0.1.0","extensions":["binary_tensor_data"]}"#);
    insta::assert_snapshot!(text(model_metadata(MODEL, "onnxruntime_onnx", &several())), @r#"{"name":"m","versions":["1"],"platform":"onnxruntime_onnx","inputs":[{"name":"age","datatype":"INT64","shape":[-1,1]},{"name":"town","datatype":"BYTES","shape":[-1,1]}],"outputs":[{"name":"label","datatype":"INT64","shape":[-1]},{"name":"probabilities","datatype":"FP32","shape":[-1,-1],"parameters":{"key_datatype":"BYTES"}}]}"#);
    assert_eq!(text(error_body("a \"b\"")), r#"{"error":"a \"b\""}"#);
}
