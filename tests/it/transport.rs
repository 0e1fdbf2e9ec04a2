//! What lies around a request on the wire: content codings, cross-origin requests, chunks, pipelines and HTTP/2.

use std::io::{Read, Write};

use flate2::{
    Compression,
    read::{GzDecoder, ZlibDecoder},
    write::{GzEncoder, ZlibEncoder},
};
use moorline_tests::{Connection, ReleaseDir, Reply, Request, Scorer, onnx};
use serde_json::{Value, json};

fn serve() -> Scorer {
    ReleaseDir::of_model(&onnx::linear_model()).serve().args(["--engine", "tract"]).start()
}

fn echo() -> Scorer {
    ReleaseDir::of_script("def init():\n    pass\n\n\ndef run(data):\n    return data\n").serve().start()
}

pub(crate) fn pack(coding: &str, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match coding {
        "gzip" => {
            let mut encoder = GzEncoder::new(&mut out, Compression::fast());
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap();
        }
        "deflate" => {
            let mut encoder = ZlibEncoder::new(&mut out, Compression::fast());
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap();
        }
        "br" => {
            let mut encoder = brotli::CompressorWriter::new(&mut out, 4096, 4, 20);
            encoder.write_all(body).unwrap();
        }
        other => panic!("no coding {other}"),
    }
    out
}

fn unpack(coding: &str, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match coding {
        "gzip" => GzDecoder::new(body).read_to_end(&mut out).unwrap(),
        "deflate" => ZlibDecoder::new(body).read_to_end(&mut out).unwrap(),
        "br" => brotli::Decompressor::new(body, 4096).read_to_end(&mut out).unwrap(),
        other => panic!("no coding {other}"),
    };
    out
}

#[test]
fn bodies_are_unpacked_and_answers_packed_as_asked() {
    let model = serve();
    let script = echo();
    let rows: Vec<[i32; 4]> = (0..500).map(|row| [row, 0, 0, 0]).collect();
    let body = json!({"data": rows}).to_string().into_bytes();
    let plain = model.call(&Request::post("/score", body.clone())).body;
    let echoed = script.call(&Request::post("/score", body.clone())).body;
    for coding in ["gzip", "deflate", "br"] {
        let request = Request::post("/score", pack(coding, &body))
            .header("content-encoding", coding)
            .header("content-type", "application/json")
            .header("accept-encoding", coding);
        for (scorer, expected) in [(&model, &plain), (&script, &echoed)] {
            let reply = scorer.call(&request);
            assert_eq!(reply.status, 200, "{coding}: {}", reply.text());
            assert_eq!(reply.header("content-encoding"), Some(coding));
            assert!(reply.header("vary").unwrap().to_ascii_lowercase().contains("accept-encoding"));
            assert!(reply.body.len() < expected.len(), "{coding} packs nothing");
            assert_eq!(&unpack(coding, &reply.body), expected, "{coding}");
        }
    }
    let unasked = model.call(&Request::post("/score", body));
    assert_eq!(unasked.header("content-encoding"), None);
    let unknown = model.call(&Request::post("/score", "{}").header("content-encoding", "zstd"));
    assert_eq!(unknown.status, 415);
    assert!(unknown.message().contains("zstd"));
}

#[test]
fn origins_that_are_named_may_call_and_others_may_not() {
    let release = ReleaseDir::of_model(&onnx::linear_model());
    let scorer = release
        .serve()
        .args(["--engine", "tract", "--cors-origins", "http://a.example, http://b.example"])
        .start();
    let allowed = |reply: &Reply| reply.header("access-control-allow-origin").map(str::to_owned);
    let score = |origin: &str| {
        scorer.call(&Request::json("/score", &json!({"data": [[0, 0, 0, 0]]})).header("origin", origin))
    };
    assert_eq!(allowed(&score("http://b.example")).as_deref(), Some("http://b.example"));
    assert_eq!(allowed(&score("http://c.example")), None);
    let preflight = scorer.call(
        &Request::new("OPTIONS", "/score")
            .header("origin", "http://a.example")
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization"),
    );
    assert_eq!(preflight.status, 200);
    assert_eq!(allowed(&preflight).as_deref(), Some("http://a.example"));
    let methods = preflight.header("access-control-allow-methods").unwrap();
    assert!(methods.contains("POST") && methods.contains("GET"), "{methods}");
    assert_eq!(preflight.header("access-control-allow-headers"), Some("authorization"));
}

#[test]
fn chunked_bodies_pipelines_and_odd_spellings_are_http_too() {
    let scorer = echo();
    let mut connection = Connection::open(scorer.address()).unwrap();
    let head = "POST /score HTTP/1.1\r\nhost: x\r\n";
    connection
        .write(format!("{head}transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").as_bytes())
        .unwrap();
    assert_eq!(connection.read_reply("POST").unwrap().value(), "abcde");
    // Two requests in one write: two answers, in their order.
    connection
        .write(format!("{head}content-length: 1\r\n\r\n1{head}CONTENT-LENGTH: 1\r\n\r\n2").as_bytes())
        .unwrap();
    assert_eq!(connection.read_reply("POST").unwrap().value(), "1");
    assert_eq!(connection.read_reply("POST").unwrap().value(), "2");
    // A client that asks first is told to go on.
    connection.write(format!("{head}expect: 100-continue\r\ncontent-length: 1\r\n\r\n").as_bytes()).unwrap();
    connection.write(b"3").unwrap();
    assert_eq!(connection.read_reply("POST").unwrap().value(), "3");
    // HTTP/1.0 closes unless asked.
    connection.write(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(connection.read_reply("GET").unwrap().text(), "Healthy");
    assert!(connection.closed(std::time::Duration::from_secs(5)));
}

#[test]
fn what_is_not_http_is_refused_and_the_scorer_goes_on() {
    let scorer = echo();
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"HELLO\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /score HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /score HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"POST /score HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET /\x00 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\ngarbage-that-is-no-frame-at-all",
    ] {
        let mut connection = Connection::open(scorer.address()).unwrap();
        connection.write(bytes).unwrap();
        // Some need the end of what the client has to say before they are certain.
        connection.socket().shutdown(std::net::Shutdown::Write).unwrap();
        if let Ok(reply) = connection.read_reply("GET") {
            assert!((400..500).contains(&reply.status), "{bytes:?}: {} {}", reply.status, reply.text());
        }
        assert!(connection.closed(std::time::Duration::from_secs(15)), "{bytes:?} keeps the connection");
    }
    assert_eq!(scorer.call(&Request::post("/score", "x")).value(), Value::from("x"));
}
