//! A program on a device: its memory planned and its kernels' arguments set once, so that a request is transfers,
//! launches and one wait.

use std::sync::Arc;

use opencl3::{event::Event, kernel::Kernel, memory::Buffer};
use serde::{Deserialize, Serialize};

use crate::program::{Argument, Program};

use super::{
    RuntimeError,
    opencl::{Batch, Driver, Failure, Queue, Transfers, Value, set_argument},
};

/// A program that is ready to be run.
#[derive(Debug)]
pub struct Loaded {
    /// Dropped before the memory that they were given.
    kernels: Vec<Kernel>,
    buffers: Vec<Buffer<u8>>,
    program: Program,
    /// Device memory that it takes.
    pub(super) bytes: u64,
}

/// The launches of a request that is being run, for whoever watches over it.
#[derive(Clone, Debug)]
pub struct Launches(Arc<[Event]>);

impl Launches {
    /// How many are over, counted from the first, given that `known` are.
    pub fn over(&self, known: usize) -> usize {
        let over = |event: &&Event| event.command_execution_status().is_ok_and(|status| status.0 <= 0);
        known + self.0.iter().skip(known).take_while(over).count()
    }

    pub fn all(&self) -> usize {
        self.0.len()
    }
}

/// When a command ran, in nanoseconds of the device's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    pub queued: u64,
    pub start: u64,
    pub end: u64,
}

/// When everything of one request ran, in the order of the program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    pub writes: Vec<Span>,
    pub launches: Vec<Span>,
    pub reads: Vec<Span>,
}

impl Loaded {
    /// Prepares a program that was checked before. Constants are uploaded, everything else is zero.
    pub(super) fn new(
        driver: &Driver,
        queue: &Queue,
        code: &opencl3::program::Program,
        program: Program,
        (constants, bytes): (&[u8], u64),
    ) -> Result<Self, RuntimeError> {
        let mut buffers = Vec::with_capacity(program.buffers.len());
        for plan in &program.buffers {
            let buffer = driver.buffer(plan.bytes)?;
            match plan.constant {
                Some(range) => {
                    let from = range.offset as usize;
                    queue.write(&buffer, &constants[from..from + range.bytes as usize])?;
                }
                None => queue.clear(&buffer, plan.bytes)?,
            }
            buffers.push(buffer);
        }
        let mut kernels = Vec::with_capacity(program.launches.len());
        for launch in &program.launches {
            let kernel = Kernel::create(code, &launch.kernel).map_err(Failure::of("clCreateKernel"))?;
            for (index, argument) in launch.arguments.iter().enumerate() {
                let value = match argument {
                    Argument::Buffer(buffer) => Value::Buffer(&buffers[*buffer]),
                    Argument::I32(value) => Value::I32(*value),
                    Argument::F32(value) => Value::F32(*value),
                };
                set_argument(&kernel, index as u32, &value)?;
            }
            kernels.push(kernel);
        }
        Ok(Self { kernels, buffers, program, bytes })
    }

    pub fn program(&self) -> &Program {
        &self.program
    }

    /// The bytes of all inputs, one behind the other.
    pub fn input_bytes(&self) -> u64 {
        self.program.inputs.iter().map(|port| port.bytes).sum()
    }

    /// Runs one request: `inputs` are the program's, one behind the other, and so are the outputs that come back.
    pub(super) fn run(
        &mut self,
        queue: &Queue,
        inputs: &[u8],
        enqueued: impl FnOnce(Launches),
    ) -> Result<(Vec<u8>, Profiled), RuntimeError> {
        if inputs.len() as u64 != self.input_bytes() {
            let reason = format!("they have {} bytes, and it takes {}", inputs.len(), self.input_bytes());
            return Err(RuntimeError::Input { reason });
        }
        let bytes: u64 = self.program.outputs.iter().map(|port| port.bytes).sum();
        let mut outputs = vec![0; bytes as usize];
        let (mut from, mut to) = (inputs, &mut outputs[..]);
        let mut batch = Batch { writes: Vec::new(), launches: Vec::new(), reads: Vec::new() };
        for port in &self.program.inputs {
            let (bytes, rest) = from.split_at(port.bytes as usize);
            batch.writes.push((&self.buffers[port.buffer], bytes));
            from = rest;
        }
        for (kernel, launch) in self.kernels.iter().zip(&self.program.launches) {
            batch.launches.push((kernel, launch.items as usize));
        }
        for port in &self.program.outputs {
            let (bytes, rest) = to.split_at_mut(port.bytes as usize);
            batch.reads.push((&self.buffers[port.buffer], bytes));
            to = rest;
        }
        let mut launches = Launches(Arc::from([]));
        let transfers = queue.run(batch, |events| {
            launches = Launches(events.into());
            enqueued(launches.clone());
        })?;
        Ok((outputs, Profiled { transfers, launches }))
    }
}

/// The commands of a request that is over.
#[derive(Debug)]
pub(super) struct Profiled {
    transfers: Transfers,
    launches: Launches,
}

impl Profiled {
    /// When they ran. Only a queue that profiles can tell.
    pub(super) fn profile(&self) -> Result<Profile, RuntimeError> {
        let span = |event: &Event| {
            let span = (|| {
                Ok(Span {
                    queued: event.profiling_command_queued()?,
                    start: event.profiling_command_start()?,
                    end: event.profiling_command_end()?,
                })
            })();
            span.map_err(Failure::of("clGetEventProfilingInfo"))
        };
        let spans = |events: &[Event]| events.iter().map(span).collect::<Result<Vec<_>, _>>();
        Ok(Profile {
            writes: spans(&self.transfers.writes)?,
            launches: spans(&self.launches.0)?,
            reads: spans(&self.transfers.reads)?,
        })
    }
}
