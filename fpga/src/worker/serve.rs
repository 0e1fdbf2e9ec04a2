//! The worker's side: one device, one request after the other, until its parent is gone.

use std::{
    collections::BTreeMap,
    io,
    os::{fd::AsFd as _, unix::net::UnixStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Signal, getpid, kill_process},
};

use crate::runtime::{Accelerator, Built, Image, Launches, Loaded, RuntimeError, build, discover};

use super::wire::{Channel, MOST_BYTES, Reply, Request, WireError};

/// Runs a worker: what a hidden verb of a binary calls, and nothing else in that process. Its standard input is the
/// socket to its parent. Returns when the parent has nothing more to say.
pub fn main() -> io::Result<()> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let channel = Channel::new(UnixStream::from(socket));
    let no_parent = |error: WireError| {
        io::Error::other(format!("this is started by Moorline itself, with a socket as its input ({error})"))
    };
    // Kept until the end of the process: the device is not free before.
    let _lease = channel.take_over().map_err(no_parent)?;
    end_with_parent(channel.stream().try_clone()?)?;
    let watch = Arc::new(Watch::default());
    watch_over_launches(Arc::clone(&watch), channel.stream().try_clone()?)?;
    let mut worker = Worker { channel, watch, accelerator: None, programs: BTreeMap::new(), next: 0 };
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

/// The request that is being run.
#[derive(Default)]
struct Watch {
    run: Mutex<Option<Run>>,
    began: Condvar,
}

struct Run {
    launches: Launches,
    limit: Duration,
    over: usize,
    /// When `over` last grew.
    since: Instant,
}

impl Watch {
    fn lock(&self) -> MutexGuard<'_, Option<Run>> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, launches: Launches, limit: Duration) {
        *self.lock() = Some(Run { launches, limit, over: 0, since: Instant::now() });
        self.began.notify_one();
    }

    fn end(&self) {
        *self.lock() = None;
    }
}

/// Says so when no launch was over for as long as one may take. The thread that waits for the driver cannot.
fn watch_over_launches(watch: Arc<Watch>, stream: UnixStream) -> io::Result<()> {
    let look = move || {
        let mut guard = watch.lock();
        loop {
            let Some(run) = &mut *guard else {
                guard = watch.began.wait(guard).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let over = run.launches.over(run.over);
            if over > run.over {
                run.over = over;
                run.since = Instant::now();
            } else if over < run.launches.all() && run.since.elapsed() >= run.limit {
                // The lock is kept: the other thread must not answer any more. The parent ends this process.
                let sent = Channel::new(stream).send(&Reply::Hung { launch: over }, &[]);
                if sent.is_err() {
                    std::process::abort();
                }
                loop {
                    thread::park();
                }
            }
            let pause = (run.limit / 8).max(Duration::from_millis(1));
            guard = watch.began.wait_timeout(guard, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
    };
    thread::Builder::new().name("watch".to_owned()).spawn(look)?;
    Ok(())
}

struct Worker {
    channel: Channel,
    watch: Arc<Watch>,
    /// After the programs, whose memory is in it.
    programs: BTreeMap<u32, Loaded>,
    accelerator: Option<Accelerator>,
    next: u32,
}

impl Worker {
    fn answer(&mut self) -> Result<(), WireError> {
        let (request, bytes) = self.channel.receive::<Request>(MOST_BYTES)?;
        let (reply, bytes) = match self.execute(request, &bytes) {
            Ok(answer) => answer,
            Err(error) => (Reply::Refused(error), Vec::new()),
        };
        self.channel.send(&reply, &bytes)
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
            Request::Run { id, profile, launch_limit } => {
                let accelerator = opened(&mut self.accelerator)?;
                let loaded = self.programs.get_mut(&id).ok_or_else(|| no_program(id))?;
                let begin = |launches| self.watch.begin(launches, launch_limit);
                let ran = if profile {
                    accelerator.profile(loaded, bytes, begin).map(|(out, profile)| (out, Some(profile)))
                } else {
                    accelerator.run(loaded, bytes, begin).map(|out| (out, None))
                };
                self.watch.end();
                let (outputs, profile) = ran?;
                return Ok((Reply::Ran(profile), outputs));
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
