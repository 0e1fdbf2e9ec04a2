//! Workers that die, lie or misbehave: never the pool's end, never another request's.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use moorline_core::{Script, ScriptError};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::support::*;

const SCRIPT: &str = r#"
import os, signal, sys, threading, time
def init(): pass
def run(data):
    if data == "die": os.kill(os.getpid(), signal.SIGKILL)
    if data == "exit": os._exit(4)
    if data == "garbage":
        print("\x00\x01garbage" * 1000); os.write(1, b"\xff\x00" * 5000); os.write(2, b"\x1e\x1f\n")
    if data == "close":
        os.close(0); os.close(1); os.close(2); sys.stdout = None; os.chdir("/")
    if data == "closeall": os.closerange(3, 4096)
    if data == "eat":
        return len(bytearray(1 << 40))
    if data == "fork":
        pid = os.fork()
        if pid == 0: return "child"
        return "parent"
    if data == "thread":
        threading.Thread(target=lambda: print("later"), daemon=True).start()
    if data == "pid": return os.getpid()
    if data == "slow":
        open("started", "w").close()
        time.sleep(600)
    return data
"#;

async fn dies_with(data: &str, reason: &str) {
    let pool = Code::new(SCRIPT).start().await;
    let error = reply(&pool, data).await.unwrap_err();
    assert!(matches!(&error, ScriptError::WorkerDied { reason: told } if told.contains(reason)), "{error}");
    assert_eq!(ask(&pool, post("next")).await.1, "\"next\"");
    assert_eq!(pool.restarts(), 1);
}

#[tokio::test]
async fn a_crash_costs_one_request() {
    dies_with("die", "signal 9").await;
    dies_with("exit", "code 4").await;
    dies_with("closeall", "").await;
}

#[tokio::test]
async fn what_scripts_do_to_their_process_does_not_reach_the_protocol() {
    let pool = Code::new(SCRIPT).start().await;
    for data in ["garbage", "thread", "close", "next"] {
        assert_eq!(ask(&pool, post(data)).await.1, format!("\"{data}\""));
    }
    assert_eq!(pool.restarts(), 0);
    let pool = Code::new(SCRIPT).start().await;
    for _ in 0..5 {
        assert_eq!(ask(&pool, post("fork")).await.1, "\"parent\"");
    }
    assert_eq!(ask(&pool, post("next")).await.1, "\"next\"");
    assert_eq!(pool.restarts(), 0);
}

#[tokio::test]
async fn memory_beyond_the_limit_is_the_requests_failure() {
    let code = Code::new(SCRIPT);
    let mut config = code.config();
    config.memory_limit = Some(2 << 30);
    let pool = start(config).await;
    let answer = reply(&pool, "eat").await.unwrap();
    assert!(answer.status == 500 && answer.failed == Some(true));
    assert_eq!(ask(&pool, post("next")).await.1, "\"next\"");
}

