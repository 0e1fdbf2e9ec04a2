//! How `run` is called, and what becomes of what it returns.

use moorline_tests::{ReleaseDir, Request};
use serde_json::json;

use super::{run_of, serve, serve_with_packages};

const SCHEMA: &str = "\
from inference_schema.parameter_types.standard_py_parameter_type import StandardPythonParameterType
from inference_schema.schema_decorators import input_schema


def init():
    pass


@input_schema('numbers', StandardPythonParameterType([1]))
def run(numbers, scale=2):
    return sum(numbers) * scale
";

#[test]
fn a_plain_script_gets_the_body_as_text_that_is_not_parsed() {
    let scorer = serve(&run_of("return [type(data).__name__, data]"));
    let answer =
        scorer.call(&Request::post("/score", "{not json é").header("content-type", "application/json"));
    assert_eq!(answer.value(), json!(["str", "{not json é"]));
    assert_eq!(scorer.call(&Request::post("/score", "")).value(), json!(["str", ""]));
}

#[test]
fn a_plain_script_refuses_a_body_that_is_not_utf8() {
    let scorer = serve(&run_of("return data"));
    let answer = scorer.call(&Request::post("/score", vec![b'a', 0xff]));
    assert_eq!(answer.status, 400);
    assert!(answer.message().starts_with("Input cannot be decoded as UTF-8"), "{}", answer.text());
    assert_eq!(answer.header("x-ms-run-function-failed"), Some("False"));
}

#[test]
fn a_plain_script_gets_the_query_of_a_get_as_json_text() {
    let scorer = serve(&run_of("return data"));
    let answer = scorer.get("/score?a=1&b=[1,2]&c=text&d=null&e=%C3%A9&a=x");
    let text = answer.value().as_str().unwrap().to_owned();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value, json!({"a": [1, "x"], "b": [1, 2], "c": "text", "d": null, "e": "é"}));
}

#[test]
fn request_headers_receives_the_headers_as_a_dict() {
    let source = "def init():\n    pass\n\ndef run(data, request_headers):\n    \
                  return [type(request_headers).__name__, request_headers['X-Custom'], data]\n";
    let scorer = serve(source);
    let answer = scorer.call(&Request::post("/score", "x").header("x-custom", "a"));
    assert_eq!(answer.value(), json!(["dict", "a", "x"]));
}

#[test]
fn a_schema_script_gets_each_parameter_by_its_name_and_uses_defaults() {
    let Some(scorer) = serve_with_packages(SCHEMA) else { return };
    assert_eq!(scorer.post("/score", &json!({"numbers": [1, 2]})).value(), 6);
    assert_eq!(scorer.post("/score", &json!({"numbers": [1, 2], "scale": 10})).value(), 30);
    assert_eq!(scorer.get("/score?numbers=[1,2]&scale=3").value(), 9);
}

#[test]
fn a_schema_script_says_which_parameter_is_missing() {
    let Some(scorer) = serve_with_packages(SCHEMA) else { return };
    let answer = scorer.post("/score", &json!({"scale": 1}));
    assert_eq!(answer.status, 400);
    assert_eq!(answer.message(), "A value is not provided for the 'numbers' parameter.");
}

