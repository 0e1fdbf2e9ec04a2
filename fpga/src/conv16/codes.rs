//! i8-rne-v1 in a golden test: a small model with an operation of each kind on codes, whose channels are no whole blocks, and
//! what must come out, by loops over integers that know nothing of the kernels.

use super::{
    models::{Graph, Model},
    reference::{Map, Numbers},
};

/// What codes stand for; all of them are unsigned here.
#[derive(Clone, Copy)]
struct Codes {
    name: &'static str,
    scale: f32,
    zero: i32,
}

impl Codes {
    const fn new(name: &'static str, scale: f32, zero: i32) -> Self {
        Self { name, scale, zero }
    }

    /// `sat(rint(value) + zero)`, not below the code `least`.
    fn round(self, value: f32, least: i32) -> i32 {
        // Far below what an integer holds, and far above every code.
        (value.round_ties_even().clamp(-1e6, 1e6) as i32 + self.zero).clamp(least, 255)
    }

    fn scale_name(self) -> String {
        format!("{}_scale", self.name)
    }

    fn zero_name(self) -> String {
        format!("{}_zero", self.name)
    }
}

/// Channels of square maps of codes.
struct CodeMap {
    values: Vec<i32>,
    channels: usize,
    side: usize,
    codes: Codes,
}

/// Weights of 3x3, as codes with one scale, and a bias.
struct Weights {
    codes: Vec<i32>,
    bias: Vec<i32>,
    scale: f32,
}

impl Weights {
    fn new(numbers: &mut Numbers, count: usize, outputs: usize, scale: f32) -> Self {
        let code = |value: f32| (value * 128.0).floor() as i32;
        let codes = numbers.take(count).into_iter().map(code).collect();
        let bias = numbers.take(outputs).into_iter().map(|value| (value * 4000.0) as i32).collect();
        Self { codes, bias, scale }
    }
}

impl CodeMap {
    fn quantized(map: &Map, codes: Codes) -> Self {
        let code = |&value: &f32| codes.round(value / codes.scale, 0);
        Self { values: map.values.iter().map(code).collect(), channels: map.channels, side: map.side, codes }
    }

    fn make(channels: usize, side: usize, codes: Codes, value: impl Fn(usize, usize, usize) -> i32) -> Self {
        let places = (0..channels * side * side).map(|at| (at / side / side, at / side % side, at % side));
        Self { values: places.map(|(c, y, x)| value(c, y, x)).collect(), channels, side, codes }
    }

    /// How far a code is from its zero; what lies outside is zero.
    fn at(&self, channel: usize, row: usize, column: usize) -> i32 {
        if row >= self.side || column >= self.side {
            return 0;
        }
        self.values[(channel * self.side + row) * self.side + column] - self.codes.zero
    }

    /// 3x3, with a border of one; each channel by itself where `depthwise`.
    fn conv(&self, weights: &Weights, depthwise: bool, codes: Codes, relu: bool) -> Self {
        let inputs = if depthwise { 1 } else { self.channels };
        let factor = self.codes.scale * weights.scale / codes.scale;
        let least = if relu { codes.zero } else { 0 };
        Self::make(weights.bias.len(), self.side, codes, |o, y, x| {
            let mut sum = weights.bias[o];
            for i in 0..inputs {
                for (ky, kx) in (0..9).map(|tap| (tap / 3, tap % 3)) {
                    let channel = if depthwise { o } else { i };
                    let code = self.at(channel, (y + ky).wrapping_sub(1), (x + kx).wrapping_sub(1));
                    sum += code * weights.codes[((o * inputs + i) * 3 + ky) * 3 + kx];
                }
            }
            codes.round(sum as f32 * factor, least)
        })
    }

    /// This one by fma, the other one rounded before.
    fn add(&self, other: &Self, codes: Codes) -> Self {
        Self::make(self.channels, self.side, codes, |c, y, x| {
            let other = other.at(c, y, x) as f32 * (other.codes.scale / codes.scale);
            codes.round((self.at(c, y, x) as f32).mul_add(self.codes.scale / codes.scale, other), 0)
        })
    }

    /// 2x2, each value once.
    fn pool(&self, codes: Codes, average: bool) -> Self {
        let factor = self.codes.scale / codes.scale;
        Self::make(self.channels, self.side / 2, codes, |c, y, x| {
            let window = (0..4).map(|at| self.at(c, 2 * y + at / 2, 2 * x + at % 2));
            let value = if average {
                window.sum::<i32>() as f32 * (factor / 4.0)
            } else {
                window.max().unwrap_or_default() as f32 * factor
            };
            codes.round(value, 0)
        })
    }

    fn concat(&self, other: &Self, codes: Codes) -> Self {
        let both = [self, other];
        Self::make(self.channels + other.channels, self.side, codes, |c, y, x| {
            let (map, channel) = (both[c / self.channels], c % self.channels);
            codes.round(map.at(channel, y, x) as f32 * (map.codes.scale / codes.scale), 0)
        })
    }

