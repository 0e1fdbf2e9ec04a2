//! The worker's side: one device, until its parent is gone. This thread takes requests and sends them on their way; a
//! second one waits for them and answers, so that the next request's inputs and the last one's outputs pass while
//! kernels compute. Answers come in the order of the requests.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    os::{fd::AsFd as _, unix::net::UnixStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Signal, getpid, kill_process},
};

use crate::runtime::{Accelerator, Built, Flight, Image, Loaded, RuntimeError, Staged, build, discover};

use super::{
    watch::Watch,
    wire::{Channel, MOST_BYTES, Reply, Request, Shared, WireError},
};

/// Runs a worker: what a hidden verb of a binary calls, and nothing else in that process. Its standard input is the
/// socket to its parent. Returns when the parent has nothing more to say.
pub fn main() -> io::Result<()> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let channel = Channel::new(UnixStream::from(socket));
    let no_parent = |error: WireError| {
        io::Error::other(format!("this is started by Moorline itself, with a socket as its input ({error})"))
    };
    // The lease is kept until the end of the process: the device is not free before.
    let (shared, _lease) = channel.take_over().map_err(no_parent)?;
    end_with_parent(channel.stream().try_clone()?)?;
    let answers = Arc::new(Mutex::new(Channel::new(channel.stream().try_clone()?)));
    let watch = Watch::start(Arc::clone(&answers))?;
    let line = Arc::new(Line {
        shared,
        answers,
        watch,
        queue: Mutex::default(),
        moved: Condvar::new(),
        spare: Mutex::default(),
    });
    let landing = Arc::clone(&line);
    thread::Builder::new().name("answers".to_owned()).spawn(move || landing.land_all())?;
    let mut worker =
        Worker { channel, line, programs: BTreeMap::new(), accelerator: None, next: 0, pipelined: false };
    loop {
        match worker.answer() {
            Ok(()) => {}
            Err(WireError::Closed) => return Ok(()),
            Err(error) => return Err(io::Error::other(error)),
        }
    }
}

/// Ends this process at once when its parent is gone, also in the middle of a launch that never ends.
fn end_with_parent(stream: UnixStream) -> io::Result<()> {
    let wait = move || {
        loop {
            let mut watched = [PollFd::new(&stream, PollFlags::RDHUP)];
            if poll(&mut watched, None).is_ok()
                && watched[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP)
            {
                // Nothing is left to be told, and no driver is asked to agree.
                let _ = kill_process(getpid(), Signal::KILL);
            }
        }
    };
    thread::Builder::new().name("parent".to_owned()).spawn(wait)?;
    Ok(())
}

/// The requests that are under way, and what they need.
struct Line {
    shared: Shared,
    answers: Arc<Mutex<Channel>>,
    watch: Watch,
    queue: Mutex<Queue>,
    moved: Condvar,
    /// Memory of requests that are over, for the next ones: fresh memory costs as much as what is written into it.
    spare: Mutex<Vec<Staged>>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Those, and the one that is being waited for.
    under_way: usize,
}

struct Waiting {
    /// One that was refused has its turn like the others.
    flight: Result<Flight, RuntimeError>,
    set: usize,
    profile: bool,
}

impl Line {
    fn push(&self, waiting: Waiting) {
        let mut queue = lock(&self.queue);
        queue.waiting.push_back(waiting);
        queue.under_way += 1;
        self.moved.notify_all();
    }

    /// Waits until nothing is under way.
    fn drained(&self) {
        let queue = lock(&self.queue);
        let busy = |queue: &mut Queue| queue.under_way > 0;
        drop(self.moved.wait_while(queue, busy).unwrap_or_else(PoisonError::into_inner));
    }

    /// Answers one request after the other, until nobody listens.
    fn land_all(&self) {
        loop {
            let empty = |queue: &mut Queue| queue.waiting.is_empty();
            let next = self.moved.wait_while(lock(&self.queue), empty);
            let next = next.unwrap_or_else(PoisonError::into_inner).waiting.pop_front();
            let Some(Waiting { flight, set, profile }) = next else { continue };
            let reply = flight.and_then(|flight| self.land(flight, set, profile));
            if self.reply(&reply.unwrap_or_else(Reply::Refused), &[]).is_err() {
                return;
            }
            lock(&self.queue).under_way -= 1;
            self.moved.notify_all();
        }
    }

