//! The kernels of this repository on every emulated device that there is: their golden tests pass, and would not if a
//! kernel were wrong. `OCL_ICD_VENDORS` adds devices, as those of Intel's emulator.

use std::time::Duration;

use moorline_fpga::{
    bitstream::DeviceClass,
    conv16,
    device::DeviceFilter,
    lower,
    runtime::RuntimeError,
    worker::{Executor, Limits, WorkerError, build, discover},
};

use crate::bench::{Bench, built, launcher, sign};

#[test]
fn our_kernels_compute_what_the_formulas_say() {
    if built().is_none() {
        return;
    }
    let mut bench = Bench::new();
    // All kernels, some of them on a busy machine.
    bench.limits.start = Duration::from_mins(10);
    let launcher = launcher(bench.folder.path().join("build"));
    for device in discover(&launcher, &bench.limits).unwrap() {
        if device.class != DeviceClass::Emulation || device.kind == "GPU" {
            continue;
        }
        let mut settings = bench.settings();
        settings.device = DeviceFilter {
            platform: Some(device.platform.clone()),
            name: Some(device.name.clone()),
            index: Some(device.index),
            class: None,
        };
        // Compilers are slower than devices.
        let limits = Limits { start: Duration::from_mins(10), ..bench.limits };
        let build = |source: &str| build(&launcher, &limits, &settings.device, source).unwrap();
        let source = lower::source_on(&device.platform);
        let right = build(&source);
        let parts = conv16::parts(right.clone(), source.clone()).unwrap();
        assert!(parts.golden.len() >= 2 && parts.source.is_some());
        Executor::start(settings.clone(), sign(parts)).unwrap();

        // The text that every device takes, without what this processor has an instruction for.
        let portable = lower::source();
        if portable != source {
            let built = build(&portable);
            assert_eq!(built.kernels, right.kernels);
            Executor::start(settings.clone(), sign(conv16::parts(built, portable).unwrap())).unwrap();
        }

        // The same with one kernel that clips at the wrong bound.
        let wrong = source.replace("r = r < low ? low : r", "r = r <= low ? low + 0.0625f : r");
        assert_ne!(wrong, source);
        let wrong = build(&wrong);
        assert_eq!(wrong.kernels, right.kernels);
        let error = Executor::start(settings, sign(conv16::parts(wrong, source).unwrap())).unwrap_err();
        assert!(matches!(error, WorkerError::Refused(RuntimeError::Golden { .. })), "{error}");
    }
}
