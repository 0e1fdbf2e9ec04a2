//! The architecture that this version lowers for, and what its kernels execute: what a bitstream of it says of itself.

use std::collections::BTreeMap;

use super::layout::LANES;
use crate::{
    bitstream::{Architecture, Limit, Op},
    plan::F32,
};

/// The parameters of the kernels in `kernels/`.
pub fn architecture() -> Architecture {
    Architecture {
        name: "v16t14_f32".to_owned(),
        vec: LANES as u32,
        lane_tile: 14,
        acc: "i32".to_owned(),
        act: vec!["f32".to_owned()],
        k_block_i8: 1024,
        k_block_u8: 512,
    }
}

/// The contracts that the kernels keep.
pub fn numerics() -> Vec<String> {
    vec![F32.to_owned()]
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
    let ops = [
        ("Conv", window()),
        ("MaxPool", window()),
        ("AveragePool", window()),
        ("GlobalAveragePool", unbounded()),
        ("GlobalMaxPool", unbounded()),
        ("Gemm", unbounded()),
        ("MatMul", unbounded()),
        ("BatchNormalization", unbounded()),
        ("Add", unbounded()),
        ("Sub", unbounded()),
        ("Mul", unbounded()),
        ("Relu", unbounded()),
        ("Clip", unbounded()),
        ("Concat", unbounded()),
        ("Identity", unbounded()),
        ("Dropout", unbounded()),
        ("Flatten", unbounded()),
        ("Reshape", unbounded()),
        ("Squeeze", unbounded()),
        ("Unsqueeze", unbounded()),
    ];
    ops.map(|(op, limits)| Op { op: op.to_owned(), numerics: numerics(), limits }).into()
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
        include_str!("../../kernels/layout.cl"),
        include_str!("../../kernels/pool.cl"),
    ]
    .join("\n")
}
