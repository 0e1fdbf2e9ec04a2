//! ONNX's own cases for every operator that the bitstream claims, and every version of the operator set.

use std::collections::BTreeSet;

use moorline_core::{DataType, Dim, Tensor, TensorData, TensorSpec, Value};
use moorline_fpga::{
    conv16,
    plan::{Costs, Place, Plan, PlanOptions},
};

use crate::{
    bench::{Bench, assert_close, load, made, named, noise},
    onnx::{
        Attribute::{Float, Ints},
        Net,
    },
};

/// Everything that can be is on the device, however little it is.
fn eager() -> PlanOptions {
    PlanOptions { costs: Costs::NOTHING, ..PlanOptions::default() }
}

#[test]
fn what_the_standard_says_of_each_operator() {
    let (Some(bench), Some(list)) = (Bench::new(), made("node_cases.py", "all")) else { return };
    let engine = bench.engine(eager());
    let mut on_device: BTreeSet<String> = BTreeSet::new();
    let mut cases = 0;
    for entry in fs_err::read_dir(list.parent().unwrap()).unwrap() {
        let data = entry.unwrap().path();
        if data.extension().is_none_or(|extension| extension != "bin") {
            continue;
        }
        let path = data.with_extension("onnx");
        let plan = match Plan::new(&path, bench.executor.bitstream().manifest(), &eager()) {
            Ok(plan) => plan,
            // Results that depend on values, which no plan can know.
            Err(error) => panic!("{}: {error:?}", path.display()),
        };
        let device = plan.report().nodes.iter().filter(|node| node.place == Place::Device);
        on_device.extend(device.map(|node| node.op.clone()));
        let bytes = fs_err::read(&data).unwrap();
        let mut left = &bytes[..];
        let model = load(&engine, &path);
        let mut take = |spec: &TensorSpec| {
            let size = |dim: &Dim| match dim {
                Dim::Fixed(size) => *size,
                Dim::Dynamic(_) => panic!("the cases have fixed sizes"),
            };
            let shape: Vec<usize> = spec.shape.iter().flatten().map(size).collect();
            let each = if spec.data_type == DataType::F32 { 4 } else { 1 };
            let (taken, rest) = left.split_at(each * shape.iter().product::<usize>());
            left = rest;
            let data: TensorData = match spec.data_type {
                DataType::F32 => {
                    let floats = taken.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
                    floats.collect::<Vec<f32>>().into()
                }
                DataType::U8 => taken.to_vec().into(),
                DataType::I8 => taken.iter().map(|byte| byte.cast_signed()).collect::<Vec<i8>>().into(),
                other => panic!("{other}"),
            };
            Tensor::new(shape, data).unwrap()
        };
        let signature = model.signature();
        let inputs = signature.inputs.iter().map(|spec| (&*spec.name, take(spec)));
        let inputs = named(inputs.collect());
        let wanted = signature.outputs.iter().map(|spec| (&*spec.name, take(spec)));
        let wanted = named(wanted.collect());
        let found = model.session().unwrap().run(inputs).unwrap();
        assert_close(&found, &wanted, &path.display().to_string());
        cases += 1;
    }
    assert!(cases > 80, "{cases} cases");
    // ONNX has no case of these with one value a channel, with whole blocks of channels, or with one scale for a feature
    // map; the layer tests have.
    let elsewhere = ["Concat", "Sub", "QuantizeLinear", "DequantizeLinear"];
    for op in conv16::recipe().ops {
        assert!(
            on_device.contains(&op.op) || elsewhere.contains(&&*op.op),
            "no case of {} was on the device",
            op.op
        );
    }
}

/// Operators whose form changed with the operator set, in the form of each version.
#[test]
fn every_version_of_the_operator_set() {
    let Some(bench) = Bench::new() else { return };
    let engine = bench.engine(PlanOptions { min_coverage: 1.0, ..eager() });
    // The newest that the ONNX Runtime beside it calls official.
    for opset in 7..=26 {
        let folder = tempfile::tempdir().unwrap();
        let mut net = Net::new(opset);
        net.input("x", &[1, 5, 9, 9]);
        for (name, shape, seed) in [
            ("w", &[24, 5, 3, 3][..], 1),
            ("gamma", &[24], 2),
            ("beta", &[24], 3),
            ("mean", &[24], 4),
            ("m", &[24, 7], 5),
        ] {
            let TensorData::F32(values) = noise(shape, seed).into_parts().1 else { panic!("floats") };
            net.floats(name, shape, &values);
        }
        net.floats("variance", &[24], &[0.5; 24]);
        net.node("Conv", &["x", "w"], "a", &[("strides", Ints(&[2, 2])), ("pads", Ints(&[1; 4]))]);
        net.node("BatchNormalization", &["a", "gamma", "beta", "mean", "variance"], "b", &[]);
        if opset < 11 {
            net.node("Clip", &["b"], "c", &[("min", Float(-0.5)), ("max", Float(0.5))]);
        } else {
            net.floats("low", &[], &[-0.5]);
            net.floats("high", &[], &[0.5]);
            net.node("Clip", &["b", "low", "high"], "c", &[]);
        }
        net.node("MaxPool", &["c"], "d", &[("kernel_shape", Ints(&[2, 2])), ("strides", Ints(&[2, 2]))]);
        net.node("GlobalAveragePool", &["d"], "e", &[]);
        if opset < 12 {
            net.node("Dropout", &["e"], "f", &[("ratio", Float(0.3))]);
        } else {
            net.node("Dropout", &["e"], "f", &[]);
        }
        if opset < 13 {
            net.node("Squeeze", &["f"], "g", &[("axes", Ints(&[2, 3]))]);
        } else {
            net.ints("axes", &[2, 3]);
            net.node("Squeeze", &["f", "axes"], "g", &[]);
        }
        net.node("MatMul", &["g", "m"], "h", &[]);
        net.output("h");
        net.output("c");
        let path = net.save(folder.path());
        let input = || named(vec![("x", noise(&[1, 5, 9, 9], 9))]);
        let found = load(&engine, &path).session().unwrap().run(input()).unwrap();
        assert!(matches!(found.get("h"), Some(Value::Tensor(_))));
        let wanted = load(&*bench.ort, &path).session().unwrap().run(input()).unwrap();
        assert_close(&found, &wanted, &format!("operator set {opset}"));
    }
}
