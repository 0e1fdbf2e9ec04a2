//! The plan: which parts of a model run on a device, which on the CPU, and why.

mod classify;
mod codes;
mod error;
mod fuse;
mod numerics;
pub(crate) mod op;
mod partition;
mod report;

use std::path::Path;

use moorline_core::DataType;

use self::{
    classify::Classifier,
    op::{Kind, Op},
    partition::{Part, is_worth, moved, parts},
};
pub use self::{
    error::PlanError,
    numerics::{Numerics, UnknownNumerics},
    partition::Costs,
    report::{AccuracySummary, IslandReport, MemoryReport, NodeReport, Place, Report},
};
use crate::{
    bitstream::Manifest,
    lower::{Lowered, lower},
    onnx::{Batch, Graph, Model, TensorId, proto::element, submodel},
    quantize::accuracy_of,
};

/// What a plan is made for.
#[derive(Clone, Copy, Debug)]
pub struct PlanOptions {
    /// The rows of one run, where the model leaves them open. A request with more rows is several runs.
    pub batch: usize,
    /// The least part of the model's operations that must run on the device, from 0 to 1.
    pub min_coverage: f64,
    /// Bytes of device memory that there are.
    pub device_memory: Option<u64>,
    pub costs: Costs,
    /// What all of it must keep. Without it, what the model quantises keeps `i8-rne-v1`, and the rest `f32-fma-v1`.
    pub numerics: Option<Numerics>,
    /// The least share of samples for which the quantised model must have chosen what the model of floats did, as its
    /// own report says, from 0 to 1.
    pub min_agreement: Option<f64>,
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self {
            batch: 1,
            min_coverage: 0.0,
            device_memory: None,
            costs: Costs::default(),
            numerics: None,
            min_agreement: None,
        }
    }
}

/// A model cut into islands, which run one after the other.
#[derive(Debug)]
pub struct Plan {
    pub(crate) islands: Vec<Island>,
    pub(crate) inputs: Vec<Value>,
    pub(crate) outputs: Vec<Value>,
    /// Whether the model leaves its first dimension open, and what it calls it.
    pub(crate) batch: Batch,
    /// The rows of one run.
    pub(crate) rows: usize,
    report: Report,
}

/// A tensor at the edge of an island or of the model.
#[derive(Clone, Debug)]
pub(crate) struct Value {
    pub(crate) id: TensorId,
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) data_type: DataType,
}

/// A part of a model that runs in one place without coming back.
#[derive(Debug)]
pub(crate) enum Island {
    /// What is lowered for the device: its ports are in the order of `inputs` and `outputs`.
    Device { lowered: Lowered, inputs: Vec<Value>, outputs: Vec<Value> },
    /// An ONNX model for an engine on the CPU.
    Host { model: Vec<u8>, inputs: Vec<TensorId>, outputs: Vec<(TensorId, String)> },
}

impl Island {
    fn lowered(&self) -> Option<&Lowered> {
        match self {
            Self::Device { lowered, .. } => Some(lowered),
            Self::Host { .. } => None,
        }
    }
}

impl Plan {
    /// Plans the model at `path` for a bitstream.
    pub fn new(path: &Path, manifest: &Manifest, options: &PlanOptions) -> Result<Self, PlanError> {
        let wanted = options.numerics;
        let kept = |numerics: Numerics| manifest.numerics.iter().any(|own| own == numerics.as_str());
        let floats = match wanted.unwrap_or(Numerics::F32Fma) {
            Numerics::I8Rne => None,
            floats => Some(floats),
        };
        let needed = wanted.unwrap_or(Numerics::F32Fma);
        if !kept(needed) {
            return Err(PlanError::Numerics { numerics: needed });
        }
        let on_codes = kept(Numerics::I8Rne) && wanted.is_none_or(|wanted| wanted == Numerics::I8Rne);
        let model = Model::read(path)?;
        let accuracy = accuracy_of(&model);
        if let Some(least) = options.min_agreement {
            let stated = accuracy.as_ref().and_then(|accuracy| accuracy.agreement);
            match stated {
                None => return Err(PlanError::NoAgreement { least }),
                Some(agreement) if agreement < least => {
                    return Err(PlanError::Agreement { agreement, least });
                }
                Some(_) => {}
            }
        }
        let graph = Graph::new(&model, options.batch)?;
        for &id in &graph.outputs {
            if graph.tensor(id).producer.is_none() || graph.is_constant(id) {
                return Err(PlanError::Output { tensor: graph.tensor(id).name.clone() });
            }
        }
        let ops = fuse::operations(&Classifier { graph: &graph, manifest, floats, on_codes });
        if wanted == Some(Numerics::I8Rne) && !ops.iter().any(|op| matches!(op.kind, Kind::CodeConv(_))) {
            return Err(PlanError::NotQuantized { numerics: Numerics::I8Rne });
        }
        let (parts, small) = worthy_parts(&graph, &ops, &options.costs);
        let report = Report::new(&graph, &ops, &parts, &small).accurate(accuracy.as_ref());
        if report.coverage < options.min_coverage {
            let (coverage, least) = (100.0 * report.coverage, 100.0 * options.min_coverage);
            return Err(PlanError::Coverage { coverage, least });
        }
        let islands: Vec<Island> = parts
            .iter()
            .map(|part| island(&model, &graph, &ops, part, (manifest, floats.unwrap_or(Numerics::F32Fma))))
            .collect::<Result<_, _>>()?;
        let values = |ids: &[TensorId]| ids.iter().map(|&id| value(&graph, id)).collect::<Result<_, _>>();
        let mut plan = Self {
            inputs: values(&graph.inputs)?,
            outputs: values(&graph.outputs)?,
            batch: graph.batch.clone(),
            rows: options.batch,
            islands,
            report,
        };
        let Self { islands, report, .. } = &mut plan;
        report.lowered(islands.iter().filter_map(Island::lowered));
        match options.device_memory {
            Some(available) if plan.report.device_memory > available => {
                Err(PlanError::Memory { needed: plan.report.device_memory, available })
            }
            _ => Ok(plan),
        }
    }

