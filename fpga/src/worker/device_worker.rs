//! One worker on one device: from the image to the golden test, and the requests of many threads.

use std::{collections::BTreeMap, sync::OnceLock, time::Duration};

use moorline_core::Digest;

use crate::{
    bitstream::{Bitstream, BitstreamError, DeviceClass, File, Golden, Image},
    device::Device,
    lease::Lease,
    program::Program,
    runtime::{Profile, RuntimeError},
};

use super::{
    Limits, WorkerError,
    line::{Call, LineError},
    process::{Launcher, Process, Silence},
    unsent,
    wire::{Reply, Request},
};

/// What a device is loaded with.
#[derive(Clone, Debug)]
pub(super) enum Choice {
    Image(Image),
    /// The text of the kernels, where no image is for this device.
    Source(File),
}

impl Choice {
    /// The image for a device; for emulation its source instead, where the user allows it and the bitstream has it.
    pub(super) fn of(bitstream: &Bitstream, device: &Device, rebuild: bool) -> Result<Self, BitstreamError> {
        let manifest = bitstream.manifest();
        let may_build = rebuild && device.class == DeviceClass::Emulation;
        match (manifest.image_for(device), &manifest.source) {
            (Ok(image), _) => Ok(Self::Image(image.clone())),
            (Err(_), Some(source)) if may_build => Ok(Self::Source(source.clone())),
            (Err(error), _) => Err(error),
        }
    }
}

/// Why a worker did not do what it was asked, before it is known whose fault that is.
enum Trouble {
    Refused(RuntimeError),
    Silent { what: String, limit: Duration, silence: Silence },
    Strange(String),
}

impl From<RuntimeError> for Trouble {
    fn from(error: RuntimeError) -> Self {
        Self::Refused(error)
    }
}

fn strange(reply: &Reply) -> Trouble {
    Trouble::Strange(format!("it answered with {reply:?}"))
}

impl From<Trouble> for WorkerError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Refused(error) => Self::Refused(error),
            Trouble::Strange(reason) => Self::Protocol { reason },
            Trouble::Silent { what, limit, silence } => match silence {
                Silence::Unsent => unsent(),
                Silence::Ended(end) => Self::Died { status: end.status, output: end.output },
                Silence::Late { .. } => Self::Hung { what, limit },
                Silence::Garbage(reason) => Self::Protocol { reason },
            },
        }
    }
}

/// How a request is run.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct How {
    /// With nothing else on the device.
    pub(super) alone: bool,
    pub(super) profile: bool,
}

/// What came of a request.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) outputs: Vec<Vec<u8>>,
    /// From the start of its first launch to the end of the last one, in nanoseconds of the device's clock.
    pub(super) busy: (u64, u64),
    pub(super) profile: Option<Profile>,
}

/// A worker whose device has passed the golden tests.
#[derive(Debug)]
pub(super) struct DeviceWorker {
    process: Process,
    limits: Limits,
    fall: OnceLock<Fall>,
}

/// Why a worker is there no more.
#[derive(Clone, Debug)]
pub(super) struct Fall {
    pub(super) reason: Reason,
    /// The same for people, with what it was doing.
    pub(super) text: String,
}

/// The ways in which a worker ends that was not told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    Died,
    Hung,
    Protocol,
}

impl Reason {
    /// As a label.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Died => "died",
            Self::Hung => "hung",
            Self::Protocol => "protocol",
        }
    }
}

/// A program in a worker.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    id: u32,
    /// The bytes of each output.
    outputs: Vec<usize>,
}

