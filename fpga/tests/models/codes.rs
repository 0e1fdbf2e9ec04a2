//! Layers of codes over random shapes, scales and zeros: to the bit what the formula says, and what ONNX Runtime answers
//! but for its own roundings.

use moorline_core::{Tensor, TensorData, Value};
use moorline_fpga::plan::{Costs, Numerics, Plan, PlanOptions};
use proptest::{
    prelude::*,
    test_runner::{Config, TestError, TestRunner},
};

use crate::{
    bench::{Bench, load, named, noise},
    formula::{Codes, Pool, Weights, pooled, recoded, requantized, sum, sums},
    layers::{Conv, conv, floats, pads},
    onnx::{
        Attribute::{Int, Ints},
        Net,
    },
};

/// Everything on the device, however little it is.
const ALL: PlanOptions = PlanOptions {
    batch: 1,
    min_coverage: 0.0,
    device_memory: None,
    costs: Costs::NOTHING,
    numerics: None,
    min_agreement: None,
};

/// A model, its input, and the numbers that must come out to the bit.
struct Case {
    net: Net,
    input: Tensor,
    wanted: Vec<f32>,
    /// The step of a code, where ONNX Runtime may differ by one.
    step: f32,
}

fn check<S: Strategy>(cases: u32, strategy: S, make: impl Fn(&S::Value) -> Case)
where
    S::Value: std::fmt::Debug,
{
    let Some(bench) = Bench::new() else { return };
    let engine = bench.engine(ALL);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(&strategy, |value| {
        let folder = tempfile::tempdir().unwrap();
        let Case { net, input, wanted, step } = make(&value);
        let path = net.save(folder.path());
        let plan = Plan::new(&path, bench.executor.bitstream().manifest(), &ALL).unwrap();
        prop_assert_eq!((plan.report().device_islands, plan.report().host_islands), (1, 0));
        let run = |engine: &dyn moorline_core::Engine| {
            let found =
                load(engine, &path).session().unwrap().run(named(vec![("x", input.clone())])).unwrap();
            numbers(found.get("y").unwrap())
        };
        let found = run(&engine);
        prop_assert_eq!(found.len(), wanted.len());
        for (at, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
            prop_assert!(found.to_bits() == wanted.to_bits(), "[{}] is {}, wanted {}", at, found, wanted);
        }
        // It multiplies out scales in another order, and takes the mean of floats: one code on either side.
        for (at, (found, theirs)) in found.iter().zip(run(&*bench.ort)).enumerate() {
            let near = (found - theirs).abs() <= 1.001 * step + 1e-4 * theirs.abs();
            prop_assert!(near, "[{}] is {}, and {} by ONNX Runtime", at, found, theirs);
        }
        Ok(())
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(reason, value)) => panic!("{value:?}: {reason}"),
        Err(TestError::Abort(reason)) => panic!("{reason}"),
    }
}

fn numbers(value: &Value) -> Vec<f32> {
    let Value::Tensor(tensor) = value else { panic!("a tensor") };
    match tensor.data() {
        TensorData::F32(floats) => floats.clone(),
        TensorData::U8(codes) => codes.iter().map(|&code| f32::from(code)).collect(),
        TensorData::I8(codes) => codes.iter().map(|&code| f32::from(code)).collect(),
        other => panic!("{other:?}"),
    }
}

/// Scales that are powers of two give ties, which others hardly do.
fn codes(scale: f32) -> impl Strategy<Value = Codes> {
    (any::<bool>(), 0..256, 0..3_u8, 0.5_f32..1.5).prop_map(move |(signed, zero, kind, odd)| Codes {
        scale: if kind == 0 { scale * odd } else { scale },
        zero: zero - if signed { 128 } else { 0 },
        signed,
    })
}

impl Net {
    fn parameters(&mut self, name: &str, codes: Codes) -> [String; 2] {
        let names = [format!("{name}_scale"), format!("{name}_zero")];
        self.floats(&names[0], &[], &[codes.scale]);
        self.codes(&names[1], &[], &[codes.zero], codes.signed);
        names
    }

    /// `from` as codes and again as numbers, under the name `to`.
    fn requantize(&mut self, from: &str, to: &str, codes: Codes) {
        let [scale, zero] = self.parameters(to, codes);
        let held = format!("{to}_q");
        self.node("QuantizeLinear", &[from, &scale, &zero], &held, &[]);
        self.node("DequantizeLinear", &[&held, &scale, &zero], to, &[]);
    }

