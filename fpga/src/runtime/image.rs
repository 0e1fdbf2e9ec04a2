//! Kernels in a driver: loaded from a binary or built from source, and compared with what the manifest says of them.

use opencl3::{
    error_codes::{
        CL_BUILD_PROGRAM_FAILURE, CL_INVALID_BINARY, CL_INVALID_BUILD_OPTIONS, CL_INVALID_DEVICE,
        CL_INVALID_KERNEL_NAME, CL_INVALID_VALUE,
    },
    kernel::{CL_KERNEL_ARG_ADDRESS_CONSTANT, CL_KERNEL_ARG_ADDRESS_GLOBAL},
    program::Program,
};

use crate::bitstream::{self, ArgumentKind, KernelArgument};

use super::{
    RuntimeError,
    opencl::{Driver, Failure},
};

/// What kernels are built with: with the names and types of their arguments, for the manifest, and without any licence to
/// change the order of sums. Where a sum is to be fused, the kernels say `fma`.
const OPTIONS: &str = "-cl-kernel-arg-info -cl-std=CL1.2 -cl-fp32-correctly-rounded-divide-sqrt";
/// The same for drivers that cannot divide exactly and refuse to be asked.
const PLAIN_OPTIONS: &str = "-cl-kernel-arg-info -cl-std=CL1.2";

/// What a binary is built with, by drivers that take it: the types of arguments are then compared.
const ARGUMENTS: &str = "-cl-kernel-arg-info";

/// The program of a binary. Its code was made before: building only links it.
pub(super) fn from_binary(driver: &Driver, binary: &[u8]) -> Result<Program, RuntimeError> {
    let refused = |failure: Failure| match failure.code {
        CL_INVALID_BINARY | CL_INVALID_VALUE | CL_INVALID_DEVICE | CL_BUILD_PROGRAM_FAILURE => {
            RuntimeError::Refused { call: failure.call.to_owned(), code: failure.code, text: failure.text() }
        }
        _ => failure.into(),
    };
    let mut program = driver.program_from_binary(binary).map_err(refused)?;
    let built = match program.build(&[driver.id()], ARGUMENTS) {
        Err(error) if error.0 == CL_INVALID_BUILD_OPTIONS => program.build(&[driver.id()], ""),
        built => built,
    };
    built.map_err(Failure::of("clBuildProgram")).map_err(refused)?;
    Ok(program)
}

/// The program of a source text.
pub(super) fn from_source(driver: &Driver, source: &str) -> Result<Program, RuntimeError> {
    let exact = opencl3::device::Device::new(driver.id())
        .single_fp_config()
        .is_ok_and(|config| config & opencl3::device::CL_FP_CORRECTLY_ROUNDED_DIVIDE_SQRT != 0);
    let mut program = driver.program_from_source(source)?;
    match program.build(&[driver.id()], if exact { OPTIONS } else { PLAIN_OPTIONS }) {
        Ok(()) => Ok(program),
        Err(error) if error.0 == CL_BUILD_PROGRAM_FAILURE => {
            let log = program.get_build_log(driver.id()).map_err(Failure::of("clGetProgramBuildInfo"))?;
            Err(RuntimeError::Build { log: log.trim().to_owned() })
        }
        Err(error) => Err(Failure::of("clBuildProgram")(error).into()),
    }
}

/// The code of a program for its device.
pub(super) fn binary(program: &Program) -> Result<Vec<u8>, RuntimeError> {
    let binaries = program.get_binaries().map_err(Failure::of("clGetProgramInfo"))?;
    let binary = binaries.into_iter().next().unwrap_or_default();
    if binary.is_empty() {
        return Err(RuntimeError::Build { log: "the driver gave no binary".to_owned() });
    }
    Ok(binary)
}

/// Names and arguments of the kernels of a program that was built from source.
pub(super) fn kernels(program: &Program) -> Result<Vec<bitstream::Kernel>, RuntimeError> {
    let names = program.get_kernel_names().map_err(Failure::of("clGetProgramInfo"))?;
    let mut names: Vec<&str> = names.split(';').filter(|name| !name.is_empty()).collect();
    names.sort_unstable();
    names
        .into_iter()
        .map(|name| {
            let kernel =
                opencl3::kernel::Kernel::create(program, name).map_err(Failure::of("clCreateKernel"))?;
            let count = kernel.num_args().map_err(Failure::of("clGetKernelInfo"))?;
            let arguments = (0..count).map(|index| argument(&kernel, name, index));
            Ok(bitstream::Kernel { name: name.to_owned(), arguments: arguments.collect::<Result<_, _>>()? })
        })
        .collect()
}

fn argument(
    kernel: &opencl3::kernel::Kernel,
    name: &str,
    index: u32,
) -> Result<KernelArgument, RuntimeError> {
    let info = Failure::of("clGetKernelArgInfo");
    let qualifier = kernel.get_arg_address_qualifier(index).map_err(&info)?;
    let type_name = plain(&kernel.get_arg_type_name(index).map_err(&info)?);
    let kind = match (qualifier, type_name.as_str()) {
        (CL_KERNEL_ARG_ADDRESS_GLOBAL | CL_KERNEL_ARG_ADDRESS_CONSTANT, _) => ArgumentKind::Buffer,
        (_, "int") => ArgumentKind::I32,
        (_, "float") => ArgumentKind::F32,
        _ => {
            let reason =
                format!("argument {index} is a `{type_name}`, and kernels take memory, `int` or `float`");
            return Err(RuntimeError::Abi { kernel: name.to_owned(), reason });
        }
    };
    Ok(KernelArgument { name: plain(&kernel.get_arg_name(index).map_err(&info)?), type_name, kind })
}

/// A text as drivers give it, without what some put behind and between.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace() && *c != '\0').collect()
}

/// Compares the kernels of a program with what the manifest says of them. Types are compared where the driver knows
/// them, which few do of a binary.
pub(super) fn check_abi(program: &Program, told: &[bitstream::Kernel]) -> Result<(), RuntimeError> {
    for kernel in told {
        let wrong = |reason: String| Err(RuntimeError::Abi { kernel: kernel.name.clone(), reason });
        let real = match opencl3::kernel::Kernel::create(program, &kernel.name) {
            Err(error) if error.0 == CL_INVALID_KERNEL_NAME => {
                return wrong("the binary has no such kernel".to_owned());
            }
            real => real.map_err(Failure::of("clCreateKernel"))?,
        };
        let count = real.num_args().map_err(Failure::of("clGetKernelInfo"))? as usize;
        if count != kernel.arguments.len() {
            return wrong(format!("it takes {count} arguments and not {}", kernel.arguments.len()));
        }
        for (index, argument) in kernel.arguments.iter().enumerate() {
            if let Ok(type_name) = real.get_arg_type_name(index as u32)
                && !plain(&type_name).is_empty()
                && plain(&type_name) != argument.type_name
            {
                let real = plain(&type_name);
                return wrong(format!(
                    "its argument {index} is a `{real}` and not a `{}`",
                    argument.type_name
                ));
            }
        }
    }
    Ok(())
}
