//! Collects launches, buffers and constants while an island is lowered.

use std::collections::HashMap;

use super::{
    Lowered, Needs,
    error::LowerError,
    layout::{Halo, IMAGE_LANES, LANES, Layout},
    memory::{Virtual, assign},
    tile::Cut,
};
use crate::{
    onnx::{Graph, TensorId, proto::element},
    plan::op::{Activation, Codes, Op, feature_map},
    program::{Argument, Launch, Port, Program, Range},
};

/// Vectors of a device are no wider than this; its memory begins at multiples of it.
const ALIGNMENT: usize = 64;

pub(super) struct Builder<'a> {
    pub(super) graph: &'a Graph,
    pub(super) needs: Needs,
    /// Whether what is multiplied is rounded to blocks that share an exponent.
    pub(super) blocks: bool,
    /// What was rounded so.
    pub(super) rounded: HashMap<TensorId, Layout>,
    layouts: HashMap<TensorId, Layout>,
    buffers: Vec<Virtual>,
    constants: Vec<u8>,
    launches: Vec<Launch>,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
}

/// The arguments of a launch, in their order.
#[derive(Default)]
pub(super) struct Arguments(Vec<Argument>);

impl Arguments {
    pub(super) fn buffers<const N: usize>(mut self, buffers: [usize; N]) -> Self {
        self.0.extend(buffers.map(Argument::Buffer));
        self
    }

    /// Sizes, all of which are less than the elements of a feature map, which are counted in 32 bits.
    pub(super) fn sizes<const N: usize>(mut self, sizes: [usize; N]) -> Self {
        self.0.extend(sizes.map(|size| Argument::I32(size as i32)));
        self
    }

    pub(super) fn ints<const N: usize>(mut self, ints: [i32; N]) -> Self {
        self.0.extend(ints.map(Argument::I32));
        self
    }

    pub(super) fn floats<const N: usize>(mut self, floats: [f32; N]) -> Self {
        self.0.extend(floats.map(Argument::F32));
        self
    }

    /// The least and the greatest code, less the zero, and the zero.
    pub(super) fn codes(self, codes: Codes, bounds: Activation) -> Self {
        let [low, high] = codes.within(bounds).map(|bound| (bound - codes.zero) as f32);
        self.floats([low, high, codes.zero as f32])
    }

    /// `flags`, `low` and `high`.
    pub(super) fn activation(mut self, activation: Activation, residual: bool) -> Self {
        let Activation { low, high } = activation;
        let flags = i32::from(residual) | i32::from(low.is_some()) << 1 | i32::from(high.is_some()) << 2;
        self.0.push(Argument::I32(flags));
        self.0.extend([low, high].map(|bound| Argument::F32(bound.unwrap_or(0.0))));
        self
    }
}

impl<'a> Builder<'a> {
    pub(super) fn new(graph: &'a Graph, needs: Needs, blocks: bool) -> Self {
        Self {
            graph,
            needs,
            blocks,
            rounded: HashMap::new(),
            layouts: HashMap::new(),
            buffers: Vec::new(),
            constants: Vec::new(),
            launches: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
        }
    }

    /// Memory that launches write.
    fn buffer(&mut self, bytes: usize) -> usize {
        self.buffers.push(Virtual { bytes: bytes as u64, constant: None });
        self.buffers.len() - 1
    }

    /// Memory with contents of its own.
    pub(super) fn constant(&mut self, values: &[f32]) -> usize {
        self.constant_bytes(4 * values.len(), values.iter().flat_map(|value| value.to_le_bytes()))
    }

    pub(super) fn constant_ints(&mut self, values: &[i32]) -> usize {
        self.constant_bytes(4 * values.len(), values.iter().flat_map(|value| value.to_le_bytes()))
    }

    pub(super) fn constant_bytes(&mut self, count: usize, values: impl Iterator<Item = u8>) -> usize {
        let offset = self.constants.len().next_multiple_of(ALIGNMENT);
        self.constants.resize(offset, 0);
        self.constants.reserve(count);
        self.constants.extend(values);
        let bytes = count as u64;
        self.buffers.push(Virtual { bytes, constant: Some(Range { offset: offset as u64, bytes }) });
        self.buffers.len() - 1
    }

    /// Where a tensor is that was written before.
    pub(super) fn layout(&self, id: TensorId) -> Result<Layout, LowerError> {
        // A plan orders its operations, so that there always is one.
        self.layouts.get(&self.needs.root(id)).copied().ok_or(LowerError::TooLarge { shape: [0; 4] })
    }

    /// A place for `id`, whose surroundings are zero when this returns.
    pub(super) fn place(
        &mut self,
        id: TensorId,
        map: [usize; 4],
        lanes: usize,
    ) -> Result<Layout, LowerError> {
        let [n, c, h, w] = map;
        let (halo, around) = self.needs.halo(id);
        let element = bytes_of(self.graph, id);
        let layout = self.lay(Layout { n, c, h, w, lanes, halo, element, buffer: 0 }, around)?;
        self.layouts.insert(id, layout);
        Ok(layout)
    }

