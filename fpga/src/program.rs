//! What a device executes: buffers that are planned once, and launches in the order in which they are enqueued. The plan
//! makes it, the worker runs it, and neither knows of the other.

use serde::{Deserialize, Serialize};

/// One island of a model, lowered. Valid for one architecture fingerprint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// The fingerprint of the architecture that it was lowered for: hexadecimal SHA-256.
    pub architecture: String,
    /// Device memory, all of it.
    pub buffers: Vec<BufferPlan>,
    /// In this order, in one queue, without a wait between them.
    pub launches: Vec<Launch>,
    /// Launches that run at once instead, because channels join them: the first of them, and the first behind them. They
    /// do not overlap, and are in the order of the launches.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pipelines: Vec<(usize, usize)>,
    /// What is written before the first launch of a request: the host's bytes as they are in row-major order.
    pub inputs: Vec<Port>,
    /// What is read after the last launch.
    pub outputs: Vec<Port>,
}

/// Launches that can run at once: each has a queue of its own.
pub const STAGES: usize = 4;

/// Requests that a program can have on a device at once: while one computes, another one's transfers pass. Whatever the
/// host writes or reads is there as often.
pub const SETS: usize = 2;

impl Program {
    /// The launches in groups, one after the other: nearly all alone, those of a pipeline together.
    pub fn groups(&self) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            let from = at;
            let pipeline = self.pipelines.iter().find(|(first, _)| *first == from);
            at = pipeline.map_or(from + 1, |(_, end)| *end);
            (from < self.launches.len()).then_some(from..at)
        })
    }

    /// How often each buffer is on the device: once, or for each of the requests that are there at once.
    pub fn copies(&self) -> Vec<usize> {
        let mut copies = vec![1; self.buffers.len()];
        for port in self.inputs.iter().chain(&self.outputs) {
            if let Some(buffer) = self.buffers.get(port.buffer)
                && buffer.constant.is_none()
            {
                copies[port.buffer] = SETS;
            }
        }
        copies
    }

    /// Bytes of device memory: those of constants, and all others.
    pub fn memory(&self) -> (u64, u64) {
        let sum = |constant: bool| {
            let some = self.buffers.iter().zip(self.copies());
            let some = some.filter(|(buffer, _)| buffer.constant.is_some() == constant);
            let bytes = some.map(|(buffer, copies)| buffer.bytes.saturating_mul(copies as u64));
            bytes.fold(0, u64::saturating_add)
        };
        (sum(true), sum(false))
    }
}

/// One piece of device memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BufferPlan {
    /// Its size in bytes.
    pub bytes: u64,
    /// Where its first contents are in the program's constants, which are kept beside it as one blob; nothing for a
    /// buffer that launches write.
    pub constant: Option<Range>,
}

/// A part of the constants, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    pub offset: u64,
    pub bytes: u64,
}

/// One kernel, enqueued over `items` work items in groups of one: each is a task of its own, and a device runs as many
/// at once as it has units.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Launch {
    /// The kernel's name in the bitstream.
    pub kernel: String,
    /// The global size in its first dimension, at least 1; the other dimensions and the local size are 1.
    pub items: u32,
    pub arguments: Vec<Argument>,
    /// The names of the model's nodes that it computes, for people.
    pub nodes: Vec<String>,
    /// Multiplications and additions, for the profile.
    pub operations: u64,
    /// Bytes that it reads and writes at least, for the profile.
    pub bytes: u64,
}

/// An argument of a kernel, by position.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Argument {
    /// The whole of a buffer, by its index.
    Buffer(usize),
    I32(i32),
    F32(f32),
}

/// Where a tensor goes into the device or comes out of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// The tensor's name in the model.
    pub name: String,
    pub buffer: usize,
    pub bytes: u64,
}
