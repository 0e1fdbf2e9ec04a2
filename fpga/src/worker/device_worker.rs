//! One worker on one device: from the image to the golden test, and one request after the other.

use std::{collections::BTreeMap, time::Duration};

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
    process::{Launcher, Process, Silence},
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
                Silence::Ended(end) => Self::Died { status: end.status, output: end.output },
                Silence::Late { .. } => Self::Hung { what, limit },
                Silence::Garbage(reason) => Self::Protocol { reason },
            },
        }
    }
}

/// A worker whose device has passed the golden tests.
#[derive(Debug)]
pub(super) struct DeviceWorker {
    process: Process,
    limits: Limits,
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
        let mut worker = Self { process, limits };
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

    /// The process, for people.
    pub(super) fn process(&self) -> u32 {
        self.process.id()
    }

    fn open(&mut self, request: &Request, image: &[u8]) -> Result<(), Trouble> {
        match self.ask(request, image, 0, "loading the kernels", self.limits.start)? {
            (Reply::Opened(_), _) => Ok(()),
            (reply, _) => Err(strange(&reply)),
        }
    }

    fn golden(&mut self, bitstream: &Bitstream, golden: &Golden) -> Result<(), Trouble> {
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
        let (outputs, _) = self.execute(&slot, &program, &bitstream.content(&golden.inputs), false)?;
        for (output, (bytes, expected)) in outputs.iter().zip(&golden.outputs).enumerate() {
            let (found, expected) = (Digest::of(bytes), *expected);
            if found != expected {
                let name = golden.name.clone();
                return Err(RuntimeError::Golden { name, output, expected, found }.into());
            }
        }
        match self.ask(&Request::Unload { id: slot.id }, &[], 0, "a golden test", self.limits.request)? {
            (Reply::Unloaded, _) => Ok(()),
            (reply, _) => Err(strange(&reply)),
        }
    }

    /// Places a program on the device.
    pub(super) fn load(&mut self, program: &Program, constants: &[u8]) -> Result<Slot, WorkerError> {
        Ok(self.place(program, constants)?)
    }

    /// Gives a program's memory back.
    pub(super) fn unload(&mut self, slot: &Slot) -> Result<(), WorkerError> {
        match self.ask(&Request::Unload { id: slot.id }, &[], 0, "giving memory back", self.limits.request)? {
            (Reply::Unloaded, _) => Ok(()),
            (reply, _) => Err(strange(&reply).into()),
        }
    }

    /// Runs one request; the inputs are the program's, one behind the other.
    pub(super) fn run(
        &mut self,
        slot: &Slot,
        program: &Program,
        inputs: &[u8],
        profile: bool,
    ) -> Result<(Vec<Vec<u8>>, Option<Profile>), WorkerError> {
        Ok(self.execute(slot, program, inputs, profile)?)
    }

    fn place(&mut self, program: &Program, constants: &[u8]) -> Result<Slot, Trouble> {
        let request = Request::Load { program: program.clone() };
        match self.ask(&request, constants, 0, "loading the program", self.limits.start)? {
            (Reply::Loaded { id }, _) => {
                let outputs = program.outputs.iter().map(|port| port.bytes as usize).collect();
                Ok(Slot { id, outputs })
            }
            (reply, _) => Err(strange(&reply)),
        }
    }

    fn execute(
        &mut self,
        slot: &Slot,
        program: &Program,
        inputs: &[u8],
        profile: bool,
    ) -> Result<(Vec<Vec<u8>>, Option<Profile>), Trouble> {
        let launch_limit = self.limits.launch;
        let request = Request::Run { id: slot.id, profile, launch_limit };
        let most = slot.outputs.iter().sum::<usize>();
        let asked = self.ask(&request, inputs, most as u64, "a request", self.limits.request);
        let (reply, bytes) = asked.map_err(|trouble| name_launch(trouble, program, launch_limit))?;
        let Reply::Ran(spans) = reply else { return Err(strange(&reply)) };
        if bytes.len() != most {
            return Err(Trouble::Strange(format!("it gave {} bytes of outputs and not {most}", bytes.len())));
        }
        let mut rest = &bytes[..];
        let outputs = slot.outputs.iter().map(|length| {
            let (output, behind) = rest.split_at(*length);
            rest = behind;
            output.to_vec()
        });
        Ok((outputs.collect(), spans))
    }

    fn ask(
        &mut self,
        request: &Request,
        bytes: &[u8],
        most: u64,
        what: &str,
        limit: Duration,
    ) -> Result<(Reply, Vec<u8>), Trouble> {
        match self.process.ask(request, bytes, most, limit) {
            Ok(answer) => Ok(answer?),
            Err(silence) => Err(Trouble::Silent { what: what.to_owned(), limit, silence }),
        }
    }
}

/// Says which launch did not end, and for which nodes of the model.
fn name_launch(trouble: Trouble, program: &Program, limit: Duration) -> Trouble {
    let Trouble::Silent { silence: Silence::Late { launch: Some(at) }, .. } = trouble else { return trouble };
    let what = match program.launches.get(at) {
        Some(launch) if launch.nodes.is_empty() => format!("launch {at} (kernel `{}`)", launch.kernel),
        Some(launch) => format!("launch {at} (kernel `{}`, for {})", launch.kernel, launch.nodes.join(", ")),
        None => format!("launch {at}"),
    };
    Trouble::Silent { what, limit, silence: Silence::Late { launch: Some(at) } }
}
