//! Requests that nobody should send: each gets a clear 4xx, and afterwards the scorer is as it was.

use std::time::Duration;

use moorline_tests::{Connection, ReleaseDir, Reply, Request, Scorer, onnx, resident_mib};
use serde_json::json;

use crate::transport::pack;

fn serve() -> Scorer {
    ReleaseDir::of_model(&onnx::linear_model()).serve().args(["--engine", "tract"]).start()
}

fn still_answers(scorer: &Scorer) {
    let reply = scorer.post("/score", &json!({"data": [[0, 0, 0, 0]]}));
    assert_eq!((reply.status, reply.value()), (200, json!([[0.5, 1.5, 2.5]])));
}

fn refused(reply: &Reply, statuses: &[u16]) -> String {
    assert!(statuses.contains(&reply.status), "status {}: {}", reply.status, reply.text());
    reply.message()
}

#[test]
fn a_hundred_megabytes_of_nesting_are_refused_in_little_time_and_memory() {
    let scorer = serve();
    let open = vec![b'['; 100 << 20];
    let mut object = br#"{"data": "#.to_vec();
    object.extend(&open[..(100 << 20) - 20]);
    let mut pairs = br#"{"data": "#.to_vec();
    pairs.extend(br#"{"a":"#.repeat(20 << 20).into_iter().take((100 << 20) - 20));
    for (body, target) in [(open, "/score"), (object, "/v2/models/tested/infer"), (pairs, "/score")] {
        let before = std::time::Instant::now();
        refused(&scorer.call(&Request::post(target, body)), &[400, 413]);
        assert!(before.elapsed() < Duration::from_secs(10), "{target} took {:?}", before.elapsed());
    }
    still_answers(&scorer);
    assert!(resident_mib(scorer.pid()) < 600.0, "{} MiB are held", resident_mib(scorer.pid()));
}

#[test]
fn nesting_is_bounded_where_it_says() {
    let release = ReleaseDir::of_model(&onnx::linear_model());
    let scorer = release.serve().args(["--engine", "tract", "--max-json-depth", "8"]).start();
    let nested = |depth: usize| {
        format!(r#"{{"data": [[0, 0, 0, 0]], "more": {}{}}}"#, "[".repeat(depth), "]".repeat(depth))
    };
    assert_eq!(scorer.call(&Request::post("/score", nested(7))).status, 200);
    let message = refused(&scorer.call(&Request::post("/score", nested(8))), &[400, 413]);
    assert!(message.contains('8'), "{message}");
}

#[test]
fn a_body_that_is_cut_short_is_refused() {
    let scorer = serve();
    let whole = json!({"data": vec![[1, 2, 3, 4]; 100]}).to_string().into_bytes();
    for coding in ["gzip", "deflate", "br"] {
        let packed = pack(coding, &whole);
        for length in [0, 1, 5, packed.len() / 2, packed.len() - 1] {
            let request = Request::post("/score", &packed[..length]).header("content-encoding", coding);
            let message = refused(&scorer.call(&request), &[400]);
            assert!(!message.is_empty());
        }
        let garbage = Request::post("/score", whole.clone()).header("content-encoding", coding);
        refused(&scorer.call(&garbage), &[400]);
    }
    still_answers(&scorer);
}

#[test]
fn a_bomb_does_not_go_off() {
    let scorer = serve();
    let zeros = vec![b' '; 1 << 20];
    for coding in ["gzip", "deflate", "br"] {
        // 400 MiB in 400 KiB or less; the coders take what they are given, so one piece is packed many times.
        let mut whole = br#"{"data": [[0, 0, 0, 0]]}"#.to_vec();
        for _ in 0..200 {
            whole.extend(&zeros);
        }
        let packed = pack(coding, &whole);
        assert!(packed.len() < 2 << 20, "{coding}: {}", packed.len());
        let message = refused(
            &scorer.call(&Request::post("/score", packed).header("content-encoding", coding)),
            &[413],
        );
        assert!(message.contains("104857600"), "{message}");
    }
    still_answers(&scorer);
    assert!(resident_mib(scorer.pid()) < 600.0, "{} MiB are held", resident_mib(scorer.pid()));
}

#[test]
fn huge_numbers_are_refused_and_never_wrapped() {
    for (element, values) in [
        (onnx::element::INT8, ["128", "-129", "1e3", "0.5", "1e400", "99999999999999999999999999"]),
        (onnx::element::UINT64, ["18446744073709551616", "-1", "1e20", "0.5", "1e400", "-0.5"]),
        (onnx::element::FLOAT16, ["65536", "-1e5", "1e400", "true", "\"1\"", "[1]"]),
        (onnx::element::FLOAT, ["3.5e38", "-1e39", "1e400", "{}", "\"1\"", "[]"]),
    ] {
        let scorer =
            ReleaseDir::of_model(&onnx::identity_model(element)).serve().args(["--engine", "tract"]).start();
        for value in values {
            let reply = scorer.call(&Request::post("/score", format!("{{\"data\": [[0, {value}, 0]]}}")));
            let message = refused(&reply, &[400]);
            assert!(message.contains("`x`"), "{value}: {message}");
        }
        assert_eq!(scorer.post("/score", &json!({"data": [[0, 1, 0]]})).status, 200);
    }
}

#[test]
fn a_number_of_a_million_digits_is_read_or_refused_quickly() {
    let scorer = serve();
    let digits = "7".repeat(1 << 20);
    let before = std::time::Instant::now();
    for number in [digits.clone(), format!("0.{digits}"), format!("1e{digits}"), format!("-{digits}")] {
        let reply = scorer.call(&Request::post("/score", format!("{{\"data\": [[0, 0, 0, {number}]]}}")));
        assert!(reply.status == 200 || reply.status == 400, "{}", reply.status);
        assert!(reply.body.len() < 4096, "the answer repeats the number");
    }
    assert!(before.elapsed() < Duration::from_secs(10));
    still_answers(&scorer);
}

#[test]
fn shapes_that_overflow_are_refused() {
    let scorer = serve();
    for shape in [
        "[9223372036854775807, 4]",
        "[4294967296, 4294967296]",
        "[18446744073709551615, 4]",
        "[1e30, 4]",
        "[0, 4]",
    ] {
        let body = format!(
            r#"{{"inputs": [{{"name": "x", "datatype": "FP32", "shape": {shape}, "data": [1, 2, 3, 4]}}]}}"#
        );
        refused(&scorer.call(&Request::post("/v2/models/tested/infer", body)), &[400]);
    }
    still_answers(&scorer);
}

/// A client that leaves half-way costs nothing but its own request.
#[test]
fn clients_that_vanish_leave_nothing_behind() {
    let scorer = serve();
    for round in 0..200 {
        let mut connection = Connection::open(scorer.address()).unwrap();
        let head = "POST /score HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{\"data\": ";
        connection.write(&head.as_bytes()[..round % head.len()]).unwrap();
        drop(connection);
    }
    still_answers(&scorer);
    let in_flight = || scorer.metric(r#"moorline_requests_in_flight{deployment="tested",endpoint="tested"}"#);
    assert!(moorline_tests::eventually(Duration::from_secs(10), || in_flight() == 0.0), "{}", in_flight());
}

#[test]
fn a_script_s_odd_bodies_reach_the_script_or_are_refused_but_kill_nothing() {
    let scorer = ReleaseDir::of_script(
        "import json\n\n\ndef init():\n    pass\n\n\ndef run(data):\n    return len(json.loads(data)) if data[:1] == '[' else 0\n",
    )
    .serve()
    .start();
    let deep = "[".repeat(1 << 20);
    for (body, statuses) in [
        (deep.into_bytes(), &[500_u16][..]),
        (vec![0xff; 1024], &[400]),
        (vec![0; 1024], &[200]),
        (b"[1".to_vec(), &[500]),
        (vec![b'x'; 50 << 20], &[200]),
    ] {
        let reply = scorer.call(&Request::post("/score", body));
        assert!(statuses.contains(&reply.status), "{}: {}", reply.status, reply.text());
    }
    assert_eq!(scorer.call(&Request::post("/score", "[1, 2]")).value(), 2);
}
