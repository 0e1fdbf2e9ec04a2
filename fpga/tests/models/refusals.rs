//! Models that cannot be planned, and what is said of them; and what stays on the CPU, and why.

use std::path::Path;

use moorline_core::{Engine, ErrorClass, ModelFiles};
use moorline_fpga::{
    onnx::OnnxError,
    plan::{Costs, Place, Plan, PlanError, PlanOptions},
};

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

use crate::{
    bench::{Bench, assert_close, bitstream, load, named, noise},
    onnx::{
        Attribute::{Int, Ints},
        Net,
    },
};

fn eager() -> PlanOptions {
    PlanOptions { costs: Costs::NOTHING, ..PlanOptions::default() }
}

fn plan(path: &Path, options: &PlanOptions) -> Option<Result<Plan, PlanError>> {
    Some(Plan::new(path, bitstream()?.manifest(), options))
}

/// Why the model that `make` fills cannot be planned.
fn refusal(opset: i64, options: &PlanOptions, make: impl FnOnce(&mut Net)) -> Option<PlanError> {
    let folder = tempfile::tempdir().unwrap();
    let mut net = Net::new(opset);
    make(&mut net);
    let error = plan(&net.save(folder.path()), options)?.unwrap_err();
    assert_eq!(error.class(), ErrorClass::InvalidInput);
    Some(error)
}

fn relu(net: &mut Net) {
    net.node("Relu", &["x"], "y", &[]);
    net.output("y");
}

#[test]
fn a_dimension_that_is_open_and_not_the_first() {
    let error = refusal(13, &eager(), |net| {
        net.open_input("x", &[Err("batch"), Ok(3), Err("height"), Ok(8)]);
        relu(net);
    });
    let Some(error) = error else { return };
    let PlanError::Onnx(OnnxError::DynamicDimension { input, dimension }) = error else {
        panic!("{error:?}")
    };
    assert_eq!((&*input, &*dimension), ("x", "height"));
}

#[test]
fn an_open_batch_that_not_everything_follows() {
    let made: [fn(&mut Net); 3] = [
        |net| {
            net.ints("shape", &[-1, 6]);
            net.node("Reshape", &["x", "shape"], "y", &[]);
            net.output("y");
        },
        |net| {
            net.node("Softmax", &["x"], "y", &[("axis", Int(0))]);
            net.output("y");
        },
        |net| {
            net.node("ReduceSum", &["x"], "y", &[("axes", Ints(&[0]))]);
            net.output("y");
        },
    ];
    for make in made {
        let error = refusal(12, &eager(), |net| {
            net.open_input("x", &[Err("batch"), Ok(4)]);
            make(net);
        });
        let Some(error) = error else { return };
        assert!(matches!(error, PlanError::Onnx(OnnxError::Batch { .. })), "{error:?}");
    }
}

#[test]
fn operator_sets_that_are_not_understood() {
    for version in [6, 29] {
        let error = refusal(version, &eager(), |net| {
            net.input("x", &[1, 4]);
            relu(net);
        });
        let Some(error) = error else { return };
        let PlanError::Onnx(OnnxError::Opset { version: told, .. }) = error else { panic!("{error:?}") };
        assert_eq!(told, version);
    }
}

#[test]
fn graphs_that_do_not_hang_together() {
    let error = refusal(13, &eager(), |net| {
        net.input("x", &[1, 4]);
        net.node("Add", &["x", "nothing"], "y", &[]);
        net.output("y");
    });
    let Some(error) = error else { return };
    assert!(matches!(error, PlanError::Onnx(OnnxError::Dangling { .. })), "{error:?}");
    let error = refusal(13, &eager(), |net| {
        net.input("x", &[1, 4]);
        net.output("x");
    });
    assert!(matches!(error, Some(PlanError::Output { .. })), "{error:?}");
}

#[test]
fn files_that_are_no_models() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    for (bytes, named) in [(&b""[..], "NoOpset"), (b"no model at all", "Protobuf")] {
        fs_err::write(&path, bytes).unwrap();
        let Some(result) = plan(&path, &eager()) else { return };
        let text = format!("{:?}", result.unwrap_err());
        assert!(text.contains(named), "{text}");
    }
    let Some(result) = plan(&folder.path().join("missing.onnx"), &eager()) else { return };
    assert_eq!(result.unwrap_err().class(), ErrorClass::Unavailable);
}

#[test]
fn a_model_larger_than_the_device() {
    let options = PlanOptions { device_memory: Some(1 << 20), ..eager() };
    let error = refusal(13, &options, |net| {
        net.input("x", &[1, 1024]);
        net.floats("w", &[1024, 1024], &vec![0.5; 1024 * 1024]);
        net.node("MatMul", &["x", "w"], "y", &[]);
        net.output("y");
    });
    let Some(error) = error else { return };
    let PlanError::Memory { needed, available } = error else { panic!("{error:?}") };
    assert_eq!(available, 1 << 20);
    assert!(needed > 4 << 20, "{needed}");
}

