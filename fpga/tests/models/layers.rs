//! Layers over random shapes, each against ONNX Runtime: whatever the tile, the padding and the leftovers are.

use moorline_fpga::plan::{Costs, PlanOptions};
use proptest::{
    prelude::*,
    test_runner::{Config, TestError, TestRunner},
};

use crate::{
    bench::{Bench, assert_close, load, named, noise},
    onnx::{
        Attribute::{Float, Int, Ints, Text},
        Net,
    },
};

/// Everything on the device, however little it is.
const ALL: PlanOptions = PlanOptions {
    batch: 1,
    min_coverage: 1.0,
    device_memory: None,
    costs: Costs::NOTHING,
    numerics: None,
    min_agreement: None,
};

/// Runs `cases` models that `make` makes of random values; the model takes `x`, of the shape that comes with it.
fn check<S: Strategy>(cases: u32, strategy: S, make: impl Fn(&S::Value) -> (Net, Vec<usize>))
where
    S::Value: std::fmt::Debug,
{
    let Some(bench) = Bench::new() else { return };
    let engine = bench.engine(ALL);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let result = runner.run(&strategy, |value| {
        let folder = tempfile::tempdir().unwrap();
        let (net, shape) = make(&value);
        let path = net.save(folder.path());
        let (ours, theirs) = (load(&engine, &path), load(&*bench.ort, &path));
        let input = || named(vec![("x", noise(&shape, 7))]);
        let found = ours.session().unwrap().run(input()).unwrap();
        let wanted = theirs.session().unwrap().run(input()).unwrap();
        assert_close(&found, &wanted, &format!("{value:?}"));
        Ok(())
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(reason, value)) => panic!("{value:?}: {reason}"),
        Err(TestError::Abort(reason)) => panic!("{reason}"),
    }
}

pub(crate) fn floats(shape: &[usize], seed: u32) -> Vec<f32> {
    match noise(shape, seed).into_parts().1 {
        moorline_core::TensorData::F32(floats) => floats,
        other => panic!("{other:?}"),
    }
}

