//! The laws of the engine seam, on the fixture `double.onnx`: `y = x + x`, FP32 `[batch, 3]`.

use std::{sync::Arc, thread};

use moorline_core::{DataType, Dim, Engine, EngineError, LoadedModel, ModelFiles, Session, Tensors};

use crate::{
    fixture,
    tensors::{named, numbers, numbers_of},
};

/// Holds the engines that `make` makes, which must be usable on this machine, to the contract of
/// [`moorline_core::Engine`].
pub fn engine_conformance(make: impl Fn() -> Arc<dyn Engine>) {
    let engine = make();
    engine.check().unwrap_or_else(|error| panic!("the engine under test must be usable: {error}"));
    engine.check().expect("a second check agrees with the first");
    make().check().expect("a second engine is as usable as the first");
    let model = load(&*engine);

    says_what_the_model_takes_and_gives(&*model);
    a_batch_is_its_items(&*model);
    what_does_not_fit_is_invalid_input(&*model);
    sessions_agree_in_parallel(&model);
    no_rows_are_no_problem(&*model);
    special_numbers_pass_through(&*model);
    bad_files_are_named(&*engine);
    models_outlive_their_engine(make);
}

/// Holds an engine that cannot run on this machine to the contract: [`Engine::check`] and [`Engine::load`] say so with
/// the same reason.
pub fn missing_engine_conformance(engine: &dyn Engine) {
    let check = engine.check().expect_err("the engine under test must not be usable");
    assert!(
        matches!(check, EngineError::Missing { .. }),
        "a check that fails says what is missing: {check:?}"
    );
    let again = engine.check().expect_err("a second check agrees with the first");
    assert_eq!(check.to_string(), again.to_string());
    let load = engine.load(&double()).expect_err("an engine that cannot run loads nothing");
    assert_eq!(check.to_string(), load.to_string(), "loading fails with the reason of the check");
}

fn double() -> ModelFiles {
    ModelFiles { path: fixture("double.onnx"), threads: 1 }
}

fn load(engine: &dyn Engine) -> Arc<dyn LoadedModel> {
    engine.load(&double()).unwrap_or_else(|error| panic!("double.onnx loads: {error}"))
}

fn session(model: &dyn LoadedModel) -> Box<dyn Session> {
    model.session().unwrap_or_else(|error| panic!("a loaded model has sessions: {error}"))
}

fn rows(rows: usize, first: f32) -> Tensors {
    let elements: Vec<f32> = (0..rows * 3).map(|index| index as f32 / 4.0 + first).collect();
    named([("x", numbers(&[rows, 3], elements))])
}

fn run(session: &mut dyn Session, inputs: Tensors) -> Tensors {
    session.run(inputs).unwrap_or_else(|error| panic!("inputs that fit the signature run: {error}"))
}

fn says_what_the_model_takes_and_gives(model: &dyn LoadedModel) {
    let signature = model.signature();
    let [x] = &signature.inputs[..] else { panic!("double.onnx has one input: {signature:?}") };
    let [y] = &signature.outputs[..] else { panic!("double.onnx has one output: {signature:?}") };
    for (spec, name) in [(x, "x"), (y, "y")] {
        assert_eq!(&*spec.name, name);
        assert_eq!(spec.data_type, DataType::F32);
        assert_eq!(spec.shape, Some(vec![Dim::Dynamic(Some("batch".into())), Dim::Fixed(3)]));
        assert!(!spec.optional);
    }
}

fn a_batch_is_its_items(model: &dyn LoadedModel) {
    let mut session = session(model);
    for batch in [1, 2, 7, 64] {
        let input = rows(batch, 1.0);
        let elements = numbers_of(&input, "x").to_vec();
        let together = run(&mut *session, input);
        assert_eq!(together.len(), 1);
        let apart = elements.chunks(3).flat_map(|row| {
            let single = run(&mut *session, named([("x", numbers(&[1, 3], row.to_vec()))]));
            numbers_of(&single, "y").to_vec()
        });
        let apart: Vec<f32> = apart.collect();
        let together = numbers_of(&together, "y");
        assert_eq!(together.len(), apart.len());
        for (together, apart) in together.iter().zip(&apart) {
            assert!((together - apart).abs() <= 1e-6, "batched {together} is single {apart}");
        }
        for (element, doubled) in elements.iter().zip(&apart) {
            assert!((element * 2.0 - doubled).abs() <= 1e-6, "{doubled} is twice {element}");
        }
    }
}

