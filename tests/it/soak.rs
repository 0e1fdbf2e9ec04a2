//! Flat memory: as many requests again take no more of it.

use std::thread;

use moorline_tests::{Connection, ReleaseDir, Request, Scorer, children_of, onnx, resident_mib};
use serde_json::json;

const CONNECTIONS: usize = 4;

/// What may be gained between the first and the second half, in MiB: an allocator keeps some of what it was given.
const SLACK_MIB: f64 = 8.0;

fn send(scorer: &Scorer, requests: &[Request], rounds: usize) {
    thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            scope.spawn(|| {
                let mut connection = Connection::open(scorer.address()).unwrap();
                for round in 0..rounds / CONNECTIONS {
                    let request = &requests[round % requests.len()];
                    let reply = connection.send(request).unwrap();
                    assert!(reply.status < 500, "{}", reply.text());
                }
            });
        }
    });
}

/// Sends `rounds` requests, then as many again twice over, and compares.
fn soak(scorer: &Scorer, requests: &[Request], rounds: usize) {
    let used = || -> f64 {
        let all = std::iter::once(scorer.pid()).chain(children_of(scorer.pid()));
        all.map(resident_mib).sum()
    };
    send(scorer, requests, rounds);
    let before = used();
    send(scorer, requests, rounds * 2);
    let after = used();
    assert!(
        after < before + SLACK_MIB,
        "{before:.1} MiB became {after:.1} MiB after {} more requests",
        rounds * 2
    );
}

#[test]
fn an_onnx_scorer_s_memory_is_flat() {
    for engine in moorline_tests::engines() {
        let scorer = ReleaseDir::of_model(&onnx::linear_model()).serve().args(["--engine", engine]).start();
        let rows = |count: usize| json!({"data": vec![[1, 2, 3, 4]; count]});
        let requests = [
            Request::json("/score", &rows(1)),
            Request::json("/score", &rows(100)),
            Request::json("/score", &json!({"data": [[1, 2]]})),
            Request::post("/score", "{"),
            Request::get("/v2/models/tested"),
            Request::json("/score", &rows(10)).header("accept-encoding", "gzip"),
            Request::get("/nowhere"),
        ];
        soak(&scorer, &requests, 7_000);
    }
}

#[test]
fn a_script_s_scorer_s_memory_is_flat() {
    let source = "def init():\n    pass\n\n\ndef run(data):\n    print(len(data))\n    return data\n";
    let scorer = ReleaseDir::of_script(source).serve().args(["--worker-count", "2"]).start();
    let requests = [
        Request::post("/score", "x"),
        Request::post("/score", "x".repeat(20_000)),
        Request::post("/score", vec![0xff]),
        Request::get("/score?a=1"),
    ];
    soak(&scorer, &requests, 4_000);
}
