//! How `run` is called and what becomes of what it returns.

use moorline_core::{Script, ScriptStyle};

use crate::support::*;

const FAILED: &str =
    r#"{"message": "An unexpected error occurred in scoring script. Check the logs for more info."}"#;
const NOT_ENCODABLE: &str =
    r#"{"message": "An unexpected internal error occurred. Check the logs for more info."}"#;

#[tokio::test]
async fn a_plain_script_gets_text_and_answers_json() {
    let pool = Code::new("def init(): pass\ndef run(data): return data").start().await;
    assert_eq!(pool.info().style, ScriptStyle::Plain);
    assert!(!pool.info().needs_headers);
    let reply = pool.score(post("h\u{e9}")).await.unwrap();
    assert_eq!((reply.status, &reply.body[..]), (200, &br#""h\u00e9""#[..]));
    assert_eq!(reply.headers, [("content-type".to_owned(), "application/json".to_owned())]);
    assert!(reply.run_time.is_some() && reply.failed == Some(false));
    let mut call = post("");
    call.body = bytes::Bytes::from_static(b"\xff\xfe");
    let (status, body) = ask(&pool, call).await;
    assert_eq!(status, 400);
    assert_eq!(
        body,
        r#"{"message": "Input cannot be decoded as UTF-8: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"}"#
    );
}

#[tokio::test]
async fn get_gives_the_query_as_json_text() {
    let pool = Code::new("def init(): pass\ndef run(data): return data").start().await;
    let (_, body) =
        ask(&pool, get("/score?a=1&b=x&a=[2]&c=&d={%22q%22:1}&e=true&f=%22s%22&g=NaN&h=%C3%A9&h2=%ff&i"))
            .await;
    let inner: String = serde_json::from_str(&body).unwrap();
    assert_eq!(
        inner,
        r#"{"a": [1, [2]], "b": "x", "c": "", "d": {"q": 1}, "e": true, "f": "s", "g": NaN, "h": "\u00e9", "h2": "%FF", "i": ""}"#
    );
    assert_eq!(ask(&pool, get("/score")).await.1, r#""{}""#);
}

#[tokio::test]
async fn what_run_returns_becomes_json_or_an_error() {
    let pool = Code::new(
        r#"
import sys, enum
class Half(enum.IntEnum):
    ONE = 1
VALUES = {
    "nan": [float("nan"), float("inf")], "text": "h\u00e9\ud800", "none": None, "tuple": ({"a": 1}, 404),
    "keys": {1: 2, None: 3}, "enum": Half.ONE, "bool": True, "float": 1.5,
    "bytes": b"x", "set": {1}, "pair": {(1, 2): 3}, "object": object(),
}
def init(): pass
def run(data):
    if data == "raise": raise ValueError("no")
    if data == "exit": sys.exit(3)
    if data == "interrupt": raise KeyboardInterrupt
    if data == "deep":
        def deeper(): return deeper()
        return deeper()
    if data == "cycle":
        cycle = []; cycle.append(cycle); return cycle
    return VALUES[data]
"#,
    )
    .start()
    .await;
    for (name, expected) in [
        ("nan", "[NaN, Infinity]"),
        ("text", r#""h\u00e9\ud800""#),
        ("none", "{}"),
        ("tuple", r#"[{"a": 1}, 404]"#),
        ("keys", r#"{"1": 2, "null": 3}"#),
        ("enum", "1"),
        ("bool", "true"),
        ("float", "1.5"),
    ] {
        assert_eq!(ask(&pool, post(name)).await, (200, expected.to_owned()), "{name}");
    }
    for name in ["bytes", "set", "pair", "object", "cycle"] {
        let reply = reply(&pool, name).await.unwrap();
        assert_eq!((reply.status, &reply.body[..]), (500, NOT_ENCODABLE.as_bytes()), "{name}");
        assert!(reply.failed == Some(false) && reply.run_time.is_none(), "{name}");
    }
    for name in ["raise", "exit", "interrupt", "deep", "missing"] {
        let reply = reply(&pool, name).await.unwrap();
        assert_eq!((reply.status, &reply.body[..]), (500, FAILED.as_bytes()), "{name}");
        assert!(reply.failed == Some(true) && reply.run_time.is_none(), "{name}");
    }
    assert_eq!(pool.restarts(), 0);
}

#[tokio::test]
async fn request_headers_are_handed_over() {
    let script = "def init(): pass\ndef run(request_headers, data): return [data, request_headers]";
    let pool = Code::new(script).start().await;
    assert!(pool.info().needs_headers);
    let mut call = header(post("x"), "x-foo-bar", "1");
    call.headers.push(("X-Foo-Bar".to_owned(), "2".to_owned()));
    call.traceparent = Some("00-1-2-01".to_owned());
    assert_eq!(
        ask(&pool, call).await.1,
        r#"["x", {"Content-Type": "application/json", "X-Foo-Bar": "1,2", "Traceparent": "00-1-2-01"}]"#
    );
}

const RAW: &str = r#"
from MODULE.aml_request import AMLRequest, rawhttp
from MODULE.aml_response import AMLResponse
def init(): pass
@rawhttp
def run(request):
    assert isinstance(request, AMLRequest)
    kind = request.args.get("kind")
    if kind == "none": return AMLResponse(None, 200)
    if kind == "text": return AMLResponse("hi", 200)
    if kind == "json": return AMLResponse("hi", 201, {"a": "x,y"}, json_str=True)
    if kind == "bytes": return AMLResponse(b"\x00\x01", 200, {"Content-Type": "image/png"})
    if kind == "error": return AMLResponse("bad", 503)
    if kind == "plain": return [1, 2]
    if kind == "integer": return AMLResponse(5, 200)
    if kind == "data": return request.get_data(as_text=True)
    return [
        request.method, request.path, request.full_path, request.url, request.query_string.decode(),
        request.args.to_dict(flat=False), request.content_type, request.mimetype, request.is_json,
        request.get_json(silent=True), request.form.to_dict(flat=False), request.headers.get("X-UPPER"),
        {name: [f.filename, f.content_type, f.read().decode()] for name, f in request.files.items()},
        request.cookies.get("a"), request.data.decode(), "x-upper" in request.headers,
    ]
"#;

#[tokio::test]
async fn a_raw_script_gets_the_request_and_makes_its_own_response() {
    for module in ["azureml_inference_server_http.api", "azureml.contrib.services"] {
        let pool = Code::new(&RAW.replace("MODULE", module)).start().await;
        assert_eq!(pool.info().style, ScriptStyle::RawHttp);
        let html = "text/html; charset=utf-8";
        for (kind, status, headers, body, failed) in [
            ("none", 200, &[("content-type", "application/json")][..], &b"{}"[..], false),
            ("text", 200, &[("content-type", html)], b"hi", false),
            ("json", 201, &[("content-type", "application/json"), ("a", "x"), ("a", "y")], b"\"hi\"", false),
            ("bytes", 200, &[("Content-Type", "image/png")], b"\x00\x01", false),
            ("error", 503, &[("content-type", html)], b"bad", true),
            ("plain", 200, &[("content-type", "application/json")], b"[1, 2]", false),
            ("integer", 500, &[("content-type", "application/json")], FAILED.as_bytes(), true),
        ] {
            let reply = pool.score(get(&format!("/score?kind={kind}"))).await.unwrap();
            let got: Vec<(&str, &str)> =
                reply.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            assert_eq!(
                (reply.status, &got[..], &reply.body[..], reply.failed),
                (status, headers, body, Some(failed)),
                "{kind}"
            );
        }
    }
}

#[tokio::test]
async fn a_raw_script_sees_every_method_and_no_header_with_an_underscore() {
    let script = "from azureml_inference_server_http.api.aml_request import rawhttp\ndef init(): pass\n@rawhttp\ndef run(request): return [request.method, sorted(request.headers.keys())]";
    let pool = Code::new(script).start().await;
    for method in ["GET", "POST", "OPTIONS", "HEAD"] {
        let mut call = header(header(get("/score"), "x-seen", "1"), "x_hidden", "2");
        call.method = method.to_owned();
        assert_eq!(ask(&pool, call).await, (200, format!(r#"["{method}", ["X-Seen"]]"#)));
    }
}

#[tokio::test]
async fn the_request_object_knows_what_flask_knows() {
    let pool = Code::new(&RAW.replace("MODULE", "azureml_inference_server_http.api")).start().await;
    let mut call = header(post(r#"{"a":1}"#), "host", "localhost:1");
    call.target = "/score?x=1&x=2&y=%20a+b".to_owned();
    let call = header(header(call, "x-upper", "up"), "cookie", "a=b; c=d");
    assert_eq!(
        ask(&pool, call).await.1,
        r#"["POST", "/score", "/score?x=1&x=2&y=%20a+b", "http://localhost:1/score?x=1&x=2&y=%20a+b", "x=1&x=2&y=%20a+b", {"x": ["1", "2"], "y": [" a b"]}, "application/json", "application/json", true, {"a": 1}, {}, "up", {}, "b", "{\"a\":1}", true]"#
    );
    let call = header(post("a=1&b=2&a=3"), "content-type", "application/x-www-form-urlencoded");
    let (_, body) = ask(&pool, call).await;
    assert!(body.contains(r#"{"a": ["1", "3"], "b": ["2"]}"#), "{body}");
    let multipart = "--XX\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--XX\r\nContent-Disposition: form-data; name=\"f\"; filename=\"n.txt\"\r\nContent-Type: text/plain\r\n\r\nvm\n\r\n--XX--\r\n";
    let (_, body) =
        ask(&pool, header(post(multipart), "content-type", "multipart/form-data; boundary=XX")).await;
    assert!(
        body.contains(r#"{"a": ["1"]}"#) && body.contains(r#"{"f": ["n.txt", "text/plain", "vm\n"]}"#),
        "{body}"
    );
    let mut call = post("raw text");
    call.target = "/score?kind=data".to_owned();
    assert_eq!(ask(&pool, header(call, "content-type", "text/plain")).await.1, r#""raw text""#);
}

#[tokio::test]
async fn a_script_without_schema_has_the_general_documents_and_own_ones_win() {
    let script = "def init(): pass\ndef run(data): return data";
    let mut config =
        Code::new(script).file("swagger3.json", r#"{"mine":true}"#).start().await.info().swagger.clone();
    assert_eq!(config.remove("3").as_deref(), Some(r#"{"mine": true}"#));
    let two: serde_json::Value = serde_json::from_str(&config["2"]).unwrap();
    assert_eq!(two["definitions"]["ServiceInput"], serde_json::json!({"type": "object", "example": {}}));
    assert_eq!(two["paths"]["/score"]["post"]["operationId"], "RunMLService");
    for version in ["2", "3.1"] {
        let document: serde_json::Value = serde_json::from_str(&config[version]).unwrap();
        assert_eq!(document["paths"]["/score"]["post"]["security"], serde_json::json!([{"Bearer": []}]));
    }
    let latest: serde_json::Value = serde_json::from_str(&config["3.1"]).unwrap();
    assert_eq!(latest["openapi"], "3.1.0");
}
