//! The engine's threads with a fake engine whose runs the test holds and releases.

use std::{num::NonZeroUsize, time::Duration};

use moorline_core::{DataType, Engine, ModelFiles, Tensor, TensorSpec, ValueKind};
use moorline_testkit::{FakeEngine, Gate, fixture, named, numbers, numbers_of};

use super::*;

fn sessions(engine: &FakeEngine, count: usize, batching: Option<&BatchSettings>) -> Sessions {
    sessions_below(engine, count, batching, Duration::ZERO)
}

fn sessions_below(
    engine: &FakeEngine,
    count: usize,
    batching: Option<&BatchSettings>,
    inline_limit: Duration,
) -> Sessions {
    let model = engine.load(&ModelFiles { path: fixture("double.onnx"), threads: 1 }).unwrap();
    let ready = (0..count).map(|_| model.session().unwrap()).collect();
    let metrics = Arc::new(Metrics::new("e", "d").unwrap());
    Sessions::start(model.signature(), ready, batching, inline_limit, metrics).unwrap()
}

fn batches_of(max_size: usize, max_delay_us: u64) -> BatchSettings {
    BatchSettings { max_size: NonZeroUsize::new(max_size).unwrap(), max_delay_us, preferred_sizes: vec![] }
}

fn row(first: f32) -> Tensors {
    named([("x", numbers(&[1, 3], vec![first, 1.0, 2.0]))])
}

fn doubled(scored: &Scored) -> f32 {
    numbers_of(&scored.outputs, "y")[0]
}

/// Polls until `done`; the fake's gate and the queue have no event to wait for.
async fn until(mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_waits_together_runs_together_and_comes_back_apart() {
    let gate = Gate::closed();
    let engine = FakeEngine::new().gate(gate.clone());
    let runs = engine.runs();
    let sessions = sessions(&engine, 1, Some(&batches_of(8, 0)));
    // The first run holds the only session; the others gather meanwhile.
    let first = sessions.run(row(1.0), None);
    let held = async {
        until(|| runs.rows().len() == 1).await;
        let rest = (2..6).map(|first| sessions.run(row(first as f32), None));
        let rest = futures_util::future::join_all(rest);
        let open = async {
            until(|| lock(&sessions.shared.queue).batcher.len() == 4).await;
            gate.open();
        };
        tokio::join!(rest, open).0
    };
    let (first, rest) = tokio::join!(first, held);
    assert_eq!(doubled(&first.unwrap()), 2.0);
    let rest: Vec<f32> = rest.into_iter().map(|scored| doubled(&scored.unwrap())).collect();
    assert_eq!(rest, [4.0, 6.0, 8.0, 10.0]);
    assert_eq!(runs.rows(), [1, 4]);
}

#[tokio::test]
async fn a_bad_item_fails_alone_and_poisons_nothing() {
    for engine in [FakeEngine::new().fail_on(13.0), FakeEngine::new().panic_on(13.0)] {
        let sessions = sessions(&engine, 1, Some(&batches_of(3, 1_000_000)));
        let (before, bad, after) = tokio::join!(
            sessions.run(row(1.0), None),
            sessions.run(row(13.0), None),
            sessions.run(row(2.0), None)
        );
        assert_eq!(doubled(&before.unwrap()), 2.0);
        assert_eq!(bad.unwrap_err().class, ErrorClass::Script);
        assert_eq!(doubled(&after.unwrap()), 4.0);
    }
}

#[tokio::test]
async fn shapes_never_mix() {
    let mut signature = Signature::default();
    for side in [&mut signature.inputs, &mut signature.outputs] {
        side.push(TensorSpec {
            name: "x".into(),
            data_type: DataType::F32,
            shape: Some(vec![moorline_core::Dim::Dynamic(None), moorline_core::Dim::Dynamic(None)]),
            kind: ValueKind::Tensor,
            optional: false,
        });
    }
    let engine = FakeEngine::with_signature(signature);
    let runs = engine.runs();
    let sessions = sessions(&engine, 1, Some(&batches_of(2, 1_000_000)));
    let wide = |value: f32| named([("x", numbers(&[1, 2], vec![value; 2]))]);
    let narrow = |value: f32| named([("x", numbers(&[1, 1], vec![value]))]);
    let (a, b, c, d) = tokio::join!(
        sessions.run(wide(1.0), None),
        sessions.run(narrow(2.0), None),
        sessions.run(wide(3.0), None),
        sessions.run(narrow(4.0), None)
    );
    let shape = |scored: Result<Scored, Problem>| match scored.unwrap().outputs.get("x") {
        Some(Value::Tensor(tensor)) => Tensor::shape(tensor).to_vec(),
        other => panic!("expected a tensor, got {other:?}"),
    };
    assert_eq!([shape(a), shape(b), shape(c), shape(d)], [[1, 2], [1, 1], [1, 2], [1, 1]]);
    assert_eq!(runs.rows(), [2, 2]);
}

#[tokio::test]
async fn a_caller_who_leaves_costs_no_run() {
    let gate = Gate::closed();
    let engine = FakeEngine::new().gate(gate.clone());
    let runs = engine.runs();
    let sessions = sessions(&engine, 1, None);
    let first = sessions.run(row(1.0), None);
    let rest = async {
        until(|| runs.rows().len() == 1).await;
        let soon = Some(Instant::now() + Duration::from_millis(5));
        let late = sessions.run(row(2.0), soon).await.unwrap_err();
        assert_eq!(late.class, ErrorClass::Timeout);
        gate.open();
    };
    assert_eq!(doubled(&tokio::join!(first, rest).0.unwrap()), 2.0);
    assert_eq!(doubled(&sessions.run(row(3.0), None).await.unwrap()), 6.0);
    assert_eq!(runs.rows(), [1, 1]);
}

#[tokio::test]
async fn rows_that_differ_between_inputs_are_refused_where_batches_are_made() {
    let sessions = sessions(&FakeEngine::new(), 1, Some(&batches_of(2, 0)));
    let uneven = named([("x", numbers(&[1, 3], vec![0.0; 3])), ("z", numbers(&[2, 3], vec![0.0; 6]))]);
    let refused = sessions.run(uneven, None).await.unwrap_err();
    assert_eq!(refused.class, ErrorClass::InvalidInput);
    assert!(refused.message.contains("`z`"), "{}", refused.message);
}

#[tokio::test]
async fn short_runs_stay_here_and_the_rest_finds_a_thread() {
    let sessions = sessions_below(&FakeEngine::new().fail_on(13.0), 1, None, Duration::from_secs(1));
    // Trust is earned on the thread.
    for _ in 0..40 {
        assert_eq!(doubled(&sessions.run(row(1.0), None).await.unwrap()), 2.0);
    }
    let here = |inputs: &Tensors| sessions.shared.session_for(inputs);
    // Runs are short, and the session is free as soon as its thread has put it back.
    let mut session = None;
    until(|| {
        session = here(&row(1.0));
        session.is_some()
    })
    .await;
    // The only session is away: what comes now waits for it in the queue, and nobody overtakes.
    let waiting = sessions.run(row(2.0), None);
    let rest = async {
        until(|| lock(&sessions.shared.queue).batcher.len() == 1).await;
        assert!(here(&row(3.0)).is_none());
        sessions.shared.give_back(session.expect("it was waited for"));
    };
    assert_eq!(doubled(&tokio::join!(waiting, rest).0.unwrap()), 4.0);
    assert_eq!(sessions.run(row(13.0), None).await.unwrap_err().class, ErrorClass::Script);
    assert_eq!(doubled(&sessions.run(row(3.0), None).await.unwrap()), 6.0);
}
