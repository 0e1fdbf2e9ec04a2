//! Models, environments and code: versions that are registered once.

use serde_json::{Value, json};

use crate::place::{Place, names};

#[tokio::test(flavor = "multi_thread")]
async fn versions_never_change() {
    let place = Place::new().await;
    let file = place.upload("iris/model.onnx", b"weights").await;
    let body = json!({"description": "flowers", "tags": {"team": "a"}, "files": [file]});
    let made = place.put("models/iris/versions/1", body.clone()).await.expect(201);
    assert_eq!(made["id"], "azureml:iris:1");
    assert_eq!(made["type"], "custom_model");
    assert_eq!(made["files"], json!([file]));
    assert_eq!((&made["is_anonymous"], &made["archived"]), (&json!(false), &json!(false)));
    place.put("models/iris/versions/1", body.clone()).await.expect(200);
    let other = place.upload("iris/model.onnx", b"other weights").await;
    place.put("models/iris/versions/1", json!({"files": [other]})).await.problem(409, "conflict");
    assert_eq!(place.post("models/iris/versions", body.clone()).await.expect(201)["version"], "2");
    assert_eq!(place.get("models/iris/versions/latest").await.expect(200)["version"], "2");

    let described = place
        .patch(
            "models/iris/versions/2",
            json!({"description": null, "tags": {"more": "b"}, "stage": "Production"}),
        )
        .await
        .expect(200);
    assert!(described.get("description").is_none());
    assert_eq!(described["tags"], json!({"team": "a", "more": "b"}));
    assert_eq!(described["stage"], "Production");
    assert_eq!(described["files"], made["files"]);
    place.patch("models/iris/versions/2", json!({"files": []})).await.problem(400, "invalid_input");

    place.post("models/iris/versions/2/archive", json!({})).await.expect(200);
    assert_eq!(place.get("models/iris/versions/latest").await.expect(200)["version"], "1");
    assert_eq!(place.get("models/iris/versions/2").await.expect(200)["archived"], true);
    let versions = |list: &Value| -> Vec<String> {
        list["value"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["version"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(versions(&place.get("models/iris").await.expect(200)), ["1"]);
    assert_eq!(versions(&place.get("models/iris?include_archived=true").await.expect(200)), ["2", "1"]);
    place.post("models/iris/versions/2/restore", json!({})).await.expect(200);
    assert_eq!(place.get("models/iris/versions/latest").await.expect(200)["version"], "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_model_takes_is_read_out_of_its_files() {
    let place = Place::new().await;
    let text = br#"signature:
  inputs: '[{"type": "double", "name": "width"}]'
  outputs: '[{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1]}}]'
"#;
    let file = place.upload("model/MLmodel", text).await;
    place.put("models/flowers/versions/1", json!({"files": [file]})).await.expect(201);
    let signature = place.get("models/flowers/versions/latest/signature").await.expect(200);
    assert_eq!(signature["inputs"], json!([{"name": "width", "datatype": "double", "optional": false}]));
    assert_eq!(signature["outputs"][0]["shape"], json!(["?"]));
    assert_eq!(signature["file"], "model/MLmodel");
    // Its only file has the end of an ONNX model, and is none.
    place.model("broken").await;
    place.get("models/broken/versions/1/signature").await.problem(501, "unsupported");
    let other = place.upload("weights.bin", b"1").await;
    place.put("models/other/versions/1", json!({"files": [other]})).await.expect(201);
    let none = place.get("models/other/versions/1/signature").await.expect(200);
    assert_eq!(none, json!({"inputs": [], "outputs": []}));
    place.get("models/nothing/versions/1/signature").await.problem(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_pages_without_files() {
    let place = Place::new().await;
    for name in ["apple", "Birch", "cedar"] {
        place.model(name).await;
    }
    let first = place.get("models?limit=2").await.expect(200);
    assert_eq!(names(&first), ["apple", "Birch"]);
    assert!(first["value"][0].get("files").is_none());
    let next = first["next"].as_str().unwrap();
    let last = place.get(&format!("models?limit=2&after={next}")).await.expect(200);
    assert_eq!(names(&last), ["cedar"]);
    assert!(last.get("next").is_none());
    place.get("models?limit=0").await.problem(400, "invalid_input");
    place.get("models?limit=many").await.problem(400, "invalid_input");
    place.get("models/none").await.problem(404, "not_found");
    place.get("models/apple/versions/9").await.problem(404, "not_found");
    let anonymous = place.upload("model.onnx", b"inline").await;
    place.put("models/inline/versions/1?anonymous=true", json!({"files": [anonymous]})).await.expect(201);
    assert_eq!(names(&place.get("models").await.expect(200)), ["apple", "Birch", "cedar"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn environments_are_the_same_by_content() {
    let place = Place::new().await;
    let conda = "name: score\ndependencies:\n- python=3.12\n- pip:\n  - numpy\n";
    let body = json!({"image": "mcr.microsoft.com/azureml/minimal-py312-inference", "conda_file": conda});
    let made = place.put("environments/score/versions/3", body.clone()).await.expect(201);
    assert_eq!(made["conda_file"], conda);
    place.put("environments/score/versions/3", body).await.expect(200);
    let other = json!({"image": "ubuntu"});
    place.put("environments/score/versions/3", other.clone()).await.problem(409, "conflict");
    assert_eq!(place.post("environments/score/versions", other).await.expect(201)["version"], "4");
    let wrong = place.put("environments/odd/versions/1", json!({"imago": "ubuntu"})).await;
    let problem = wrong.problem(400, "invalid_input");
    let found = problem["diagnostics"].as_array().unwrap();
    assert!(found.iter().any(|one| one["path"] == "imago"), "{problem}");
    assert!(problem["diagnostics"].to_string().contains("image"), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn code_is_what_its_files_are() {
    let place = Place::new().await;
    let (score, data) =
        (place.upload("score.py", b"def init(): pass").await, place.upload("a/b.txt", b"b").await);
    let made = place.put("codes/c0de/versions/1", json!({"files": [score, data]})).await.expect(201);
    // In another order it is the same.
    let again = place.put("codes/c0de/versions/1", json!({"files": [data, score]})).await.expect(200);
    assert_eq!(made["digest"], again["digest"]);
    assert_eq!(made["is_anonymous"], true);
    assert_eq!(names(&place.get("codes").await.expect(200)), Vec::<&str>::new());
    place.put("codes/c0de/versions/1", json!({"files": [score]})).await.problem(409, "conflict");
    place.put("codes/c0de/versions/2", json!({"files": []})).await.problem(400, "invalid_input");
    place
        .put("codes/c0de/versions/2", json!({"files": [score], "path": "src"}))
        .await
        .problem(400, "invalid_input");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_stay_in_their_folder_and_their_blobs_must_be_there() {
    let place = Place::new().await;
    let file = place.upload("model.onnx", b"weights").await;
    for path in ["../model.onnx", "/etc/passwd", "a/../../b", "a//b", "", ".", "a\\b", "a\u{0}b"] {
        for kind in ["models", "codes"] {
            let mut file = file.clone();
            file["path"] = path.into();
            let answer = place.put(&format!("{kind}/bad/versions/1"), json!({"files": [file]})).await;
            answer.problem(400, "invalid_input");
        }
    }
    let twice = json!({"files": [file, file]});
    place.put("models/bad/versions/1", twice).await.problem(400, "invalid_input");
    let missing =
        json!({"files": [{"path": "a", "size": 1, "sha256": format!("sha256:{}", "0".repeat(64))}]});
    let problem = place.put("models/bad/versions/1", missing).await.problem(400, "invalid_input");
    assert!(problem["detail"].as_str().unwrap().contains("upload"), "{problem}");
    place.get("models/bad").await.problem(404, "not_found");
}