    /// Weights as the model holds them, and less their zeros.
    fn held(
        &mut self,
        name: &str,
        shape: &[usize],
        (axis, wide, per_channel): (usize, bool, bool),
        seed: u32,
    ) -> (Vec<i32>, Vec<f32>) {
        let outputs = shape[axis];
        let count = if per_channel { outputs } else { 1 };
        let scales: Vec<f32> =
            (0..count).map(|index| [0.0625, 0.05, 0.125][(index + seed as usize) % 3]).collect();
        let zeros: Vec<i32> =
            (0..count).map(|index| if wide { (index as i32 * 37 + 11) % 256 - 128 } else { 0 }).collect();
        let values = floats(shape, seed);
        let held: Vec<i32> = values.iter().map(|value| (value * 128.0).floor() as i32).collect();
        let inner: usize = shape[axis + 1..].iter().product();
        let less = |(index, held): (usize, &i32)| held - zeros[index / inner % outputs % count];
        let codes = held.iter().enumerate().map(less).collect();
        self.codes(&format!("{name}_q"), shape, &held, true);
        let dims: &[usize] = if per_channel { &[count] } else { &[] };
        self.floats(&format!("{name}_scale"), dims, &scales);
        self.codes(&format!("{name}_zero"), dims, &zeros, true);
        let names = [format!("{name}_q"), format!("{name}_scale"), format!("{name}_zero")];
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.node("DequantizeLinear", &names, name, &[("axis", Int(axis as i64))]);
        (codes, (0..outputs).map(|output| scales[output % count]).collect())
    }

    /// A bias in units of what is summed.
    fn held_bias(&mut self, name: &str, scales: &[f32], from: Codes, given: bool) -> Vec<i32> {
        if !given {
            return vec![0; scales.len()];
        }
        let bias: Vec<i32> = (0..scales.len() as i32).map(|index| (index * 97) % 1500 - 700).collect();
        let units: Vec<f32> = scales.iter().map(|scale| scale * from.scale).collect();
        self.int32s(&format!("{name}_q"), &bias);
        self.floats(&format!("{name}_scale"), &[scales.len()], &units);
        self.node(
            "DequantizeLinear",
            &[&format!("{name}_q"), &format!("{name}_scale")],
            name,
            &[("axis", Int(0))],
        );
        bias
    }
}

fn input(shape: &[usize]) -> Tensor {
    let (shape, data) = noise(shape, 7).into_parts();
    let TensorData::F32(floats) = data else { panic!("floats") };
    Tensor::new(shape, floats.iter().map(|value| value * 8.0).collect::<Vec<f32>>().into()).unwrap()
}

fn quantized(input: &Tensor, codes: Codes) -> Vec<i32> {
    let TensorData::F32(floats) = input.data() else { panic!("floats") };
    floats.iter().map(|&value| codes.of(value)).collect()
}

fn as_numbers(codes: &[i32], of: Codes) -> Vec<f32> {
    codes.iter().map(|&code| of.number(code)).collect()
}

#[derive(Clone, Debug)]
struct Around {
    from: Codes,
    own: Codes,
    to: Codes,
    wide: bool,
    per_channel: bool,
    /// None, Relu, Clip.
    bound: usize,
    /// The result: numbers, codes, or the sum with the input's neighbour.
    way: usize,
}

fn around() -> impl Strategy<Value = Around> {
    let codes = (codes(0.0625), codes(0.5), codes(0.25));
    (codes, any::<bool>(), any::<bool>(), 0..3_usize, 0..3_usize).prop_map(
        |((from, own, to), wide, per_channel, bound, way)| Around {
            from,
            own,
            to,
            wide: wide && per_channel,
            per_channel,
            bound,
            way,
        },
    )
}

