//! The bounds of a scorer: what does not fit is refused at once, with a status and a message that a client can act
//! on, and slow clients are cut.

use std::{
    net::Shutdown,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use moorline_tests::{Connection, ReleaseDir, Reply, Request, Scorer, eventually};

/// Sleeps as many seconds as the body says.
const SLEEPER: &str = "import time\n\n\ndef init():\n    pass\n\n\ndef run(data):\n    time.sleep(float(data or 0))\n    return data\n";

fn serve(arguments: &[&str]) -> Scorer {
    ReleaseDir::of_script(SLEEPER).serve().args(arguments).start()
}

fn seconds_to_come_back(reply: &Reply) -> u32 {
    reply.header("retry-after").expect("it says when to come back").parse().unwrap()
}

#[test]
fn a_body_beyond_the_bound_is_413_whether_or_not_its_length_is_told() {
    let scorer = serve(&["--max-body-bytes", "1000"]);
    assert_eq!(scorer.call(&Request::post("/score", format!("{:>1000}", 0))).status, 200);
    let reply = scorer.call(&Request::post("/score", format!("{:>1001}", 0)));
    assert_eq!(reply.status, 413);
    assert!(reply.message().contains("1000"), "{}", reply.message());
    let mut connection = Connection::open(scorer.address()).unwrap();
    connection.write(b"POST /score HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
    // The scorer may answer and stop reading before all is written.
    let _ = connection.write(format!("3e9\r\n{:>1001}\r\n0\r\n\r\n", 0).as_bytes());
    assert_eq!(connection.read_reply("POST").unwrap().status, 413);
    let mut connection = Connection::open(scorer.address()).unwrap();
    connection.write(b"POST /score HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999\r\n\r\n").unwrap();
    assert_eq!(connection.read_reply("POST").unwrap().status, 413);
    assert_eq!(scorer.call(&Request::post("/score", "0")).status, 200);
}

#[test]
fn headers_beyond_the_bound_are_431() {
    let scorer = serve(&["--max-header-bytes", "16384"]);
    assert_eq!(scorer.call(&Request::post("/score", "0").header("x-long", &"a".repeat(10_000))).status, 200);
    let reply = scorer.call(&Request::post("/score", "0").header("x-long", &"a".repeat(40_000)));
    assert_eq!(reply.status, 431);
    let many = (0..2_000).fold(Request::post("/score", "0"), |request, index| {
        request.header(&format!("x-many-{index}"), "some value")
    });
    assert_eq!(scorer.call(&many).status, 431);
    let long = Request::get(&format!("/score?a={}", "a".repeat(80_000)));
    assert!(matches!(scorer.call(&long).status, 414 | 431));
    assert_eq!(scorer.call(&Request::post("/score", "0")).status, 200);
}

/// Runs `count` requests at one time.
fn storm(scorer: &Scorer, count: usize, body: &str) -> Vec<Reply> {
    thread::scope(|scope| {
        let requests: Vec<_> =
            (0..count).map(|_| scope.spawn(|| scorer.call(&Request::post("/score", body)))).collect();
        requests.into_iter().map(|request| request.join().unwrap()).collect()
    })
}

#[test]
fn a_full_queue_is_429_at_once() {
    let scorer = serve(&["--max-concurrent-requests", "1", "--max-queue-length", "2"]);
    let refused_after = AtomicUsize::new(0);
    let replies = thread::scope(|scope| {
        let request = || {
            let before = Instant::now();
            let reply = scorer.call(&Request::post("/score", "0.5"));
            if reply.status == 429 {
                refused_after.fetch_max(before.elapsed().as_millis() as usize, Ordering::Relaxed);
            }
            reply
        };
        let requests: Vec<_> = (0..8).map(|_| scope.spawn(request)).collect();
        requests.into_iter().map(|request| request.join().unwrap()).collect::<Vec<Reply>>()
    });
    let (answered, refused): (Vec<_>, Vec<_>) = replies.into_iter().partition(|reply| reply.status == 200);
    assert_eq!((answered.len(), refused.len()), (3, 5));
    for reply in refused {
        assert_eq!(reply.status, 429);
        assert!(seconds_to_come_back(&reply) >= 1);
        assert!(!reply.message().is_empty());
    }
    let slowest = refused_after.into_inner();
    assert!(slowest < 400, "a refusal took {slowest} ms");
}

#[test]
fn waiting_longer_than_the_bound_is_429() {
    let scorer = serve(&["--max-concurrent-requests", "1", "--max-queue-wait-ms", "100"]);
    let replies = storm(&scorer, 3, "1");
    let answered = replies.iter().filter(|reply| reply.status == 200).count();
    assert_eq!(answered, 1);
    for reply in replies.iter().filter(|reply| reply.status != 200) {
        assert_eq!(reply.status, 429);
        assert!(seconds_to_come_back(reply) >= 1);
    }
}

#[test]
fn one_request_runs_at_a_time_where_that_is_the_bound() {
    let scorer = serve(&["--worker-count", "2", "--max-concurrent-requests", "1"]);
    let before = Instant::now();
    assert!(storm(&scorer, 3, "0.3").iter().all(|reply| reply.status == 200));
    assert!(before.elapsed() >= Duration::from_millis(900), "{:?}", before.elapsed());
}

#[test]
fn workers_run_side_by_side() {
    let scorer = serve(&["--worker-count", "3"]);
    let before = Instant::now();
    assert!(storm(&scorer, 3, "1").iter().all(|reply| reply.status == 200));
    assert!(before.elapsed() < Duration::from_millis(2500), "{:?}", before.elapsed());
}

#[test]
fn a_request_that_exceeds_the_request_timeout_is_408() {
    let scorer = serve(&["--request-timeout-ms", "300"]);
    let before = Instant::now();
    let reply = scorer.call(&Request::post("/score", "20"));
    assert_eq!(reply.status, 408, "{}", reply.text());
    assert!(reply.message().contains("300"), "{}", reply.message());
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
    // The worker that was held is given up, so the next request finds another one.
    assert!(eventually(Duration::from_secs(20), || scorer.call(&Request::post("/score", "0")).status == 200));
}

#[test]
fn request_settings_of_the_release_are_the_bounds() {
    let release = ReleaseDir::of_script(SLEEPER);
    release.edit(|value| {
        value["request_settings"] = serde_json::json!({
            "request_timeout_ms": 400, "max_concurrent_requests_per_instance": 1, "max_queue_wait_ms": 50,
        });
    });
    let scorer = release.serve().start();
    assert_eq!(scorer.call(&Request::post("/score", "20")).status, 408);
    assert!(eventually(Duration::from_secs(20), || scorer.call(&Request::post("/score", "0")).status == 200));
    let statuses: Vec<u16> = storm(&scorer, 2, "0.3").iter().map(|reply| reply.status).collect();
    assert!(statuses.contains(&200) && statuses.contains(&429), "{statuses:?}");
}

#[test]
fn a_client_that_is_slow_with_its_headers_is_cut() {
    let scorer = serve(&["--header-timeout-ms", "300"]);
    for start in ["", "POST /sco", "POST /score HTTP/1.1\r\nhost: x\r\nx-slow: "] {
        let mut connection = Connection::open(scorer.address()).unwrap();
        connection.write(start.as_bytes()).unwrap();
        assert!(connection.closed(Duration::from_secs(10)), "still open after {start:?}");
    }
    assert_eq!(scorer.call(&Request::post("/score", "0")).status, 200);
}

/// A byte now and then is no way to keep the connection.
#[test]
fn a_client_that_drips_its_headers_is_cut() {
    let scorer = serve(&["--header-timeout-ms", "400"]);
    let mut connection = Connection::open(scorer.address()).unwrap();
    let before = Instant::now();
    let cut = eventually(Duration::from_secs(10), || {
        let written = connection.write(b"G").is_err();
        written || connection.closed(Duration::from_millis(50))
    });
    assert!(cut && before.elapsed() < Duration::from_secs(8), "{:?}", before.elapsed());
}

#[test]
fn a_client_that_is_slow_with_its_body_is_told_and_cut() {
    let scorer = serve(&["--body-timeout-ms", "300"]);
    let mut connection = Connection::open(scorer.address()).unwrap();
    connection.write(b"POST /score HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n0").unwrap();
    let reply = connection.read_reply("POST").unwrap();
    assert_eq!(reply.status, 408);
    assert!(!reply.message().is_empty());
    assert!(connection.closed(Duration::from_secs(5)));
    assert_eq!(scorer.call(&Request::post("/score", "0")).status, 200);
}

#[test]
fn a_client_that_does_not_read_its_answer_is_cut() {
    let release =
        ReleaseDir::of_script("def init():\n    pass\n\n\ndef run(data):\n    return 'x' * int(data)\n");
    let scorer = release.serve().args(["--body-timeout-ms", "500"]).start();
    let mut connection = Connection::open(scorer.address()).unwrap();
    let body = (64 << 20).to_string();
    let request = Request::post("/score", body);
    connection.write(&request.head()).unwrap();
    connection.write(&request.body).unwrap();
    // Nothing is read; the sockets' buffers fill up, and the scorer must not hold the answer for ever.
    let open = || connections_of(&scorer);
    assert!(eventually(Duration::from_secs(10), || open() > 0));
    assert!(eventually(Duration::from_secs(15), || open() == 0), "{} connections are open", open());
    let read = connection.read_reply("POST");
    assert!(read.is_err(), "the whole answer came through");
}

/// Established connections to the data port, as the kernel lists them for the scorer's side.
fn connections_of(scorer: &Scorer) -> usize {
    let local = format!("0100007F:{:04X}", scorer.address().port());
    let table = fs_err::read_to_string("/proc/net/tcp").unwrap();
    let established = |line: &&str| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next() == Some(local.as_str()) && fields.nth(1) == Some("01")
    };
    table.lines().filter(established).count()
}

/// A client that hangs up gives up its place and harms nobody.
#[test]
fn a_client_that_leaves_frees_its_place() {
    let scorer = serve(&["--max-concurrent-requests", "1", "--max-queue-length", "1"]);
    for _ in 0..3 {
        let mut connection = Connection::open(scorer.address()).unwrap();
        connection.write(b"POST /score HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n1").unwrap();
        connection.socket().shutdown(Shutdown::Both).unwrap();
    }
    assert!(eventually(Duration::from_secs(20), || scorer.call(&Request::post("/score", "0")).status == 200));
}
