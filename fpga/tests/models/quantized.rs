//! Whole models quantised by our own tool: nearly all of them is computed on codes, and ONNX Runtime answers the same.

use moorline_core::{TensorData, Tensors, Value};
use moorline_fpga::{
    plan::{Numerics, Plan, PlanOptions},
    quantize::{Method, QuantizeError, QuantizeOptions, accuracy, quantize},
};

use crate::{
    bench::{Bench, load, made, named, noise, npy, quantized},
    onnx::{
        Attribute::{Int, Ints},
        Net,
    },
};

const OPTIONS: QuantizeOptions = QuantizeOptions { method: Method::MinMax, per_channel: true, threads: 2 };

fn floats(outputs: &Tensors) -> &[f32] {
    let Some((_, Value::Tensor(tensor))) = outputs.iter().next() else { panic!("a tensor") };
    let TensorData::F32(floats) = tensor.data() else { panic!("floats") };
    floats
}

/// In decibels.
fn signal_to_noise(wanted: &[f32], found: &[f32]) -> f64 {
    let noise: f64 = wanted.iter().zip(found).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let signal: f64 = wanted.iter().map(|a| f64::from(*a).powi(2)).sum();
    10.0 * (signal / noise.max(f64::MIN_POSITIVE)).log10()
}

/// `least` is what ONNX Runtime's answers to the same file may be away from ours: a code that it rounds otherwise moves
/// what follows.
fn check(name: &str, shape: &[usize], options: &QuantizeOptions, least: f64) {
    let (Some(bench), Some(path)) = (Bench::new(), made("generate.py", name)) else { return };
    let folder = tempfile::tempdir().unwrap();
    let (file, told) = quantized(&*bench.ort, &path, shape, options, folder.path());
    assert!(accuracy(&file).unwrap().as_ref() == Some(&told), "what the file says is not what was told");
    assert_eq!(accuracy(&path).unwrap(), None);
    let plan = PlanOptions { min_coverage: 0.95, numerics: Some(Numerics::I8Rne), ..PlanOptions::default() };
    let report = Plan::new(&file, bench.executor.bitstream().manifest(), &plan);
    let report = report.unwrap();
    assert_eq!(report.report().device_islands, 1, "{:#?}", report.report().nodes);
    assert_eq!(report.report().accuracy.as_ref().map(|told| told.samples), Some(told.samples));
    let input = || named(vec![("input", noise(shape, 11))]);
    let ours = load(&bench.engine(plan), &file).session().unwrap().run(input()).unwrap();
    let theirs = load(&*bench.ort, &file).session().unwrap().run(input()).unwrap();
    let original = load(&*bench.ort, &path).session().unwrap().run(input()).unwrap();
    let (ours, theirs, original) = (floats(&ours), floats(&theirs), floats(&original));
    let near = signal_to_noise(theirs, ours);
    assert!(near > least, "{near} dB beside ONNX Runtime");
    // What the report says of the outputs holds for other inputs, too.
    let stated = told.layers.last().unwrap().snr_db.unwrap();
    let away = signal_to_noise(original, ours);
    assert!(away > stated - 6.0, "{away} dB beside the model of floats, and the report says {stated}");
}

#[test]
fn resnet_50() {
    check("resnet_50", &[1, 3, 224, 224], &OPTIONS, 20.0);
}

#[test]
fn mobilenet_v2() {
    check("mobilenet_v2", &[1, 3, 224, 224], &OPTIONS, 15.0);
}

#[test]
fn an_mlp_and_its_percentiles() {
    let percentile = QuantizeOptions { method: Method::Percentile(99.99), ..OPTIONS };
    check("mlp", &[8, 784], &percentile, 40.0);
}

#[test]
fn resnet_with_one_scale_for_each_layer() {
    let one = QuantizeOptions { per_channel: false, ..OPTIONS };
    check("resnet_any_batch", &[4, 3, 64, 64], &one, 20.0);
}

