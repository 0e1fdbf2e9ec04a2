//! A program on a device: its memory planned and its kernels' arguments set once, so that a request is transfers,
//! launches and one wait, and the next one's transfers do not wait for it.

use std::sync::Arc;

use opencl3::{error_codes::ClError, event::Event, kernel::Kernel, memory::Buffer};
use serde::{Deserialize, Serialize};

use crate::program::{Argument, Port, Program};

use super::{
    RuntimeError,
    opencl::{Batch, Commands, Driver, Failure, Lanes, Staged, UnderWay, Value, set_argument},
};

/// A program that is ready to be run.
#[derive(Debug)]
pub struct Loaded {
    /// Dropped before the memory that they were given. For each launch those of all sets, or one that serves them all.
    kernels: Vec<Vec<Kernel>>,
    buffers: Vec<Vec<Buffer<u8>>>,
    program: Program,
    /// Device memory that it takes.
    pub(super) bytes: u64,
}

/// That of a set, where each has its own.
fn of_set<T>(copies: &[T], set: usize) -> &T {
    &copies[set % copies.len()]
}

/// The launches of a request that is being run, for whoever watches over it.
#[derive(Clone, Debug)]
pub struct Launches(Arc<Commands>);

impl Launches {
    /// How many are over, counted from the first, given that `known` are.
    pub fn over(&self, known: usize) -> usize {
        let over = |event: &&Event| event.command_execution_status().is_ok_and(|status| status.0 <= 0);
        known + self.0.launches.iter().skip(known).take_while(over).count()
    }

    pub fn all(&self) -> usize {
        self.0.launches.len()
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
        lanes: &Lanes,
        code: &opencl3::program::Program,
        program: Program,
        (constants, bytes): (&[u8], u64),
    ) -> Result<Self, RuntimeError> {
        let mut buffers = Vec::with_capacity(program.buffers.len());
        for (plan, copies) in program.buffers.iter().zip(program.copies()) {
            let mut same = Vec::with_capacity(copies);
            for _ in 0..copies {
                let buffer = driver.buffer(plan.bytes)?;
                match plan.constant {
                    Some(range) => {
                        let from = range.offset as usize;
                        lanes.write(&buffer, &constants[from..from + range.bytes as usize])?;
                    }
                    None => lanes.clear(&buffer, plan.bytes)?,
                }
                same.push(buffer);
            }
            buffers.push(same);
        }
        let mut kernels = Vec::with_capacity(program.launches.len());
        for launch in &program.launches {
            let of_each = |argument: &Argument| match argument {
                Argument::Buffer(buffer) => buffers[*buffer].len(),
                Argument::I32(_) | Argument::F32(_) => 1,
            };
            let copies = launch.arguments.iter().map(of_each).max().unwrap_or(1);
            let mut same = Vec::with_capacity(copies);
            for set in 0..copies {
                let kernel = Kernel::create(code, &launch.kernel).map_err(Failure::of("clCreateKernel"))?;
                for (index, argument) in launch.arguments.iter().enumerate() {
                    let value = match argument {
                        Argument::Buffer(buffer) => Value::Buffer(of_set(&buffers[*buffer], set)),
                        Argument::I32(value) => Value::I32(*value),
                        Argument::F32(value) => Value::F32(*value),
                    };
                    set_argument(&kernel, index as u32, &value)?;
                }
                same.push(kernel);
            }
            kernels.push(same);
        }
        Ok(Self { kernels, buffers, program, bytes })
    }

    pub fn program(&self) -> &Program {
        &self.program
    }

    /// The bytes of all inputs, one behind the other.
    pub fn input_bytes(&self) -> usize {
        self.program.inputs.iter().map(|port| port.bytes as usize).sum()
    }

    /// The bytes of all outputs.
    pub fn output_bytes(&self) -> usize {
        self.program.outputs.iter().map(|port| port.bytes as usize).sum()
    }

    /// Enqueues one request with a set that no other one uses. The memory's sizes become those of the program.
    pub(super) fn start(
        &self,
        lanes: &Lanes,
        set: usize,
        mut staged: Staged,
    ) -> Result<UnderWay, RuntimeError> {
        staged.inputs.resize(self.input_bytes(), 0);
        staged.outputs.resize(self.output_bytes(), 0);
        let parts = |ports: &[Port]| {
            let mut at = 0;
            let mut part = |port: &Port| {
                let from = at;
                at += port.bytes as usize;
                (of_set(&self.buffers[port.buffer], set), from..at)
            };
            ports.iter().map(&mut part).collect()
        };
        let launch = |at: usize| (of_set(&self.kernels[at], set), self.program.launches[at].items as usize);
        let batch = Batch {
            writes: parts(&self.program.inputs),
            launches: self.program.groups().map(|group| group.map(launch).collect()).collect(),
            reads: parts(&self.program.outputs),
            staged,
        };
        Ok(lanes.start(batch)?)
    }
}

/// A request on its way through a device. Dropping it waits for its end.
#[derive(Debug)]
pub struct Flight(pub(super) UnderWay);

/// What came of a request.
#[derive(Debug)]
pub struct Landed {
    pub(crate) staged: Staged,
    /// From the start of its first launch to the end of the last one.
    pub busy: (u64, u64),
    pub profile: Option<Profile>,
}

impl Flight {
    pub fn launches(&self) -> Launches {
        Launches(Arc::clone(self.0.commands()))
    }

    /// Waits for the end; with `profile`, tells when everything ran.
    pub fn land(self, profile: bool) -> Result<Landed, RuntimeError> {
        let commands = Arc::clone(self.0.commands());
        let staged = self.0.finish()?;
        let failed = Failure::of("clGetEventProfilingInfo");
        let mut busy = (0, 0);
        if let (Some(first), Some(last)) = (commands.launches.first(), commands.launches.last()) {
            busy.0 = first.profiling_command_start().map_err(&failed)?;
            busy.1 = last.profiling_command_end().map_err(&failed)?;
        }
        let span = |event: &Event| {
            Ok::<_, ClError>(Span {
                queued: event.profiling_command_queued()?,
                start: event.profiling_command_start()?,
                end: event.profiling_command_end()?,
            })
        };
        let spans = |events: &[Event]| events.iter().map(span).collect::<Result<Vec<_>, _>>();
        let all = || {
            Ok(Profile {
                writes: spans(&commands.writes)?,
                launches: spans(&commands.launches)?,
                reads: spans(&commands.reads)?,
            })
        };
        let profile = profile.then(all).transpose().map_err(failed)?;
        Ok(Landed { staged, busy, profile })
    }
}