#[test]
fn a_schema_script_expects_json_by_its_content_type() {
    let Some(scorer) = serve_with_packages(SCHEMA) else { return };
    for request in [
        Request::post("/score", r#"{"numbers": [1]}"#),
        Request::post("/score", r#"{"numbers": [1]}"#).header("content-type", "text/plain"),
    ] {
        let answer = scorer.call(&request);
        assert_eq!(answer.status, 415);
        assert_eq!(answer.message(), "Expects Content-Type to be application/json");
    }
}

#[test]
fn a_schema_script_expects_a_json_object() {
    let Some(scorer) = serve_with_packages(SCHEMA) else { return };
    let refusal = |body: &str| {
        let answer = scorer.call(&Request::post("/score", body).header("content-type", "application/json"));
        assert_eq!(answer.status, 400, "{}", answer.text());
        answer.message()
    };
    assert_eq!(refusal(""), "POST body is empty. Expecting a JSON dictionary.");
    assert!(refusal("{").starts_with("POST body could not be decoded as JSON: "));
    assert_eq!(refusal("[1]"), "POST body should be a JSON dictionary.");
}

#[test]
fn rawhttp_and_input_schema_together_are_an_error_at_start() {
    let Some(venv) = moorline_tests::venv("oracle") else { return };
    let both = SCHEMA.replace("@input_schema(", "@rawhttp\n@input_schema(").replace(
        "\n\n\ndef init",
        "\nfrom azureml.contrib.services.aml_request import rawhttp\n\n\ndef init",
    );
    let failure = ReleaseDir::of_script(&both).serve().env("MOORLINE_PYTHON", venv.python()).fail();
    assert_eq!(failure.code, Some(3), "{}", failure.log);
    let said = "cannot be decorated with both @rawhttp and @input_schema";
    assert!(failure.log.contains(said), "{}", failure.log);
}

/// The packages of Azure ML are not installed with the system's Python: ours stand in for them.
#[test]
fn rawhttp_gives_the_request_under_either_import() {
    for package in ["azureml.contrib.services.aml", "azureml_inference_server_http.api.aml"] {
        let scorer = serve(&format!(
            "from {package}_request import AMLRequest, rawhttp\nfrom {package}_response import AMLResponse\n\n\n\
             def init():\n    pass\n\n\n@rawhttp\ndef run(request):\n    \
             return AMLResponse([request.method, request.args.get('a'), request.get_data().decode(),\n        \
             request.headers['x-custom'], request.content_type, request.is_json, request.get_json(silent=True)],\n        \
             201, {{'x-own': 'b'}}, json_str=True)\n"
        ));
        let request = Request::post("/score?a=1", "[1]").header("content-type", "application/json");
        let answer = scorer.call(&request.header("X-Custom", "c"));
        assert_eq!(answer.status, 201, "{}", answer.text());
        assert_eq!(answer.value(), json!(["POST", "1", "[1]", "c", "application/json", true, [1]]));
        assert_eq!(answer.header("x-own"), Some("b"));
        let answer = scorer.call(&Request::get("/score?a=2").header("X-Custom", "c"));
        assert_eq!(answer.value(), json!(["GET", "2", "", "c", null, false, null]));
    }
}

#[test]
fn what_run_returns_is_dumped_as_json_with_200() {
    let scorer =
        serve(&run_of("return {'text': 'text', 'none': None, 'list': [1, 2.5], 'dict': {'é': 1}}[data]"));
    let answer = |name: &str| scorer.call(&Request::post("/score", name));
    assert_eq!(answer("text").text(), "\"text\"");
    assert_eq!(answer("list").text(), "[1, 2.5]");
    assert_eq!(answer("dict").text(), r#"{"\u00e9": 1}"#);
    assert_eq!(answer("none").text(), "{}");
    assert_eq!(answer("text").status, 200);
    assert_eq!(answer("text").header("content-type"), Some("application/json"));
}

#[test]
fn an_aml_response_goes_out_as_it_is() {
    let scorer = serve(
        "from azureml.contrib.services.aml_response import AMLResponse\n\n\ndef init():\n    pass\n\n\ndef run(data):\n    \
         return {\n        'none': lambda: AMLResponse(None, 200),\n        \
         'json': lambda: AMLResponse({'a': 1}, 202, json_str=True),\n        \
         'raw': lambda: AMLResponse(b'\\xff\\x00', 200, {'Content-Type': 'image/png'}),\n        \
         'many': lambda: AMLResponse('x', 200, {'x-many': 'a, b'}),\n        \
         'broken': lambda: AMLResponse('x', 503),\n    }[data]()\n",
    );
    let answer = |name: &str| scorer.call(&Request::post("/score", name));
    assert_eq!(answer("none").text(), "{}");
    assert_eq!((answer("json").status, answer("json").value()), (202, json!({"a": 1})));
    assert_eq!(answer("raw").body, [0xff, 0]);
    assert_eq!(answer("raw").all("content-type"), ["image/png"]);
    assert_eq!(answer("many").all("x-many"), ["a", "b"]);
    assert_eq!(answer("broken").status, 503);
    assert_eq!(answer("broken").all("x-ms-run-function-failed"), ["True"]);
}

#[test]
fn a_value_that_json_cannot_encode_is_a_500() {
    let scorer = serve(&run_of("return {1, 2}"));
    let answer = scorer.call(&Request::post("/score", "x"));
    assert_eq!(answer.status, 500);
    assert_eq!(answer.message(), "An unexpected internal error occurred. Check the logs for more info.");
}

#[test]
fn a_script_that_raises_is_a_500_that_tells_nothing_and_a_traceback_in_the_log() {
    let scorer = serve(&run_of("raise ValueError('secret of mine')"));
    let answer = scorer.call(&Request::post("/score", "x").header("x-request-id", "the-one-that-raised"));
    assert_eq!(answer.status, 500);
    let said = "An unexpected error occurred in scoring script. Check the logs for more info.";
    assert_eq!(answer.message(), said);
    assert_eq!(answer.header("x-ms-run-function-failed"), Some("True"));
    assert!(answer.header("x-ms-run-fn-exec-ms").is_none());
    let limit = std::time::Duration::from_secs(5);
    assert!(scorer.log().wait_for_text(limit, "ValueError: secret of mine"), "{}", scorer.log().text());
    assert!(scorer.log().contains("the-one-that-raised"));
}

#[test]
fn run_that_exceeds_the_scoring_timeout_is_a_500_that_says_so() {
    let release = ReleaseDir::of_script(&run_of("import time\ntime.sleep(float(data))\nreturn 'slept'"));
    let scorer = release.serve().args(["--scoring-timeout-ms", "400"]).start();
    let answer = scorer.call(&Request::post("/score", "30"));
    assert_eq!(answer.status, 500);
    assert_eq!(answer.message(), "Scoring timeout after 400 ms");
    assert_eq!(answer.header("x-ms-run-function-failed"), Some("True"));
    assert_eq!(scorer.call(&Request::post("/score", "0")).text(), "\"slept\"");
}