fn what_does_not_fit_is_invalid_input(model: &dyn LoadedModel) {
    let mut session = session(model);
    let x = || numbers(&[1, 3], vec![1.0_f32, 2.0, 3.0]);
    let misfits = [
        ("a wrong trailing dimension", named([("x", numbers(&[1, 4], vec![0.0_f32; 4]))])),
        ("a wrong rank", named([("x", numbers(&[3], vec![0.0_f32; 3]))])),
        ("a scalar", named([("x", numbers(&[], vec![0.0_f32]))])),
        ("a wrong data type", named([("x", numbers(&[1, 3], vec![0.0_f64; 3]))])),
        ("strings", named([("x", numbers(&[1, 3], vec![String::new(); 3]))])),
        ("a wrong name", named([("z", x())])),
        ("nothing", Tensors::new()),
        ("one input too many", named([("x", x()), ("z", x())])),
        ("an input twice", named([("x", x()), ("x", x())])),
    ];
    for (what, inputs) in misfits {
        match session.run(inputs) {
            Err(EngineError::Input(reason)) => assert!(!reason.is_empty(), "{what} is explained"),
            other => panic!("{what} is invalid input, not {other:?}"),
        }
        assert_eq!(
            numbers_of(&run(&mut *session, named([("x", x())])), "y"),
            [2.0, 4.0, 6.0],
            "the session stays usable after {what}"
        );
    }
}

fn sessions_agree_in_parallel(model: &Arc<dyn LoadedModel>) {
    let workers: Vec<_> = (0..4)
        .map(|worker| {
            let model = Arc::clone(model);
            thread::spawn(move || {
                let mut session = session(&*model);
                for round in 0..50 {
                    let input = rows(1 + (worker + round) % 5, worker as f32);
                    let expected: Vec<f32> =
                        numbers_of(&input, "x").iter().map(|element| element * 2.0).collect();
                    assert_eq!(numbers_of(&run(&mut *session, input), "y"), expected);
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().expect("parallel sessions do not disturb one another");
    }
}

fn no_rows_are_no_problem(model: &dyn LoadedModel) {
    let mut session = session(model);
    match session.run(rows(0, 0.0)) {
        Ok(outputs) => assert!(numbers_of(&outputs, "y").is_empty()),
        Err(EngineError::Input(_) | EngineError::Run { .. }) => {}
        Err(error) => panic!("an empty batch is run or refused, not {error:?}"),
    }
    assert_eq!(numbers_of(&run(&mut *session, rows(1, 1.0)), "y"), [2.0, 2.5, 3.0]);
}

fn special_numbers_pass_through(model: &dyn LoadedModel) {
    let mut session = session(model);
    let special = vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    let outputs = run(&mut *session, named([("x", numbers(&[1, 3], special))]));
    let doubled = numbers_of(&outputs, "y");
    assert!(doubled[0].is_nan(), "NaN stays NaN: {doubled:?}");
    assert_eq!(doubled[1..], [f32::INFINITY, f32::NEG_INFINITY]);
}

fn bad_files_are_named(engine: &dyn Engine) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("missing.onnx");
    match engine.load(&ModelFiles { path: path.clone(), threads: 1 }) {
        Err(error @ EngineError::Load { .. }) => {
            let text = error.to_string();
            assert!(text.contains(&path.display().to_string()), "the error names the file: {text}");
            assert!(text.contains(engine.name()), "the error names the engine: {text}");
        }
        other => panic!("a missing file is a load error, not {other:?}"),
    }
}

fn models_outlive_their_engine(make: impl Fn() -> Arc<dyn Engine>) {
    let engine = make();
    let model = load(&*engine);
    drop(engine);
    let mut first = session(&*model);
    let mut second = session(&*model);
    drop(model);
    for session in [&mut first, &mut second] {
        assert_eq!(numbers_of(&run(&mut **session, rows(1, 0.0)), "y"), [0.0, 0.5, 1.0]);
    }
}
