//! The kernels of this repository on PoCL: their golden tests pass, and would not if a kernel were wrong.

use moorline_fpga::{
    conv16, lower,
    runtime::RuntimeError,
    worker::{WorkerError, build},
};

use crate::bench::{Bench, built, launcher, pocl, sign};

#[test]
fn our_kernels_compute_what_the_formulas_say() {
    if built().is_none() {
        return;
    }
    let bench = Bench::new();
    let launcher = launcher(bench.folder.path().join("build"));
    let right = build(&launcher, &bench.limits, &pocl(), &lower::source()).unwrap();
    let parts = conv16::parts(right.clone()).unwrap();
    assert!(parts.golden.len() >= 2 && parts.source.is_some());
    bench.start(sign(parts)).unwrap();

    // The same with one kernel that clips at the wrong bound.
    let wrong = lower::source().replace("r = r < low ? low : r", "r = r <= low ? low + 0.0625f : r");
    assert_ne!(wrong, lower::source());
    let wrong = build(&launcher, &bench.limits, &pocl(), &wrong).unwrap();
    assert_eq!(wrong.kernels, right.kernels);
    let error = bench.start(sign(conv16::parts(wrong).unwrap())).unwrap_err();
    assert!(matches!(error, WorkerError::Refused(RuntimeError::Golden { .. })), "{error}");
}
