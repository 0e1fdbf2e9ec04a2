//! The calls of OpenCL that Rust cannot check, each behind a function that can be called safely. Nothing else in this
//! crate is unsafe.
#![expect(unsafe_code, reason = "OpenCL is a C interface; every call's conditions are argued beside it")]

use std::{fmt, ops::Range, ptr, sync::Arc};

use opencl3::{
    command_queue::{CL_QUEUE_PROFILING_ENABLE, CommandQueue, enqueue_fill_buffer, enqueue_write_buffer},
    context::Context,
    device::Device,
    error_codes::{CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST, ClError},
    event::Event,
    kernel::Kernel,
    memory::{Buffer, CL_MEM_READ_WRITE, ClMem as _},
    program::Program,
    types::{CL_BLOCKING, CL_NON_BLOCKING, cl_device_id, cl_event},
};

use super::RuntimeError;
use crate::program::STAGES;

/// A call that gave an error code.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) call: &'static str,
    pub(super) code: i32,
}

impl Failure {
    pub(super) fn of(call: &'static str) -> impl Fn(ClError) -> Self {
        move |error| Self { call, code: error.0 }
    }

    /// The same for the calls that give the code as it is.
    fn code(call: &'static str) -> impl Fn(i32) -> Self {
        move |code| Self { call, code }
    }

    pub(super) fn text(&self) -> String {
        String::from(ClError(self.code))
    }
}

impl From<Failure> for RuntimeError {
    fn from(failure: Failure) -> Self {
        Self::Call { call: failure.call.to_owned(), code: failure.code, text: failure.text() }
    }
}

/// A context on one device, and what is created in it.
pub(super) struct Driver {
    context: Context,
    device: Device,
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").finish_non_exhaustive()
    }
}

impl Driver {
    pub(super) fn open(id: cl_device_id) -> Result<Self, Failure> {
        let device = Device::new(id);
        let context = Context::from_device(&device).map_err(Failure::of("clCreateContext"))?;
        Ok(Self { context, device })
    }

    pub(super) fn id(&self) -> cl_device_id {
        self.device.id()
    }

    /// An in-order queue that remembers when its commands ran.
    #[expect(
        deprecated,
        reason = "its successor is missing from drivers of OpenCL 1.2, as those of FPGAs are"
    )]
    fn queue(&self) -> Result<CommandQueue, Failure> {
        // SAFETY: the device is the one that the context was created for.
        let queue = unsafe { CommandQueue::create(&self.context, self.id(), CL_QUEUE_PROFILING_ENABLE) };
        queue.map_err(Failure::of("clCreateCommandQueue"))
    }

    pub(super) fn program_from_binary(&self, binary: &[u8]) -> Result<Program, Failure> {
        // SAFETY: the device is the one that the context was created for. The binary may still be such that the driver
        // ends the process: this is why it is one of its own.
        let program = unsafe { Program::create_from_binary(&self.context, &[self.id()], &[binary]) };
        program.map_err(Failure::of("clCreateProgramWithBinary"))
    }

    pub(super) fn program_from_source(&self, source: &str) -> Result<Program, Failure> {
        Program::create_from_source(&self.context, source).map_err(Failure::of("clCreateProgramWithSource"))
    }

    pub(super) fn buffer(&self, bytes: u64) -> Result<Buffer<u8>, Failure> {
        // SAFETY: no host memory is named.
        let buffer =
            unsafe { Buffer::create(&self.context, CL_MEM_READ_WRITE, bytes as usize, ptr::null_mut()) };
        buffer.map_err(Failure::of("clCreateBuffer"))
    }
}

/// What a kernel is given for one argument.
pub(super) enum Value<'a> {
    Buffer(&'a Buffer<u8>),
    I32(i32),
    F32(f32),
}

