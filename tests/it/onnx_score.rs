//! `/score`, `/invocations` and `/swagger.json` of an ONNX model that has no script, with both engines.

use moorline_tests::{ReleaseDir, Request, Scorer, engines, onnx};
use onnx::{ModelWriter, OnnxType, element};
use serde_json::{Value, json};

fn serve(model: &[u8], engine: &str) -> Scorer {
    ReleaseDir::of_model(model).serve().args(["--engine", engine]).start()
}

#[test]
fn every_form_of_a_request_is_read_and_answered_in_kind() {
    let rows = json!([[0.5, 11.5, 22.5], [0.5, 1.5, 2.5]]);
    let table =
        json!({"columns": ["a", "b", "c", "d"], "index": [0, 1], "data": [[1, 2, 3, 4], [0, 0, 0, 0]]});
    let list = json!([[1, 2, 3, 4], [0, 0, 0, 0]]);
    let records = json!([{"a": 1, "b": 2, "c": 3, "d": 4}, {"a": 0, "b": 0, "c": 0, "d": 0}]);
    for engine in engines() {
        let scorer = serve(&onnx::linear_model(), engine);
        for (request, answer) in [
            (json!({"data": list}), rows.clone()),
            (json!({"input_data": list}), rows.clone()),
            (json!({"input_data": table}), rows.clone()),
            (json!({"input_data": records}), rows.clone()),
            (json!({"inputs": {"x": list}}), json!({"outputs": {"y": rows}})),
            (json!({"inputs": list}), json!({"outputs": {"y": rows}})),
            (json!({"instances": list}), json!({"predictions": rows})),
            (json!({"dataframe_split": table}), json!({"predictions": rows})),
            (json!({"dataframe_records": records}), json!({"predictions": rows})),
            (json!({"data": [[1, 2, 3, 4]], "method": "predict"}), json!([[0.5, 11.5, 22.5]])),
        ] {
            let reply = scorer.post("/score", &request);
            assert_eq!((reply.status, reply.value()), (200, answer), "{engine}: {request}");
            assert_eq!(reply.header("content-type"), Some("application/json"));
            assert_eq!(reply.header("x-ms-run-function-failed"), Some("False"));
            assert!(reply.header("x-ms-run-fn-exec-ms").is_some());
        }
        let reply = scorer.post("/invocations", &json!({"dataframe_split": table}));
        assert_eq!((reply.status, reply.value()), (200, json!({"predictions": rows})), "{engine}");
    }
}

#[test]
fn several_inputs_and_outputs_go_by_name() {
    let pair = OnnxType::rows(element::FLOAT, &[2]);
    let model = ModelWriter::default()
        .input("a", &pair)
        .input("b", &pair)
        .output("sum", &pair)
        .output("difference", &pair)
        .node("Add", &["a", "b"], &["sum"])
        .node("Sub", &["a", "b"], &["difference"])
        .write();
    for engine in engines() {
        let scorer = serve(&model, engine);
        let reply = scorer.post("/score", &json!({"inputs": {"b": [[1, 1]], "a": [[2, 3]]}}));
        let outputs = json!({"sum": [[3.0, 4.0]], "difference": [[1.0, 2.0]]});
        assert_eq!(reply.value(), json!({"outputs": outputs}), "{engine}");
        let reply = scorer.post("/score", &json!({"input_data": {"a": [[2, 3]], "b": [[1, 1]]}}));
        assert_eq!(reply.value(), outputs, "{engine}");
        let reply = scorer.post("/score", &json!({"inputs": {"a": [[2, 3]]}}));
        assert_eq!(reply.status, 400, "{engine}");
        assert!(reply.message().contains("`b`"), "{}", reply.message());
    }
}

#[test]
fn an_optional_input_may_be_left_out() {
    let model = ModelWriter::default()
        .input("x", &OnnxType::rows(element::FLOAT, &[2]))
        .input("bias", &OnnxType::Tensor(element::FLOAT, vec![Some(2)]))
        .output("y", &OnnxType::rows(element::FLOAT, &[2]))
        .floats("bias", &[2], &[10.0, 20.0])
        .node("Add", &["x", "bias"], &["y"])
        .write();
    for engine in engines() {
        let scorer = serve(&model, engine);
        let reply = scorer.post("/score", &json!({"inputs": {"x": [[1, 2]]}}));
        assert_eq!(reply.value(), json!({"outputs": {"y": [[11.0, 22.0]]}}), "{engine}");
        let reply = scorer.post("/score", &json!({"inputs": {"x": [[1, 2]], "bias": [0.5, 0.5]}}));
        assert_eq!(reply.value(), json!({"outputs": {"y": [[1.5, 2.5]]}}), "{engine}");
    }
}

