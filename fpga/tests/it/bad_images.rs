//! Every way in which an image can be bad although its bitstream is whole and signed by someone who is trusted. In each
//! the error says what is wrong, and neither the test's process nor the device's lease is harmed.

use moorline_fpga::{
    bitstream::{ArgumentKind, BitstreamError, Compiled, ImageTarget, KernelArgument, Parts},
    runtime::RuntimeError,
    worker::{Built, WorkerError},
};

use crate::bench::{Bench, SOURCE, built, constants, floats, parts, scale, sign};

/// Starts with something wrong, and shows that the device is free and works afterwards.
fn refused(change: impl FnOnce(&mut Parts, &Built)) -> Option<WorkerError> {
    let bench = Bench::new();
    let built = built()?;
    let mut wrong = parts(built);
    change(&mut wrong, built);
    let error = bench.start(sign(wrong)).unwrap_err();
    bench.assert_free(&built.device.id());
    let executor = bench.start(sign(parts(built))).unwrap();
    let id = executor.load(scale(0.0).into(), constants().into()).unwrap();
    assert_eq!(executor.run(id, &floats(&[1.0; 4])).unwrap(), [floats(&[1.0, 2.0, 3.0, 4.0])]);
    Some(error)
}

fn with_binary(change: impl FnOnce(&mut Vec<u8>)) -> Option<WorkerError> {
    refused(|parts, _| change(&mut parts.images[0].binary))
}

fn assert_incompatible(error: &WorkerError) {
    let WorkerError::Incompatible { expected, found, .. } = error else { panic!("{error}") };
    assert!(expected.contains("Portable Computing Language"), "{expected}");
    assert!(found.contains("Portable Computing Language"), "{found}");
    assert!(!error.is_restartable());
}

#[test]
fn an_empty_image() {
    let Some(error) = with_binary(Vec::clear) else { return };
    assert_incompatible(&error);
}

#[test]
fn junk() {
    let Some(error) = with_binary(|binary| *binary = b"no image at all, but quite long".repeat(1000)) else {
        return;
    };
    assert_incompatible(&error);
}

#[test]
fn another_vendors_image() {
    let Some(error) = with_binary(|binary| *binary = [&b"xclbin2\0"[..], &[0; 4096]].concat()) else {
        return;
    };
    assert_incompatible(&error);
}

#[test]
fn an_image_of_another_device() {
    // The hash of the device stands behind the magic number.
    let Some(error) = with_binary(|binary| binary[8] ^= 0xff) else { return };
    assert_incompatible(&error);
}

#[test]
fn half_an_image_ends_the_driver_but_not_us() {
    let Some(error) = with_binary(|binary| binary.truncate(binary.len() / 2)) else { return };
    assert!(matches!(error, WorkerError::Corrupt { .. }), "{error}");
    assert!(!error.is_restartable());
}

#[test]
fn a_flipped_payload_ends_the_driver_but_not_us() {
    let flip = |binary: &mut Vec<u8>| {
        let middle = binary.len() / 8;
        for byte in &mut binary[middle..] {
            *byte ^= 0x55;
        }
    };
    let Some(error) = with_binary(flip) else { return };
    assert!(matches!(error, WorkerError::Corrupt { .. } | WorkerError::Incompatible { .. }), "{error}");
}

#[test]
fn an_image_for_a_device_that_is_not_here() {
    let Some(error) = refused(|parts, built| {
        parts.images[0].target = ImageTarget::Device {
            platform: built.device.platform.clone(),
            driver: "0.0".to_owned(),
            device: built.device.name.clone(),
        };
    }) else {
        return;
    };
    let WorkerError::Bitstream(error @ BitstreamError::NoImage { .. }) = error else { panic!("{error}") };
    assert!(error.to_string().contains("driver `0.0`"), "{error}");
}

#[test]
fn a_manifest_that_lies_about_the_number_of_arguments() {
    let Some(error) = refused(|parts, _| {
        let scale = parts.kernels.iter_mut().find(|kernel| kernel.name == "hang").unwrap();
        scale.arguments.push(KernelArgument {
            name: "more".to_owned(),
            type_name: "int".to_owned(),
            kind: ArgumentKind::I32,
        });
    }) else {
        return;
    };
    let WorkerError::Refused(RuntimeError::Abi { kernel, reason }) = error else { panic!("{error}") };
    assert_eq!((kernel.as_str(), reason.as_str()), ("hang", "it takes 1 arguments and not 2"));
}

#[test]
fn a_manifest_that_lies_about_a_type() {
    let Some(error) = refused(|parts, _| {
        let crash = parts.kernels.iter_mut().find(|kernel| kernel.name == "crash").unwrap();
        crash.arguments[1] =
            KernelArgument { name: "far".to_owned(), type_name: "float".to_owned(), kind: ArgumentKind::F32 };
    }) else {
        return;
    };
    assert!(matches!(error, WorkerError::Refused(RuntimeError::Abi { .. })), "{error}");
}

#[test]
fn a_manifest_that_names_a_kernel_which_is_not_there() {
    let Some(error) = refused(|parts, _| parts.kernels[0].name = "invented".to_owned()) else { return };
    let WorkerError::Refused(RuntimeError::Abi { kernel, .. }) = error else { panic!("{error}") };
    assert_eq!(kernel, "invented");
}

#[test]
fn a_device_that_computes_something_else() {
    let Some(error) = refused(|parts, _| parts.golden[0].outputs = vec![floats(&[1.5, 20.5, 300.5, 4000.0])])
    else {
        return;
    };
    let WorkerError::Refused(RuntimeError::Golden { name, output: 0, .. }) = error else { panic!("{error}") };
    assert_eq!(name, "scale");
}

#[test]
fn a_golden_test_that_ends_the_process_is_the_images_fault() {
    let Some(error) = refused(|parts, _| parts.golden[0].program = crate::bench::crash(i32::MAX)) else {
        return;
    };
    assert!(matches!(error, WorkerError::Corrupt { .. }), "{error}");
}

#[test]
fn only_who_allows_it_has_kernels_built_from_source() {
    let Some(built) = built() else { return };
    let bench = Bench::new();
    let mut parts = parts(built);
    parts.source = Some(SOURCE.to_owned());
    parts.images = vec![Compiled {
        target: ImageTarget::Board {
            platform: "Xilinx".to_owned(),
            board: "u250".to_owned(),
            interface_uuid: "0".to_owned(),
        },
        ..parts.images.remove(0)
    }];
    let bitstream = sign(parts);
    let error = bench.start(bitstream.clone()).unwrap_err();
    assert!(matches!(error, WorkerError::Bitstream(BitstreamError::NoImage { .. })), "{error}");
    let mut settings = bench.settings();
    settings.rebuild = true;
    let executor = moorline_fpga::worker::Executor::start(settings, bitstream).unwrap();
    let id = executor.load(scale(0.0).into(), constants().into()).unwrap();
    assert_eq!(executor.run(id, &floats(&[1.0; 4])).unwrap(), [floats(&[1.0, 2.0, 3.0, 4.0])]);
}
