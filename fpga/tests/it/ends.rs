//! Workers that hang, die or are killed: the request that was in flight fails in its own way, the next one is answered
//! by a new worker, and a device on which that happens too often is left alone.

use std::{process::Command, sync::Arc, time::Duration};

use moorline_core::ErrorClass;
use moorline_fpga::{
    lease::{LeaseError, Quarantine},
    worker::WorkerError,
};

use crate::bench::{Bench, built, constants, crash, floats, hang, parts, scale, sign};

#[test]
fn a_kernel_that_never_ends_is_named_and_costs_one_request() {
    let Some(built) = built() else { return };
    let bench = Bench::new().impatient();
    let executor = bench.start(sign(parts(built))).unwrap();
    let good = executor.load(scale(1.0).into(), constants().into()).unwrap();
    let bad = executor.load(hang().into(), constants().into()).unwrap();
    executor.run(bad, &floats(&[1.0; 4])).expect("it ends where it is told to");
    let error = executor.run(bad, &floats(&[0.0; 4])).unwrap_err();
    let WorkerError::Hung { what, limit } = &error else { panic!("{error}") };
    assert_eq!(what, "launch 1 (kernel `hang`, for Node_hang)");
    assert_eq!(*limit, bench.limits.launch);
    assert!(error.is_restartable());
    assert_eq!(error.class(), ErrorClass::Timeout);
    assert_eq!(executor.run(good, &floats(&[0.0; 4])).unwrap(), [floats(&[1.0; 4])]);
    assert_eq!(executor.restarts(), 1);
}

#[test]
fn a_request_has_an_end_whatever_the_launches_do() {
    let Some(built) = built() else { return };
    let mut bench = Bench::new();
    bench.limits.request = Duration::from_secs(2);
    let executor = bench.start(sign(parts(built))).unwrap();
    let bad = executor.load(hang().into(), constants().into()).unwrap();
    let error = executor.run(bad, &floats(&[0.0; 4])).unwrap_err();
    assert!(matches!(&error, WorkerError::Hung { what, .. } if what == "a request"), "{error}");
}

#[test]
fn a_kernel_that_breaks_down_costs_one_request() {
    let Some(built) = built() else { return };
    let bench = Bench::new();
    let executor = bench.start(sign(parts(built))).unwrap();
    let good = executor.load(scale(1.0).into(), constants().into()).unwrap();
    let bad = executor.load(crash(i32::MAX).into(), constants().into()).unwrap();
    let error = executor.run(bad, &floats(&[1.0; 4])).unwrap_err();
    assert!(matches!(&error, WorkerError::Died { status, .. } if status.contains("signal 11")), "{error}");
    assert!(error.is_restartable());
    executor.unload(bad).expect("what is gone needs no worker to be taken away");
    assert_eq!((executor.process(), executor.restarts()), (None, 0));
    assert_eq!(executor.run(good, &floats(&[0.0; 4])).unwrap(), [floats(&[1.0; 4])]);
    assert!(matches!(executor.run(bad, &floats(&[1.0; 4])), Err(WorkerError::NoProgram { .. })));
}

#[test]
fn a_worker_that_was_killed_is_replaced() {
    let Some(built) = built() else { return };
    let bench = Bench::new();
    let executor = bench.start(sign(parts(built))).unwrap();
    let good = executor.load(scale(1.0).into(), constants().into()).unwrap();
    for round in 1..=2 {
        let process = executor.process().unwrap().to_string();
        assert!(Command::new("kill").args(["-9", &process]).status().unwrap().success());
        let error = executor.run(good, &floats(&[0.0; 4])).unwrap_err();
        assert!(matches!(&error, WorkerError::Died { status, .. } if status.contains("signal 9")), "{error}");
        assert_eq!(error.class(), ErrorClass::Unavailable);
        assert_eq!(executor.run(good, &floats(&[0.0; 4])).unwrap(), [floats(&[1.0; 4])]);
        assert_eq!(executor.restarts(), round);
    }
}

#[test]
fn a_device_on_which_workers_end_too_often_is_left_alone() {
    let Some(built) = built() else { return };
    let mut bench = Bench::new();
    bench.quarantine = Quarantine { ends: 2, within: Duration::from_hours(1) };
    let bitstream = sign(parts(built));
    let executor = bench.start(Arc::clone(&bitstream)).unwrap();
    let bad = executor.load(crash(i32::MAX).into(), constants().into()).unwrap();
    for _ in 0..2 {
        assert!(matches!(executor.run(bad, &floats(&[1.0; 4])), Err(WorkerError::Died { .. })));
    }
    let quarantined = |error: WorkerError| match error {
        WorkerError::Lease(LeaseError::Quarantined { reason, file, .. }) => (reason, file),
        error => panic!("{error}"),
    };
    let (reason, file) = quarantined(executor.run(bad, &floats(&[1.0; 4])).unwrap_err());
    assert!(reason.contains("signal 11"), "{reason}");
    drop(executor);
    quarantined(bench.start(Arc::clone(&bitstream)).unwrap_err());
    assert!(bench.leases().state(&built.device.id()).unwrap().quarantine.is_some());
    fs_err::remove_file(file).unwrap();
    bench.start(bitstream).unwrap();
}

#[test]
fn a_binary_that_is_no_worker_is_told_apart() {
    let Some(built) = built() else { return };
    let bench = Bench::new();
    let mut settings = bench.settings();
    settings.launcher.program = "/no/such/program".into();
    let error = moorline_fpga::worker::Executor::start(settings, sign(parts(built))).unwrap_err();
    assert!(matches!(error, WorkerError::Spawn { .. }), "{error}");
    let mut settings = bench.settings();
    settings.launcher.arguments = vec!["what".into()];
    let error = moorline_fpga::worker::Executor::start(settings, sign(parts(built))).unwrap_err();
    assert!(
        matches!(&error, WorkerError::Died { output, .. } if output.contains("expected `worker`")),
        "{error}"
    );
}
