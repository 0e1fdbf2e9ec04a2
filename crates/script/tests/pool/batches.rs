//! `run_batch(list)`.

use moorline_core::BatchSettings;
use moorline_script::ScriptPool;

use crate::support::*;

const BATCHED: &str = r#"
import json, os
sizes = []
def init(): pass
def run(data): return run_batch([data])[0]
def run_batch(items):
    if items == ["sizes"]: return [sizes]
    sizes.append(len(items))
    if "crash" in items: os._exit(1)
    if "bad" in items: raise ValueError("bad")
    if "short" in items: return []
    return [ValueError("this one") if item == "fail" else item.upper() for item in items]
"#;

fn settings(delay: u64) -> BatchSettings {
    BatchSettings { max_size: workers(8), max_delay_us: delay, preferred_sizes: Vec::new() }
}

#[tokio::test]
async fn requests_are_gathered_and_answered_each_on_its_own() {
    let code = Code::new(BATCHED);
    let mut config = code.config();
    config.batching = Some(settings(200_000));
    let pool = start(config).await;
    let asked: Vec<_> = (0..8).map(|n| format!("item{n}")).collect();
    let answers = join(&pool, &asked).await;
    for (item, (status, body)) in asked.iter().zip(&answers) {
        assert_eq!((*status, body.as_str()), (200, format!("\"{}\"", item.to_uppercase()).as_str()));
    }
    assert_eq!(ask(&pool, post("sizes")).await.1, "[8]");
}

async fn join(pool: &std::sync::Arc<ScriptPool>, items: &[String]) -> Vec<(u16, String)> {
    let tasks: Vec<_> = items
        .iter()
        .map(|item| {
            let (pool, call) = (std::sync::Arc::clone(pool), post(item));
            tokio::spawn(async move { ask(&pool, call).await })
        })
        .collect();
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    answers
}

#[tokio::test]
async fn one_bad_item_fails_alone() {
    let code = Code::new(BATCHED);
    let mut config = code.config();
    config.batching = Some(settings(50_000));
    let pool = start(config).await;
    for bad in ["fail", "bad", "short"] {
        let items = ["a", bad, "c"].map(str::to_owned);
        let answers = join(&pool, &items).await;
        assert_eq!((answers[0].0, answers[1].0, answers[2].0), (200, 500, 200), "{bad}: {answers:?}");
    }
}

#[tokio::test]
async fn one_item_that_kills_the_worker_dies_alone() {
    let code = Code::new(BATCHED);
    let mut config = code.config();
    config.batching = Some(settings(50_000));
    let pool = start(config).await;
    let tasks: Vec<_> = ["a", "crash", "c"]
        .map(|item| {
            let pool = std::sync::Arc::clone(&pool);
            tokio::spawn(async move { reply(&pool, item).await.is_ok() })
        })
        .into_iter()
        .collect();
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    assert_eq!(answers, [true, false, true]);
}

#[tokio::test]
async fn batching_without_run_batch_is_refused() {
    let code = Code::new("def init(): pass\ndef run(x): pass");
    let mut config = code.config();
    config.batching = Some(settings(0));
    let error = ScriptPool::start(config).await.unwrap_err();
    assert!(error.to_string().contains("does not define run_batch(list)"), "{error}");
}
