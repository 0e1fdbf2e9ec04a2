//! An MLflow model, logged by the real `mlflow`, served with no script by the package of its own environment.

use std::path::PathBuf;

use moorline_tests::{ReleaseDir, Request, Scorer, Venv, run_client, venv};
use serde_json::{Value, json};
use tempfile::TempDir;

struct Sample {
    scorer: Scorer,
    columns: Value,
    rows: Value,
    predictions: Value,
    _folder: TempDir,
}

fn serve(venv: &Venv) -> Sample {
    let folder = tempfile::tempdir().unwrap();
    let model: PathBuf = folder.path().join("iris-model");
    let printed = run_client(venv, "mlflow_model.py", &[model.to_str().unwrap()]);
    let printed: Value = serde_json::from_str(printed.lines().last().unwrap()).unwrap();
    let release = ReleaseDir::contents().model_at(&model).make();
    let scorer = release.serve().env("MOORLINE_PYTHON", venv.python()).start();
    let part = |name: &str| printed[name].clone();
    Sample {
        scorer,
        columns: part("columns"),
        rows: part("rows"),
        predictions: part("predictions"),
        _folder: folder,
    }
}

fn records(sample: &Sample) -> Value {
    let columns: Vec<&str> =
        sample.columns.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    let record = |row: &Value| -> Value {
        columns
            .iter()
            .zip(row.as_array().unwrap())
            .map(|(name, cell)| ((*name).to_owned(), cell.clone()))
            .collect()
    };
    sample.rows.as_array().unwrap().iter().map(record).collect()
}

fn csv(sample: &Sample) -> String {
    let line = |cells: &Value| -> String {
        let cells: Vec<String> = cells
            .as_array()
            .unwrap()
            .iter()
            .map(|cell| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned))
            .collect();
        cells.join(",")
    };
    let rows = sample.rows.as_array().unwrap().iter().map(line);
    std::iter::once(line(&sample.columns)).chain(rows).collect::<Vec<_>>().join("\n")
}

/// One test, since starting the model's environment is what takes long.
#[test]
fn a_model_of_mlflow_is_served_under_all_its_doors() {
    let Some(venv) = venv("mlflow") else { return };
    let sample = serve(&venv);
    let scorer = &sample.scorer;
    let split = json!({"columns": sample.columns, "index": [0, 1, 2], "data": sample.rows});
    let answer = json!({"predictions": sample.predictions});

    for body in [
        json!({"dataframe_split": split}),
        json!({"dataframe_split": {"columns": sample.columns, "data": sample.rows}}),
        json!({"dataframe_records": records(&sample)}),
        json!({"dataframe_split": split, "params": {}}),
    ] {
        let reply = scorer.post("/invocations", &body);
        assert_eq!((reply.status, reply.value()), (200, answer.clone()), "{body}");
        assert_eq!(reply.header("content-type"), Some("application/json"));
    }
    for content_type in ["text/csv", "text/csv; charset=utf-8"] {
        let reply =
            scorer.call(&Request::post("/invocations", csv(&sample)).header("content-type", content_type));
        assert_eq!((reply.status, reply.value()), (200, answer.clone()), "{content_type}: {}", reply.text());
    }
    for member in ["instances", "inputs"] {
        let reply = scorer.post("/invocations", &json!({member: records(&sample)}));
        assert_eq!((reply.status, reply.value()), (200, answer.clone()), "{member}: {}", reply.text());
    }

    for body in [json!({"input_data": split}), json!({"input_data": records(&sample)})] {
        let reply = scorer.post("/score", &body);
        assert_eq!(
            (reply.status, reply.value()),
            (200, sample.predictions.clone()),
            "{body}: {}",
            reply.text()
        );
    }

    assert_eq!(scorer.get("/ping").status, 200);
    let version = scorer.get("/version").text();
    assert!(version.starts_with(|c: char| c.is_ascii_digit()), "{version}");
    assert_eq!(scorer.get("/").text(), "Healthy");

    for (content_type, body) in [
        ("application/json", "{"),
        ("application/json", "[1]"),
        ("application/json", "{}"),
        ("application/json", r#"{"dataframe_split": 1}"#),
        ("application/json", r#"{"dataframe_split": {"columns": ["wrong"], "data": [[1]]}}"#),
        ("application/json", r#"{"dataframe_records": [{"sepal length (cm)": "long"}]}"#),
        ("text/csv", ""),
        ("text/plain", "1,2,3,4"),
    ] {
        let reply = scorer.call(&Request::post("/invocations", body).header("content-type", content_type));
        assert!(
            (400..500).contains(&reply.status),
            "{content_type} {body}: {} {}",
            reply.status,
            reply.text()
        );
        assert!(!reply.message().is_empty());
        assert!(reply.value()["error_code"].is_string(), "{}", reply.text());
    }
    assert_eq!(scorer.get("/invocations").status, 405);
    let reply = scorer.post("/invocations", &json!({"dataframe_split": split}));
    assert_eq!(reply.value(), answer);
}