#[tokio::test]
async fn killing_workers_under_load_leaves_one_answer_a_request() {
    let code = Code::new(SCRIPT);
    let mut config = code.config();
    config.workers = workers(2);
    let pool = start(config).await;
    let (done, answered, lost) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let (done, answered, lost) = (Arc::new(done), Arc::new(answered), Arc::new(lost));
    let clients: Vec<_> = (0..8)
        .map(|client| {
            let (pool, done) = (Arc::clone(&pool), Arc::clone(&done));
            let (answered, lost) = (Arc::clone(&answered), Arc::clone(&lost));
            tokio::spawn(async move {
                let mut number = 0;
                while !done.load(Ordering::Relaxed) {
                    number += 1;
                    let sent = format!("{client}-{number}");
                    match reply(&pool, &sent).await {
                        Ok(reply) => {
                            assert_eq!(reply.body, format!("\"{sent}\""));
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(ScriptError::WorkerDied { .. }) => {
                            lost.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        })
        .collect();
    let kills = 12;
    for kill in 0..kills {
        let before = answered.load(Ordering::Relaxed);
        until("work goes on", || answered.load(Ordering::Relaxed) > before + 200).await;
        until("somebody lives", || !pool.worker_pids().is_empty()).await;
        let pids = pool.worker_pids();
        let (_, pid) = pids[kill % pids.len()];
        if let Some(pid) = Pid::from_raw(pid) {
            // It may have died of the last one already.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    until("everybody is back", || pool.stats().alive == 2).await;
    done.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    let lost = lost.load(Ordering::Relaxed);
    assert!(lost <= kills, "{lost} requests were lost to {kills} kills");
    assert!(pool.restarts() > 0);
}

#[tokio::test]
async fn nobody_waits_behind_a_run_that_turns_out_long() {
    let code = Code::new(SCRIPT);
    let mut config = code.config();
    config.workers = workers(2);
    let pool = start(config).await;
    let ask_often = |count: usize| -> Vec<_> {
        (0..count)
            .map(|number| {
                let pool = Arc::clone(&pool);
                tokio::spawn(async move { reply(&pool, &format!("n{number}")).await.unwrap() })
            })
            .collect()
    };
    for task in ask_often(100) {
        task.await.unwrap();
    }
    // Both workers are supplied ahead; one of them gets stuck with something behind it.
    let mut rest = ask_often(20);
    let stuck = {
        let pool = Arc::clone(&pool);
        tokio::spawn(async move { reply(&pool, "slow").await })
    };
    tokio::task::yield_now().await;
    rest.extend(ask_often(200));
    for task in rest {
        tokio::time::timeout(Duration::from_secs(20), task).await.unwrap().unwrap();
    }
    assert!(!stuck.is_finished());
    stuck.abort();
}

#[tokio::test]
async fn waiting_requests_survive_the_only_worker() {
    let code = Code::new(SCRIPT);
    let started = code.folder.path().join("started");
    let pool = code.start().await;
    let first = {
        let pool = Arc::clone(&pool);
        tokio::spawn(async move { reply(&pool, "slow").await })
    };
    until("the first runs", || started.exists()).await;
    let rest: Vec<_> = (0..5)
        .map(|number| {
            let pool = Arc::clone(&pool);
            tokio::spawn(async move { reply(&pool, &format!("n{number}")).await.unwrap() })
        })
        .collect();
    until("they wait", || pool.stats().waiting == 5).await;
    let (_, pid) = pool.worker_pids()[0];
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    assert!(matches!(first.await.unwrap(), Err(ScriptError::WorkerDied { .. })));
    for (number, task) in rest.into_iter().enumerate() {
        assert_eq!(task.await.unwrap().body, format!("\"n{number}\""));
    }
}

#[tokio::test]
async fn a_script_that_does_not_start_again_leaves_the_pool_up_and_says_why() {
    let script = "import os\ndef init():\n if os.path.exists('broken'): raise RuntimeError('it is broken')\ndef run(x):\n if x == 'die': os._exit(1)\n return x";
    let code = Code::new(script);
    let pool = start(code.config()).await;
    fs_err::write(code.folder.path().join("broken"), "").unwrap();
    reply(&pool, "die").await.unwrap_err();
    let waited = reply(&pool, "x").await.unwrap_err();
    assert!(
        matches!(&waited, ScriptError::Unavailable { reason } if reason.contains("it is broken")),
        "{waited}"
    );
    assert!(!pool.ready());
    fs_err::remove_file(code.folder.path().join("broken")).unwrap();
    until("it is back", || pool.ready()).await;
    assert_eq!(ask(&pool, post("x")).await.1, "\"x\"");
}

#[tokio::test]
async fn workers_end_with_the_pool() {
    let script = "import os, time\ndef init(): pass\ndef run(x):\n if x == 'hang':\n  while True: pass\n if os.fork() == 0: time.sleep(600)\n return x";
    let pool = Code::new(script).start().await;
    reply(&pool, "fork").await.unwrap();
    let hanging = {
        let pool = Arc::clone(&pool);
        tokio::spawn(async move { reply(&pool, "hang").await })
    };
    until("it hangs", || !pool.stats().idle).await;
    let (_, pid) = pool.worker_pids()[0];
    hanging.abort();
    drop(hanging.await);
    drop(pool);
    let group = Pid::from_raw(pid).unwrap();
    until("the group is gone", || rustix::process::test_kill_process_group(group).is_err()).await;
    assert!(test_kill_process(group).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures; run it alone"]
async fn throughput() {
    let code = Code::new("import json\ndef init(): pass\ndef run(data): return json.loads(data)");
    let mut config = code.config();
    config.workers = workers(2);
    let pool = start(config).await;
    let begun = Instant::now();
    let clients: Vec<_> = (0..16)
        .map(|_| {
            let pool = Arc::clone(&pool);
            tokio::spawn(async move {
                let mut count = 0;
                while begun.elapsed() < Duration::from_secs(5) {
                    reply(&pool, r#"{"data": [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]]}"#).await.unwrap();
                    count += 1;
                }
                count
            })
        })
        .collect();
    let mut total = 0;
    for client in clients {
        total += client.await.unwrap();
    }
    println!("{:.0} requests/s", f64::from(total) / begun.elapsed().as_secs_f64());
}