impl DeviceWorker {
    /// Starts a worker, loads the kernels into its device and has it pass the golden tests.
    pub(super) fn start(
        launcher: &Launcher,
        limits: Limits,
        bitstream: &Bitstream,
        choice: &Choice,
        (device, lease): (&Device, &Lease),
    ) -> Result<Self, WorkerError> {
        let manifest = bitstream.manifest();
        let (content, variables, from_source) = match choice {
            Choice::Image(image) => (&image.binary, image.env.clone(), false),
            Choice::Source(source) => (source, BTreeMap::new(), true),
        };
        let process = Process::start(launcher, &variables, Some(lease))?;
        let worker = Self { process, limits, fall: OnceLock::new() };
        let request = Request::Open {
            device: device.id(),
            told_to_emulate: launcher.told_to_emulate(),
            from_source,
            kernels: manifest.kernels.clone(),
        };
        let ready = worker
            .open(&request, &bitstream.content(content))
            .and_then(|()| manifest.golden.iter().try_for_each(|golden| worker.golden(bitstream, golden)));
        // Whatever breaks down from the image to the last golden test broke down over the image.
        match ready {
            Ok(()) => Ok(worker),
            Err(Trouble::Silent { silence: Silence::Ended(end), .. }) if end.broke_down => {
                let file = content.file.clone();
                Err(WorkerError::Corrupt { file, status: end.status, output: end.output })
            }
            Err(Trouble::Refused(source @ RuntimeError::Refused { .. })) => Err(WorkerError::Incompatible {
                file: content.file.clone(),
                expected: match choice {
                    Choice::Image(image) => image.target.to_string(),
                    Choice::Source(_) => "any device".to_owned(),
                },
                found: format!("{} (driver `{}`)", device.id(), device.driver),
                source: Box::new(source),
            }),
            Err(trouble) => Err(trouble.into()),
        }
    }

    /// Why it has ended, if it has.
    pub(super) fn fall(&self) -> Option<&Fall> {
        self.fall.get()
    }

    /// What an error of the line says of the process, which is over then; remembered with what it was doing.
    fn silence(&self, error: LineError, program: Option<&Program>, what: &str) -> Silence {
        let silence = self.process.silence(error);
        let (reason, text) = match &silence {
            Silence::Unsent => (Reason::Died, unsent().to_string()),
            Silence::Ended(end) => (Reason::Died, end.status.clone()),
            Silence::Late { launch } => {
                let named = program.zip(*launch).map(|(program, at)| launch_name(program, at));
                (Reason::Hung, format!("it did not finish {}", named.as_deref().unwrap_or(what)))
            }
            Silence::Garbage(reason) => (Reason::Protocol, format!("it broke the protocol: {reason}")),
        };
        self.fall.get_or_init(|| Fall { reason, text });
        silence
    }

    /// The process, for people.
    pub(super) fn process(&self) -> u32 {
        self.process.id()
    }

    fn open(&self, request: &Request, image: &[u8]) -> Result<(), Trouble> {
        match self.ask(request, image, "loading the kernels", self.limits.start)? {
            (Reply::Opened(_), _) => Ok(()),
            (reply, _) => Err(strange(&reply)),
        }
    }

    fn golden(&self, bitstream: &Bitstream, golden: &Golden) -> Result<(), Trouble> {
        let program: Program =
            serde_json::from_slice(&bitstream.content(&golden.program)).map_err(|error| {
                let reason =
                    format!("the golden test `{}` has no program that can be read: {error}", golden.name);
                RuntimeError::Program { reason }
            })?;
        if program.outputs.len() != golden.outputs.len() {
            let reason = format!("the golden test `{}` expects another number of outputs", golden.name);
            return Err(RuntimeError::Program { reason }.into());
        }
        let slot = self.place(&program, &bitstream.content(&golden.constants))?;
        let ran = self.execute(&slot, &program, &bitstream.content(&golden.inputs), How::default())?;
        for (output, (bytes, expected)) in ran.outputs.iter().zip(&golden.outputs).enumerate() {
            let (found, expected) = (Digest::of(bytes), *expected);
            if found != expected {
                let name = golden.name.clone();
                return Err(RuntimeError::Golden { name, output, expected, found }.into());
            }
        }
        match self.ask(&Request::Unload { id: slot.id }, &[], "a golden test", self.limits.request)? {
            (Reply::Unloaded, _) => Ok(()),
            (reply, _) => Err(strange(&reply)),
        }
    }

    /// Places a program on the device.
    pub(super) fn load(&self, program: &Program, constants: &[u8]) -> Result<Slot, WorkerError> {
        Ok(self.place(program, constants)?)
    }

