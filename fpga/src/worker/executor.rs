//! A leased device that outlives its workers: whoever has it loads programs and runs requests, and a worker that died or
//! hung costs the request that it died of, not the one after.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{
    bitstream::Bitstream,
    device::{Device, DeviceFilter, names},
    lease::{Lease, Leases, Quarantine},
    program::Program,
    runtime::Profile,
};

use super::{
    Limits, WorkerError,
    device_worker::{Choice, DeviceWorker, Slot},
    discover,
    process::Launcher,
};

/// Which device is taken, and how.
#[derive(Clone, Debug)]
pub struct ExecutorSettings {
    pub launcher: Launcher,
    pub limits: Limits,
    pub device: DeviceFilter,
    /// Whether an emulated device without an image of its own may have its kernels built from the bitstream's source.
    pub rebuild: bool,
    pub leases: Leases,
    pub quarantine: Quarantine,
    /// Told to whoever else asks for the device.
    pub holder: String,
}

/// A program on the device, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProgramId(usize);

/// A device that is ours.
#[derive(Debug)]
pub struct Executor {
    settings: ExecutorSettings,
    bitstream: Arc<Bitstream>,
    device: Device,
    choice: Choice,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Dropped before the lease.
    worker: Option<DeviceWorker>,
    lease: Lease,
    programs: Vec<Option<Placed>>,
    restarts: u64,
}

#[derive(Clone, Debug)]
struct Placed {
    program: Arc<Program>,
    constants: Arc<[u8]>,
    /// Where it is in the worker that runs now.
    slot: Slot,
}

impl Executor {
    /// Leases the first device that the settings admit, that the bitstream is for and that nobody has, and makes it
    /// ready.
    pub fn start(settings: ExecutorSettings, bitstream: Arc<Bitstream>) -> Result<Self, WorkerError> {
        let devices = discover(&settings.launcher, &settings.limits)?;
        let mut reason = None;
        for device in devices.iter().filter(|device| settings.device.admits(device)) {
            let taken = Choice::of(&bitstream, device, settings.rebuild).map_err(WorkerError::from).and_then(
                |choice| {
                    let lease =
                        settings.leases.acquire(&device.id(), &settings.holder, settings.quarantine)?;
                    Ok((choice, lease))
                },
            );
            match taken {
                Ok((choice, lease)) => {
                    return Self::ready(settings.clone(), bitstream, device.clone(), choice, lease);
                }
                // A device that fits and is taken says more than one that the bitstream is not for.
                Err(error) if reason.is_none() || matches!(error, WorkerError::Lease(_)) => {
                    reason = Some(error);
                }
                Err(_) => {}
            }
        }
        Err(reason.unwrap_or_else(|| WorkerError::NoDevice {
            wanted: settings.device.to_string(),
            found: names(devices.iter()),
        }))
    }

