//! Workers that hang, die or are killed: requests in flight are run once more, on another device where there is one; one
//! that ends two workers fails in its own way, and a device on which that happens too often is left alone.

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use moorline_core::ErrorClass;
use moorline_fpga::{
    lease::{LeaseError, Quarantine},
    worker::{Executor, ExecutorSettings, WorkerError},
};

use crate::bench::{Bench, built, constants, crash, floats, hang, parts, scale, sign};

/// What ended the second worker of a request.
fn last(error: WorkerError) -> WorkerError {
    assert_eq!(error.class(), ErrorClass::Internal, "it is not the device's fault: {error}");
    let WorkerError::Twice { last } = error else { panic!("{error}") };
    *last
}

/// Why no worker can be started.
fn none_left(error: WorkerError) -> WorkerError {
    assert_eq!(error.class(), ErrorClass::Unavailable, "{error}");
    let WorkerError::NoneLeft { source } = error else { panic!("{error}") };
    *source
}

fn kill(process: u32) {
    assert!(Command::new("kill").args(["-9", &process.to_string()]).status().unwrap().success());
}

#[test]
fn a_kernel_that_never_ends_is_named_and_costs_one_request() {
    let Some(built) = built() else { return };
    let bench = Bench::new().impatient();
    let executor = bench.start(sign(parts(built))).unwrap();
    let good = executor.load(scale(1.0).into(), constants().into()).unwrap();
    let bad = executor.load(hang().into(), constants().into()).unwrap();
    executor.run(bad, &floats(&[1.0; 4])).expect("it ends where it is told to");
    let error = last(executor.run(bad, &floats(&[0.0; 4])).unwrap_err());
    let WorkerError::Hung { what, limit } = &error else { panic!("{error}") };
    assert_eq!(what, "launch 1 (kernel `hang`, for Node_hang)");
    assert_eq!(*limit, bench.limits.launch);
    assert_eq!(error.class(), ErrorClass::Timeout);
    assert_eq!(executor.run(good, &floats(&[0.0; 4])).unwrap(), [floats(&[1.0; 4])]);
    assert_eq!(executor.restarts(), 2);
}

#[test]
fn a_request_has_an_end_whatever_the_launches_do() {
    let Some(built) = built() else { return };
    let mut bench = Bench::new();
    bench.limits.request = Duration::from_secs(2);
    let executor = bench.start(sign(parts(built))).unwrap();
    let bad = executor.load(hang().into(), constants().into()).unwrap();
    let error = last(executor.run(bad, &floats(&[0.0; 4])).unwrap_err());
    assert!(matches!(&error, WorkerError::Hung { what, .. } if what == "a request"), "{error}");
}

#[test]
fn a_kernel_that_breaks_down_costs_one_request() {
    let Some(built) = built() else { return };
    let bench = Bench::new();
    let executor = bench.start(sign(parts(built))).unwrap();
    let good = executor.load(scale(1.0).into(), constants().into()).unwrap();
    let bad = executor.load(crash(i32::MAX).into(), constants().into()).unwrap();
    let error = last(executor.run(bad, &floats(&[1.0; 4])).unwrap_err());
    assert!(matches!(&error, WorkerError::Died { status, .. } if status.contains("signal 11")), "{error}");
    executor.unload(bad).expect("what is gone needs no worker to be taken away");
    assert_eq!((executor.process(), executor.restarts()), (None, 1));
    assert_eq!(executor.run(good, &floats(&[0.0; 4])).unwrap(), [floats(&[1.0; 4])]);
    assert!(matches!(executor.run(bad, &floats(&[1.0; 4])), Err(WorkerError::NoProgram { .. })));
}

#[test]
fn a_request_that_ends_workers_takes_no_other_one_with_it() {
    let Some(built) = built() else { return };
    let mut bench = Bench::new();
    bench.quarantine.ends = 100;
    let executor = bench.start(sign(parts(built))).unwrap();
    let good = executor.load(scale(1.0).into(), constants().into()).unwrap();
    let bad = executor.load(crash(i32::MAX).into(), constants().into()).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..200 {
                    assert_eq!(executor.run(good, &floats(&[0.0; 4])).unwrap(), [floats(&[1.0; 4])]);
                }
            });
        }
        scope.spawn(|| last(executor.run(bad, &floats(&[1.0; 4])).unwrap_err()));
    });
    assert!(executor.restarts() >= 1);
}

