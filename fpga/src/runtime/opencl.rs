//! The calls of OpenCL that Rust cannot check, each behind a function that can be called safely. Nothing else in this
//! crate is unsafe.
#![expect(unsafe_code, reason = "OpenCL is a C interface; every call's conditions are argued beside it")]

use std::{fmt, ptr};

use opencl3::{
    command_queue::{CL_QUEUE_PROFILING_ENABLE, CommandQueue, enqueue_fill_buffer, enqueue_write_buffer},
    context::Context,
    device::Device,
    error_codes::ClError,
    event::Event,
    kernel::Kernel,
    memory::{Buffer, CL_MEM_READ_WRITE, ClMem as _},
    program::Program,
    types::{CL_NON_BLOCKING, cl_device_id},
};

use super::RuntimeError;

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

    /// An in-order queue.
    #[expect(
        deprecated,
        reason = "its successor is missing from drivers of OpenCL 1.2, as those of FPGAs are"
    )]
    pub(super) fn queue(&self, profiling: bool) -> Result<Queue, Failure> {
        let properties = if profiling { CL_QUEUE_PROFILING_ENABLE } else { 0 };
        // SAFETY: the device is the one that the context was created for.
        let queue = unsafe { CommandQueue::create(&self.context, self.id(), properties) };
        queue.map(Queue).map_err(Failure::of("clCreateCommandQueue"))
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

/// An in-order queue.
#[derive(Debug)]
pub(super) struct Queue(CommandQueue);

/// What is enqueued for one request, in this order.
pub(super) struct Batch<'a> {
    pub(super) writes: Vec<(&'a Buffer<u8>, &'a [u8])>,
    /// Kernels whose arguments are all set, and their numbers of work items.
    pub(super) launches: Vec<(&'a Kernel, usize)>,
    pub(super) reads: Vec<(&'a Buffer<u8>, &'a mut [u8])>,
}

/// A batch's transfers, in their order.
#[derive(Debug, Default)]
pub(super) struct Transfers {
    pub(super) writes: Vec<Event>,
    pub(super) reads: Vec<Event>,
}

impl Queue {
    /// Enqueues everything without a wait in between and waits once. `enqueued` is given the launches' events before
    /// the wait begins.
    pub(super) fn run(
        &self,
        mut batch: Batch<'_>,
        enqueued: impl FnOnce(Vec<Event>),
    ) -> Result<Transfers, Failure> {
        let unfinished = Unfinished(self);
        let mut transfers = Transfers::default();
        for (buffer, bytes) in &batch.writes {
            // SAFETY: the driver refuses a size beyond the buffer's. The bytes live until this function returns, which
            // it does not before the queue has finished: `unfinished` sees to that on every way out.
            let event = unsafe {
                enqueue_write_buffer(
                    self.0.get(),
                    buffer.get(),
                    CL_NON_BLOCKING,
                    0,
                    bytes.len(),
                    bytes.as_ptr().cast_mut().cast(),
                    0,
                    ptr::null(),
                )
            };
            transfers.writes.push(event.map(Event::new).map_err(Failure::code("clEnqueueWriteBuffer"))?);
        }
        let mut launches = Vec::with_capacity(batch.launches.len());
        for (kernel, items) in &batch.launches {
            let local = 1_usize;
            // SAFETY: one dimension, whose two sizes the driver copies. The kernel's arguments are all set, with memory
            // that its owner keeps for as long as the kernel.
            let event = unsafe {
                self.0.enqueue_nd_range_kernel(kernel.get(), 1, ptr::null(), items, &raw const local, &[])
            };
            launches.push(event.map_err(Failure::of("clEnqueueNDRangeKernel"))?);
        }
        for (buffer, bytes) in &mut batch.reads {
            // SAFETY: as for the writes; the bytes are borrowed for writing.
            let event = unsafe { self.0.enqueue_read_buffer(buffer, CL_NON_BLOCKING, 0, bytes, &[]) };
            transfers.reads.push(event.map_err(Failure::of("clEnqueueReadBuffer"))?);
        }
        enqueued(launches);
        drop(unfinished);
        for read in &transfers.reads {
            // A launch that failed fails everything behind it in its queue.
            let status = read.command_execution_status().map_err(Failure::of("clGetEventInfo"))?.0;
            if status < 0 {
                return Err(Failure { call: "a launch", code: status });
            }
        }
        Ok(transfers)
    }

    /// Writes a part of a buffer and waits for it.
    pub(super) fn write(&self, buffer: &Buffer<u8>, bytes: &[u8]) -> Result<(), Failure> {
        let batch = Batch { writes: vec![(buffer, bytes)], launches: Vec::new(), reads: Vec::new() };
        self.run(batch, |_| ()).map(|_| ())
    }

    /// Fills a buffer with zeros, whatever its last tenant left in it.
    pub(super) fn clear(&self, buffer: &Buffer<u8>, bytes: u64) -> Result<(), Failure> {
        let zero = 0_u8;
        // SAFETY: the driver copies the pattern, whose one byte divides any size, and refuses a size beyond the
        // buffer's.
        let event = unsafe {
            enqueue_fill_buffer(
                self.0.get(),
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
        self.0.finish().map_err(Failure::of("clFinish"))
    }
}

/// Waits for a queue whose commands may hold memory of their caller.
struct Unfinished<'a>(&'a Queue);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if self.0.0.finish().is_err() {
            // The driver may still write into memory that is about to be given away. Only the end of the process, which
            // is a worker's, keeps it from that.
            std::process::abort();
        }
    }
}