fn convolution(conv: &Conv, around: &Around) -> Case {
    let Around { from, own, to, wide, per_channel, bound, way } = *around;
    let (inputs, outputs) = (conv.inputs * conv.groups, conv.outputs * conv.groups);
    let shape = [conv.n, inputs, conv.size[0], conv.size[1]];
    let mut net = Net::new(13);
    net.input("x", &shape);
    net.requantize("x", "a", from);
    let kernel = [outputs, conv.inputs, conv.kernel[0], conv.kernel[1]];
    let (codes, scales) = net.held("w", &kernel, (0, wide, per_channel), 1);
    let bias = net.held_bias("b", &scales, from, conv.bias);
    let names: &[&str] = if conv.bias { &["a", "w", "b"] } else { &["a", "w"] };
    let attributes = [
        ("strides", Ints(&[conv.stride; 2])),
        ("dilations", Ints(&[conv.dilation; 2])),
        ("pads", Ints(&conv.pads)),
        ("group", Int(conv.groups as i64)),
    ];
    net.node("Conv", names, "c", &attributes);
    let given = input(&shape);
    let held = quantized(&given, from);
    let weights = Weights { codes, scales, bias };
    let acc = sums(conv, &held, from, &weights);
    let places = [conv.n, outputs];
    let spatial = acc.len() / (conv.n * outputs);
    if way == 0 {
        let number = |(index, &sum): (usize, &i32)| {
            sum as f32 * (from.scale * weights.scales[index / spatial % outputs])
        };
        let wanted = acc.iter().enumerate().map(number).collect();
        net.node("Identity", &["c"], "y", &[]);
        net.output("y");
        return Case { net, input: given, wanted, step: 0.05 };
    }
    let bounded = |net: &mut Net, input: &str, to: Codes| match bound {
        0 => (input.to_owned(), to.range()),
        1 => {
            net.node("Relu", &[input], "r", &[]);
            ("r".to_owned(), to.within(Some(0.0), None))
        }
        _ => {
            net.floats("low", &[], &[-1.5]);
            net.floats("high", &[], &[6.0]);
            net.node("Clip", &[input, "low", "high"], "r", &[]);
            ("r".to_owned(), to.within(Some(-1.5), Some(6.0)))
        }
    };
    if way == 1 {
        let (name, bounds) = bounded(&mut net, "c", to);
        net.requantize(&name, "y", to);
        net.output("y");
        let wanted = requantized(&acc, places, &weights.scales, from, to, bounds);
        return Case { net, input: given, wanted: as_numbers(&wanted, to), step: to.scale };
    }
    // The sum with another convolution of the same shape.
    let (codes, scales) = net.held("v", &kernel, (0, false, false), 2);
    net.node("Conv", &["a", "v"], "d", &attributes);
    net.requantize("c", "e", own);
    net.requantize("d", "f", to);
    let other = Weights { codes, scales, bias: vec![0; outputs] };
    let second = requantized(&sums(conv, &held, from, &other), places, &other.scales, from, to, to.range());
    let first = requantized(&acc, places, &weights.scales, from, own, own.range());
    net.node("Add", &["e", "f"], "g", &[]);
    let total = Codes { zero: to.zero / 2, ..to };
    let (name, bounds) = bounded(&mut net, "g", total);
    net.requantize(&name, "y", total);
    net.output("y");
    // Whichever of the two the sum is computed with comes first.
    let wanted = if conv.groups > 1 && conv.inputs == 1 && conv.outputs == 1 {
        sum((&first, own), (&second, to), total, bounds)
    } else {
        sum((&second, to), (&first, own), total, bounds)
    };
    let step = total.scale + own.scale + to.scale;
    Case { net, input: given, wanted: as_numbers(&wanted, total), step }
}

#[test]
fn convolutions_of_codes() {
    check(120, (conv(Just(1), 70), around()), |(conv, around)| convolution(conv, around));
}

#[test]
fn convolutions_of_codes_in_groups() {
    check(50, (conv(2..5_usize, 40), around()), |(conv, around)| convolution(conv, around));
}

#[test]
fn convolutions_of_codes_of_each_channel() {
    let depthwise = conv(2..70_usize, 3).prop_map(|conv| Conv { inputs: 1, outputs: 1, ..conv });
    check(50, (depthwise, around()), |(conv, around)| convolution(conv, around));
}

