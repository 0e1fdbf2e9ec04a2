//! What discovery tells.

use std::collections::BTreeMap;

use moorline_fpga::{
    bitstream::{ArgumentKind, DeviceClass},
    runtime::RuntimeError,
    worker::{Limits, WorkerError, build, discover},
};

use crate::bench::{built, launcher, pocl};

#[test]
fn pocl_is_found_and_called_emulation() {
    let Some(built) = built() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let devices = discover(&launcher(scratch.path().to_owned()), &Limits::default()).unwrap();
    let device = devices.iter().find(|device| pocl().admits(device)).unwrap();
    assert_eq!(*device, built.device);
    assert_eq!((device.class, device.kind.as_str()), (DeviceClass::Emulation, "CPU"));
    assert!(device.memory >= device.largest_buffer && device.largest_buffer > 0 && device.units > 0);
    assert_eq!(fs_err::read_dir(scratch.path()).unwrap().count(), 0, "workers leave nothing behind");
}

#[test]
fn no_driver_is_no_device_and_no_error() {
    if built().is_none() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let mut launcher = launcher(scratch.path().to_owned());
    launcher.environment.insert("OCL_ICD_VENDORS".to_owned(), scratch.path().display().to_string());
    assert_eq!(discover(&launcher, &Limits::default()).unwrap(), []);
    let error = build(&launcher, &Limits::default(), &pocl(), "").unwrap_err();
    assert!(matches!(&error, WorkerError::NoDevice { found, .. } if found == "none"), "{error}");
}

#[test]
fn no_opencl_at_all_says_what_to_install() {
    let scratch = tempfile::tempdir().unwrap();
    let mut launcher = launcher(scratch.path().to_owned());
    // The loader is found, but is none.
    fs_err::write(scratch.path().join("libOpenCL.so.1"), [0; 4096]).unwrap();
    let folder = scratch.path().display().to_string();
    launcher.environment = BTreeMap::from([("LD_LIBRARY_PATH".to_owned(), folder)]);
    let error = discover(&launcher, &Limits::default()).unwrap_err();
    assert!(matches!(error, WorkerError::Refused(RuntimeError::NoOpenCl)), "{error}");
}

#[test]
fn a_build_tells_the_kernels_arguments_and_its_mistakes() {
    let Some(built) = built() else { return };
    let names: Vec<&str> = built.kernels.iter().map(|kernel| kernel.name.as_str()).collect();
    assert_eq!(names, ["crash", "hang", "scale"]);
    let told: Vec<(&str, &str, ArgumentKind)> = built.kernels[2]
        .arguments
        .iter()
        .map(|argument| (argument.name.as_str(), argument.type_name.as_str(), argument.kind))
        .collect();
    let buffer = ArgumentKind::Buffer;
    let expected = [
        ("in", "float*", buffer),
        ("by", "float*", buffer),
        ("out", "float*", buffer),
        ("n", "int", ArgumentKind::I32),
        ("plus", "float", ArgumentKind::F32),
    ];
    assert_eq!(told, expected);

    let scratch = tempfile::tempdir().unwrap();
    let launcher = launcher(scratch.path().to_owned());
    let error = build(&launcher, &Limits::default(), &pocl(), "kernel void f(int x { }").unwrap_err();
    assert!(matches!(error, WorkerError::Refused(RuntimeError::Build { .. })), "{error}");
    let error = build(&launcher, &Limits::default(), &pocl(), "kernel void f(double x) { }").unwrap_err();
    assert!(matches!(error, WorkerError::Refused(RuntimeError::Abi { .. })), "{error}");
}