impl Net {
    fn weights(&mut self, name: &str, shape: &[usize], seed: u32) {
        self.floats(name, shape, &floats(shape, seed));
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Conv {
    pub(crate) n: usize,
    pub(crate) groups: usize,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) size: [usize; 2],
    pub(crate) kernel: [usize; 2],
    pub(crate) stride: usize,
    pub(crate) dilation: usize,
    pub(crate) pads: [usize; 4],
    pub(crate) bias: bool,
}

pub(crate) fn pads() -> impl Strategy<Value = [usize; 4]> {
    prop_oneof![Just([0; 4]), Just([1; 4]), [0..3_usize, 0..3, 0..3, 0..3]]
}

pub(crate) fn conv(groups: impl Strategy<Value = usize>, channels: usize) -> impl Strategy<Value = Conv> {
    let sizes = ([1..34_usize, 1..34], [1..5_usize, 1..5], 1..4_usize, 1..3_usize, pads());
    (1..3_usize, groups, 1..channels, 1..channels, sizes, any::<bool>()).prop_filter_map(
        "the window is inside of the data",
        |(n, groups, inputs, outputs, (size, kernel, stride, dilation, pads), bias)| {
            let fits =
                (0..2).all(|axis| size[axis] + pads[axis] + pads[axis + 2] > (kernel[axis] - 1) * dilation);
            fits.then_some(Conv { n, groups, inputs, outputs, size, kernel, stride, dilation, pads, bias })
        },
    )
}

impl Conv {
    fn model(&self) -> (Net, Vec<usize>) {
        let (inputs, outputs) = (self.inputs * self.groups, self.outputs * self.groups);
        let shape = vec![self.n, inputs, self.size[0], self.size[1]];
        let mut net = Net::new(13);
        net.input("x", &shape);
        net.weights("w", &[outputs, self.inputs, self.kernel[0], self.kernel[1]], 1);
        net.weights("b", &[outputs], 2);
        let names: &[&str] = if self.bias { &["x", "w", "b"] } else { &["x", "w"] };
        net.node(
            "Conv",
            names,
            "y",
            &[
                ("strides", Ints(&[self.stride; 2])),
                ("dilations", Ints(&[self.dilation; 2])),
                ("pads", Ints(&self.pads)),
                ("group", Int(self.groups as i64)),
            ],
        );
        net.output("y");
        (net, shape)
    }
}

#[test]
fn convolutions() {
    check(120, conv(Just(1), 70), Conv::model);
}

#[test]
fn convolutions_in_groups() {
    check(60, conv(2..5_usize, 40), Conv::model);
}

#[test]
fn convolutions_of_each_channel() {
    let depthwise = conv(1..70_usize, 3).prop_map(|conv| Conv { inputs: 1, outputs: 1, ..conv });
    check(60, depthwise, Conv::model);
}

#[test]
fn convolutions_that_are_padded_automatically() {
    let cases = (conv(Just(1), 20), prop_oneof![Just("SAME_UPPER"), Just("SAME_LOWER"), Just("VALID")]);
    check(
        40,
        cases.prop_filter("inside", |(conv, _)| {
            conv.kernel[0] <= conv.size[0] && conv.kernel[1] <= conv.size[1]
        }),
        |(conv, auto)| {
            let shape = vec![conv.n, conv.inputs, conv.size[0], conv.size[1]];
            let mut net = Net::new(11);
            net.input("x", &shape);
            net.weights("w", &[conv.outputs, conv.inputs, conv.kernel[0], conv.kernel[1]], 1);
            net.node(
                "Conv",
                &["x", "w"],
                "y",
                &[("strides", Ints(&[conv.stride; 2])), ("auto_pad", Text(auto))],
            );
            net.output("y");
            (net, shape)
        },
    );
}

#[test]
fn what_is_fused_with_a_convolution() {
    // Normalised, added to a shortcut of its own, bounded; and once more the other way round.
    let cases = (1..3_usize, 1..40_usize, 1..40_usize, [1..20_usize, 1..20], any::<bool>(), 0..3_usize);
    check(60, cases, |&(n, inputs, outputs, size, swap, bound)| {
        let shape = vec![n, inputs, size[0], size[1]];
        let mut net = Net::new(13);
        net.input("x", &shape);
        net.weights("w", &[outputs, inputs, 3, 3], 1);
        net.weights("v", &[outputs, inputs, 1, 1], 2);
        for (name, seed) in [("gamma", 3), ("beta", 4), ("mean", 5)] {
            net.weights(name, &[outputs], seed);
        }
        let variance: Vec<f32> = floats(&[outputs], 6).iter().map(|value| value.abs() + 0.5).collect();
        net.floats("variance", &[outputs], &variance);
        net.floats("low", &[], &[0.0]);
        net.floats("high", &[], &[6.0]);
        net.node("Conv", &["x", "w"], "a", &[("pads", Ints(&[1; 4]))]);
        net.node(
            "BatchNormalization",
            &["a", "gamma", "beta", "mean", "variance"],
            "b",
            &[("epsilon", Float(1e-3))],
        );
        net.node("Conv", &["x", "v"], "c", &[]);
        net.node("Add", if swap { &["c", "b"] } else { &["b", "c"] }, "d", &[]);
        match bound {
            0 => net.node("Relu", &["d"], "y", &[]),
            1 => net.node("Clip", &["d", "low", "high"], "y", &[]),
            _ => net.node("Clip", &["d", "low"], "y", &[]),
        }
        net.output("y");
        (net, shape)
    });
}

#[test]
fn pools() {
    let cases =
        (1..3_usize, 1..40_usize, [1..30_usize, 1..30], [1..5_usize, 1..5], 1..4_usize, pads(), 0..5_usize);
    let cases =
        cases.prop_filter("the window is inside of the data, and the padding of the window", |case| {
            let &(_, _, size, kernel, _, pads, _) = case;
            (0..2).all(|axis| {
                pads[axis] < kernel[axis]
                    && pads[axis + 2] < kernel[axis]
                    && size[axis] + pads[axis] + pads[axis + 2] >= kernel[axis]
            })
        });
    check(120, cases, |&(n, c, size, kernel, stride, pads, kind)| {
        let shape = vec![n, c, size[0], size[1]];
        let mut net = Net::new(13);
        net.input("x", &shape);
        let strides = [stride; 2];
        let window = |more: Option<(&'static str, i64)>| {
            let mut all =
                vec![("kernel_shape", Ints(&kernel)), ("strides", Ints(&strides)), ("pads", Ints(&pads))];
            all.extend(more.map(|(name, value)| (name, Int(value))));
            all
        };
        match kind {
            0 => net.node("MaxPool", &["x"], "y", &window(None)),
            1 => net.node("AveragePool", &["x"], "y", &window(None)),
            2 => net.node("AveragePool", &["x"], "y", &window(Some(("count_include_pad", 1)))),
            3 => net.node("GlobalAveragePool", &["x"], "y", &[]),
            _ => net.node("GlobalMaxPool", &["x"], "y", &[]),
        }
        net.output("y");
        (net, shape)
    });
}

#[test]
fn products_with_matrices() {
    let cases = (1..20_usize, 1..200_usize, 1..200_usize, any::<bool>(), 0..3_usize);
    check(80, cases, |&(rows, depth, columns, transposed, kind)| {
        let shape = vec![rows, depth];
        let mut net = Net::new(13);
        net.input("x", &shape);
        net.weights("w", &if transposed { [columns, depth] } else { [depth, columns] }, 1);
        net.weights("b", &[columns], 2);
        let transpose = ("transB", Int(i64::from(transposed)));
        match kind {
            0 if !transposed => {
                net.node("MatMul", &["x", "w"], "a", &[]);
                net.node("Add", &["a", "b"], "c", &[]);
                net.node("Relu", &["c"], "y", &[]);
            }
            1 => net.node(
                "Gemm",
                &["x", "w", "b"],
                "y",
                &[transpose, ("alpha", Float(0.5)), ("beta", Float(2.0))],
            ),
            _ => net.node("Gemm", &["x", "w"], "y", &[transpose]),
        }
        net.output("y");
        (net, shape)
    });
}

#[test]
fn products_with_flattened_maps() {
    let cases = (1..4_usize, 1..40_usize, [1..6_usize, 1..6], 1..60_usize, 0..3_usize);
    check(40, cases, |&(n, c, size, columns, way)| {
        let shape = vec![n, c, size[0], size[1]];
        let depth = c * size[0] * size[1];
        let mut net = Net::new(13);
        net.input("x", &shape);
        net.weights("w", &[depth, columns], 1);
        net.ints("shape", &[0, -1]);
        match way {
            0 => net.node("Flatten", &["x"], "flat", &[]),
            1 => net.node("Reshape", &["x", "shape"], "flat", &[]),
            _ => {
                net.node("Relu", &["x"], "positive", &[]);
                net.node("Flatten", &["positive"], "flat", &[]);
            }
        }
        net.node("MatMul", &["flat", "w"], "y", &[]);
        net.output("y");
        net.output("flat");
        (net, shape)
    });
}

#[test]
fn element_by_element() {
    let cases = (1..3_usize, 1..40_usize, [1..12_usize, 1..12], 0..7_usize);
    check(60, cases, |&(n, c, size, kind)| {
        let shape = vec![n, c, size[0], size[1]];
        let mut net = Net::new(13);
        net.input("x", &shape);
        net.weights("channel", &[c, 1, 1], 1);
        net.floats("one", &[], &[0.75]);
        match kind {
            0 => net.node("Add", &["x", "x"], "y", &[]),
            1 => net.node("Mul", &["x", "x"], "y", &[]),
            2 => net.node("Add", &["channel", "x"], "y", &[]),
            3 => net.node("Mul", &["x", "channel"], "y", &[]),
            4 => net.node("Sub", &["x", "one"], "y", &[]),
            5 => {
                net.node("GlobalAveragePool", &["x"], "mean", &[]);
                net.node("Mul", &["x", "mean"], "y", &[]);
            }
            _ => net.node("Relu", &["x"], "y", &[]),
        }
        net.output("y");
        (net, shape)
    });
}

#[test]
fn channels_joined() {
    let cases = (1..3_usize, 1..50_usize, 1..40_usize, [1..12_usize, 1..12]);
    check(60, cases, |&(n, outputs, c, size)| {
        let shape = vec![n, c, size[0], size[1]];
        let mut net = Net::new(13);
        net.input("x", &shape);
        net.weights("w", &[outputs, c, 1, 1], 1);
        net.weights("v", &[20, 2 * outputs + c, 1, 1], 2);
        net.node("Conv", &["x", "w"], "a", &[]);
        net.node("Relu", &["a"], "b", &[]);
        net.node("Concat", &["a", "b", "x"], "joined", &[("axis", Int(1))]);
        net.output("joined");
        // What is behind the last channel must add nothing.
        net.node("Conv", &["joined", "v"], "y", &[]);
        net.output("y");
        (net, shape)
    });
}