    fn numbers(&self) -> Vec<f32> {
        self.values.iter().map(|code| (code - self.codes.zero) as f32 * self.codes.scale).collect()
    }
}

impl Graph {
    /// `from` as codes, and those as numbers under the codes' name.
    fn quantize(&mut self, from: &str, codes: Codes) {
        let [scale, zero, held] = [codes.scale_name(), codes.zero_name(), format!("{}_codes", codes.name)];
        self.constant(&scale, &[], &[codes.scale]);
        self.bytes(&zero, &[], &[codes.zero as u8]);
        self.node("QuantizeLinear", &[from, &scale, &zero], &held, &[]);
        self.node("DequantizeLinear", &[&held, &scale, &zero], codes.name, &[]);
    }

    fn weights(&mut self, name: &str, shape: &[i64], weights: &Weights, input: Codes) {
        let [held, scale, bias, unit] =
            ["codes", "scale", "bias_codes", "bias_scale"].map(|part| format!("{name}_{part}"));
        let bytes: Vec<i8> = weights.codes.iter().map(|&code| code as i8).collect();
        self.signed_bytes(&held, shape, &bytes);
        self.constant(&scale, &[], &[weights.scale]);
        self.node("DequantizeLinear", &[&held, &scale], name, &[]);
        self.ints(&bias, &weights.bias);
        self.constant(&unit, &[], &[input.scale * weights.scale]);
        self.node("DequantizeLinear", &[&bias, &unit], &format!("{name}_bias"), &[]);
    }
}

const PADS: [(&str, &[i64]); 1] = [("pads", &[1, 1, 1, 1])];
const WINDOW: [(&str, &[i64]); 2] = [("kernel_shape", &[2, 2]), ("strides", &[2, 2])];

/// An image through convolutions with a residual, of each channel, sums, pools and what joins them.
pub(super) fn model() -> Model {
    let image_codes = Codes::new("image_held", 0.007_843_138, 128);
    let first_codes = Codes::new("first", 0.05, 3);
    let second_codes = Codes::new("second", 0.12, 119);
    let sum_codes = Codes::new("sum", 0.25, 100);
    let each_codes = Codes::new("each", 0.0625, 140);
    let total_codes = Codes::new("total", 0.25, 128);
    let most_codes = Codes::new("most", 0.125, 128);
    let mean_codes = Codes::new("mean", 0.125, 64);
    let all_codes = Codes::new("all", 0.125, 96);
    let mut numbers = Numbers::new(3);
    let image = Map { values: numbers.take(3 * 12 * 12), channels: 3, side: 12 };
    let stem = Weights::new(&mut numbers, 24 * 3 * 9, 24, 0.01);
    let body = Weights::new(&mut numbers, 24 * 24 * 9, 24, 0.002);
    let each = Weights::new(&mut numbers, 24 * 9, 24, 0.005);

    let held = CodeMap::quantized(&image, image_codes);
    let first = held.conv(&stem, false, first_codes, true);
    let second = first.conv(&body, false, second_codes, false);
    let sum = second.add(&first, sum_codes);
    let alone = sum.conv(&each, true, each_codes, false);
    let total = alone.add(&sum, total_codes);
    let all = total.pool(most_codes, false).concat(&total.pool(mean_codes, true), all_codes);

    let mut graph = Graph::default();
    graph.input("image", &[1, 3, 12, 12]);
    graph.quantize("image", image_codes);
    graph.weights("stem", &[24, 3, 3, 3], &stem, image_codes);
    graph.node("Conv", &["image_held", "stem", "stem_bias"], "a", &PADS);
    graph.node("Relu", &["a"], "b", &[]);
    graph.quantize("b", first_codes);
    graph.weights("body", &[24, 24, 3, 3], &body, first_codes);
    graph.node("Conv", &["first", "body", "body_bias"], "c", &PADS);
    graph.quantize("c", second_codes);
    graph.node("Add", &["second", "first"], "d", &[]);
    graph.quantize("d", sum_codes);
    graph.weights("per", &[24, 1, 3, 3], &each, sum_codes);
    graph.node("Conv", &["sum", "per", "per_bias"], "e", &[PADS[0], ("group", &[24])]);
    graph.quantize("e", each_codes);
    graph.node("Add", &["each", "sum"], "f", &[]);
    graph.quantize("f", total_codes);
    graph.node("MaxPool", &["total"], "g", &WINDOW);
    graph.quantize("g", most_codes);
    graph.node("AveragePool", &["total"], "h", &WINDOW);
    graph.quantize("h", mean_codes);
    graph.node("Concat", &["most", "mean"], "i", &[("axis", &[1])]);
    graph.quantize("i", all_codes);
    graph.output("all", &[1, 48, 6, 6]);
    graph.model("codes", [("image", image.values), ("all", all.numbers())].into())
}