    /// What runs where.
    pub const fn report(&self) -> &Report {
        &self.report
    }

    /// What is to be executed on the device, in this order.
    pub fn device_islands(&self) -> impl Iterator<Item = &Lowered> {
        self.islands.iter().filter_map(Island::lowered)
    }
}

/// The parts of which each is worth moving, and the operations that are therefore left on the CPU.
fn worthy_parts(graph: &Graph, ops: &[Op], costs: &Costs) -> (Vec<Part>, Vec<usize>) {
    let mut device: Vec<bool> = ops.iter().map(|op| op.obstacle().is_none()).collect();
    let mut small = Vec::new();
    loop {
        let parts = parts(graph, ops, &device);
        let Some(part) = parts.iter().find(|part| part.device && !is_worth(graph, ops, part, costs)) else {
            return (parts, small);
        };
        for &index in &part.ops {
            device[index] = false;
            small.push(index);
        }
    }
}

fn value(graph: &Graph, id: TensorId) -> Result<Value, PlanError> {
    let tensor = graph.tensor(id);
    let unknown = || PlanError::Unknown { tensor: tensor.name.clone() };
    Ok(Value {
        id,
        name: tensor.name.clone(),
        shape: tensor.facts.shape.clone().ok_or_else(unknown)?,
        data_type: tensor.facts.element.and_then(element::data_type).ok_or_else(unknown)?,
    })
}

fn island(
    model: &Model,
    graph: &Graph,
    ops: &[Op],
    part: &Part,
    (manifest, floats): (&Manifest, Numerics),
) -> Result<Island, PlanError> {
    let members: Vec<&Op> = part.ops.iter().map(|&index| &ops[index]).collect();
    if part.device {
        let values = |ids: &[TensorId]| -> Result<Vec<Value>, PlanError> {
            ids.iter().map(|&id| value(graph, id)).collect()
        };
        let (inputs, outputs) = (values(&part.inputs)?, values(&part.outputs)?);
        let lowered = lower(graph, &members, &part.inputs, &part.outputs, manifest, floats)?;
        return Ok(Island::Device { lowered, inputs, outputs });
    }
    let mut nodes: Vec<usize> = members.iter().flat_map(|op| &op.nodes).copied().collect();
    nodes.sort_unstable();
    nodes.dedup();
    // Operations that share what undoes a quantisation each name it; where it comes from outside it is not there twice.
    nodes.retain(|&node| !graph.nodes[node].gives().all(|id| part.inputs.contains(&id)));
    let model = submodel(model, graph, &nodes, &part.inputs, &part.outputs)
        .map_err(|tensor| PlanError::Unknown { tensor })?;
    let outputs = part.outputs.iter().map(|&id| (id, graph.tensor(id).name.clone())).collect();
    Ok(Island::Host { model, inputs: part.inputs.clone(), outputs })
}

/// Bytes that cross between host and device in one run.
pub(crate) fn bytes_moved(graph: &Graph, parts: &[Part]) -> u64 {
    parts.iter().filter(|part| part.device).map(|part| moved(graph, part)).sum()
}
