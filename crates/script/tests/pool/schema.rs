//! `@input_schema` scripts, with the real `inference-schema` package where the interpreter has it.

use moorline_core::{Script, ScriptStyle};
use moorline_script::StartError;
use serde_json::{Value, json};

use crate::support::*;

const SCRIPT: &str = r#"
from inference_schema.schema_decorators import input_schema, output_schema
from inference_schema.parameter_types.standard_py_parameter_type import StandardPythonParameterType
def init(): pass
@input_schema("data", StandardPythonParameterType([[1, 2, 3]]))
@input_schema("k", StandardPythonParameterType(5))
@output_schema(StandardPythonParameterType({"a": [1.0]}))
def run(data, k=3):
    return {"a": [[item * k for item in row] for row in data]}
"#;

fn no_package() -> bool {
    lacks(&python(), "inference_schema")
}

#[tokio::test]
async fn parameters_come_by_name_and_what_is_wrong_is_said() {
    if no_package() {
        return;
    }
    let pool = Code::new(SCRIPT).start().await;
    assert_eq!(pool.info().style, ScriptStyle::Schema);
    let message = |text: &str| json!({"message": text}).to_string();
    let not_json = message("Expects Content-Type to be application/json");
    for (kind, body, status, expected) in [
        ("application/json", r#"{"data":[[1,2,3]]}"#, 200, json!({"a": [[3, 6, 9]]}).to_string()),
        ("application/json", "\u{feff}{\"data\":[[1]]}", 200, json!({"a": [[3]]}).to_string()),
        (
            "Application/JSON; charset=utf-8",
            r#"{"data":[[1]],"k":7,"z":1}"#,
            200,
            json!({"a": [[7]]}).to_string(),
        ),
        ("application/foo+json", r#"{"data":[[1]]}"#, 200, json!({"a": [[3]]}).to_string()),
        ("text/json", r#"{"data":[[1]]}"#, 415, not_json.clone()),
        ("application/x-www-form-urlencoded", r#"{"data":[[1]]}"#, 415, not_json),
        ("application/json", r#"{"k":7}"#, 400, message("A value is not provided for the 'data' parameter.")),
        ("application/json", "", 400, message("POST body is empty. Expecting a JSON dictionary.")),
        ("application/json", "[1]", 400, message("POST body should be a JSON dictionary.")),
        (
            "application/json",
            "{bad",
            400,
            message(
                "POST body could not be decoded as JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
            ),
        ),
    ] {
        let reply = pool.score(header(post(body), "content-type", kind)).await.unwrap();
        let got: Value = serde_json::from_slice(&reply.body).unwrap();
        let expected: Value = serde_json::from_str(&expected).unwrap();
        assert_eq!((reply.status, got), (status, expected), "{kind} {body}");
        assert_eq!(reply.failed, Some(false));
        assert_eq!(reply.run_time.is_some(), status == 200);
    }
    let reply = reply(&pool, r#"{"data":"abc"}"#).await.unwrap();
    assert!(reply.status == 500 && reply.failed == Some(true));
    assert_eq!(ask(&pool, get("/score?data=[[1,2]]&k=2")).await.1, r#"{"a": [[2, 4]]}"#);
    assert_eq!(ask(&pool, get("/score?k=3")).await.0, 400);
}

#[tokio::test]
async fn the_documents_show_the_schema() {
    if no_package() {
        return;
    }
    let code = Code::new(SCRIPT);
    let mut config = code.config();
    for (name, value) in
        [("SERVICE_NAME", "svc"), ("SERVICE_VERSION", "9.9"), ("SERVICE_PATH_PREFIX", "api/v1")]
    {
        config.env.insert(name.to_owned(), value.to_owned());
    }
    let pool = start(config).await;
    let three: Value = serde_json::from_str(&pool.info().swagger["3"]).unwrap();
    assert_eq!((&three["info"]["title"], &three["info"]["version"]), (&json!("svc"), &json!("9.9")));
    assert_eq!(
        three["components"]["schemas"]["ServiceInput"],
        json!({
            "type": "object",
            "properties": {
                "data": {"type": "array", "items": {"type": "array", "items": {"type": "integer", "format": "int64"}}},
                "k": {"type": "integer", "format": "int64"},
            },
            "example": {"data": [[1, 2, 3]], "k": 5},
        })
    );
    assert!(three["paths"]["/api/v1/score"]["post"].is_object());
}

#[tokio::test]
async fn both_kinds_of_decoration_are_refused() {
    if no_package() {
        return;
    }
    let script =
        SCRIPT.replace("def init", "from azureml.contrib.services.aml_request import rawhttp\ndef init");
    let outer = script.replacen("@input_schema", "@rawhttp\n@input_schema", 1);
    let inner = script.replace("def run", "@rawhttp\ndef run");
    for script in [outer, inner] {
        let error = Code::new(&script).refused().await;
        assert!(
            matches!(&error, StartError::Script { reason, .. } if reason.contains("cannot be decorated with both")),
            "{error}"
        );
    }
}