    fn land(&self, flight: Flight, set: usize, profile: bool) -> Result<Reply, RuntimeError> {
        let landed = flight.land(profile);
        self.watch.end();
        let landed = landed?;
        let at = landed.staged.inputs.len() as u64;
        let written = self.shared.write(set, at, &landed.staged.outputs);
        lock(&self.spare).push(landed.staged);
        match written {
            Ok(()) => Ok(Reply::Ran { busy: landed.busy, profile: landed.profile }),
            Err(error) => Err(shared_failed(&error)),
        }
    }

    fn reply(&self, reply: &Reply, bytes: &[u8]) -> Result<(), WireError> {
        lock(&self.answers).send(reply, bytes)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Worker {
    channel: Channel,
    line: Arc<Line>,
    /// After the programs, whose memory is in it.
    programs: BTreeMap<u32, Loaded>,
    accelerator: Option<Accelerator>,
    next: u32,
    /// Whether the last request was one whose launches ran at once.
    pipelined: bool,
}

impl Worker {
    fn answer(&mut self) -> Result<(), WireError> {
        let (request, bytes) = self.channel.receive::<Request>(MOST_BYTES)?;
        if let Request::Run { id, set, profile, launch_limit } = request {
            let flight = self.start(id, set);
            if let Ok(flight) = &flight {
                self.line.watch.begin(flight.launches(), launch_limit);
            }
            self.line.push(Waiting { flight, set, profile });
            return Ok(());
        }
        self.line.drained();
        match self.execute(request, &bytes) {
            Ok((reply, bytes)) => self.line.reply(&reply, &bytes),
            Err(error) => self.line.reply(&Reply::Refused(error), &[]),
        }
    }

    /// Sends a request on its way. Its set is free: our parent asks for no more at once than there are.
    fn start(&mut self, id: u32, set: usize) -> Result<Flight, RuntimeError> {
        let accelerator = opened(&mut self.accelerator)?;
        let loaded = self.programs.get(&id).ok_or_else(|| no_program(id))?;
        // Only in the first queue is one request behind the other.
        let pipelined = !loaded.program().pipelines.is_empty();
        if pipelined || self.pipelined {
            self.line.drained();
        }
        self.pipelined = pipelined;
        let mut staged = lock(&self.line.spare).pop().unwrap_or_default();
        staged.inputs.resize(loaded.input_bytes(), 0);
        self.line.shared.read(set, 0, &mut staged.inputs).map_err(|error| shared_failed(&error))?;
        accelerator.start(loaded, set, staged)
    }

    fn execute(&mut self, request: Request, bytes: &[u8]) -> Result<(Reply, Vec<u8>), RuntimeError> {
        let reply = match request {
            Request::Discover { told_to_emulate } => Reply::Devices(discover(told_to_emulate)?),
            Request::Build { device, told_to_emulate } => {
                let Built { device, kernels, binary } = build(&device, told_to_emulate, &text(bytes))?;
                return Ok((Reply::Built { device, kernels }, binary));
            }
            Request::Open { device, told_to_emulate, from_source, kernels } => {
                let source = from_source.then(|| text(bytes));
                let image = source.as_deref().map_or(Image::Binary(bytes), Image::Source);
                self.programs.clear();
                let accelerator = Accelerator::open(&device, told_to_emulate, &image, kernels)?;
                let device = accelerator.device().clone();
                self.accelerator = Some(accelerator);
                Reply::Opened(device)
            }
            Request::Load { program } => {
                let loaded = opened(&mut self.accelerator)?.load(program, bytes)?;
                let id = self.next;
                self.next += 1;
                self.programs.insert(id, loaded);
                Reply::Loaded { id }
            }
            Request::Unload { id } => {
                let loaded = self.programs.remove(&id).ok_or_else(|| no_program(id))?;
                opened(&mut self.accelerator)?.unload(loaded);
                Reply::Unloaded
            }
            Request::Run { .. } => {
                return Err(RuntimeError::Program { reason: "a request is not waited for here".to_owned() });
            }
        };
        Ok((reply, Vec::new()))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn opened(accelerator: &mut Option<Accelerator>) -> Result<&mut Accelerator, RuntimeError> {
    accelerator
        .as_mut()
        .ok_or_else(|| RuntimeError::Program { reason: "no bitstream is in the device yet".to_owned() })
}

fn no_program(id: u32) -> RuntimeError {
    RuntimeError::Program { reason: format!("there is no program {id} on the device") }
}

fn shared_failed(error: &io::Error) -> RuntimeError {
    RuntimeError::Input { reason: format!("the memory that they are in cannot be used: {error}") }
}
