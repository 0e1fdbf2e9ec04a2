//! What the fixtures answer, checked model by model. The numbers of classifiers and the recurrent network were
//! computed once with ONNX Runtime 1.32.

use moorline_core::{DataType, Dim, MapKeys, Tensor, Tensors, Value, ValueKind};

use crate::{
    OnnxSupport,
    onnx::{Subject, assert_tensor},
    tensors::{named, numbers, numbers_of},
};

/// Runs every fixture that the engine supports.
pub(crate) fn run_as_known(subject: &Subject<'_>, support: OnnxSupport) {
    classifier(subject);
    maps(subject);
    trees(subject);
    several_inputs_and_outputs(subject);
    defaults(subject);
    fixed_batches(subject);
    sizes_of_any_kind(subject);
    scalars(subject);
    recurrent_state_ends_with_the_run(subject);
    external_data(subject);
    if support.sequences {
        sequences(subject);
    } else {
        subject.refuses("sequence_out.onnx", "SequenceConstruct");
    }
    if support.optional_types {
        optional_types(subject);
    } else {
        subject.refuses("optional_type.onnx", "");
    }
}

fn assert_close(actual: &[f32], expected: &[f32]) {
    assert_eq!(actual.len(), expected.len(), "{actual:?} is {expected:?}");
    for (actual, expected) in actual.iter().zip(expected) {
        assert!((actual - expected).abs() <= 1e-5, "{actual} is {expected}");
    }
}

fn classifier(subject: &Subject<'_>) {
    let model = subject.load("classifier_10.onnx");
    let names: Vec<&str> = model.signature().outputs.iter().map(|spec| &*spec.name).collect();
    assert_eq!(names, ["label", "probabilities"], "outputs are in the order of the model");
    let first: Vec<f32> = (0..10).map(|index| index as f32 / 10.0).collect();
    let second: Vec<f32> = first.iter().map(|feature| 1.0 - feature).collect();
    let mut session = model.session().expect("classifier_10.onnx has sessions");
    let mut run = |rows: usize, features: Vec<f32>| {
        let outputs = session.run(named([("features", numbers(&[rows, 10], features))]));
        outputs.expect("classifier_10.onnx runs")
    };
    let together = run(2, [first.clone(), second.clone()].concat());
    let order: Vec<String> = together.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(order, ["label", "probabilities"], "answers are in the order of the signature");
    assert_tensor(&together, "label", &numbers(&[2], vec![0_i64, 2]));
    let expected = [0.484_291, 0.191_079, 0.324_630, 0.307_517, 0.316_882, 0.375_602];
    assert_close(numbers_of(&together, "probabilities"), &expected);
    assert_close(numbers_of(&run(1, first), "probabilities"), &expected[..3]);
    assert_close(numbers_of(&run(1, second), "probabilities"), &expected[3..]);
}

fn maps(subject: &Subject<'_>) {
    let features =
        || named([("features", numbers(&[2, 4], vec![1.0_f32, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0]))]);
    let cases = [
        ("zipmap_int64.onnx", DataType::I64, MapKeys::I64(vec![10, 20, 30]), numbers(&[2], vec![30_i64, 10])),
        (
            "zipmap_string.onnx",
            DataType::String,
            MapKeys::String(vec!["cat".to_owned(), "dog".to_owned(), "eel".to_owned()]),
            numbers(&[2], vec!["eel".to_owned(), "cat".to_owned()]),
        ),
    ];
    for (name, key, keys, labels) in cases {
        let spec = &subject.load(name).signature().outputs[1].clone();
        assert_eq!(
            (&*spec.name, &spec.kind, spec.data_type),
            ("probabilities", &ValueKind::Maps { key }, DataType::F32)
        );
        let outputs = subject.run(name, features());
        assert_tensor(&outputs, "label", &labels);
        let Some(Value::Maps(maps)) = outputs.get("probabilities") else {
            panic!("{name} gives maps: {outputs:?}");
        };
        assert_eq!(maps.keys, keys);
        assert_eq!(maps.values.shape(), [2, 3]);
        let values = named([("values", maps.values.clone())]);
        assert_close(
            numbers_of(&values, "values"),
            &[0.029_122, 0.006_498, 0.964_380, 0.444_214, 0.209_832, 0.345_954],
        );
    }
}

