//! A leased device that outlives its workers: whoever has it loads programs and runs requests. A worker that died or hung
//! costs its requests the time to run them again, and if it was the device's fault, on another one.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    bitstream::{Bitstream, DeviceClass},
    device::{Device, DeviceFilter, DeviceId, names},
    lease::{Lease, Leases, Quarantine},
    metrics::Metrics,
    program::Program,
    runtime::Profile,
};

use super::{
    Limits, WorkerError,
    device_worker::{Choice, DeviceWorker, How, Ran, Reason, Slot},
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
    /// All that the settings admit.
    candidates: Vec<Device>,
    state: Mutex<State>,
    metrics: Option<Arc<Metrics>>,
}

#[derive(Debug)]
struct State {
    held: Held,
    programs: Vec<Option<Placed>>,
    restarts: u64,
    /// Devices that were tried in place of another one, and did not get ready.
    unfit: Vec<DeviceId>,
}

/// A device with its lease, and the worker on it.
#[derive(Debug)]
struct Held {
    device: Arc<Device>,
    choice: Choice,
    /// Dropped before the lease.
    worker: Option<Arc<DeviceWorker>>,
    lease: Lease,
    /// How its last worker ended.
    ended: Option<Reason>,
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
        let (candidates, others): (Vec<Device>, Vec<Device>) =
            devices.into_iter().partition(|device| settings.device.admits(device));
        let mut reason = None;
        for device in &candidates {
            match Held::take(&settings, &bitstream, device) {
                Ok(mut held) => {
                    held.start(&settings, &bitstream)?;
                    let state = State { held, programs: Vec::new(), restarts: 0, unfit: Vec::new() };
                    let state = Mutex::new(state);
                    return Ok(Self { settings, bitstream, candidates, state, metrics: None });
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
            found: names(others.iter()),
        }))
    }

    /// What happens is counted there from now on.
    pub fn observed(mut self, metrics: Arc<Metrics>) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// Where what happens is counted.
    pub(crate) fn metrics(&self) -> Option<&Metrics> {
        self.metrics.as_deref()
    }

    /// The device that requests run on. Another one takes its place when its worker has ended.
    pub fn device(&self) -> Arc<Device> {
        Arc::clone(&self.lock().held.device)
    }

    pub fn bitstream(&self) -> &Bitstream {
        &self.bitstream
    }

    /// The generation of the device's lease.
    pub fn generation(&self) -> u64 {
        self.lock().held.lease.generation()
    }

    /// How often a worker was started anew.
    pub fn restarts(&self) -> u64 {
        self.lock().restarts
    }

    /// The process that has the device now.
    pub fn process(&self) -> Option<u32> {
        self.lock().held.worker.as_ref().map(|worker| worker.process())
    }

    /// Places a program on the device, where it stays.
    pub fn load(&self, program: Arc<Program>, constants: Arc<[u8]>) -> Result<ProgramId, WorkerError> {
        self.bitstream.expect(&program.architecture)?;
        let mut state = self.lock();
        let worker = self.worker(&mut state)?;
        let slot = worker.load(&program, &constants).inspect_err(|_| state.held.look_after())?;
        self.count_upload(&state.held, constants.len());
        state.programs.push(Some(Placed { program, constants, slot }));
        Ok(ProgramId(state.programs.len() - 1))
    }

    /// A program that is on the device.
    pub(crate) fn program(&self, id: ProgramId) -> Option<Arc<Program>> {
        self.lock().programs.get(id.0)?.as_ref().map(|placed| Arc::clone(&placed.program))
    }

    /// Takes a program off the device. No worker is started for it: one that ended has given its memory back.
    pub fn unload(&self, id: ProgramId) -> Result<(), WorkerError> {
        let mut state = self.lock();
        let placed = state.programs.get_mut(id.0).and_then(Option::take);
        let placed = placed.ok_or(WorkerError::NoProgram { number: id.0 })?;
        let unloaded = state.held.worker.as_ref().map_or(Ok(()), |worker| worker.unload(&placed.slot));
        unloaded.inspect_err(|_| state.held.look_after())
    }

    /// Runs one request: `inputs` are the program's in row-major order, one behind the other, and the outputs come in the
    /// program's order. Requests of several threads compute one after the other, while the transfers of others pass.
    ///
    /// A worker that ends takes nothing with it: its requests are run once more, on another device or on the same one
    /// with a new worker. Then each has the device for itself, so that it is known which request ended a second worker.
    pub fn run(&self, id: ProgramId, inputs: &[u8]) -> Result<Vec<Vec<u8>>, WorkerError> {
        self.execute(id, inputs, false).map(|ran| ran.outputs)
    }

    /// The same, and when everything ran on the device.
    pub fn profile(&self, id: ProgramId, inputs: &[u8]) -> Result<(Vec<Vec<u8>>, Profile), WorkerError> {
        self.execute(id, inputs, true).map(|ran| (ran.outputs, ran.profile.unwrap_or_default()))
    }

    fn execute(&self, id: ProgramId, inputs: &[u8], profile: bool) -> Result<Ran, WorkerError> {
        let sampled = profile || self.metrics().is_some_and(Metrics::samples);
        let mut how = How { alone: false, profile: sampled };
        loop {
            let (worker, class, placed) = {
                let mut state = self.lock();
                let worker = self.worker(&mut state)?;
                let placed = state.programs.get(id.0).and_then(Option::as_ref);
                let placed = placed.ok_or(WorkerError::NoProgram { number: id.0 })?.clone();
                (worker, state.held.device.class, placed)
            };
            match worker.run(&placed.slot, &placed.program, inputs, how) {
                Err(error) if error.is_restartable() => {
                    if how.alone {
                        self.lock().held.look_after();
                        return Err(WorkerError::Twice { last: Box::new(error) });
                    }
                    tracing::warn!(%error, "a request is run once more");
                    how.alone = true;
                }
                Ok(Some(ran)) => {
                    self.count(class, &placed.program, inputs.len(), &ran);
                    return Ok(ran);
                }
                // Others found out that it has ended.
                Ok(None) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn count(&self, class: DeviceClass, program: &Program, inputs: usize, ran: &Ran) {
        let Some(metrics) = self.metrics() else { return };
        let outputs: usize = ran.outputs.iter().map(Vec::len).sum();
        metrics.record_transfers(class, inputs as u64, outputs as u64);
        metrics.record_busy(class, Duration::from_nanos(ran.busy.1.saturating_sub(ran.busy.0)));
        if let Some(profile) = &ran.profile {
            metrics.record_kernels(class, program, profile);
        }
    }

    fn count_upload(&self, held: &Held, bytes: usize) {
        if let Some(metrics) = self.metrics() {
            metrics.record_transfers(held.device.class, bytes as u64, 0);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The worker, or one in place of it if it has ended.
    fn worker(&self, state: &mut State) -> Result<Arc<DeviceWorker>, WorkerError> {
        state.held.look_after();
        if let Some(worker) = &state.held.worker {
            return Ok(Arc::clone(worker));
        }
        let (class, ended) = (state.held.device.class, state.held.ended);
        let worker =
            self.replace(state).map_err(|error| WorkerError::NoneLeft { source: Box::new(error) })?;
        state.restarts += 1;
        if let (Some(metrics), Some(reason)) = (self.metrics(), ended) {
            metrics.record_restart(class, reason);
        }
        let constants = state.programs.iter().flatten().map(|placed| placed.constants.len());
        self.count_upload(&state.held, constants.sum());
        Ok(worker)
    }

    /// A worker in place of one that ended, with the same programs: on another device, if one can be had, because it may
    /// have been the device's fault.
    fn replace(&self, state: &mut State) -> Result<Arc<DeviceWorker>, WorkerError> {
        for device in &self.candidates {
            let id = device.id();
            if id == state.held.device.id() || state.unfit.contains(&id) {
                continue;
            }
            let Ok(mut held) = Held::take(&self.settings, &self.bitstream, device) else { continue };
            match held.start_with(&self.settings, &self.bitstream, &mut state.programs) {
                Ok(worker) => {
                    tracing::warn!(from = %state.held.device.id(), to = %id, "another device takes over");
                    state.held = held;
                    return Ok(worker);
                }
                Err(error) => {
                    tracing::warn!(device = %id, %error, "a device did not get ready to take over");
                    state.unfit.push(id);
                }
            }
        }
        state.held.lease.check()?;
        let worker = state.held.start_with(&self.settings, &self.bitstream, &mut state.programs)?;
        let device = state.held.device.id();
        tracing::info!(%device, process = worker.process(), "a device has a new worker");
        Ok(worker)
    }
}

impl Held {
    /// Leases a device, if the bitstream is for it and nobody has it.
    fn take(
        settings: &ExecutorSettings,
        bitstream: &Bitstream,
        device: &Device,
    ) -> Result<Self, WorkerError> {
        let choice = Choice::of(bitstream, device, settings.rebuild)?;
        let lease = settings.leases.acquire(&device.id(), &settings.holder, settings.quarantine)?;
        Ok(Self { device: Arc::new(device.clone()), choice, worker: None, lease, ended: None })
    }

    fn start(
        &mut self,
        settings: &ExecutorSettings,
        bitstream: &Bitstream,
    ) -> Result<Arc<DeviceWorker>, WorkerError> {
        let device = (&*self.device, &self.lease);
        let worker =
            DeviceWorker::start(&settings.launcher, settings.limits, bitstream, &self.choice, device)
                .inspect_err(|error| {
                    if error.is_restartable() {
                        note(&mut self.lease, &error.to_string());
                    }
                })?;
        Ok(Arc::clone(self.worker.insert(Arc::new(worker))))
    }

    /// The same, and places all programs.
    fn start_with(
        &mut self,
        settings: &ExecutorSettings,
        bitstream: &Bitstream,
        programs: &mut [Option<Placed>],
    ) -> Result<Arc<DeviceWorker>, WorkerError> {
        let worker = self.start(settings, bitstream)?;
        let mut slots = Vec::with_capacity(programs.len());
        for placed in programs.iter().flatten() {
            let slot = worker.load(&placed.program, &placed.constants);
            slots.push(slot.inspect_err(|_| {
                self.look_after();
                // One without all programs is of no use.
                self.worker = None;
            })?);
        }
        for (placed, slot) in programs.iter_mut().flatten().zip(slots) {
            placed.slot = slot;
        }
        Ok(worker)
    }

    /// Lets go of a worker that has ended, and notes it.
    fn look_after(&mut self) {
        let Some(fall) = self.worker.as_ref().and_then(|worker| worker.fall()).cloned() else { return };
        self.worker = None;
        self.ended = Some(fall.reason);
        note(&mut self.lease, &fall.text);
    }
}

/// Remembers with the device that a worker ended on it.
fn note(lease: &mut Lease, why: &str) {
    if let Err(error) = lease.record_end(why) {
        tracing::warn!(device = %lease.device(), %error, "the end of a worker was not noted");
    }
}