#[test]
fn products_of_codes_with_matrices() {
    let cases = (1..20_usize, 1..200_usize, 1..200_usize, any::<bool>(), any::<bool>(), around());
    check(80, cases, |&(rows, depth, columns, transposed, bias, ref around)| {
        let Around { from, to, wide, per_channel, .. } = *around;
        let shape = [rows, depth];
        let mut net = Net::new(13);
        net.input("x", &shape);
        net.requantize("x", "a", from);
        let (matrix, axis) = if transposed { ([columns, depth], 0) } else { ([depth, columns], 1) };
        let (codes, scales) = net.held("w", &matrix, (axis, wide, per_channel), 1);
        let bias = net.held_bias("b", &scales, from, bias && transposed);
        let ints = &bias;
        if transposed {
            let names: &[&str] =
                if ints.iter().any(|&int| int != 0) { &["a", "w", "b"] } else { &["a", "w"] };
            net.node("Gemm", names, "c", &[("transB", Int(1))]);
        } else {
            net.node("MatMul", &["a", "w"], "c", &[]);
        }
        net.requantize("c", "y", to);
        net.output("y");
        let given = input(&shape);
        let held = quantized(&given, from);
        let by_output = if transposed {
            codes
        } else {
            (0..columns).flat_map(|o| (0..depth).map(move |i| i * columns + o)).map(|at| codes[at]).collect()
        };
        // A product is a convolution of one pixel.
        let conv = Conv {
            n: rows,
            groups: 1,
            inputs: depth,
            outputs: columns,
            size: [1, 1],
            kernel: [1, 1],
            stride: 1,
            dilation: 1,
            pads: [0; 4],
            bias: false,
        };
        let weights = Weights { codes: by_output, scales, bias };
        let acc = sums(&conv, &held, from, &weights);
        let wanted = requantized(&acc, [rows, columns], &weights.scales, from, to, to.range());
        Case { net, input: given, wanted: as_numbers(&wanted, to), step: to.scale }
    });
}

#[test]
fn pools_of_codes() {
    let sizes = (1..3_usize, 1..40_usize, [1..20_usize, 1..20], [1..5_usize, 1..5], 1..4_usize, pads());
    let cases = (sizes, 0..5_usize, around()).prop_filter("the window is inside", |(sizes, _, _)| {
        let &(_, _, size, kernel, _, pads) = sizes;
        (0..2).all(|axis| {
            pads[axis] < kernel[axis]
                && pads[axis + 2] < kernel[axis]
                && size[axis] + pads[axis] + pads[axis + 2] >= kernel[axis]
        })
    });
    check(80, cases, |&((n, c, size, kernel, stride, pads), kind, ref around)| {
        let Around { from, to, .. } = *around;
        let shape = [n, c, size[0], size[1]];
        let mut net = Net::new(13);
        net.input("x", &shape);
        net.requantize("x", "a", from);
        let strides = [stride; 2];
        let window = |count: i64| {
            let all =
                vec![("kernel_shape", Ints(&kernel)), ("strides", Ints(&strides)), ("pads", Ints(&pads))];
            all.into_iter().chain((count > 0).then_some(("count_include_pad", Int(1)))).collect::<Vec<_>>()
        };
        match kind {
            0 => net.node("MaxPool", &["a"], "c", &window(0)),
            1 => net.node("AveragePool", &["a"], "c", &window(0)),
            2 => net.node("AveragePool", &["a"], "c", &window(1)),
            3 => net.node("GlobalAveragePool", &["a"], "c", &[]),
            _ => net.node("GlobalMaxPool", &["a"], "c", &[]),
        }
        net.requantize("c", "y", to);
        net.output("y");
        let given = input(&shape);
        let average = [None, Some(false), Some(true), Some(false), None][kind];
        let mut pool = Pool { maps: n * c, size, kernel, stride, pads, average };
        if kind > 2 {
            pool = Pool { kernel: size, stride: 1, pads: [0; 4], ..pool };
        }
        let wanted = pooled(pool, &quantized(&given, from), from, to);
        Case { net, input: given, wanted: as_numbers(&wanted, to), step: to.scale }
    });
}

#[test]
fn codes_element_by_element() {
    let cases = (1..3_usize, 1..40_usize, [1..12_usize, 1..12], 0..5_usize, around());
    check(80, cases, |&(n, c, size, kind, ref around)| {
        let Around { from, own, to, .. } = *around;
        let shape = [n, c, size[0], size[1]];
        let mut net = Net::new(13);
        net.input("x", &shape);
        net.requantize("x", "a", from);
        let given = input(&shape);
        let held = quantized(&given, from);
        let wanted = match kind {
            0 => {
                net.node("Relu", &["a"], "c", &[]);
                recoded(&held, from, to, to.within(Some(0.0), None))
            }
            1 => {
                net.requantize("a", "b", own);
                net.node("Add", &["a", "b"], "c", &[]);
                // What is quantised again is rounded as numbers are.
                let again: Vec<i32> = as_numbers(&held, from).iter().map(|&value| own.of(value)).collect();
                sum((&held, from), (&again, own), to, to.range())
            }
            2 => {
                net.node("Flatten", &["a"], "c", &[]);
                as_numbers(&held, from).iter().map(|&value| to.of(value)).collect()
            }
            3 => {
                net.requantize("a", "b", own);
                net.node("Concat", &["a", "b"], "c", &[("axis", Int(1))]);
                let again: Vec<i32> = as_numbers(&held, from).iter().map(|&value| own.of(value)).collect();
                let map = c * size[0] * size[1];
                let parts = held.chunks(map).zip(again.chunks(map));
                parts
                    .flat_map(|(first, second)| {
                        let both =
                            [recoded(first, from, to, to.range()), recoded(second, own, to, to.range())];
                        both.concat()
                    })
                    .collect()
            }
            _ => {
                net.node("Dropout", &["a"], "c", &[]);
                as_numbers(&held, from).iter().map(|&value| to.of(value)).collect()
            }
        };
        net.requantize("c", "y", to);
        net.output("y");
        Case { net, input: given, wanted: as_numbers(&wanted, to), step: to.scale + own.scale }
    });
}