fn trees(subject: &Subject<'_>) {
    let outputs = subject
        .run("tree_zipmap.onnx", named([("features", numbers(&[2, 2], vec![1.0_f32, 2.0, 0.0, 0.0]))]));
    assert_tensor(&outputs, "label", &numbers(&[2], vec![2_i64, 0]));
    let Some(Value::Maps(maps)) = outputs.get("probabilities") else {
        panic!("a tree gives maps: {outputs:?}")
    };
    assert_eq!(maps.keys, MapKeys::I64(vec![0, 1, 2]));
    assert_eq!(maps.values, numbers(&[2, 3], vec![0.125_f32, 0.25, 0.625, 0.75, 0.25, 0.0]));
}

fn several_inputs_and_outputs(subject: &Subject<'_>) {
    let a = || numbers(&[1, 2], vec![5.0_f32, 6.0]);
    let b = || numbers(&[1, 2], vec![1.0_f32, 2.0]);
    for inputs in [named([("a", a()), ("b", b())]), named([("b", b()), ("a", a())])] {
        let outputs = subject.run("two_in_two_out.onnx", inputs);
        let order: Vec<String> = outputs.iter().map(|(name, _)| name.to_string()).collect();
        assert_eq!(order, ["sum", "difference"], "answers are in the order of the signature");
        assert_eq!(numbers_of(&outputs, "sum"), [6.0, 8.0]);
        assert_eq!(numbers_of(&outputs, "difference"), [4.0, 4.0]);
    }
}

fn defaults(subject: &Subject<'_>) {
    let model = subject.load("optional_input.onnx");
    let inputs: Vec<(&str, bool)> =
        model.signature().inputs.iter().map(|spec| (&*spec.name, spec.optional)).collect();
    assert_eq!(inputs, [("scale", true), ("x", false)], "inputs are in the order of the model");
    let mut session = model.session().expect("optional_input.onnx has sessions");
    let x = || numbers(&[1, 2], vec![1.0_f32, 2.0]);
    let scale = |scale: f32| numbers(&[1], vec![scale]);
    let mut run = |inputs: Tensors| {
        let outputs = session.run(inputs).expect("optional_input.onnx runs");
        numbers_of(&outputs, "y").to_vec()
    };
    assert_eq!(run(named([("x", x())])), [2.0, 4.0]);
    assert_eq!(run(named([("x", x()), ("scale", scale(3.0))])), [3.0, 6.0]);
    assert_eq!(run(named([("scale", scale(-1.0)), ("x", x())])), [-1.0, -2.0]);
    assert_eq!(run(named([("x", x())])), [2.0, 4.0], "a replaced default is back in the next run");
}

fn fixed_batches(subject: &Subject<'_>) {
    let model = subject.load("fixed_batch.onnx");
    assert_eq!(model.signature().inputs[0].shape, Some(vec![Dim::Fixed(1), Dim::Fixed(4)]));
    assert!(model.signature().batch_obstacle().is_some());
    let mut session = model.session().expect("fixed_batch.onnx has sessions");
    let two = named([("x", numbers(&[2, 4], vec![0.0_f32; 8]))]);
    assert!(session.run(two).is_err(), "a batch of two does not fit a batch of one");
    let outputs = session.run(named([("x", numbers(&[1, 4], vec![1.0_f32, -2.0, 3.0, -4.0]))]));
    assert_eq!(numbers_of(&outputs.expect("fixed_batch.onnx runs"), "y"), [-1.0, 2.0, -3.0, 4.0]);
}

