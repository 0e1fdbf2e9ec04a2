//! Requests beyond their time, callers that go away, and bounds.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use moorline_core::{Script, ScriptError};

use crate::support::*;

const SLEEPY: &str = r#"
import json, signal, time
def init(): pass
def run(data):
    if data == "sleep": time.sleep(600)
    if data == "spin":
        while True: pass
    if data == "swallow":
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
        time.sleep(600)
    if data == "catch":
        while True:
            try: time.sleep(600)
            except Exception: pass
    if data == "short": time.sleep(0.05)
    return data
"#;

async fn timed_out(data: &str) -> u64 {
    let code = Code::new(SLEEPY);
    let mut config = code.config();
    config.scoring_timeout = Duration::from_millis(300);
    let pool = start(config).await;
    let begun = Instant::now();
    let error = reply(&pool, data).await.unwrap_err();
    assert!(matches!(&error, ScriptError::Timeout { limit } if limit.as_millis() == 300), "{error}");
    assert_eq!(error.to_string(), "Scoring timeout after 300 ms");
    assert!(begun.elapsed() < Duration::from_secs(2), "the caller waited too long");
    // The worker is back, or a new one is there.
    let mut call = post("fine");
    call.deadline = Instant::now() + Duration::from_mins(1);
    loop {
        match pool.score(call.clone()).await {
            Ok(reply) => {
                assert_eq!(&reply.body[..], b"\"fine\"");
                break pool.restarts();
            }
            Err(ScriptError::Timeout { .. }) => assert!(begun.elapsed() < Duration::from_secs(30)),
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn a_run_beyond_its_time_is_interrupted_and_the_worker_lives() {
    for data in ["sleep", "spin", "catch"] {
        assert_eq!(timed_out(data).await, 0, "{data}");
    }
}

#[tokio::test]
async fn a_run_that_cannot_be_interrupted_costs_its_worker() {
    assert_eq!(timed_out("swallow").await, 1);
}

#[tokio::test]
async fn a_caller_that_goes_away_harms_nobody() {
    let pool = Code::new(SLEEPY).start().await;
    let abandoned = tokio::time::timeout(Duration::from_millis(20), pool.score(post("short"))).await;
    assert!(abandoned.is_err());
    assert_eq!(ask(&pool, post("next")).await.1, "\"next\"");
    assert_eq!(pool.restarts(), 0);
}

#[tokio::test]
async fn more_than_may_wait_is_refused() {
    let code = Code::new(SLEEPY);
    let mut config = code.config();
    config.max_queue = 2;
    let pool = start(config).await;
    let ask_short = |pool: &Arc<moorline_script::ScriptPool>| {
        let pool = Arc::clone(pool);
        tokio::spawn(async move { reply(&pool, "short").await })
    };
    let running = ask_short(&pool);
    until("one runs", || !pool.stats().idle).await;
    let waiting = [ask_short(&pool), ask_short(&pool)];
    until("two wait", || pool.stats().waiting == 2).await;
    assert!(matches!(reply(&pool, "x").await, Err(ScriptError::Overloaded)));
    for task in std::iter::once(running).chain(waiting) {
        task.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn large_bodies_pass_and_too_large_replies_are_refused() {
    let code = Code::new("def init(): pass\ndef run(data): return data");
    let mut config = code.config();
    config.max_reply_bytes = 20 << 20;
    let pool = start(config).await;
    let large = "x".repeat(19 << 20);
    let reply = reply(&pool, &large).await.unwrap();
    assert_eq!(reply.body.len(), large.len() + 2);
    let (status, body) = ask(&pool, post(&"x".repeat(21 << 20))).await;
    assert_eq!(status, 500);
    assert!(body.contains("at most 20971520 are allowed"), "{body}");
}

#[tokio::test]
async fn shutting_down_runs_exit_handlers() {
    let code = Code::new("");
    let mark = code.folder.path().join("mark");
    let code = code.file(
        "score.py",
        "import atexit, time\ndef init(): atexit.register(lambda: open('mark', 'w').close())\ndef run(x):\n time.sleep(0.2)\n return x",
    );
    let pool = code.start().await;
    let running = {
        let pool = Arc::clone(&pool);
        tokio::spawn(async move { reply(&pool, "x").await })
    };
    until("it runs", || !pool.stats().idle).await;
    running.await.unwrap().unwrap();
    pool.shutdown().await;
    assert!(mark.exists());
    assert!(matches!(reply(&pool, "x").await, Err(ScriptError::Unavailable { .. })));
}
