//! The Open Inference Protocol: its REST by hand, where every byte counts, and both REST and gRPC through Triton's
//! own client.

use moorline_tests::{ReleaseDir, Request, Scorer, engines, onnx, run_client, venv};
use onnx::{ModelWriter, OnnxType, element};
use serde_json::json;

const INFER: &str = "/v2/models/tested/infer";

fn serve(model: &[u8]) -> Scorer {
    ReleaseDir::of_model(model).serve().args(["--engine", "tract"]).start()
}

#[test]
fn server_and_model_say_who_they_are_and_that_they_are_ready() {
    let scorer = serve(&onnx::linear_model());
    let server = scorer.get("/v2").value();
    assert!(server["name"].is_string() && server["version"].is_string(), "{server}");
    assert!(server["extensions"].as_array().unwrap().contains(&json!("binary_tensor_data")), "{server}");
    for target in ["/v2/health/live", "/v2/health/ready", "/v2/models/tested/ready"] {
        assert_eq!(scorer.get(target).status, 200, "{target}");
    }
    let model = scorer.get("/v2/models/tested").value();
    assert_eq!(model["name"], "tested");
    assert_eq!(model["inputs"], json!([{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]));
    assert_eq!(model["outputs"], json!([{"name": "y", "datatype": "FP32", "shape": [-1, 3]}]));
    let version = model["versions"][0].as_str().unwrap();
    for target in ["", "/ready"] {
        assert_eq!(
            scorer.get(&format!("/v2/models/tested/versions/{version}{target}")).status,
            200,
            "{target}"
        );
    }
    assert_eq!(scorer.get("/v2/models/other").status, 404);
    assert_eq!(scorer.get("/v2/models/tested/versions/999").status, 404);
    assert!(scorer.get("/v2/models/other").message().contains("other"));
}

#[test]
fn infer_reads_flat_and_nested_data_and_gives_back_the_id() {
    let scorer = serve(&onnx::linear_model());
    for data in [json!([1, 2, 3, 4]), json!([[1, 2, 3, 4]])] {
        let body = json!({"id": "7", "parameters": {"own": 1}, "inputs":
            [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": data, "parameters": {"own": "x"}}]});
        let answer = scorer.post(INFER, &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let value = answer.value();
        assert_eq!((&value["id"], &value["model_name"]), (&json!("7"), &json!("tested")));
        assert_eq!(value["outputs"][0]["name"], "y");
        assert_eq!(value["outputs"][0]["datatype"], "FP32");
        assert_eq!(value["outputs"][0]["shape"], json!([1, 3]));
        assert_eq!(value["outputs"][0]["data"], json!([0.5, 11.5, 22.5]));
    }
}

#[test]
fn only_requested_outputs_are_answered_in_their_order() {
    let rows = OnnxType::rows(element::FLOAT, &[1]);
    let model = ModelWriter::default()
        .input("x", &rows)
        .output("a", &rows)
        .output("b", &rows)
        .node("Identity", &["x"], &["a"])
        .node("Neg", &["x"], &["b"])
        .write();
    let scorer = serve(&model);
    let request = |outputs: serde_json::Value| {
        let input = json!({"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [2]});
        scorer.post(INFER, &json!({"inputs": [input], "outputs": outputs}))
    };
    let names = |outputs| -> Vec<String> {
        let value = request(outputs).value();
        value["outputs"].as_array().unwrap().iter().map(|output| output["name"].to_string()).collect()
    };
    assert_eq!(names(json!([{"name": "b"}])), ["\"b\""]);
    assert_eq!(names(json!([{"name": "b"}, {"name": "a"}])), ["\"b\"", "\"a\""]);
    let refused = request(json!([{"name": "c"}]));
    assert_eq!(refused.status, 400);
    assert!(refused.message().contains("`c`"), "{}", refused.message());
}

#[test]
fn nan_and_infinities_are_valid_json_and_exact_bytes() {
    let rows = OnnxType::rows(element::FLOAT, &[3]);
    let model =
        ModelWriter::default().input("x", &rows).output("y", &rows).node("Log", &["x"], &["y"]).write();
    let scorer = serve(&model);
    let input = json!({"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [-1, 0, 1]});
    let answer = scorer.post(INFER, &json!({"inputs": [input]}));
    assert_eq!(answer.value()["outputs"][0]["data"], json!([null, null, 0.0]));
    let binary = json!({"inputs": [input], "parameters": {"binary_data_output": true}});
    let answer = scorer.post(INFER, &binary);
    let length: usize = answer.header("inference-header-content-length").unwrap().parse().unwrap();
    let floats: Vec<f32> =
        answer.body[length..].chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
    assert!(floats[0].is_nan() && floats[1] == f32::NEG_INFINITY && floats[2] == 0.0, "{floats:?}");
}

#[test]
fn maps_are_a_tensor_whose_keys_are_told() {
    for engine in engines() {
        let release = ReleaseDir::of_model(&onnx::probability_model());
        let scorer = release.serve().args(["--engine", engine]).start();
        let input = json!({"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [0, 0, 0, 0]});
        let value = scorer.post(INFER, &json!({"inputs": [input]})).value();
        let output =
            value["outputs"].as_array().unwrap().iter().find(|output| output["name"] == "probabilities");
        let output = output.unwrap_or_else(|| panic!("no probabilities in {value}"));
        assert_eq!(output["shape"], json!([2, 2]), "{engine}");
        assert_eq!(output["data"], json!([0.5, 0.5, 0.5, 0.5]), "{engine}");
        let keys = output["parameters"]["keys"].as_str().unwrap();
        assert_eq!(serde_json::from_str::<serde_json::Value>(keys).unwrap(), json!([10, 20]), "{engine}");
    }
}

#[test]
fn extensions_that_are_not_offered_are_refused_and_not_ignored() {
    let scorer = serve(&onnx::linear_model());
    let input = json!({"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]});
    for parameters in
        [json!({"classification": 2}), json!({"shared_memory_region": "r", "shared_memory_byte_size": 12})]
    {
        let output = json!({"name": "y", "parameters": parameters});
        let answer = scorer.post(INFER, &json!({"inputs": [input], "outputs": [output]}));
        assert!(matches!(answer.status, 400 | 501), "{parameters}: {} {}", answer.status, answer.text());
        assert!(!answer.message().is_empty());
    }
    for target in ["/v2/systemsharedmemory/status", "/v2/repository/index", "/v2/models/tested/generate"] {
        let answer = scorer.get(target);
        assert!(matches!(answer.status, 404 | 405 | 501), "{target}: {}", answer.status);
    }
}

/// The binary tensor extension, to the byte.
#[test]
fn tensors_travel_as_bytes_both_ways() {
    let scorer = serve(&onnx::linear_model());
    let header = json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4],
        "parameters": {"binary_data_size": 16}}], "outputs": [{"name": "y", "parameters": {"binary_data": true}}]});
    let header = header.to_string();
    let mut body = header.clone().into_bytes();
    body.extend([1.0_f32, 2.0, 3.0, 4.0].iter().flat_map(|value| value.to_le_bytes()));
    let request = |length: usize| {
        Request::post(INFER, body.clone())
            .header("content-type", "application/octet-stream")
            .header("inference-header-content-length", &length.to_string())
    };
    let answer = scorer.call(&request(header.len()));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let length: usize = answer.header("inference-header-content-length").unwrap().parse().unwrap();
    let (json, bytes) = answer.body.split_at(length);
    let value: serde_json::Value = serde_json::from_slice(json).unwrap();
    assert_eq!(value["outputs"][0]["parameters"]["binary_data_size"], 12);
    let floats: Vec<f32> =
        bytes.chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
    assert_eq!(floats, [0.5, 11.5, 22.5]);
    for wrong in [header.len() - 1, header.len() + 1, 0, body.len() + 1] {
        assert_eq!(scorer.call(&request(wrong)).status, 400, "{wrong}");
    }
    let not_a_number = Request::post(INFER, body.clone()).header("inference-header-content-length", "many");
    assert_eq!(scorer.call(&not_a_number).status, 400);
    assert_eq!(scorer.call(&request(header.len())).status, 200);
}

#[test]
fn wrong_requests_are_refused_as_the_protocol_says() {
    let scorer = serve(&onnx::linear_model());
    let good = json!({"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]});
    let with = |member: &str, value: serde_json::Value| {
        let mut input = good.clone();
        input[member] = value;
        json!({"inputs": [input]})
    };
    for (body, named) in [
        (with("name", json!("z")), "`z`"),
        (with("datatype", json!("INT64")), "INT64"),
        (with("datatype", json!("FLOAT")), "FLOAT"),
        (with("shape", json!([4])), "`x`"),
        (with("shape", json!([1, 5])), "`x`"),
        (with("shape", json!([-1, 4])), "shape"),
        (with("shape", json!([4_611_686_018_427_387_904_u64, 4])), "`x`"),
        (with("data", json!([1, 2, 3])), "`x`"),
        (with("data", json!([1, 2, 3, "a"])), "`x`"),
        (with("data", json!(null)), "`x`"),
        (json!({"inputs": [good, good]}), "`x`"),
        (json!({"inputs": []}), "`x`"),
        (json!({}), "`inputs`"),
        (json!([]), ""),
    ] {
        let answer = scorer.post(INFER, &body);
        assert_eq!(answer.status, 400, "{body}: {}", answer.text());
        let error = answer.value()["error"].as_str().unwrap_or_default().to_owned();
        assert!(error.contains(named) && !error.is_empty(), "{body}: {}", answer.text());
    }
    assert_eq!(scorer.post("/v2/models/other/infer", &json!({"inputs": [good]})).status, 404);
    assert_eq!(scorer.call(&Request::get(INFER)).status, 405);
    assert_eq!(scorer.post(INFER, &json!({"inputs": [good]})).status, 200);
}

/// One address for every model type that the clients check.
fn run_triton(client: &str) {
    let Some(venv) = venv("tools") else { return };
    for engine in engines() {
        let linear = ReleaseDir::of_model(&onnx::linear_model()).serve().args(["--engine", engine]).start();
        let mut arguments = vec![format!("linear={}", linear.address())];
        let mut kept = vec![linear];
        for element in [
            element::BOOL,
            element::UINT8,
            element::UINT16,
            element::UINT32,
            element::UINT64,
            element::INT8,
            element::INT16,
            element::INT32,
            element::INT64,
            element::FLOAT16,
            element::FLOAT,
            element::DOUBLE,
            element::STRING,
        ] {
            let model = onnx::identity_model(element);
            let scorer = ReleaseDir::of_model(&model).serve().args(["--engine", engine]).start();
            arguments.push(format!("identity={}", scorer.address()));
            kept.push(scorer);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        run_client(&venv, client, &arguments);
    }
}

#[test]
fn tritonclient_speaks_rest_with_it() {
    run_triton("triton_http.py");
}

#[test]
fn tritonclient_speaks_grpc_with_it() {
    run_triton("triton_grpc.py");
}
