//! Scripts that use Flask's own helpers, with the real package where the interpreter has it.

use std::num::NonZeroUsize;

use moorline_core::{BatchSettings, Script, ScriptStyle};

use crate::support::*;

const SCRIPT: &str = r#"
import flask
from flask import jsonify, make_response, request
def init(): pass
def run(data):
    if data == "jsonify": return jsonify({"b": 1, "a": [1, 2]})
    if data == "make": return make_response("hi", 201)
    if data == "fail": return make_response("hi", 503)
    if data == "abort": flask.abort(404)
    if data == "stream": return flask.Response(flask.stream_with_context(iter(["a", request.method])))
    if data == "tuple": return jsonify(1), 201
    if data == "g":
        flask.g.n = flask.g.get("n", 0) + 1
        return flask.g.n
    if data == "request":
        return [request.method, request.path, request.args["a"], request.headers["X-Y"], request.get_data(as_text=True),
                request.url, request.endpoint, str(request.url_rule), "X-Hidden" in request.headers]
    return data
"#;

fn no_package() -> bool {
    lacks(&python(), "flask")
}

#[tokio::test]
async fn helpers_find_an_application_and_the_request() {
    if no_package() {
        return;
    }
    let pool = Code::new(SCRIPT).start().await;
    assert_eq!(pool.info().style, ScriptStyle::Plain);
    let internal = r#"{"message": "An unexpected internal error occurred. Check the logs for more info."}"#;
    let failed =
        r#"{"message": "An unexpected error occurred in scoring script. Check the logs for more info."}"#;
    for (body, status, outcome, expected) in [
        ("jsonify", 200, None, "{\"a\":[1,2],\"b\":1}\n"),
        ("make", 201, None, "hi"),
        ("fail", 503, Some(true), "hi"),
        ("abort", 500, Some(true), failed),
        ("stream", 200, None, "aPOST"),
        ("tuple", 500, Some(false), internal),
        ("g", 200, Some(false), "1"),
        ("g", 200, Some(false), "1"),
        ("text", 200, Some(false), r#""text""#),
    ] {
        let reply = reply(&pool, body).await.unwrap();
        let text = String::from_utf8_lossy(&reply.body);
        assert_eq!((reply.status, reply.failed, &*text), (status, outcome, expected), "{body}");
    }
    let mut call =
        header(header(header(post("request"), "host", "localhost:7"), "x-y", "z"), "x_hidden", "1");
    call.target = "/score?a=%C3%A9".to_owned();
    assert_eq!(
        ask(&pool, call).await.1,
        r#"["POST", "/score", "\u00e9", "z", "request", "http://localhost:7/score?a=\u00e9", "main.handle_score", "/score", false]"#
    );
}

#[tokio::test]
async fn raw_scripts_and_batches_may_use_them_too() {
    if no_package() {
        return;
    }
    let raw = "import flask\nfrom azureml_inference_server_http.api.aml_request import rawhttp\ndef init(): pass\n@rawhttp\ndef run(request): return flask.jsonify([request.method, flask.request.method, flask.request.get_data(as_text=True), request.get_data(as_text=True)])";
    let pool = Code::new(raw).start().await;
    assert_eq!(ask(&pool, post("x")).await.1, "[\"POST\",\"POST\",\"x\",\"x\"]\n");
    let batch = "import flask\ndef init(): pass\ndef run(x): return x\ndef run_batch(items): return [flask.jsonify(item) for item in items]";
    let code = Code::new(batch);
    let mut config = code.config();
    config.batching =
        Some(BatchSettings { max_size: NonZeroUsize::MIN, max_delay_us: 0, preferred_sizes: Vec::new() });
    let pool = start(config).await;
    assert!(!pool.info().needs_headers);
    assert_eq!(ask(&pool, post("x")).await.1, "\"x\"\n");
}