fn sizes_of_any_kind(subject: &Subject<'_>) {
    let model = subject.load("dynamic_dims.onnx");
    assert_eq!(
        model.signature().inputs[0].shape,
        Some(vec![Dim::Dynamic(Some("batch".into())), Dim::Dynamic(None), Dim::Dynamic(None)])
    );
    let mut session = model.session().expect("dynamic_dims.onnx has sessions");
    // More shapes than any cache of plans would keep, twice.
    for _ in 0..2 {
        for size in 1..12 {
            let elements: Vec<f32> = (0..size * 2).map(|element| element as f32).collect();
            let inputs = named([("x", numbers(&[1, size, 2], elements.clone()))]);
            let outputs = session.run(inputs).unwrap_or_else(|error| panic!("size {size} runs: {error}"));
            let even = elements.iter().step_by(2);
            let odd = elements.iter().skip(1).step_by(2);
            let transposed: Vec<f32> = even.chain(odd).copied().collect();
            assert_tensor(&outputs, "y", &numbers(&[1, 2, size], transposed));
            assert_tensor(&outputs, "shape", &numbers(&[3], vec![1_i64, size as i64, 2]));
        }
    }

    let model = subject.load("unranked.onnx");
    assert_eq!(model.signature().inputs[0].shape, None, "no rank is not rank 0");
    let mut session = model.session().expect("unranked.onnx has sessions");
    for shape in [&[][..], &[1], &[1, 1], &[1, 1, 1]] {
        let outputs = session.run(named([("x", numbers(shape, vec![2.0_f32]))]));
        let outputs = outputs.unwrap_or_else(|error| panic!("unranked.onnx runs for {shape:?}: {error}"));
        assert_tensor(&outputs, "y", &numbers(shape, vec![-2.0_f32]));
    }
}

fn scalars(subject: &Subject<'_>) {
    assert_eq!(subject.load("scalar.onnx").signature().inputs[0].shape, Some(vec![]));
    let outputs = subject.run("scalar.onnx", named([("x", numbers(&[], vec![41.0_f32]))]));
    assert_tensor(&outputs, "y", &numbers(&[], vec![42.0_f32]));
}

fn recurrent_state_ends_with_the_run(subject: &Subject<'_>) {
    let model = subject.load("gru.onnx");
    let mut session = model.session().expect("gru.onnx has sessions");
    for _ in 0..3 {
        let x = numbers(&[3, 1, 2], vec![1.0_f32, 2.0, 3.0, 4.0, 0.5, 0.25]);
        let outputs = session.run(named([("x", x)])).expect("gru.onnx runs");
        assert_close(numbers_of(&outputs, "last"), &[0.612_548, 0.639_099]);
    }
}

fn external_data(subject: &Subject<'_>) {
    let outputs = subject.run("external_data.onnx", named([("x", numbers(&[1, 3], vec![10.0_f32; 3]))]));
    assert_eq!(numbers_of(&outputs, "y"), [11.0, 12.0, 13.0]);
}

fn sequences(subject: &Subject<'_>) {
    let spec = &subject.load("sequence_out.onnx").signature().outputs[0].clone();
    assert_eq!((&spec.kind, spec.data_type), (&ValueKind::Sequence, DataType::F32));
    let outputs = subject.run("sequence_out.onnx", named([("x", numbers(&[2], vec![1.0_f32, -2.0]))]));
    let expected: Vec<Tensor> = vec![numbers(&[2], vec![1.0_f32, -2.0]), numbers(&[2], vec![-1.0_f32, 2.0])];
    assert_eq!(outputs.get("pair"), Some(&Value::Sequence(expected)));
}

fn optional_types(subject: &Subject<'_>) {
    assert!(subject.load("optional_type.onnx").signature().inputs[0].optional);
    let given = |given: bool| numbers(&[], vec![given]);
    assert_tensor(&subject.run("optional_type.onnx", Tensors::new()), "given", &given(false));
    let outputs = subject.run("optional_type.onnx", named([("x", numbers(&[1], vec![1.0_f32]))]));
    assert_tensor(&outputs, "given", &given(true));
}