#[test]
fn a_model_that_says_too_little_of_itself_is_refused() {
    let Some(bench) = Bench::new() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut net = Net::new(13);
    net.input("x", &[1, 64]);
    let weights: Vec<f32> = (0..64 * 8).map(|at| ((at * 37) % 101) as f32 / 100.0 - 0.5).collect();
    net.floats("w", &[64, 8], &weights);
    net.node("MatMul", &["x", "w"], "y", &[]);
    net.output("y");
    let path = net.save(folder.path());
    let plan = |path: &std::path::Path, least: f64| {
        let options = PlanOptions { min_agreement: Some(least), ..PlanOptions::default() };
        Plan::new(path, bench.executor.bitstream().manifest(), &options)
    };
    let error = plan(&path, 0.5).unwrap_err().to_string();
    assert!(error.contains("0.5") && error.contains("`moorline fpga quantize`"), "{error}");
    let (file, told) = quantized(&*bench.ort, &path, &[40, 64], &OPTIONS, folder.path());
    let stated = told.agreement.unwrap();
    assert!(told.samples == 40 && stated > 0.5, "{told:?}");
    plan(&file, stated).unwrap();
    // What no model can state: it is refused with both numbers.
    let error = plan(&file, 1.5).unwrap_err().to_string();
    assert!(error.contains(&format!("{stated}")) && error.contains("1.5"), "{error}");
    let options = PlanOptions { min_agreement: Some(1.5), ..PlanOptions::default() };
    let engine = bench.engine(options);
    let refused = moorline_core::Engine::load(&engine, &moorline_core::ModelFiles { path: file, threads: 1 });
    assert!(refused.unwrap_err().to_string().contains("1.5"));
}

#[test]
fn what_cannot_be_quantised_says_why() {
    let Some(bench) = Bench::new() else { return };
    let folder = tempfile::tempdir().unwrap();
    let samples = folder.path().join("samples.npy");
    let net = |opset: i64| {
        let mut net = Net::new(opset);
        net.input("x", &[1, 4, 6, 6]);
        net.floats("w", &[8, 4, 3, 3], &vec![0.5; 8 * 36]);
        net.node("Conv", &["x", "w"], "a", &[("pads", Ints(&[1; 4]))]);
        net.node("Relu", &["a"], "b", &[]);
        net
    };
    let try_with = |net: Net, data: &[u8]| {
        fs_err::write(&samples, data).unwrap();
        quantize(&net.save(folder.path()), &samples, &*bench.ort, &OPTIONS, &mut |_| ())
    };
    let fitting = npy(&noise(&[3, 4, 6, 6], 1));
    let mut whole = net(13);
    whole.node("Conv", &["b", "v"], "y", &[("group", Int(8))]);
    whole.floats("v", &[8, 1, 1, 1], &[0.25; 8]);
    whole.output("y");
    let told = try_with(whole, &fitting).unwrap().accuracy;
    assert_eq!((told.samples, told.layers.len(), &*told.method), (3, 3, "minmax"));
    assert!(told.layers.iter().all(|layer| layer.snr_db.is_none_or(|snr| snr > 30.0)), "{told:?}");

    let ending = |mut net: Net| {
        net.output("b");
        net
    };
    let refused = |net: Net, data: &[u8]| try_with(net, data).unwrap_err();
    assert!(matches!(refused(ending(net(12)), &fitting), QuantizeError::Opset { version: 12 }));
    let wrong = refused(ending(net(13)), &npy(&noise(&[3, 4, 5, 6], 1))).to_string();
    assert!(wrong.contains("[3, 4, 5, 6]") && wrong.contains("[1, 4, 6, 6]"), "{wrong}");
    let truncated = refused(ending(net(13)), &fitting[..200]);
    assert!(matches!(truncated, QuantizeError::Samples { .. }), "{truncated}");
    let mut plain = Net::new(13);
    plain.input("x", &[1, 4, 6, 6]);
    plain.node("Relu", &["x"], "b", &[]);
    assert!(matches!(refused(ending(plain), &fitting), QuantizeError::Nothing));
    let mut held = net(13);
    held.floats("scale", &[], &[0.5]);
    held.node("QuantizeLinear", &["b", "scale"], "c", &[]);
    held.node("DequantizeLinear", &["c", "scale"], "d", &[]);
    held.output("d");
    assert!(matches!(refused(held, &fitting), QuantizeError::Already));
}
