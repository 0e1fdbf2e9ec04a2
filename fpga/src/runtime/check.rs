//! Whether a program fits the kernels, the device and itself. Launches that were checked here cannot name memory that
//! is not there; what kernels do inside the memory that they are given, no host can check.

use crate::{
    bitstream::{ArgumentKind, Kernel},
    program::{Argument, Program, STAGES},
};

use super::RuntimeError;

/// More launches than any model has; each costs the driver an object.
const LAUNCHES: usize = 1 << 16;
const BUFFERS: usize = 1 << 16;

/// Bounds of a device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) free: u64,
    pub(super) largest: u64,
}

/// Checks a program with `constants` bytes of constants and gives the memory that it needs.
pub(super) fn check(
    program: &Program,
    constants: u64,
    kernels: &[Kernel],
    room: Room,
) -> Result<u64, RuntimeError> {
    fits(program, constants, kernels).map_err(|reason| RuntimeError::Program { reason })?;
    let (constants, others) = program.memory();
    let needed = constants.saturating_add(others);
    let largest = program.buffers.iter().map(|buffer| buffer.bytes).max().unwrap_or_default();
    if needed > room.free || largest > room.largest {
        return Err(RuntimeError::Memory {
            needed,
            largest,
            free: room.free,
            largest_possible: room.largest,
        });
    }
    Ok(needed)
}

