//! Which operations share an island. Levels alternate between the CPU (even) and the device (odd); an operation's level
//! is the lowest that is not before those that it needs. So all of one level can be run at once, and no island waits for
//! something that waits for it.

use std::collections::HashMap;

use super::op::Op;
use crate::onnx::{Graph, TensorId, proto::element};

/// What moving to the device and back costs, and what the CPU would take: an island must be worth it.
#[derive(Clone, Copy, Debug)]
pub struct Costs {
    /// Seconds for one launch and the wait for it.
    pub launch: f64,
    /// Seconds for each tensor that is moved.
    pub transfer: f64,
    /// Bytes that are moved in a second.
    pub bytes_per_second: f64,
    /// Multiplications and additions that the CPU does in a second.
    pub host_flops: f64,
}

impl Default for Costs {
    /// As measured on emulation (`docs` of the facts: 46 to 77 microseconds for a wait, 43 to 77 for a copy).
    fn default() -> Self {
        Self { launch: 60e-6, transfer: 45e-6, bytes_per_second: 5e9, host_flops: 100e9 }
    }
}

impl Costs {
    /// Everything that the kernels can do is worth it; for tests of the kernels.
    pub const NOTHING: Self =
        Self { launch: 0.0, transfer: 0.0, bytes_per_second: f64::INFINITY, host_flops: f64::INFINITY };
}

/// Operations that run together, by their places.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) device: bool,
    pub(crate) ops: Vec<usize>,
    /// What comes from outside, without constants.
    pub(crate) inputs: Vec<TensorId>,
    /// What others or the caller take.
    pub(crate) outputs: Vec<TensorId>,
}

/// The parts of a plan in the order in which they run, where `device` says which operations may run there.
pub(crate) fn parts(graph: &Graph, ops: &[Op], device: &[bool]) -> Vec<Part> {
    let mut level_of: HashMap<TensorId, usize> = HashMap::new();
    let mut levels: Vec<Vec<usize>> = Vec::new();
    for (index, op) in ops.iter().enumerate() {
        let side = usize::from(device[index]);
        let level = op.inputs.iter().filter_map(|id| level_of.get(id).copied());
        let level =
            level.map(|level| if level % 2 == side { level } else { level + 1 }).fold(side, usize::max);
        for &id in &op.outputs {
            level_of.insert(id, level);
        }
        if levels.len() <= level {
            levels.resize(level + 1, Vec::new());
        }
        levels[level].push(index);
    }
    let filled = levels.into_iter().enumerate().filter(|(_, members)| !members.is_empty());
    filled.map(|(level, members)| part(graph, ops, level % 2 == 1, members)).collect()
}

fn part(graph: &Graph, ops: &[Op], device: bool, members: Vec<usize>) -> Part {
    let given = |members: &[usize]| members.iter().flat_map(|&index| &ops[index].outputs).copied().collect();
    let inside: std::collections::HashSet<TensorId> = given(&members);
    let mut inputs: Vec<TensorId> = members.iter().flat_map(|&index| &ops[index].inputs).copied().collect();
    inputs.retain(|id| !inside.contains(id));
    inputs.sort_unstable();
    inputs.dedup();
    let own: std::collections::HashSet<usize> = members.iter().copied().collect();
    let others = (0..ops.len()).filter(|index| !own.contains(index));
    let mut taken: std::collections::HashSet<TensorId> =
        others.flat_map(|index| &ops[index].inputs).copied().collect();
    taken.extend(&graph.outputs);
    let mut outputs: Vec<TensorId> = inside.into_iter().filter(|id| taken.contains(id)).collect();
    outputs.sort_unstable();
    Part { device, ops: members, inputs, outputs }
}

/// Bytes that a part takes in and gives out.
pub(crate) fn moved(graph: &Graph, part: &Part) -> u64 {
    let tensors = part.inputs.iter().chain(&part.outputs);
    let bytes = |id| match graph.tensor(id).facts.element {
        Some(element::U8 | element::I8) => 1,
        _ => 4,
    };
    let size = |id| graph.shape(id).map_or(0, |shape| shape.iter().product::<usize>());
    tensors.map(|&id| bytes(id) * size(id) as u64).sum()
}

/// Whether a part of the device does enough for what moving there and back costs.
pub(crate) fn is_worth(graph: &Graph, ops: &[Op], part: &Part, costs: &Costs) -> bool {
    let flops: u64 = part.ops.iter().map(|&index| ops[index].flops).sum();
    let tensors = (part.inputs.len() + part.outputs.len()) as f64;
    let cost = costs.launch + costs.transfer * tensors + moved(graph, part) as f64 / costs.bytes_per_second;
    flops as f64 / costs.host_flops >= cost
}