/// Sets an argument. The driver compares the index and the size with the kernel and refuses what does not fit; that the
/// argument is of this kind was checked against the manifest, and the manifest against the kernel.
pub(super) fn set_argument(kernel: &Kernel, index: u32, value: &Value<'_>) -> Result<(), Failure> {
    let set = match value {
        // SAFETY: a valid memory object of the kernel's own context, passed by the address of its handle.
        Value::Buffer(buffer) => unsafe { kernel.set_arg(index, &buffer.get()) },
        // SAFETY: four bytes, which the driver copies before it returns.
        Value::I32(value) => unsafe { kernel.set_arg(index, value) },
        // SAFETY: as above.
        Value::F32(value) => unsafe { kernel.set_arg(index, value) },
    };
    set.map_err(Failure::of("clSetKernelArg"))
}

/// The queues of a device: what goes into it, what it computes and what comes out, each in order and all at once. What
/// one request computes, the next one's inputs and the last one's outputs pass.
#[derive(Debug)]
pub(super) struct Lanes {
    writes: CommandQueue,
    /// The first is that of all launches but those that run beside another one.
    launches: Vec<CommandQueue>,
    reads: CommandQueue,
}

/// The host's memory of one request: all inputs, one behind the other, and all outputs.
#[derive(Debug, Default)]
pub(crate) struct Staged {
    pub(crate) inputs: Vec<u8>,
    pub(crate) outputs: Vec<u8>,
}

