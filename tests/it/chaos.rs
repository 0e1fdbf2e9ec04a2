//! Workers that die, hang, shout, eat and exit: the server stays, every request gets exactly one answer, and the
//! message says what happened.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use moorline_tests::{Connection, ReleaseDir, Reply, Request, Scorer, children_of, eventually};
use rustix::process::{Pid, Signal, kill_process};

/// Does what the body says to the process that it runs in.
const VICTIM: &str = "\
import os, sys, time


def init():
    pass


def run(data):
    if data == 'die':
        os._exit(9)
    if data == 'exit':
        sys.exit(4)
    if data == 'hang':
        time.sleep(3600)
    if data == 'spin':
        while True:
            pass
    if data == 'segfault':
        import ctypes
        ctypes.string_at(0)
    if data == 'eat':
        x = bytearray(4 << 30)
        return len(x)
    if data == 'shout':
        os.write(1, b'\\x00\\xff\\n{\"not\": \"a frame\"}\\n' * 2000)
        os.write(2, b'x' * 200000)
        return 'shouted'
    if data == 'close':
        os.closerange(3, 256)
        return 'closed'
    if data == 'fork':
        if os.fork() == 0:
            time.sleep(0.2)
            os._exit(0)
        return 'forked'
    return data
";

fn serve(arguments: &[&str]) -> Scorer {
    ReleaseDir::of_script(VICTIM).serve().args(arguments).start()
}

fn recovers(scorer: &Scorer) {
    let fine = || scorer.call(&Request::post("/score", "fine")).status == 200;
    assert!(eventually(Duration::from_secs(30), fine), "no worker came back:\n{}", scorer.log().text());
    assert!(eventually(Duration::from_secs(10), || scorer.ready()));
}

fn failed(reply: &Reply) -> String {
    assert_eq!(reply.status, 500, "{}", reply.text());
    reply.message()
}

#[test]
fn workers_that_are_killed_under_load_lose_no_request_but_their_own() {
    let scorer = serve(&["--worker-count", "2"]);
    let stop = AtomicBool::new(false);
    let (answers, kills) = thread::scope(|scope| {
        let client = |client: usize| {
            let (scorer, stop) = (&scorer, &stop);
            scope.spawn(move || {
                let mut connection = Connection::open(scorer.address()).unwrap();
                let mut answers = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let own = format!("{client}-{}", answers.len());
                    let reply = connection.send(&Request::post("/score", own.clone()));
                    answers.push((own, reply.expect("every request gets an answer")));
                }
                // Nothing more may come: an answer too many would sit in the connection.
                let bytes = connection.send(&Request::get("/")).unwrap();
                assert_eq!(bytes.text(), "Healthy");
                answers
            })
        };
        let clients: Vec<_> = (0..6).map(client).collect();
        let mut kills = 0;
        while kills < 25 {
            // The victims change with the process table's order; any worker will do.
            let workers = children_of(scorer.pid());
            if let Some(pid) = workers.get(kills % 2).or(workers.first())
                && kill_process(Pid::from_raw(*pid as i32).unwrap(), Signal::KILL).is_ok()
            {
                kills += 1;
            }
            let served = |at_least: usize| scorer.metric(&ok_series()) as usize >= at_least;
            let before = scorer.metric(&ok_series()) as usize;
            assert!(eventually(Duration::from_secs(30), || served(before + 5)), "{}", scorer.log().text());
        }
        stop.store(true, Ordering::Relaxed);
        (clients.into_iter().flat_map(|client| client.join().unwrap()).collect::<Vec<_>>(), kills)
    });
    let mut by_status: HashMap<u16, usize> = HashMap::new();
    for (own, reply) in &answers {
        *by_status.entry(reply.status).or_default() += 1;
        match reply.status {
            200 => assert_eq!(reply.value(), own.as_str(), "another's answer"),
            500 => assert!(reply.message().contains("died"), "{}", reply.text()),
            _ => panic!("{}: {}", reply.status, reply.text()),
        }
    }
    let lost = by_status.get(&500).copied().unwrap_or(0);
    assert!(lost <= kills, "{kills} kills cost {lost} requests: {by_status:?}");
    let restarts = scorer.metric(r#"moorline_script_restarts_total{deployment="tested",endpoint="tested"}"#);
    assert!(restarts >= kills as f64 - 2.0, "{restarts} restarts after {kills} kills");
    recovers(&scorer);
}