#[test]
fn nan_and_infinities_are_answered_as_valid_json() {
    let pair = OnnxType::rows(element::FLOAT, &[3]);
    let model =
        ModelWriter::default().input("x", &pair).output("y", &pair).node("Log", &["x"], &["y"]).write();
    for engine in engines() {
        let scorer = serve(&model, engine);
        let reply = scorer.post("/score", &json!({"data": [[-1.0, 0.0, 1.0]]}));
        assert_eq!((reply.status, reply.value()), (200, json!([[null, null, 0.0]])), "{engine}");
        let reply = scorer.post("/score", &json!({"data": [[null, 1.0, 1.0]]}));
        assert_eq!((reply.status, reply.value()), (200, json!([[null, 0.0, 0.0]])), "{engine}");
    }
}

#[test]
fn every_element_type_comes_back_as_it_went() {
    let integers = json!([[0, 1, 100]]);
    let floats = json!([[0.0, 0.5, -2.25]]);
    for engine in engines() {
        for (element, data) in [
            (element::BOOL, json!([[true, false, true]])),
            (element::UINT8, json!([[0, 1, 255]])),
            (element::UINT16, json!([[0, 1, 65535]])),
            (element::UINT32, json!([[0, 1, 4294967295_u64]])),
            (element::UINT64, json!([[0, 1, u64::MAX]])),
            (element::INT8, json!([[-128, 1, 127]])),
            (element::INT16, json!([[-32768, 1, 32767]])),
            (element::INT32, integers.clone()),
            (element::INT64, json!([[i64::MIN, 1, i64::MAX]])),
            (element::FLOAT16, floats.clone()),
            (element::BFLOAT16, floats.clone()),
            (element::FLOAT, floats.clone()),
            (element::DOUBLE, json!([[0.1, 1e300, -2.25]])),
            (element::STRING, json!([["", "é", "a\nb"]])),
        ] {
            let release = ReleaseDir::of_model(&onnx::identity_model(element));
            let command = release.serve().args(["--engine", engine]);
            if engine == "tract" && element == element::BFLOAT16 {
                // tract has no such type; it says so and who has it.
                let failure = command.fail();
                assert!(failure.log.contains("Bfloat16") && failure.log.contains("`ort`"), "{}", failure.log);
                continue;
            }
            let reply = command.start().post("/score", &json!({"data": data}));
            assert_eq!((reply.status, reply.value()), (200, data), "{engine}, element type {element}");
        }
    }
}

#[test]
fn the_batch_dimension_is_dynamic_down_to_none() {
    for engine in engines() {
        let scorer = serve(&onnx::linear_model(), engine);
        for rows in [1, 3, 64, 2] {
            let data: Vec<[f64; 4]> = (0..rows).map(|row| [f64::from(row), 0.0, 0.0, 0.0]).collect();
            let answer: Vec<[f64; 3]> =
                (0..rows).map(|row| [0.5, f64::from(row) + 1.5, f64::from(row) * 2.0 + 2.5]).collect();
            assert_eq!(scorer.post("/score", &json!({"data": data})).value(), json!(answer), "{engine}");
        }
        let reply = scorer.post("/score", &json!({"data": []}));
        assert!(reply.status == 200 || reply.status == 400, "{engine}: {} {}", reply.status, reply.text());
    }
}

#[test]
fn a_classifier_s_maps_are_objects_from_label_to_probability() {
    for engine in engines() {
        let scorer = serve(&onnx::probability_model(), engine);
        let reply = scorer.post("/score", &json!({"inputs": {"x": [[0.0, 0.0], [0.0, 100.0]]}}));
        assert_eq!(reply.status, 200, "{engine}: {}", reply.text());
        let outputs = reply.value()["outputs"].clone();
        assert_eq!(outputs["label"][1], 20, "{engine}");
        let probabilities = &outputs["probabilities"];
        assert_eq!(probabilities[0], json!({"10": 0.5, "20": 0.5}), "{engine}");
        assert!((probabilities[1]["20"].as_f64().unwrap() - 1.0).abs() < 1e-6, "{engine}: {probabilities}");
    }
}