fn fits(program: &Program, constants: u64, kernels: &[Kernel]) -> Result<(), String> {
    if program.buffers.len() > BUFFERS || program.launches.len() > LAUNCHES {
        return Err(format!("it has more than {LAUNCHES} launches or {BUFFERS} buffers"));
    }
    let mut free = 0;
    for &(first, end) in &program.pipelines {
        if first < free || end > program.launches.len() || end < first + 2 || end > first + STAGES {
            return Err(format!("launches {first} to {end} are no pipeline of 2 to {STAGES} stages"));
        }
        free = end;
    }
    if program.launches.is_empty() || program.outputs.is_empty() {
        return Err("it launches nothing or has no output".to_owned());
    }
    for (index, buffer) in program.buffers.iter().enumerate() {
        if buffer.bytes == 0 {
            return Err(format!("buffer {index} is empty"));
        }
        if let Some(range) = buffer.constant
            && (range.bytes != buffer.bytes
                || range.offset.checked_add(range.bytes).is_none_or(|end| end > constants))
        {
            return Err(format!("the constant of buffer {index} lies outside the constants"));
        }
    }
    let buffer =
        |index: usize| program.buffers.get(index).ok_or_else(|| format!("there is no buffer {index}"));
    for port in program.inputs.iter().chain(&program.outputs) {
        if port.bytes == 0 || port.bytes > buffer(port.buffer)?.bytes {
            return Err(format!("tensor `{}` does not fit its buffer", port.name));
        }
    }
    for port in &program.inputs {
        if buffer(port.buffer)?.constant.is_some() {
            return Err(format!("input `{}` would overwrite a constant", port.name));
        }
    }
    for (index, launch) in program.launches.iter().enumerate() {
        let name = &launch.kernel;
        let kernel = kernels
            .iter()
            .find(|kernel| kernel.name == *name)
            .ok_or_else(|| format!("launch {index} wants the kernel `{name}`, which the bitstream lacks"))?;
        if launch.items == 0 {
            return Err(format!("launch {index} of `{name}` has no work items"));
        }
        if launch.arguments.len() != kernel.arguments.len() {
            let (given, taken) = (launch.arguments.len(), kernel.arguments.len());
            return Err(format!("launch {index} gives `{name}` {given} arguments, and it takes {taken}"));
        }
        for (position, (given, taken)) in launch.arguments.iter().zip(&kernel.arguments).enumerate() {
            let kind = match given {
                Argument::Buffer(index) => buffer(*index).map(|_| ArgumentKind::Buffer)?,
                Argument::I32(_) => ArgumentKind::I32,
                Argument::F32(_) => ArgumentKind::F32,
            };
            if kind != taken.kind {
                return Err(format!(
                    "launch {index} gives `{name}` a {kind:?} as argument {position}, and it takes a {:?}",
                    taken.kind
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bitstream::KernelArgument,
        program::{BufferPlan, Launch, Port, Range},
    };

    fn kernels() -> Vec<Kernel> {
        let argument = |type_name: &str, kind| KernelArgument {
            name: "x".to_owned(),
            type_name: type_name.to_owned(),
            kind,
        };
        let arguments = vec![argument("float*", ArgumentKind::Buffer), argument("int", ArgumentKind::I32)];
        vec![Kernel { name: "k".to_owned(), arguments }]
    }

    fn program() -> Program {
        let port = |buffer| Port { name: "t".to_owned(), buffer, bytes: 8 };
        Program {
            architecture: String::new(),
            buffers: vec![
                BufferPlan { bytes: 16, constant: Some(Range { offset: 0, bytes: 16 }) },
                BufferPlan { bytes: 8, constant: None },
            ],
            launches: vec![Launch {
                kernel: "k".to_owned(),
                items: 1,
                arguments: vec![Argument::Buffer(1), Argument::I32(3)],
                nodes: Vec::new(),
                operations: 0,
                bytes: 0,
            }],
            pipelines: Vec::new(),
            inputs: vec![port(1)],
            outputs: vec![port(1)],
        }
    }

    const ROOM: Room = Room { free: 32, largest: 16 };

    #[test]
    fn a_program_that_fits_says_what_it_needs() {
        assert_eq!(
            check(&program(), 16, &kernels(), ROOM),
            Ok(32),
            "what the host uses is there for two requests"
        );
    }

    #[test]
    fn a_device_that_is_too_small_says_how_much_is_missing() {
        for room in [Room { free: 31, largest: 16 }, Room { free: 32, largest: 15 }] {
            let error = check(&program(), 16, &kernels(), room).unwrap_err();
            assert!(matches!(error, RuntimeError::Memory { needed: 32, largest: 16, .. }), "{error}");
        }
    }

    #[test]
    fn whatever_does_not_fit_is_named() {
        type Change = fn(&mut Program);
        let changes: [(&str, Change); 16] = [
            ("lacks", |p| p.launches[0].kernel = "other".to_owned()),
            ("no work items", |p| p.launches[0].items = 0),
            ("it takes 2", |p| p.launches[0].arguments.truncate(1)),
            ("as argument 1", |p| p.launches[0].arguments[1] = Argument::F32(0.0)),
            ("no buffer 9", |p| p.launches[0].arguments[0] = Argument::Buffer(9)),
            ("outside the constants", |p| p.buffers[0].constant = Some(Range { offset: 1, bytes: 16 })),
            ("outside the constants", |p| {
                p.buffers[0].constant = Some(Range { offset: u64::MAX, bytes: 16 });
            }),
            ("is empty", |p| p.buffers[1].bytes = 0),
            ("does not fit its buffer", |p| p.outputs[0].bytes = 9),
            ("overwrite a constant", |p| p.inputs[0].buffer = 0),
            ("no output", |p| p.outputs.clear()),
            ("no buffer 7", |p| p.outputs[0].buffer = 7),
            ("no pipeline", |p| p.pipelines.push((0, 1))),
            ("no pipeline", |p| p.pipelines.push((0, 2))),
            ("no pipeline", |p| {
                p.launches = vec![p.launches[0].clone(); 5];
                p.pipelines.push((0, 5));
            }),
            ("no pipeline", |p| {
                p.launches = vec![p.launches[0].clone(); 5];
                p.pipelines = vec![(0, 3), (2, 4)];
            }),
        ];
        for (words, change) in changes {
            let mut program = program();
            change(&mut program);
            let error = check(&program, 16, &kernels(), ROOM).unwrap_err();
            assert!(matches!(error, RuntimeError::Program { .. }), "{words}");
            assert!(error.to_string().contains(words), "{words}: {error}");
        }
    }
}
