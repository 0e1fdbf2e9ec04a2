//! MLflow models without a script: `MOORLINE_TEST_MLFLOW_PYTHON` names an interpreter with `mlflow` (or
//! `mlflow-skinny`), pandas and scikit-learn.

use std::{env::var_os, path::PathBuf, process::Command};

use moorline_core::{Script, ScriptCall, ScriptRoute, ScriptStyle};
use serde_json::{Value, json};

use crate::support::*;

const TRAIN: &str = r#"
import pandas as pd, sys
from sklearn.linear_model import LinearRegression
import mlflow.sklearn
from mlflow.models.signature import infer_signature
x = pd.DataFrame({"a": [0.0, 1.0, 2.0, 3.0], "b": [1.0, 0.0, 1.0, 0.0]})
model = LinearRegression().fit(x, 2 * x.a + x.b)
mlflow.sklearn.save_model(model, sys.argv[1], signature=infer_signature(x, model.predict(x)), pip_requirements=[], serialization_format="cloudpickle")
"#;

fn interpreter() -> Option<PathBuf> {
    let python = var_os("MOORLINE_TEST_MLFLOW_PYTHON").map(PathBuf::from);
    if python.is_none() {
        eprintln!("SKIPPED: MOORLINE_TEST_MLFLOW_PYTHON (an interpreter with mlflow) is not set");
    }
    python
}

fn invocations(kind: &str, body: &str) -> ScriptCall {
    ScriptCall { route: ScriptRoute::Invocations, ..header(post(body), "content-type", kind) }
}

#[tokio::test]
async fn a_model_answers_both_routes() {
    let Some(python) = interpreter() else { return };
    let code = Code::new("").file("train.py", TRAIN);
    let model = code.folder.path().join("model");
    let trained =
        Command::new(&python).arg(code.folder.path().join("train.py")).arg(&model).output().unwrap();
    assert!(trained.status.success(), "{}", String::from_utf8_lossy(&trained.stderr));
    let mut config = code.config();
    config.python = python;
    config.entry_script = None;
    config.mlflow_model = Some(model);
    // A release without code has no folder for it either.
    config.app_root = code.folder.path().join("code");
    let pool = start(config).await;
    assert_eq!(pool.info().style, ScriptStyle::Mlflow);
    let json_type = "application/json";
    let expected = [4.0, 7.0];
    let close = |value: &Value| {
        let got: Vec<f64> = serde_json::from_value(value.clone()).unwrap();
        assert!(got.iter().zip(expected).all(|(got, expected)| (got - expected).abs() < 1e-9), "{got:?}");
        assert_eq!(got.len(), 2);
    };
    for (kind, body) in [
        (
            json_type,
            r#"{"dataframe_split": {"columns": ["a", "b"], "index": [0, 1], "data": [[2, 0], [3, 1]]}}"#,
        ),
        (json_type, r#"{"dataframe_split": {"columns": ["b", "a"], "data": [[0, 2.0], [1, 3.0]]}}"#),
        (json_type, r#"{"dataframe_records": [{"a": 2, "b": 0}, {"a": 3, "b": 1}]}"#),
        ("application/json; charset=utf-8", r#"{"instances": [{"a": 2.0, "b": 0.0}, {"a": 3.0, "b": 1.0}]}"#),
        (json_type, r#"{"inputs": {"a": [2.0, 3.0], "b": [0.0, 1.0]}}"#),
        ("text/csv", "a,b\n2.0,0.0\n3.0,1.0\n"),
    ] {
        let (status, answer) = ask(&pool, invocations(kind, body)).await;
        assert_eq!(status, 200, "{body}: {answer}");
        close(&serde_json::from_str::<Value>(&answer).unwrap()["predictions"]);
    }
    for body in [
        json!({"input_data": {"columns": ["a", "b"], "index": [0, 1], "data": [[2, 0], [3, 1]]}}),
        json!({"input_data": {"a": [2.0, 3.0], "b": [0.0, 1.0]}}),
        json!({"input_data": [[2.0, 0.0], [3.0, 1.0]]}),
        json!({"input_data": [{"a": 2, "b": 0}, {"a": 3, "b": 1}]}),
    ] {
        let (status, answer) = ask(&pool, post(&body.to_string())).await;
        assert_eq!(status, 200, "{body}: {answer}");
        close(&serde_json::from_str(&answer).unwrap());
    }
    for (kind, body, status) in [
        (json_type, "{bad", 400),
        (json_type, "[]", 400),
        (json_type, r#"{"nothing": 1}"#, 400),
        (json_type, r#"{"dataframe_split": {"columns": ["a"], "data": [[1, 2]]}}"#, 400),
        (json_type, r#"{"dataframe_split": {"columns": ["a"], "data": [[1]]}}"#, 400),
        ("text/plain", "x", 415),
        ("application/json; charset=utf-7", "{}", 415),
    ] {
        let (got, answer) = ask(&pool, invocations(kind, body)).await;
        assert_eq!(got, status, "{body}: {answer}");
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert!(answer["message"].is_string() && answer["error_code"] == "BAD_REQUEST", "{answer}");
    }
    let (status, answer) = ask(&pool, post("{}")).await;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert!(status == 400 && answer.get("error_code").is_none() && answer["message"].is_string(), "{answer}");
    let (status, _) = ask(&pool, ScriptCall { target: "/score".to_owned(), ..post("[1]") }).await;
    assert_eq!(status, 400);
}