/// What is enqueued for one request.
pub(super) struct Batch<'a> {
    /// Parts of the inputs, in bytes.
    pub(super) writes: Vec<(&'a Buffer<u8>, Range<usize>)>,
    /// Kernels whose arguments are all set, and their numbers of work items; those of a group run at once, and groups one
    /// after the other.
    pub(super) launches: Vec<Vec<(&'a Kernel, usize)>>,
    /// Parts of the outputs, in bytes.
    pub(super) reads: Vec<(&'a Buffer<u8>, Range<usize>)>,
    pub(super) staged: Staged,
}

/// What was enqueued for one request, in its order. Dropping the last of it waits for all of it.
#[derive(Debug, Default)]
pub(super) struct Commands {
    pub(super) writes: Vec<Event>,
    pub(super) launches: Vec<Event>,
    pub(super) reads: Vec<Event>,
}

impl Commands {
    fn wait(&self) {
        // The last ones first, which is the one wait: the others are over then.
        for event in self.reads.iter().chain(self.launches.iter().rev()).chain(&self.writes) {
            match event.wait() {
                Ok(()) | Err(ClError(CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST)) => {}
                // The driver may still write into memory that is about to be given away. Only the end of the process,
                // which is a worker's, keeps it from that.
                Err(_) => std::process::abort(),
            }
        }
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        self.wait();
    }
}

/// A request on its way through a device. Dropping it waits for its end.
#[derive(Debug)]
pub(super) struct UnderWay {
    commands: Arc<Commands>,
    staged: Staged,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        // Whoever else knows of the commands must not be who waits for the end of those that use our memory.
        self.commands.wait();
    }
}

impl UnderWay {
    pub(super) fn commands(&self) -> &Arc<Commands> {
        &self.commands
    }

    /// Waits for the end, and gives the memory back.
    pub(super) fn finish(mut self) -> Result<Staged, Failure> {
        for read in &self.commands.reads {
            // What this says of an end is asked of its status.
            let _ = read.wait();
            // A launch that failed fails everything behind it in its queue.
            let status = read.command_execution_status().map_err(Failure::of("clGetEventInfo"))?.0;
            if status < 0 {
                return Err(Failure { call: "a launch", code: status });
            }
        }
        Ok(std::mem::take(&mut self.staged))
    }
}

impl Lanes {
    pub(super) fn open(driver: &Driver) -> Result<Self, Failure> {
        let launches = (0..STAGES).map(|_| driver.queue()).collect::<Result<_, _>>()?;
        Ok(Self { writes: driver.queue()?, launches, reads: driver.queue()? })
    }

    /// Enqueues everything without a wait.
    pub(super) fn start(&self, mut batch: Batch<'_>) -> Result<UnderWay, Failure> {
        // Dropped before the batch, and so before its memory: an error on the way waits for what was enqueued.
        let mut commands = Commands::default();
        for (buffer, range) in &batch.writes {
            let bytes = &batch.staged.inputs[range.clone()];
            // SAFETY: the driver refuses a size beyond the buffer's. The bytes are not moved and live until the command
            // is over: `commands` sees to that on every way out, and `UnderWay` afterwards.
            let event = unsafe {
                enqueue_write_buffer(
                    self.writes.get(),
                    buffer.get(),
                    CL_NON_BLOCKING,
                    0,
                    bytes.len(),
                    bytes.as_ptr().cast_mut().cast(),
                    0,
                    ptr::null(),
                )
            };
            commands.writes.push(event.map(Event::new).map_err(Failure::code("clEnqueueWriteBuffer"))?);
        }
        self.writes.flush().map_err(Failure::of("clFlush"))?;
        let mut after: Vec<cl_event> = commands.writes.iter().map(Event::get).collect();
        for group in &batch.launches {
            let from = commands.launches.len();
            if group.len() > 1 && after.is_empty() {
                // The other queues know nothing of the first one.
                after.extend(commands.launches.last().map(Event::get));
            }
            for (queue, (kernel, items)) in self.launches.iter().zip(group) {
                let local = 1_usize;
                // SAFETY: one dimension, whose two sizes the driver copies. The kernel's arguments are all set, with
                // memory that its owner keeps for as long as the kernel, and it keeps both until nothing is under way.
                let event = unsafe {
                    queue.enqueue_nd_range_kernel(
                        kernel.get(),
                        1,
                        ptr::null(),
                        items,
                        &raw const local,
                        &after,
                    )
                };
                commands.launches.push(event.map_err(Failure::of("clEnqueueNDRangeKernel"))?);
            }
            after.clear();
            // What comes next is behind one that is alone in the same queue, and waits for each of several.
            if group.len() > 1 {
                after.extend(commands.launches[from..].iter().map(Event::get));
            }
        }
        for queue in &self.launches {
            queue.flush().map_err(Failure::of("clFlush"))?;
        }
        if after.is_empty() {
            after.extend(commands.launches.last().map(Event::get));
        }
        for (buffer, range) in &batch.reads {
            let bytes = &mut batch.staged.outputs[range.clone()];
            // SAFETY: as for the writes; nobody else looks at the outputs before the end.
            let event = unsafe { self.reads.enqueue_read_buffer(buffer, CL_NON_BLOCKING, 0, bytes, &after) };
            commands.reads.push(event.map_err(Failure::of("clEnqueueReadBuffer"))?);
        }
        self.reads.flush().map_err(Failure::of("clFlush"))?;
        Ok(UnderWay { commands: Arc::new(commands), staged: std::mem::take(&mut batch.staged) })
    }

    /// Writes a part of a buffer and waits for it.
    pub(super) fn write(&self, buffer: &Buffer<u8>, bytes: &[u8]) -> Result<(), Failure> {
        // SAFETY: the driver refuses a size beyond the buffer's, and has read the bytes when it returns.
        let event = unsafe {
            enqueue_write_buffer(
                self.writes.get(),
                buffer.get(),
                CL_BLOCKING,
                0,
                bytes.len(),
                bytes.as_ptr().cast_mut().cast(),
                0,
                ptr::null(),
            )
        };
        event.map(Event::new).map_err(Failure::code("clEnqueueWriteBuffer"))?;
        Ok(())
    }

    /// Fills a buffer with zeros, whatever its last tenant left in it.
    pub(super) fn clear(&self, buffer: &Buffer<u8>, bytes: u64) -> Result<(), Failure> {
        let zero = 0_u8;
        // SAFETY: the driver copies the pattern, whose one byte divides any size, and refuses a size beyond the
        // buffer's.
        let event = unsafe {
            enqueue_fill_buffer(
                self.writes.get(),
                buffer.get(),
                (&raw const zero).cast(),
                1,
                0,
                bytes as usize,
                0,
                ptr::null(),
            )
        };
        event.map(Event::new).map_err(Failure::code("clEnqueueFillBuffer"))?;
        self.writes.finish().map_err(Failure::of("clFinish"))
    }
}
