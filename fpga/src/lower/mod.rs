//! Lowering: operations become launches of kernels, weights become panels, and tensors get their place in memory.

mod bfp;
mod builder;
mod code_conv;
mod codes;
mod conv;
mod error;
mod kernels;
mod layout;
mod memory;
mod simple;
mod tile;

use std::collections::HashMap;

use self::{
    builder::Builder,
    layout::{Halo, IMAGE_LANES, LANES},
};
pub use self::{
    error::LowerError,
    kernels::{source, source_on},
};
use crate::{
    bitstream::Manifest,
    onnx::{Graph, TensorId},
    plan::{
        Numerics,
        op::{CodeWeights, Kind, Op, Weights, feature_map},
    },
    program::Program,
};

/// An island as a device is given it.
#[derive(Clone, Debug, PartialEq)]
pub struct Lowered {
    pub program: Program,
    /// What the program's constants are parts of.
    pub constants: Vec<u8>,
}

/// Lowers `ops`, which are in an order in which they can run, to a program whose ports are `inputs` and `outputs`.
pub(crate) fn lower(
    graph: &Graph,
    ops: &[&Op],
    inputs: &[TensorId],
    outputs: &[TensorId],
    manifest: &Manifest,
    floats: Numerics,
) -> Result<Lowered, LowerError> {
    let bitstream = || format!("{} {}", manifest.id, manifest.version);
    if manifest.arch.vec as usize != LANES {
        let vec = manifest.arch.vec;
        return Err(LowerError::Architecture { bitstream: bitstream(), vec, expected: LANES });
    }
    let needs = Needs::of(graph, ops)?;
    let mut builder = Builder::new(graph, needs, floats == Numerics::Bfp9);
    for &id in inputs {
        builder.input(id, is_image(graph, ops, outputs, id))?;
    }
    for op in ops {
        match &op.kind {
            Kind::Conv(conv) => builder.conv(op, conv)?,
            Kind::Pool(pool) => builder.pool(op, pool)?,
            Kind::Affine(affine) => builder.affine(op, affine)?,
            Kind::Add => builder.binary(op, "add")?,
            Kind::Multiply => builder.binary(op, "multiply")?,
            Kind::Activate => builder.activate(op)?,
            Kind::Concat => builder.concat(op)?,
            Kind::Quantize(codes) => builder.quantize(op, *codes)?,
            Kind::Dequantize(codes) => builder.dequantize(op, *codes)?,
            Kind::CodeConv(conv) => builder.code_conv(op, conv)?,
            Kind::CodePool(pool, from, to) => builder.code_pool(op, pool, *from, *to)?,
            Kind::CodeAdd(from, to) => builder.code_add(op, *from, *to)?,
            Kind::CodeConcat(from, to) => builder.code_concat(op, from, *to)?,
            Kind::Recode(from, to) => builder.recode(op, *from, *to)?,
            // The same data, or nothing of ours.
            Kind::View | Kind::Host { .. } => {}
        }
    }
    for &id in outputs {
        builder.output(id)?;
    }
    let lowered = builder.finish(manifest.fingerprint());
    match lowered.program.launches.iter().find(|launch| manifest.kernel(&launch.kernel).is_none()) {
        Some(launch) => Err(LowerError::Kernel { bitstream: bitstream(), kernel: launch.kernel.clone() }),
        None => Ok(lowered),
    }
}

/// Whether an input is an image that only convolutions take: its few channels then need no block of their own.
fn is_image(graph: &Graph, ops: &[&Op], outputs: &[TensorId], id: TensorId) -> bool {
    let few = graph.shape(id).and_then(feature_map).is_some_and(|[_, c, _, _]| c <= IMAGE_LANES);
    let only_convolved = ops.iter().filter(|op| op.inputs.contains(&id)).all(|op| match &op.kind {
        Kind::Conv(conv) => {
            conv.groups == 1
                && matches!(conv.weights, Weights::Conv(_))
                && op.inputs.first() == Some(&id)
                && op.inputs.get(1) != Some(&id)
        }
        Kind::CodeConv(conv) => {
            conv.groups == 1
                && matches!(conv.weights, CodeWeights::Conv(_))
                && op.inputs.first() == Some(&id)
                && op.inputs.get(1) != Some(&id)
        }
        // What it gives lies in the same way.
        Kind::Quantize(_) => op.outputs.iter().all(|&output| is_image(graph, ops, outputs, output)),
        _ => false,
    });
    few && only_convolved && !outputs.contains(&id)
}

/// What is wanted of tensors before they are written.
pub(crate) struct Needs {
    /// The tensor whose memory a view shares.
    roots: HashMap<TensorId, TensorId>,
    /// With the code that adds nothing, where there are codes.
    halos: HashMap<TensorId, (Halo, i32)>,
}

impl Needs {
    fn of(graph: &Graph, ops: &[&Op]) -> Result<Self, LowerError> {
        let mut needs = Self { roots: HashMap::new(), halos: HashMap::new() };
        for op in ops {
            let (input, window, zero) = match (&op.kind, op.inputs.first()) {
                (Kind::View, Some(&input)) => {
                    let root = needs.root(input);
                    needs.roots.extend(op.outputs.iter().map(|&output| (output, root)));
                    continue;
                }
                (Kind::Conv(conv), Some(&input)) => (input, conv.window, 0),
                (Kind::CodeConv(conv), Some(&input)) => (input, conv.window, conv.input.zero),
                _ => continue,
            };
            let ([top, left], [bottom, right]) = (window.before, window.after);
            let own = Halo { top, left, bottom, right };
            if own.is_none() {
                continue;
            }
            let (halo, around) = needs.halos.entry(needs.root(input)).or_insert((Halo::default(), zero));
            if *around != zero {
                return Err(LowerError::Zeros { tensor: graph.tensor(input).name.clone() });
            }
            *halo = halo.around(own);
        }
        Ok(needs)
    }

    fn root(&self, id: TensorId) -> TensorId {
        self.roots.get(&id).copied().unwrap_or(id)
    }

    fn halo(&self, id: TensorId) -> (Halo, i32) {
        self.halos.get(&self.root(id)).copied().unwrap_or_default()
    }
}