    fn ready(
        settings: ExecutorSettings,
        bitstream: Arc<Bitstream>,
        device: Device,
        choice: Choice,
        lease: Lease,
    ) -> Result<Self, WorkerError> {
        let mut state = State { worker: None, lease, programs: Vec::new(), restarts: 0 };
        let (launcher, limits) = (&settings.launcher, settings.limits);
        match DeviceWorker::start(launcher, limits, &bitstream, &choice, (&device, &state.lease)) {
            Ok(worker) => state.worker = Some(worker),
            Err(error) => return Err(state.noted(error)),
        }
        Ok(Self { settings, bitstream, device, choice, state: Mutex::new(state) })
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    pub fn bitstream(&self) -> &Bitstream {
        &self.bitstream
    }

    /// The generation of the device's lease.
    pub fn generation(&self) -> u64 {
        self.lock().lease.generation()
    }

    /// How often a worker was started anew.
    pub fn restarts(&self) -> u64 {
        self.lock().restarts
    }

    /// The process that has the device now.
    pub fn process(&self) -> Option<u32> {
        self.lock().worker.as_ref().map(DeviceWorker::process)
    }

    /// Places a program on the device, where it stays.
    pub fn load(&self, program: Arc<Program>, constants: Arc<[u8]>) -> Result<ProgramId, WorkerError> {
        self.bitstream.expect(&program.architecture)?;
        self.with_worker(|worker, programs| {
            let slot = worker.load(&program, &constants)?;
            programs.push(Some(Placed {
                program: Arc::clone(&program),
                constants: Arc::clone(&constants),
                slot,
            }));
            Ok(ProgramId(programs.len() - 1))
        })
    }

    /// Takes a program off the device. No worker is started for it: one that ended has given its memory back.
    pub fn unload(&self, id: ProgramId) -> Result<(), WorkerError> {
        let mut state = self.lock();
        let placed = state.programs.get_mut(id.0).and_then(Option::take);
        let placed = placed.ok_or(WorkerError::NoProgram { number: id.0 })?;
        let unloaded = state.worker.as_mut().map_or(Ok(()), |worker| worker.unload(&placed.slot));
        unloaded.map_err(|error| state.noted(error))
    }

    /// Runs one request: `inputs` are the program's in row-major order, one behind the other, and the outputs come in the
    /// program's order. Requests of several threads run one after the other.
    pub fn run(&self, id: ProgramId, inputs: &[u8]) -> Result<Vec<Vec<u8>>, WorkerError> {
        self.execute(id, inputs, false).map(|(outputs, _)| outputs)
    }

    /// The same, and when everything ran on the device.
    pub fn profile(&self, id: ProgramId, inputs: &[u8]) -> Result<(Vec<Vec<u8>>, Profile), WorkerError> {
        self.execute(id, inputs, true).map(|(outputs, profile)| (outputs, profile.unwrap_or_default()))
    }

    fn execute(
        &self,
        id: ProgramId,
        inputs: &[u8],
        profile: bool,
    ) -> Result<(Vec<Vec<u8>>, Option<Profile>), WorkerError> {
        self.with_worker(|worker, programs| {
            let placed = programs.get(id.0).and_then(Option::as_ref);
            let placed = placed.ok_or(WorkerError::NoProgram { number: id.0 })?;
            worker.run(&placed.slot, &placed.program, inputs, profile)
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a worker do something, one that is started for it where there is none any more.
    fn with_worker<T>(
        &self,
        work: impl FnOnce(&mut DeviceWorker, &mut Vec<Option<Placed>>) -> Result<T, WorkerError>,
    ) -> Result<T, WorkerError> {
        let mut state = self.lock();
        let state = &mut *state;
        let worker = match &mut state.worker {
            Some(worker) => worker,
            None => match self.restart(state) {
                Ok(worker) => state.worker.insert(worker),
                Err(error) => return Err(state.noted(error)),
            },
        };
        work(worker, &mut state.programs).map_err(|error| state.noted(error))
    }

    /// A worker in place of one that ended, with the same programs.
    fn restart(&self, state: &mut State) -> Result<DeviceWorker, WorkerError> {
        state.lease.check()?;
        state.restarts += 1;
        let device = (&self.device, &state.lease);
        let (launcher, limits) = (&self.settings.launcher, self.settings.limits);
        let mut worker = DeviceWorker::start(launcher, limits, &self.bitstream, &self.choice, device)?;
        for placed in state.programs.iter_mut().flatten() {
            placed.slot = worker.load(&placed.program, &placed.constants)?;
        }
        tracing::info!(device = %self.device.id(), process = worker.process(), "a device has a new worker");
        Ok(worker)
    }
}

impl State {
    /// Notes what an error says of the worker, and gives it back.
    fn noted(&mut self, error: WorkerError) -> WorkerError {
        if error.is_restartable() {
            self.worker = None;
            let why = match &error {
                WorkerError::Hung { what, .. } => format!("it did not finish {what}"),
                WorkerError::Died { status, .. } => status.clone(),
                other => other.to_string(),
            };
            if let Err(unnoted) = self.lease.record_end(&why) {
                tracing::warn!(device = %self.lease.device(), error = %unnoted, "the end of a worker was not noted");
            }
        }
        error
    }
}
