//! The architecture that this version lowers for, and what its kernels execute: what a bitstream of it says of itself.

use std::collections::BTreeMap;

use super::layout::LANES;
use crate::{
    bitstream::{Architecture, Limit, Op},
    plan::Numerics,
};

const POCL: &str = "Portable Computing Language";

/// The parameters of the kernels in `kernels/`.
pub fn architecture() -> Architecture {
    Architecture {
        name: "v16t14_f32_u8w8a32_bfp9".to_owned(),
        vec: LANES as u32,
        lane_tile: 14,
        acc: "i32".to_owned(),
        act: vec!["f32".to_owned(), "u8".to_owned()],
        // Sums are integers of 32 bits from the first product on.
        k_block_i8: 0,
        k_block_u8: 0,
    }
}

/// The contracts that the kernels keep.
pub fn numerics() -> Vec<String> {
    names(&[Numerics::F32Fma, Numerics::I8Rne, Numerics::Bfp9])
}

fn names(numerics: &[Numerics]) -> Vec<String> {
    numerics.iter().map(|numerics| numerics.as_str().to_owned()).collect()
}

/// The operators that the kernels execute.
pub fn ops() -> Vec<Op> {
    let window = || {
        BTreeMap::from([
            ("kernel".to_owned(), at_most(64)),
            ("stride".to_owned(), at_most(16)),
            ("dilation".to_owned(), at_most(32)),
        ])
    };
    let unbounded = BTreeMap::new;
    let floats = || names(&[Numerics::F32Fma, Numerics::Bfp9]);
    let codes = || names(&[Numerics::I8Rne]);
    let all = numerics;
    let ops = [
        ("Conv", window(), all()),
        ("MaxPool", window(), all()),
        ("AveragePool", window(), all()),
        ("GlobalAveragePool", unbounded(), all()),
        ("GlobalMaxPool", unbounded(), all()),
        ("Gemm", unbounded(), all()),
        ("MatMul", unbounded(), all()),
        ("BatchNormalization", unbounded(), floats()),
        ("Add", unbounded(), all()),
        ("Sub", unbounded(), floats()),
        ("Mul", unbounded(), floats()),
        ("Relu", unbounded(), all()),
        ("Clip", unbounded(), all()),
        ("Concat", unbounded(), all()),
        ("Identity", unbounded(), all()),
        ("Dropout", unbounded(), all()),
        ("Flatten", unbounded(), all()),
        ("Reshape", unbounded(), all()),
        ("Squeeze", unbounded(), all()),
        ("Unsqueeze", unbounded(), all()),
        ("QuantizeLinear", unbounded(), codes()),
        ("DequantizeLinear", unbounded(), codes()),
        ("QLinearConv", window(), codes()),
        ("QLinearMatMul", unbounded(), codes()),
    ];
    ops.map(|(op, limits, numerics)| Op { op: op.to_owned(), numerics, limits }).into()
}

fn at_most(most: i64) -> Limit {
    Limit { at_most: Some(most), ..Limit::default() }
}

/// The text of the kernels: one program, in the order of their names.
pub fn source() -> String {
    [
        include_str!("../../kernels/abi.cl"),
        include_str!("../../kernels/channels.cl"),
        include_str!("../../kernels/conv.cl"),
        include_str!("../../kernels/elementwise.cl"),
        include_str!("../../kernels/integer.cl"),
        include_str!("../../kernels/layout.cl"),
        include_str!("../../kernels/pool.cl"),
    ]
    .join("\n")
}

/// The same for a device of that platform. PoCL's is this processor: where it has an instruction for four products of
/// codes, that is used.
pub fn source_on(platform: &str) -> String {
    let mut text = source();
    if platform == POCL && has_dot_instruction() {
        text.insert_str(0, "#define DOT_IS_AN_INSTRUCTION\n");
    }
    text
}

#[cfg(target_arch = "x86_64")]
fn has_dot_instruction() -> bool {
    std::arch::is_x86_feature_detected!("avx512vnni")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_dot_instruction() -> bool {
    false
}