#[test]
fn operators_that_take_codes_and_give_codes() {
    let Some(bench) = Bench::new() else { return };
    let conv = Conv {
        n: 1,
        groups: 1,
        inputs: 5,
        outputs: 24,
        size: [9, 11],
        kernel: [3, 3],
        stride: 2,
        dilation: 1,
        pads: [1; 4],
        bias: true,
    };
    for signed in [false, true] {
        let from = Codes { scale: 0.05, zero: if signed { -7 } else { 121 }, signed };
        let to = Codes { scale: 0.4, zero: if signed { 3 } else { 131 }, signed };
        let mut net = Net::new(13);
        net.typed_input("x", if signed { 3 } else { 2 }, &[1, 5, 9, 11]);
        let [from_scale, from_zero] = net.parameters("from", from);
        let [to_scale, to_zero] = net.parameters("to", to);
        let (codes, scales) = net.held("w", &[24, 5, 3, 3], (0, false, true), 1);
        let bias: Vec<i32> = (0..24).map(|index| 50 * index - 600).collect();
        net.int32s("bias", &bias);
        net.node(
            "QLinearConv",
            &["x", &from_scale, &from_zero, "w_q", "w_scale", "w_zero", &to_scale, &to_zero, "bias"],
            "y",
            &[("strides", Ints(&[2, 2])), ("pads", Ints(&[1; 4]))],
        );
        net.code_output("y", signed);
        let folder = tempfile::tempdir().unwrap();
        let path = net.save(folder.path());
        let held: Vec<i32> =
            (0..5 * 9 * 11).map(|at| (at * 53) % 256 - if signed { 128 } else { 0 }).collect();
        let data: TensorData = if signed {
            held.iter().map(|&code| code as i8).collect::<Vec<i8>>().into()
        } else {
            held.iter().map(|&code| code as u8).collect::<Vec<u8>>().into()
        };
        let given = Tensor::new(vec![1, 5, 9, 11], data).unwrap();
        let weights = Weights { codes, scales, bias };
        let acc = sums(&conv, &held, from, &weights);
        let wanted = requantized(&acc, [1, 24], &weights.scales, from, to, to.range());
        let wanted: Vec<f32> = wanted.iter().map(|&code| code as f32).collect();
        for engine in [&bench.engine(ALL) as &dyn moorline_core::Engine, &*bench.ort] {
            let run = load(engine, &path).session().unwrap().run(named(vec![("x", given.clone())])).unwrap();
            assert_eq!(numbers(run.get("y").unwrap()), wanted, "{}", engine.name());
        }
    }
}

#[test]
fn what_is_wanted_is_what_is_planned() {
    let Some(bench) = Bench::new() else { return };
    let manifest = bench.executor.bitstream().manifest();
    let folder = tempfile::tempdir().unwrap();
    let mut net = Net::new(13);
    net.input("x", &[1, 16, 4, 4]);
    net.floats("w", &[16, 16, 1, 1], &floats(&[16, 16, 1, 1], 1));
    net.node("Conv", &["x", "w"], "y", &[]);
    net.output("y");
    let path = net.save(folder.path());
    let wanted = PlanOptions { numerics: Some(Numerics::I8Rne), ..ALL };
    let error = Plan::new(&path, manifest, &wanted).unwrap_err().to_string();
    assert!(error.contains("`moorline fpga quantize`"), "{error}");
    assert_eq!("int8".parse::<Numerics>().unwrap_err().to_string().matches("`i8-rne-v1`").count(), 1);
}
