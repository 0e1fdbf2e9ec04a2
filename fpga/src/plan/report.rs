//! What a plan says of itself: per node where it runs and why not on the device, and the sums.

use serde::Serialize;

use super::{bytes_moved, op::Op, partition::Part};
use crate::onnx::Graph;

/// Where the nodes of a model run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// In the order of the model.
    pub nodes: Vec<NodeReport>,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    Device,
    Host,
    /// Computed once, while planning.
    Folded,
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
        Self {
            nodes,
            coverage: if flops == 0 { 0.0 } else { covered as f64 / flops as f64 },
            flops,
            bytes_moved: bytes_moved(graph, parts),
            device_islands: parts.iter().filter(|part| part.device).count(),
            host_islands: parts.iter().filter(|part| !part.device).count(),
            device_memory: 0,
        }
    }
}
