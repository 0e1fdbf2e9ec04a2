//! What a plan says of itself: per node where it runs and why not on the device, and the sums.

use std::collections::HashSet;

use serde::Serialize;

use super::{
    bytes_moved,
    op::Op,
    partition::{Part, moved},
};
use crate::{lower::Lowered, onnx::Graph, quantize::Accuracy};

/// Where the nodes of a model run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// In the order of the model.
    pub nodes: Vec<NodeReport>,
    /// In the order in which they run.
    pub islands: Vec<IslandReport>,
    /// The part of the multiplications and additions that the device does, from 0 to 1.
    pub coverage: f64,
    /// Multiplications and additions of one run.
    pub flops: u64,
    /// Bytes that cross between host and device in one run.
    pub bytes_moved: u64,
    /// Parts that run on the device without coming back.
    pub device_islands: usize,
    pub host_islands: usize,
    /// Bytes of device memory, with the weights.
    pub device_memory: u64,
    /// What a quantised model says of itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<AccuracySummary>,
}

/// A quantised model beside the model of floats that it was made of.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AccuracySummary {
    pub samples: usize,
    /// The share of rows whose greatest output is the same.
    pub agreement: Option<f64>,
    pub max_error: f32,
    /// Of the noisiest tensor, in decibels.
    pub least_snr_db: Option<f64>,
}

/// Where a node runs.
#[derive(Clone, Debug, Serialize)]
pub struct NodeReport {
    pub name: String,
    pub op: String,
    pub place: Place,
    /// The number of the island, in the order in which they run; nothing for what is computed once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub island: Option<usize>,
    pub flops: u64,
    /// Why it does not run on the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Nodes that run in one place without coming back.
#[derive(Clone, Debug, Serialize)]
pub struct IslandReport {
    pub place: Place,
    pub nodes: usize,
    pub flops: u64,
    /// The tensors that it takes and gives.
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    /// Their bytes.
    pub bytes_moved: u64,
    /// Nothing on the CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryReport>,
}

/// Device memory of an island.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryReport {
    pub launches: usize,
    /// Bytes of weights and other constants.
    pub constants: u64,
    /// Bytes of what launches write; buffers take turns, and those of inputs and outputs are there for two requests.
    pub activations: u64,
    pub buffers: usize,
}

impl MemoryReport {
    fn new(lowered: &Lowered) -> Self {
        let (constants, activations) = lowered.program.memory();
        Self {
            launches: lowered.program.launches.len(),
            constants,
            activations,
            buffers: lowered.program.buffers.len(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    Device,
    Host,
    /// Computed once, while planning.
    Folded,
}

/// How many nodes a part has; operations may share one.
fn nodes_of(ops: &[Op], part: &Part) -> usize {
    part.ops.iter().flat_map(|&index| &ops[index].nodes).collect::<HashSet<_>>().len()
}

impl Report {
    pub(super) fn new(graph: &Graph, ops: &[Op], parts: &[Part], small: &[usize]) -> Self {
        let mut nodes: Vec<NodeReport> = graph
            .nodes
            .iter()
            .map(|node| NodeReport {
                name: node.proto.label().to_owned(),
                op: node.proto.op_type.clone(),
                place: Place::Folded,
                island: None,
                flops: 0,
                reason: None,
            })
            .collect();
        let (mut flops, mut covered) = (0, 0);
        for (island, part) in parts.iter().enumerate() {
            for &index in &part.ops {
                let op = &ops[index];
                flops += op.flops;
                covered += if part.device { op.flops } else { 0 };
                let reason = match op.obstacle() {
                    None if small.contains(&index) => {
                        Some("what it saves is less than moving its data to the device and back".to_owned())
                    }
                    obstacle => obstacle.map(str::to_owned),
                };
                for (position, &node) in op.nodes.iter().enumerate() {
                    let report = &mut nodes[node];
                    report.place = if part.device { Place::Device } else { Place::Host };
                    report.island = Some(island);
                    // What is fused is counted with the first of its nodes.
                    report.flops = if position == 0 { op.flops } else { 0 };
                    report.reason.clone_from(&reason);
                }
            }
        }
        let island = |part: &Part| {
            let names = |ids: &[usize]| ids.iter().map(|&id| graph.tensor(id).name.clone()).collect();
            IslandReport {
                place: if part.device { Place::Device } else { Place::Host },
                nodes: nodes_of(ops, part),
                flops: part.ops.iter().map(|&index| ops[index].flops).sum(),
                inputs: names(&part.inputs),
                outputs: names(&part.outputs),
                bytes_moved: moved(graph, part),
                memory: None,
            }
        };
        Self {
            nodes,
            islands: parts.iter().map(island).collect(),
            coverage: if flops == 0 { 0.0 } else { covered as f64 / flops as f64 },
            flops,
            bytes_moved: bytes_moved(graph, parts),
            device_islands: parts.iter().filter(|part| part.device).count(),
            host_islands: parts.iter().filter(|part| !part.device).count(),
            device_memory: 0,
            accuracy: None,
        }
    }

    /// With what the model says of itself.
    pub(super) fn accurate(self, accuracy: Option<&Accuracy>) -> Self {
        let summary = |accuracy: &Accuracy| AccuracySummary {
            samples: accuracy.samples,
            agreement: accuracy.agreement,
            max_error: accuracy.max_error,
            least_snr_db: accuracy.layers.iter().filter_map(|layer| layer.snr_db).min_by(f64::total_cmp),
        };
        Self { accuracy: accuracy.map(summary), ..self }
    }

    /// Adds what is known once the parts for the device are lowered, in their order.
    pub(super) fn lowered<'a>(&mut self, lowered: impl Iterator<Item = &'a Lowered>) {
        let device = self.islands.iter_mut().filter(|island| island.place == Place::Device);
        for (island, lowered) in device.zip(lowered) {
            let memory = MemoryReport::new(lowered);
            self.device_memory += memory.constants + memory.activations;
            island.memory = Some(memory);
        }
    }
}