#[test]
fn too_little_on_the_device() {
    let options = PlanOptions { min_coverage: 0.5, ..eager() };
    let error = refusal(13, &options, |net| {
        net.input("x", &[1, 16, 8, 8]);
        net.node("Sigmoid", &["x"], "s", &[]);
        net.node("Sigmoid", &["s"], "t", &[]);
        net.node("Sigmoid", &["t"], "u", &[]);
        net.node("Relu", &["u"], "y", &[]);
        net.output("y");
    });
    let Some(error) = error else { return };
    let PlanError::Coverage { coverage, least } = error else { panic!("{error:?}") };
    assert_eq!((coverage, least), (25.0, 50.0));
}

#[test]
fn what_stays_on_the_cpu_says_why_and_is_right() {
    let Some(bench) = Bench::new() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut net = Net::new(13);
    net.input("x", &[1, 16, 8, 8]);
    net.floats("w", &[16, 16, 1, 1], &[0.1; 256]);
    net.node("Conv", &["x", "w"], "a", &[]);
    // Around the device and back: what adds them must not be in the island that the sigmoid waits for.
    net.node("Sigmoid", &["a"], "b", &[]);
    net.node("Mul", &["a", "b"], "c", &[]);
    net.node("Conv", &["c", "w"], "d", &[]);
    net.node("Concat", &["a", "d"], "e", &[("axis", Int(2))]);
    net.output("e");
    let path = net.save(folder.path());
    let manifest = bench.executor.bitstream().manifest();
    let planned = Plan::new(&path, manifest, &eager()).unwrap();
    let report = planned.report();
    let told: Vec<(&str, Place, Option<usize>)> =
        report.nodes.iter().map(|node| (&*node.op, node.place, node.island)).collect();
    let (device, host) = (Place::Device, Place::Host);
    assert_eq!(
        told,
        [
            ("Conv", device, Some(0)),
            ("Sigmoid", host, Some(1)),
            ("Mul", device, Some(2)),
            ("Conv", device, Some(2)),
            ("Concat", host, Some(3)),
        ]
    );
    let reasons: Vec<&str> = report.nodes.iter().filter_map(|node| node.reason.as_deref()).collect();
    assert_eq!(
        reasons,
        [
            "the bitstream does not execute Sigmoid with f32-fma-v1",
            "it joins along another axis than the channels"
        ]
    );
    let input = || named(vec![("x", noise(&[1, 16, 8, 8], 1))]);
    let found = load(&bench.engine(eager()), &path).session().unwrap().run(input()).unwrap();
    let wanted = load(&*bench.ort, &path).session().unwrap().run(input()).unwrap();
    assert_close(&found, &wanted, "islands");

    // The same is not worth the way to the device and back.
    let planned = Plan::new(&path, manifest, &PlanOptions::default()).unwrap();
    assert_eq!((planned.report().device_islands, planned.report().coverage), (0, 0.0));
    let reason = planned.report().nodes[0].reason.as_deref().unwrap();
    assert!(reason.contains("less than moving its data"), "{reason}");
}

#[test]
fn other_types_than_floats_stay_on_the_cpu() {
    let Some(bench) = Bench::new() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut net = Net::new(13);
    // 11 is double.
    net.typed_input("x", 11, &[1, 16]);
    relu(&mut net);
    let path = net.save(folder.path());
    let planned = Plan::new(&path, bench.executor.bitstream().manifest(), &eager()).unwrap();
    let node = &planned.report().nodes[0];
    assert_eq!(node.place, Place::Host);
    assert_eq!(node.reason.as_deref(), Some("`x` has element type 11 and not float"));
}

#[test]
fn an_engine_tells_what_the_plan_told() {
    let Some(bench) = Bench::new() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut net = Net::new(13);
    net.open_input("x", &[Ok(1), Err("width")]);
    relu(&mut net);
    let path = net.save(folder.path());
    let error = bench.engine(eager()).load(&ModelFiles { path, threads: 1 }).unwrap_err().to_string();
    assert!(error.contains("`width`") && error.contains("export the model with fixed sizes"), "{error}");
}

