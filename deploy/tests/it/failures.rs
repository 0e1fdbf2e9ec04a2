//! What does not start says why, and what ends is started again.

use std::path::PathBuf;

use moorline_core::{Observation, Phase, ReplicaState, Target};
use moorline_testkit::{TestRelease, deployment, observed};
use rustix::process::{Pid, Signal, kill_process};

use crate::place::{Home, Scripted, eventually, scorers};

fn failed(seen: &Observation) -> bool {
    seen.phase == Phase::Failed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_init_is_told_in_one_sentence_and_in_full() {
    let Some(home) = Home::open(|_| {}).await else { return };
    let script =
        "def init():\n    raise ValueError('the weights are missing')\n\ndef run(data):\n    return data\n";
    let (release, id) = (Scripted::new(script), deployment("scripted", "blue"));
    home.target.apply(&release.placement(&id, 1)).await.unwrap();
    let seen = observed(&*home.target, &id, "the failure", failed).await;
    let failure = seen.failure.unwrap();
    assert_eq!(failure.reason, "the scoring script did not start: ValueError: the weights are missing");
    let log = failure.log.join("\n");
    assert!(log.contains("score.py\", line 2, in init"), "{log}");
    assert_eq!(log.matches("ValueError: the weights are missing").count(), 1, "{log}");
    assert!(scorers(home.folder.path()).is_empty(), "nothing is left of it");
    home.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_is_tried_again_when_it_is_asked_for_again() {
    let Some(home) = Home::open(|_| {}).await else { return };
    let weights = home.folder.path().join("weights");
    let script = format!("def init():\n    open({weights:?})\n\ndef run(data):\n    return data\n");
    let (release, id) = (Scripted::new(&script), deployment("mended", "blue"));
    home.target.apply(&release.placement(&id, 1)).await.unwrap();
    let seen = observed(&*home.target, &id, "the failure", failed).await;
    let reason = seen.failure.unwrap().reason;
    assert!(reason.contains("FileNotFoundError") && reason.contains("weights"), "{reason}");
    fs_err::write(&weights, "").unwrap();
    home.target.apply(&release.placement(&id, 1)).await.unwrap();
    let ready = |seen: &Observation| seen.phase == Phase::Ready && seen.failure.is_none();
    observed(&*home.target, &id, "a ready replica", ready).await;
    home.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scorer_that_is_not_there_is_named() {
    let Some(home) = Home::open(|config| config.scorer = PathBuf::from("/nowhere/moorline-scorer")).await
    else {
        return;
    };
    let (release, id) = (TestRelease::double(1), deployment("lacking", "blue"));
    home.target.apply(&release.placement(&id, 1)).await.unwrap();
    let seen = observed(&*home.target, &id, "the failure", failed).await;
    let reason = seen.failure.unwrap().reason;
    assert!(reason.contains("/nowhere/moorline-scorer"), "{reason}");
    home.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_by_itself_is_started_again_and_counted() {
    let Some(home) = Home::open(|_| {}).await else { return };
    let (release, id) = (TestRelease::double(1), deployment("crashing", "blue"));
    home.target.apply(&release.placement(&id, 1)).await.unwrap();
    let ready = |restarts: u32| {
        move |seen: &Observation| {
            seen.phase == Phase::Ready
                && seen.replicas[0].state == ReplicaState::Ready
                && seen.replicas[0].restarts == restarts
        }
    };
    let first = observed(&*home.target, &id, "a ready replica", ready(0)).await;
    for restarts in 1..4 {
        let (pid, _) = scorers(home.folder.path())[0];
        kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL).unwrap();
        let seen = observed(&*home.target, &id, "a restart", ready(restarts)).await;
        assert_eq!(seen.replicas[0].id, first.replicas[0].id);
        assert_ne!(seen.replicas[0].address, first.replicas[0].address);
    }
    // Stopped by a signal, it does not answer: its liveness probe fails three times, a second apart.
    let (pid, _) = scorers(home.folder.path())[0];
    kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::STOP).unwrap();
    let mut placement = release.placement(&id, 1);
    placement.liveness.initial_delay = 0;
    placement.liveness.timeout = 1;
    home.target.apply(&placement).await.unwrap();
    observed(&*home.target, &id, "a restart for liveness", ready(4)).await;
    assert_ne!(scorers(home.folder.path())[0].0, pid);
    home.target.remove(&id).await.unwrap();
    eventually("the end of all scorers", || scorers(home.folder.path()).is_empty()).await;
    home.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_become_ready_fails_and_is_stopped() {
    let Some(home) = Home::open(|_| {}).await else { return };
    let script = "import time\n\ndef init():\n    time.sleep(600)\n\ndef run(data):\n    return data\n";
    let (release, id) = (Scripted::new(script), deployment("slow", "blue"));
    let mut placement = release.placement(&id, 1);
    placement.readiness.initial_delay = 0;
    placement.readiness.failure_threshold = 1;
    home.target.apply(&placement).await.unwrap();
    let seen = observed(&*home.target, &id, "the failure", failed).await;
    let reason = seen.failure.unwrap().reason;
    assert!(reason.contains("not ready within 1 s"), "{reason}");
    home.close().await;
}
