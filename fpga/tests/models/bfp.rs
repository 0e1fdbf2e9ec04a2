//! bfp9-v1: single layers to the bit, by loops that know nothing of the kernels; a whole model within the error that is
//! documented.

use moorline_core::{Tensor, TensorData, Value};
use moorline_fpga::plan::{Costs, Numerics, Plan, PlanOptions};
use proptest::{
    prelude::*,
    test_runner::{Config, TestError, TestRunner},
};

use crate::{
    bench::{Bench, load, made, named, noise},
    layers::{Conv, conv, floats},
    onnx::{Attribute::Ints, Net},
};

const BFP: PlanOptions = PlanOptions {
    batch: 1,
    min_coverage: 1.0,
    device_memory: None,
    costs: Costs::NOTHING,
    numerics: Some(Numerics::Bfp9),
    min_agreement: None,
};

/// Values at `places` with eight bits and a sign below the greatest of them.
fn share(values: &mut [f32], places: &[usize]) {
    let most = places.iter().fold(0.0_f64, |most, &place| most.max(f64::from(values[place].abs())));
    if most == 0.0 {
        return;
    }
    let step = (most.log2().floor() - 7.0).exp2();
    for &place in places {
        let steps = (f64::from(values[place]) / step).round_ties_even().clamp(-255.0, 255.0);
        values[place] = (steps * step) as f32;
    }
}

/// Channels of a block: of images, all there are.
fn width(channels: usize) -> usize {
    if channels <= 4 { 4 } else { 16 }
}

fn reference(conv: &Conv, input: &[f32], weights: &[f32], bias: &[f32]) -> Vec<f32> {
    let Conv { n, inputs, outputs, size: [h, w], kernel: [kh, kw], stride, dilation, pads, .. } = *conv;
    let width = width(inputs);
    let mut blocks: Vec<std::ops::Range<usize>> = Vec::new();
    blocks.extend((0..inputs).step_by(width).map(|first| first..inputs.min(first + width)));
    let (mut input, mut weights) = (input.to_vec(), weights.to_vec());
    for block in &blocks {
        for place in 0..n * h * w {
            let at = |channel: usize| (place / (h * w) * inputs + channel) * h * w + place % (h * w);
            share(&mut input, &block.clone().map(at).collect::<Vec<_>>());
        }
        for place in 0..outputs * kh * kw {
            let at = |channel: usize| (place / (kh * kw) * inputs + channel) * kh * kw + place % (kh * kw);
            share(&mut weights, &block.clone().map(at).collect::<Vec<_>>());
        }
    }
    let rows = (h + pads[0] + pads[2] - (kh - 1) * dilation - 1) / stride + 1;
    let columns = (w + pads[1] + pads[3] - (kw - 1) * dilation - 1) / stride + 1;
    let mut result = Vec::new();
    for at in 0..n * outputs * rows * columns {
        let (batch, output) = (at / columns / rows / outputs, at / columns / rows % outputs);
        let (row, column) = (at / columns % rows, at % columns);
        let mut sum = bias[output];
        for block in &blocks {
            for (ky, kx) in (0..kh * kw).map(|tap| (tap / kw, tap % kw)) {
                let y = (row * stride + ky * dilation).wrapping_sub(pads[0]);
                let x = (column * stride + kx * dilation).wrapping_sub(pads[1]);
                if y >= h || x >= w {
                    continue;
                }
                for channel in block.clone() {
                    let value = input[((batch * inputs + channel) * h + y) * w + x];
                    sum = value.mul_add(weights[((output * inputs + channel) * kh + ky) * kw + kx], sum);
                }
            }
        }
        result.push(sum);
    }
    result
}

fn values(value: Option<&Value>) -> Vec<f32> {
    let Some(Value::Tensor(tensor)) = value else { panic!("a tensor") };
    let TensorData::F32(floats) = tensor.data() else { panic!("floats") };
    floats.clone()
}

#[test]
fn convolutions_of_blocks_that_share_an_exponent() {
    let Some(bench) = Bench::new() else { return };
    let engine = bench.engine(BFP);
    let config = Config { cases: 60, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(&(conv(Just(1), 50), -20..20_i32), |(conv, exponent)| {
        let shape = [conv.n, conv.inputs, conv.size[0], conv.size[1]];
        let kernel = [conv.outputs, conv.inputs, conv.kernel[0], conv.kernel[1]];
        let folder = tempfile::tempdir().unwrap();
        let (weights, bias) = (floats(&kernel, 1), floats(&[conv.outputs], 2));
        let mut net = Net::new(13);
        net.input("x", &shape);
        net.floats("w", &kernel, &weights);
        net.floats("b", &[conv.outputs], &bias);
        let attributes = [
            ("strides", Ints(&[conv.stride; 2])),
            ("dilations", Ints(&[conv.dilation; 2])),
            ("pads", Ints(&conv.pads)),
        ];
        net.node("Conv", &["x", "w", "b"], "y", &attributes);
        net.output("y");
        let path = net.save(folder.path());
        let input: Vec<f32> =
            floats(&shape, 7).iter().map(|value| value * (exponent as f32).exp2()).collect();
        let given = Tensor::new(shape.to_vec(), input.clone().into()).unwrap();
        let found = load(&engine, &path).session().unwrap().run(named(vec![("x", given)])).unwrap();
        let wanted = reference(&conv, &input, &weights, &bias);
        let found = values(found.get("y"));
        prop_assert_eq!(found.len(), wanted.len());
        for (at, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
            prop_assert!(found.to_bits() == wanted.to_bits(), "[{}] is {}, wanted {}", at, found, wanted);
        }
        Ok(())
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(reason, value)) => panic!("{value:?}: {reason}"),
        Err(TestError::Abort(reason)) => panic!("{reason}"),
    }
}

#[test]
fn resnet_50_within_the_documented_error() {
    let (Some(bench), Some(path)) = (Bench::new(), made("generate.py", "resnet_50")) else { return };
    let options = PlanOptions { min_coverage: 0.95, ..BFP };
    let plan = Plan::new(&path, bench.executor.bitstream().manifest(), &options).unwrap();
    assert_eq!((plan.report().device_islands, plan.report().host_islands), (1, 0));
    let input = || named(vec![("input", noise(&[1, 3, 224, 224], 5))]);
    let found = load(&bench.engine(options), &path).session().unwrap().run(input()).unwrap();
    let wanted = load(&*bench.ort, &path).session().unwrap().run(input()).unwrap();
    let (found, wanted) =
        (values(found.iter().next().map(|(_, v)| v)), values(wanted.iter().next().map(|(_, v)| v)));
    let noise: f64 = found.iter().zip(&wanted).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let signal: f64 = wanted.iter().map(|a| f64::from(*a).powi(2)).sum();
    let snr = 10.0 * (signal / noise).log10();
    // Some of it there must be, or nothing was rounded.
    assert!((30.0..90.0).contains(&snr), "{snr} dB");
}