/// A small model with something of everything.
fn sample(folder: &Path) -> Vec<u8> {
    let mut net = Net::new(13);
    net.open_input("x", &[Err("batch"), Ok(3), Ok(9), Ok(9)]);
    net.floats("w", &[16, 3, 3, 3], &[0.1; 16 * 27]);
    net.floats("scale", &[16, 1, 1], &[0.5; 16]);
    net.floats("one", &[16], &[1.0; 16]);
    net.floats("low", &[], &[0.0]);
    net.floats("m", &[16, 5], &[0.1; 80]);
    net.ints("shape", &[0, -1]);
    net.ints("axes", &[2, 3]);
    net.node("Conv", &["x", "w", "one"], "a", &[("pads", Ints(&[1; 4])), ("group", Int(1))]);
    net.node("BatchNormalization", &["a", "one", "one", "one", "one"], "b", &[]);
    net.node("Mul", &["b", "scale"], "c", &[]);
    net.node("Clip", &["c", "low"], "d", &[]);
    let window = || [("kernel_shape", Ints(&[3, 3])), ("strides", Ints(&[2, 2])), ("ceil_mode", Int(1))];
    net.node("MaxPool", &["d"], "e", &window());
    net.node("AveragePool", &["d"], "f", &window());
    net.node("Concat", &["e", "f"], "g", &[("axis", Int(1))]);
    net.node("Softmax", &["e"], "h", &[("axis", Int(1))]);
    net.node("Add", &["h", "f"], "i", &[]);
    net.node("GlobalAveragePool", &["i"], "j", &[]);
    net.node("Squeeze", &["j", "axes"], "k", &[]);
    net.node("MatMul", &["k", "m"], "l", &[]);
    net.node("Transpose", &["g"], "n", &[("perm", Ints(&[0, 2, 3, 1]))]);
    net.node("Reshape", &["n", "shape"], "o", &[]);
    net.floats("scale_1", &[], &[0.0625]);
    net.codes("zero_1", &[], &[7], false);
    net.codes("v_codes", &[16, 3, 3, 3], &[5; 16 * 27], true);
    net.floats("v_scale", &[16], &[0.1; 16]);
    net.node("QuantizeLinear", &["x", "scale_1", "zero_1"], "x_codes", &[]);
    net.node("DequantizeLinear", &["x_codes", "scale_1", "zero_1"], "x_held", &[]);
    net.node("DequantizeLinear", &["v_codes", "v_scale"], "v", &[("axis", Int(0))]);
    net.node("Conv", &["x_held", "v"], "p", &[("pads", Ints(&[1; 4]))]);
    net.node("Relu", &["p"], "q", &[]);
    net.node("QuantizeLinear", &["q", "scale_1", "zero_1"], "q_codes", &[]);
    net.node("DequantizeLinear", &["q_codes", "scale_1", "zero_1"], "r", &[]);
    net.node("Add", &["r", "r"], "s", &[]);
    net.node("QuantizeLinear", &["s", "scale_1", "zero_1"], "s_codes", &[]);
    net.node("DequantizeLinear", &["s_codes", "scale_1", "zero_1"], "t", &[]);
    net.output("l");
    net.output("o");
    net.output("t");
    fs_err::read(net.save(folder)).unwrap()
}

#[test]
fn a_damaged_model_is_planned_or_refused_and_no_more() {
    let Some(bitstream) = bitstream() else { return };
    let folder = tempfile::tempdir().unwrap();
    let whole = sample(folder.path());
    let path = folder.path().join("damaged.onnx");
    fs_err::write(&path, &whole).unwrap();
    Plan::new(&path, bitstream.manifest(), &eager()).unwrap();
    let damage = (
        proptest::collection::vec((0..whole.len(), any::<u8>()), 1..4),
        proptest::option::weighted(0.1, 0..whole.len()),
    );
    let config = Config { cases: 4000, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(&damage, |(changes, length)| {
        let mut bytes = whole.clone();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        bytes.truncate(length.unwrap_or(whole.len()));
        fs_err::write(&path, &bytes).unwrap();
        // What matters is that it returns, and that its words can be printed.
        if let Err(error) = Plan::new(&path, bitstream.manifest(), &eager()) {
            prop_assert!(!error.to_string().is_empty());
        }
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn weights_beside_the_model_are_read_and_nothing_else_is() {
    let Some(bench) = Bench::new() else { return };
    let beside = moorline_testkit::fixture("external_data.onnx");
    let plan = Plan::new(&beside, bench.executor.bitstream().manifest(), &eager()).unwrap();
    assert_eq!(plan.report().coverage, 1.0);
    let folder = tempfile::tempdir().unwrap();
    let alone = folder.path().join("model.onnx");
    fs_err::copy(&beside, &alone).unwrap();
    let error = Plan::new(&alone, bench.executor.bitstream().manifest(), &eager()).unwrap_err();
    assert!(matches!(error, PlanError::Onnx(OnnxError::External { .. })), "{error:?}");
    assert_eq!(error.class(), ErrorClass::Unavailable);
    // The same file under a name that leads out of the folder.
    let bytes = fs_err::read(&beside).unwrap();
    let name = b"external_data.bin";
    let at = bytes.windows(name.len()).position(|window| window == name).unwrap();
    let mut elsewhere = bytes;
    elsewhere[at..at + name.len()].copy_from_slice(b"../../etc/a/b/c/d");
    fs_err::write(&alone, &elsewhere).unwrap();
    let error = Plan::new(&alone, bench.executor.bitstream().manifest(), &eager()).unwrap_err();
    let PlanError::Onnx(OnnxError::Initializer { reason, .. }) = error else { panic!("{error:?}") };
    assert!(reason.contains("outside of the model's folder"), "{reason}");
}
