//! From start to exit: when a scorer is ready, how it drains, and how it says that it cannot start.

use std::{
    net::TcpListener,
    thread,
    time::{Duration, Instant},
};

use moorline_tests::{Connection, ReleaseDir, Request, Scorer, call, children_of, eventually, onnx};

const SLEEPER: &str = "import time\n\n\ndef init():\n    pass\n\n\ndef run(data):\n    time.sleep(float(data))\n    return data\n";

#[test]
fn it_listens_before_the_model_is_loaded_and_is_ready_after() {
    let source = "import time\n\n\ndef init():\n    time.sleep(1.5)\n\n\ndef run(data):\n    return 'here'\n";
    let scorer = ReleaseDir::of_script(source).serve().start_listening();
    let admin = |target: &str| call(scorer.admin(), &Request::get(target)).status;
    assert_eq!((admin("/live"), admin("/ready")), (200, 503));
    let early = scorer.call(&Request::post("/score", "x"));
    if early.status == 503 {
        assert!(early.header("retry-after").is_some() && !early.message().is_empty());
        assert_eq!(scorer.get("/v2/health/ready").status / 100, 5);
    } else {
        // init() was quicker than this test on a machine that is busy elsewhere.
        assert_eq!(early.status, 200);
    }
    assert!(eventually(Duration::from_secs(30), || admin("/ready") == 200));
    assert_eq!(scorer.call(&Request::post("/score", "x")).value(), "here");
}

/// `ready` in the log is a promise: the very next request is answered.
#[test]
fn the_first_request_after_ready_is_answered() {
    for _ in 0..15 {
        let scorer = ReleaseDir::of_script(SLEEPER).serve().start_until_said_ready();
        let reply = scorer.call(&Request::post("/score", "0"));
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert!(scorer.ready());
    }
}

#[test]
fn sigterm_lets_requests_in_flight_finish_and_exits_0() {
    let mut scorer = ReleaseDir::of_script(SLEEPER).serve().args(["--worker-count", "2"]).start();
    let address = scorer.address();
    let running: Vec<_> =
        (0..2).map(|_| thread::spawn(move || call(address, &Request::post("/score", "1.5")))).collect();
    let in_flight = || scorer.metric(r#"moorline_requests_in_flight{deployment="tested",endpoint="tested"}"#);
    assert!(eventually(Duration::from_secs(10), || in_flight() >= 2.0), "{}", in_flight());
    let workers = children_of(scorer.pid());
    assert!(workers.len() >= 2, "{workers:?}");
    scorer.terminate();
    assert!(eventually(Duration::from_secs(5), || !ready(&scorer)), "it is ready while it drains");
    for request in running {
        let reply = request.join().unwrap();
        assert_eq!((reply.status, reply.value()), (200, "1.5".into()));
    }
    assert_eq!(scorer.wait(Duration::from_secs(20)), Some(0));
    let alive = |pid: &u32| std::path::Path::new(&format!("/proc/{pid}")).exists();
    assert!(
        eventually(Duration::from_secs(5), || !workers.iter().any(alive)),
        "workers are left: {workers:?}"
    );
}

/// A scorer that is gone is not ready either.
fn ready(scorer: &Scorer) -> bool {
    Connection::open(scorer.admin())
        .and_then(|mut connection| connection.send(&Request::get("/ready")))
        .is_ok_and(|reply| reply.status == 200)
}

#[test]
fn sigterm_does_not_wait_for_idle_connections() {
    let mut scorer = ReleaseDir::of_model(&onnx::linear_model()).serve().args(["--engine", "tract"]).start();
    let mut idle = Connection::open(scorer.address()).unwrap();
    assert_eq!(idle.send(&Request::get("/")).unwrap().status, 200);
    let before = Instant::now();
    scorer.terminate();
    assert_eq!(scorer.wait(Duration::from_secs(10)), Some(0));
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
}

#[test]
fn what_takes_longer_than_the_drain_timeout_is_cut() {
    let mut scorer = ReleaseDir::of_script(SLEEPER).serve().args(["--drain-timeout-ms", "500"]).start();
    let mut connection = Connection::open(scorer.address()).unwrap();
    connection.write(b"POST /score HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n60").unwrap();
    let in_flight = || scorer.metric(r#"moorline_requests_in_flight{deployment="tested",endpoint="tested"}"#);
    assert!(eventually(Duration::from_secs(10), || in_flight() >= 1.0), "{}", in_flight());
    let before = Instant::now();
    scorer.terminate();
    scorer.wait(Duration::from_secs(20));
    assert!(before.elapsed() < Duration::from_secs(10), "{:?}", before.elapsed());
}

#[test]
fn a_second_sigterm_ends_it_at_once() {
    let mut scorer = ReleaseDir::of_script(SLEEPER).serve().start();
    let mut connection = Connection::open(scorer.address()).unwrap();
    connection.write(b"POST /score HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n60").unwrap();
    let in_flight = || scorer.metric(r#"moorline_requests_in_flight{deployment="tested",endpoint="tested"}"#);
    assert!(eventually(Duration::from_secs(10), || in_flight() >= 1.0), "{}", in_flight());
    let workers = children_of(scorer.pid());
    scorer.terminate();
    assert!(eventually(Duration::from_secs(5), || !ready(&scorer)));
    let before = Instant::now();
    scorer.terminate();
    scorer.wait(Duration::from_secs(20));
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
    let alive = |pid: &u32| std::path::Path::new(&format!("/proc/{pid}")).exists();
    assert!(
        eventually(Duration::from_secs(5), || !workers.iter().any(alive)),
        "workers are left: {workers:?}"
    );
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for variable in ["SERVER_PORT", "MOORLINE_ADMIN_PORT"] {
        let release = ReleaseDir::of_model(&onnx::linear_model());
        let failure = release.serve().env(variable, &port).fail();
        assert_eq!(failure.code, Some(1), "{}", failure.log);
        assert!(failure.log.contains(&port), "{}", failure.log);
    }
}

/// A scorer that is killed takes its workers with it.
#[test]
fn workers_do_not_outlive_a_scorer_that_was_killed() {
    let scorer = ReleaseDir::of_script(SLEEPER).serve().args(["--worker-count", "2"]).start();
    let workers = children_of(scorer.pid());
    assert!(workers.len() >= 2, "{workers:?}");
    drop(scorer);
    let alive = |pid: &u32| std::path::Path::new(&format!("/proc/{pid}")).exists();
    assert!(
        eventually(Duration::from_secs(10), || !workers.iter().any(alive)),
        "workers are left: {workers:?}"
    );
}

#[test]
fn settings_come_from_variables_too_and_flags_win() {
    let release = ReleaseDir::of_script(SLEEPER);
    let scorer = release.serve().env("WORKER_COUNT", "3").env("SCORING_TIMEOUT_MS", "200").start();
    assert_eq!(children_of(scorer.pid()).len(), 3);
    assert_eq!(scorer.call(&Request::post("/score", "5")).message(), "Scoring timeout after 200 ms");
    let release = ReleaseDir::of_script(SLEEPER);
    let scorer = release.serve().env("WORKER_COUNT", "3").args(["--worker-count", "1"]).start();
    assert_eq!(children_of(scorer.pid()).len(), 1);
}