fn ok_series() -> String {
    r#"moorline_requests_total{code="200",deployment="tested",endpoint="tested",protocol="score"}"#.to_owned()
}

#[test]
fn a_worker_that_exits_or_crashes_costs_one_request_and_the_message_says_how() {
    let scorer = serve(&[]);
    let answer = |what: &str| {
        recovers(&scorer);
        failed(&scorer.call(&Request::post("/score", what)))
    };
    let died = answer("die");
    assert!(died.contains("died") && died.contains('9'), "{died}");
    let segfault = answer("segfault").to_lowercase();
    assert!(
        segfault.contains("died") && (segfault.contains("segv") || segfault.contains("11")),
        "{segfault}"
    );
    // A SystemExit in run() is the script's exception or the worker's end; either is told as a failure.
    answer("exit");
    recovers(&scorer);
}

#[test]
fn a_worker_that_hangs_or_spins_is_given_up_at_its_deadline() {
    let scorer = serve(&["--scoring-timeout-ms", "500", "--worker-count", "2"]);
    for what in ["hang", "spin"] {
        let reply = scorer.call(&Request::post("/score", what));
        assert_eq!(failed(&reply), "Scoring timeout after 500 ms");
        assert_eq!(reply.header("x-ms-run-function-failed"), Some("True"));
        recovers(&scorer);
    }
    let workers = || children_of(scorer.pid()).len();
    assert!(eventually(Duration::from_secs(15), || workers() == 2), "{} workers", workers());
}

#[test]
fn garbage_on_stdout_is_a_log_and_no_answer() {
    let scorer = serve(&[]);
    for _ in 0..5 {
        let reply = scorer.call(&Request::post("/score", "shout"));
        assert_eq!((reply.status, reply.value()), (200, "shouted".into()));
    }
    assert_eq!(
        scorer.metric(r#"moorline_script_restarts_total{deployment="tested",endpoint="tested"}"#),
        0.0
    );
    assert!(scorer.log().wait_for_text(Duration::from_secs(5), "a frame"));
}

#[test]
fn a_worker_that_closes_its_channel_is_replaced() {
    let scorer = serve(&[]);
    let reply = scorer.call(&Request::post("/score", "close"));
    assert!(reply.status == 500 || reply.status == 200, "{}", reply.text());
    recovers(&scorer);
}

#[test]
fn a_worker_that_forks_is_still_one_worker() {
    let scorer = serve(&[]);
    for _ in 0..5 {
        assert_eq!(scorer.call(&Request::post("/score", "fork")).value(), "forked");
    }
    recovers(&scorer);
}

#[test]
fn a_worker_that_eats_memory_is_stopped_at_its_bound() {
    let scorer = serve(&["--worker-memory-mib", "1024"]);
    let reply = scorer.call(&Request::post("/score", "eat"));
    assert_eq!(reply.status, 500, "{}", reply.text());
    let limit = Duration::from_secs(5);
    assert!(scorer.log().wait_for_text(limit, "MemoryError"), "{}", scorer.log().text());
    recovers(&scorer);
}

/// The first start works, the second one does not, until the reason is gone: the server stays up and says why.
#[test]
fn an_init_that_fails_on_restart_leaves_the_server_up_and_is_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let flag = folder.path().join("broken");
    let source = format!(
        "import os\n\n\ndef init():\n    if os.path.exists({0:?}):\n        raise RuntimeError('the disk is on fire')\n\n\n\
         def run(data):\n    if data == 'die':\n        open({0:?}, 'w').close()\n        os._exit(9)\n    return data\n",
        flag.to_str().unwrap()
    );
    let scorer = ReleaseDir::of_script(&source).serve().start();
    failed(&scorer.call(&Request::post("/score", "die")));
    let unavailable = || {
        let reply = scorer.call(&Request::post("/score", "x"));
        reply.status == 503 && reply.message().contains("the disk is on fire")
    };
    assert!(eventually(Duration::from_secs(20), unavailable), "{}", scorer.log().text());
    let reply = scorer.call(&Request::post("/score", "x"));
    assert!(reply.header("retry-after").is_some());
    assert!(!scorer.ready());
    assert_eq!(scorer.get("/").status, 200);
    fs_err::remove_file(&flag).unwrap();
    recovers(&scorer);
}