    /// Gives a program's memory back.
    pub(super) fn unload(&self, slot: &Slot) -> Result<(), WorkerError> {
        match self.ask(&Request::Unload { id: slot.id }, &[], "giving memory back", self.limits.request)? {
            (Reply::Unloaded, _) => Ok(()),
            (reply, _) => Err(strange(&reply).into()),
        }
    }

    /// Runs one request; the inputs are the program's, one behind the other. Nothing comes of it where the worker had
    /// ended before it was sent.
    pub(super) fn run(
        &self,
        slot: &Slot,
        program: &Program,
        inputs: &[u8],
        how: How,
    ) -> Result<Option<Ran>, WorkerError> {
        match self.execute(slot, program, inputs, how) {
            Err(Trouble::Silent { silence: Silence::Unsent, .. }) => Ok(None),
            ran => Ok(Some(ran?)),
        }
    }

    fn place(&self, program: &Program, constants: &[u8]) -> Result<Slot, Trouble> {
        let request = Request::Load { program: program.clone() };
        match self.ask(&request, constants, "loading the program", self.limits.start)? {
            (Reply::Loaded { id }, _) => {
                let outputs = program.outputs.iter().map(|port| port.bytes as usize).collect();
                Ok(Slot { id, outputs })
            }
            (reply, _) => Err(strange(&reply)),
        }
    }

    fn execute(&self, slot: &Slot, program: &Program, inputs: &[u8], how: How) -> Result<Ran, Trouble> {
        let wanted: u64 = program.inputs.iter().map(|port| port.bytes).sum();
        if inputs.len() as u64 != wanted {
            let reason = format!("they have {} bytes, and it takes {wanted}", inputs.len());
            return Err(RuntimeError::Input { reason }.into());
        }
        let (launch_limit, limit) = (self.limits.launch, self.limits.request);
        let answer = self.process.line.call(
            Call { limit, most: 0, alone: how.alone },
            |channel, shared, set| {
                shared.write(set, 0, inputs)?;
                channel.send(&Request::Run { id: slot.id, set, profile: how.profile, launch_limit }, &[])
            },
            |shared, set, (reply, _)| {
                let Reply::Ran { busy, profile } = reply else { return Ok(Err(strange(&reply))) };
                let mut at = wanted;
                let mut outputs = Vec::with_capacity(slot.outputs.len());
                for length in &slot.outputs {
                    let mut output = vec![0; *length];
                    shared.read(set, at, &mut output)?;
                    at += *length as u64;
                    outputs.push(output);
                }
                Ok(Ok(Ran { outputs, busy, profile }))
            },
            |error| self.silence(error, Some(program), REQUEST),
        );
        match answer {
            Ok(ran) => ran?,
            Err(silence) => {
                let (what, limit) = match silence {
                    Silence::Late { launch: Some(at) } => (launch_name(program, at), launch_limit),
                    _ => (REQUEST.to_owned(), limit),
                };
                Err(Trouble::Silent { what, limit, silence })
            }
        }
    }

    fn ask(
        &self,
        request: &Request,
        bytes: &[u8],
        what: &str,
        limit: Duration,
    ) -> Result<(Reply, Vec<u8>), Trouble> {
        let answer = self.process.line.call(
            Call { limit, most: 0, alone: false },
            |channel, _, _| channel.send(request, bytes),
            |_, _, answer| Ok(answer),
            |error| self.silence(error, None, what),
        );
        match answer {
            Ok(answer) => Ok(answer?),
            Err(silence) => Err(Trouble::Silent { what: what.to_owned(), limit, silence }),
        }
    }
}

const REQUEST: &str = "a request";

/// A launch for people, with the nodes of the model that it is for.
fn launch_name(program: &Program, at: usize) -> String {
    match program.launches.get(at) {
        Some(launch) if launch.nodes.is_empty() => format!("launch {at} (kernel `{}`)", launch.kernel),
        Some(launch) => format!("launch {at} (kernel `{}`, for {})", launch.kernel, launch.nodes.join(", ")),
        None => format!("launch {at}"),
    }
}