#[test]
fn a_worker_that_was_killed_is_replaced() {
    let Some(built) = built() else { return };
    let bench = Bench::new();
    let executor = bench.start(sign(parts(built))).unwrap();
    let good = executor.load(scale(1.0).into(), constants().into()).unwrap();
    for round in 1..=2 {
        kill(executor.process().unwrap());
        assert_eq!(executor.run(good, &floats(&[0.0; 4])).unwrap(), [floats(&[1.0; 4])]);
        assert_eq!(executor.restarts(), round);
    }
    kill(executor.process().unwrap());
    let error = none_left(executor.run(good, &floats(&[0.0; 4])).unwrap_err());
    assert!(matches!(error, WorkerError::Lease(LeaseError::Quarantined { .. })), "{error}");
}

/// Two devices of one kind.
fn two_devices(bench: &Bench) -> ExecutorSettings {
    let mut settings = bench.settings();
    settings.launcher.environment.insert("POCL_DEVICES".to_owned(), "pthread pthread".to_owned());
    settings
}

#[test]
fn another_device_takes_over_in_the_middle_of_many_requests() {
    let Some(built) = built() else { return };
    let mut bench = Bench::new();
    bench.quarantine.ends = 100;
    let settings = two_devices(&bench);
    let executor = Executor::start(settings, sign(parts(built))).unwrap();
    let good = executor.load(scale(1.0).into(), constants().into()).unwrap();
    let first = executor.device().id();
    let over = AtomicBool::new(false);
    let answered = AtomicUsize::new(0);
    let more = |than: usize| {
        let deadline = Instant::now() + Duration::from_mins(1);
        while answered.load(Ordering::Relaxed) < than + 50 {
            assert!(Instant::now() < deadline, "requests are answered no more");
            std::thread::park_timeout(Duration::from_millis(1));
        }
    };
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (executor, over, answered) = (&executor, &over, &answered);
            scope.spawn(move || {
                for round in 0.. {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    let x = (thread * 10_000 + round) as f32;
                    let wanted = floats(&[x + 1.0, 2.0 * x + 1.0, 3.0 * x + 1.0, 4.0 * x + 1.0]);
                    let outputs = executor.run(good, &floats(&[x; 4])).expect("no request fails");
                    assert_eq!(outputs, [wanted]);
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut on = first.clone();
        for round in 1..=4 {
            more(answered.load(Ordering::Relaxed));
            kill(executor.process().unwrap());
            more(answered.load(Ordering::Relaxed));
            let now = executor.device().id();
            assert_ne!(now, on, "the other one took over");
            bench.assert_free(&on);
            assert_eq!(executor.restarts(), round);
            on = now;
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(executor.device().id(), first);
}

#[test]
fn a_device_that_somebody_else_has_takes_nothing_over() {
    let Some(built) = built() else { return };
    let bench = Bench::new();
    let bitstream = sign(parts(built));
    let executor = Executor::start(two_devices(&bench), Arc::clone(&bitstream)).unwrap();
    let other = Executor::start(two_devices(&bench), bitstream).unwrap();
    let good = executor.load(scale(1.0).into(), constants().into()).unwrap();
    let (ours, theirs) = (executor.device().id(), other.device().id());
    assert_ne!(ours, theirs);
    kill(executor.process().unwrap());
    assert_eq!(executor.run(good, &floats(&[0.0; 4])).unwrap(), [floats(&[1.0; 4])]);
    assert_eq!(executor.device().id(), ours);
    drop(other);
    kill(executor.process().unwrap());
    assert_eq!(executor.run(good, &floats(&[0.0; 4])).unwrap(), [floats(&[1.0; 4])]);
    assert_eq!(executor.device().id(), theirs);
}

#[test]
fn a_device_on_which_workers_end_too_often_is_left_alone() {
    let Some(built) = built() else { return };
    let mut bench = Bench::new();
    bench.quarantine = Quarantine { ends: 2, within: Duration::from_hours(1) };
    let bitstream = sign(parts(built));
    let executor = bench.start(Arc::clone(&bitstream)).unwrap();
    let bad = executor.load(crash(i32::MAX).into(), constants().into()).unwrap();
    assert!(matches!(last(executor.run(bad, &floats(&[1.0; 4])).unwrap_err()), WorkerError::Died { .. }));
    let quarantined = |error: WorkerError| match error {
        WorkerError::Lease(LeaseError::Quarantined { reason, file, .. }) => (reason, file),
        error => panic!("{error}"),
    };
    let (reason, file) = quarantined(none_left(executor.run(bad, &floats(&[1.0; 4])).unwrap_err()));
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