#[test]
fn a_sequence_is_a_list_of_tensors() {
    let model = ModelWriter::default()
        .input("x", &OnnxType::rows(element::FLOAT, &[2]))
        .output("parts", &OnnxType::Sequence(element::FLOAT))
        .node("SequenceConstruct", &["x", "x"], &["parts"])
        .write();
    for engine in engines() {
        // tract has no sequences; then the model is refused at start, by what it uses.
        if engine == "tract" {
            let failure = ReleaseDir::of_model(&model).serve().args(["--engine", engine]).fail();
            assert_eq!(failure.code, Some(1), "{}", failure.log);
            assert!(
                failure.log.contains("SequenceConstruct") || failure.log.contains("parts"),
                "{}",
                failure.log
            );
            continue;
        }
        let scorer = serve(&model, engine);
        let reply = scorer.post("/score", &json!({"data": [[1.0, 2.0]]}));
        assert_eq!((reply.status, reply.value()), (200, json!([[[1.0, 2.0]], [[1.0, 2.0]]])), "{engine}");
    }
}

#[test]
fn swagger_is_generated_from_the_signature() {
    let scorer = serve(&onnx::linear_model(), "tract");
    for (version, key, value) in
        [("2", "swagger", "2.0"), ("3", "openapi", "3.0.3"), ("3.1", "openapi", "3.1.0")]
    {
        let reply = scorer.get(&format!("/swagger.json?version={version}"));
        assert_eq!(reply.status, 200);
        let document = reply.value();
        assert_eq!(document[key], value);
        assert!(document["paths"]["/score"]["post"].is_object(), "{document}");
        let text = document.to_string();
        assert!(text.contains("\"x\"") || text.contains("\"data\""), "no input in {text}");
    }
    assert_eq!(scorer.get("/swagger.json?version=9").status, 404);
    assert_eq!(scorer.get("/").text(), "Healthy");
}

#[test]
fn inspect_prints_the_signature_as_json() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    fs_err::write(&path, onnx::linear_model()).unwrap();
    let command = std::process::Command::new(moorline_tests::binary("moorline-scorer"))
        .arg("inspect")
        .arg(&path)
        .args(["--engine", "tract"])
        .output()
        .unwrap();
    let text = String::from_utf8(command.stdout).unwrap();
    assert!(command.status.success(), "{}", String::from_utf8_lossy(&command.stderr));
    let signature: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(signature["inputs"][0]["name"], "x", "{signature}");
    assert_eq!(signature["outputs"][0]["name"], "y", "{signature}");
    assert!(text.contains("FP32"), "{text}");
}

#[test]
fn wrong_requests_are_400_and_name_the_thing() {
    for engine in engines() {
        let scorer = serve(&onnx::linear_model(), engine);
        for (body, named) in [
            (r#"{"data": [[1, 2, 3]]}"#, "`x`"),
            (r#"{"data": [[1, 2, 3, 4, 5]]}"#, "`x`"),
            (r#"{"data": [[1, 2, 3, "a"]]}"#, "`x`"),
            (r#"{"data": [[1, 2, 3, 4], [1]]}"#, "`x`"),
            (r#"{"data": [[[1, 2, 3, 4]]]}"#, "`x`"),
            (r#"{"data": [[1, 2, 3, 1e999]]}"#, "1e999"),
            (r#"{"data": [[1, 2, 3, NaN]]}"#, "line 1"),
            (r#"{"data": [[true, 2, 3, 4]]}"#, "`x`"),
            (r#"{"inputs": {"z": [[1, 2, 3, 4]]}}"#, "`z`"),
            (r#"{"inputs": {}}"#, "`x`"),
            (r#"{"other": 1}"#, "`data`"),
            ("[1]", "`data`"),
            ("{", "JSON"),
            ("", "JSON"),
            ("{\"data\": [[1, 2, 3, 4]]} x", "line 1"),
            ("\u{0}", "JSON"),
        ] {
            let reply =
                scorer.call(&Request::post("/score", body).header("content-type", "application/json"));
            assert_eq!(reply.status, 400, "{engine}: {body}: {}", reply.text());
            assert!(reply.message().contains(named), "{engine}: {body}: {}", reply.message());
        }
        let reply = scorer.post("/score", &json!({"data": [[0, 0, 0, 0]]}));
        assert_eq!(reply.value(), json!([[0.5, 1.5, 2.5]]), "{engine}");
    }
}