    /// Memory for a feature map, surrounded by `around`.
    pub(super) fn lay(&mut self, layout: Layout, around: i32) -> Result<Layout, LowerError> {
        let Layout { n, h, w, lanes, element, .. } = layout;
        let layout = Layout { buffer: self.buffer(element * layout.elements()?), ..layout };
        if !layout.halo.is_none() {
            let Halo { top, left, bottom, right } = layout.halo;
            let arguments = Arguments::default().buffers([layout.buffer]).sizes([
                layout.block(),
                layout.row(),
                layout.height(),
                top,
                bottom,
                left * lanes,
                right * lanes,
            ]);
            let bytes = element * (layout.batch() - layout.blocks() * h * w * lanes) * n;
            let (kernel, arguments) = match element {
                1 => ("surround_codes", arguments.ints([around])),
                _ => ("surround", arguments),
            };
            self.launch(kernel, n * layout.blocks(), arguments, &[], (0, bytes));
        }
        Ok(layout)
    }

    /// A place for the result of `op` with the shape that the model says.
    pub(super) fn result(&mut self, op: &Op) -> Result<(TensorId, Layout), LowerError> {
        let id = op.outputs.first().copied().unwrap_or_default();
        // Operations whose results have no such shape stay on the CPU.
        let map = self.graph.shape(id).and_then(feature_map).unwrap_or([1; 4]);
        Ok((id, self.place(id, map, LANES)?))
    }

    pub(super) fn launch(
        &mut self,
        kernel: &str,
        items: usize,
        arguments: Arguments,
        nodes: &[usize],
        (operations, bytes): (u64, usize),
    ) {
        self.launches.push(Launch {
            kernel: kernel.to_owned(),
            items: u32::try_from(items).unwrap_or(u32::MAX),
            arguments: arguments.0,
            nodes: nodes.iter().map(|&node| self.graph.nodes[node].proto.label().to_owned()).collect(),
            operations,
            bytes: bytes as u64,
        });
    }

    /// Brings an input of the island into the device's layout.
    pub(super) fn input(&mut self, id: TensorId, image: bool) -> Result<(), LowerError> {
        let map = self.graph.shape(id).and_then(feature_map).unwrap_or([1; 4]);
        let bytes = bytes_of(self.graph, id) * map.iter().product::<usize>();
        let host = self.buffer(bytes);
        self.inputs.push(Port {
            name: self.graph.tensor(id).name.clone(),
            buffer: host,
            bytes: bytes as u64,
        });
        let layout = self.place(id, map, if image { IMAGE_LANES } else { LANES })?;
        let cut = Cut::new(layout.h, layout.n * layout.blocks());
        let arguments = Arguments::default().buffers([host, layout.buffer]).sizes([
            layout.c,
            layout.h,
            layout.w,
            layout.origin(),
            layout.batch(),
            layout.block(),
            layout.row(),
            layout.lanes,
            layout.blocks(),
            cut.per_item,
            cut.spans,
        ]);
        let (kernel, arguments) = match layout.element {
            1 => ("pack_codes", arguments.ints([flip(self.graph, id)])),
            _ => ("pack", arguments),
        };
        self.launch(kernel, layout.n * layout.blocks() * cut.spans, arguments, &[], (0, 2 * bytes));
        Ok(())
    }

    /// Brings a result back into the order of the host.
    pub(super) fn output(&mut self, id: TensorId) -> Result<(), LowerError> {
        let layout = self.layout(id)?;
        let bytes = layout.element * layout.n * layout.c * layout.h * layout.w;
        let host = self.buffer(bytes);
        self.outputs.push(Port {
            name: self.graph.tensor(id).name.clone(),
            buffer: host,
            bytes: bytes as u64,
        });
        let cut = Cut::new(layout.h, layout.n * layout.blocks());
        let arguments = Arguments::default().buffers([layout.buffer, host]).sizes([
            layout.c,
            layout.h,
            layout.w,
            layout.origin(),
            layout.batch(),
            layout.block(),
            layout.row(),
            layout.blocks(),
            cut.per_item,
            cut.spans,
        ]);
        let (kernel, arguments) = match layout.element {
            1 => ("unpack_codes", arguments.ints([flip(self.graph, id)])),
            _ => ("unpack", arguments),
        };
        self.launch(kernel, layout.n * layout.blocks() * cut.spans, arguments, &[], (0, 2 * bytes));
        Ok(())
    }

    /// The whole island, with buffers that take turns.
    pub(super) fn finish(mut self, architecture: &str) -> Lowered {
        let ports = self.inputs.iter().chain(&self.outputs);
        let pinned: Vec<usize> = ports.map(|port| port.buffer).collect();
        let (buffers, place) = assign(&self.buffers, &self.launches, &pinned);
        for argument in self.launches.iter_mut().flat_map(|launch| &mut launch.arguments) {
            if let Argument::Buffer(buffer) = argument {
                *buffer = place[*buffer];
            }
        }
        for port in self.inputs.iter_mut().chain(&mut self.outputs) {
            port.buffer = place[port.buffer];
        }
        let program = Program {
            architecture: architecture.to_owned(),
            buffers,
            launches: self.launches,
            pipelines: Vec::new(),
            inputs: self.inputs,
            outputs: self.outputs,
        };
        Lowered { program, constants: self.constants }
    }
}

/// Bytes of an element on the device, where there are floats and codes.
fn bytes_of(graph: &Graph, id: TensorId) -> usize {
    if matches!(graph.tensor(id).facts.element, Some(element::U8 | element::I8)) { 1 } else { 4 }
}

/// What tells the host's codes from the device's.
fn flip(graph: &Graph, id: TensorId) -> i32 {
    if graph.tensor(id).facts.element == Some(element::I8) { 0x80 } else { 0 }
}
