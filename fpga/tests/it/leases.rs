//! Two who want one device, and one who died while having it.

use std::{
    env,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use moorline_fpga::{
    lease::{LeaseError, Leases, Quarantine},
    worker::WorkerError,
};

use crate::bench::{Bench, built, constants, floats, hang, parts, scale, sign};

const FOLDER: &str = "MOORLINE_TEST_LEASE_FOLDER";

#[test]
fn one_device_has_one_holder() {
    let Some(built) = built() else { return };
    let bench = Bench::new();
    let bitstream = sign(parts(built));
    let first = bench.start(bitstream.clone()).unwrap();
    let error = bench.start(bitstream.clone()).unwrap_err();
    let WorkerError::Lease(LeaseError::Taken { holder, .. }) = &error else { panic!("{error}") };
    assert_eq!(holder, "the test");
    let id = first.load(scale(1.0).into(), constants().into()).unwrap();
    first.run(id, &floats(&[0.0; 4])).expect("whoever has it is not disturbed");
    let generation = first.generation();
    drop(first);
    assert_eq!(bench.start(bitstream).unwrap().generation(), generation + 1);
}

/// Not a test: what the next one runs in a process of its own and kills.
#[test]
#[ignore = "a part of the test below"]
fn holds_a_device_in_the_middle_of_a_launch() {
    let Some(folder) = env::var_os(FOLDER) else { return };
    let bench = Bench::new();
    let mut settings = bench.settings();
    settings.leases = Leases::new(folder);
    let executor = moorline_fpga::worker::Executor::start(settings, sign(parts(built().unwrap()))).unwrap();
    let bad = executor.load(hang().into(), constants().into()).unwrap();
    println!("\nready {}", executor.process().unwrap());
    drop(executor.run(bad, &floats(&[0.0; 4])));
}

#[test]
fn a_lease_ends_with_its_holder_however_that_ends() {
    let Some(built) = built() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut holder = Command::new(env::current_exe().unwrap())
        .args(["--ignored", "--exact", "leases::holds_a_device_in_the_middle_of_a_launch", "--nocapture"])
        .env(FOLDER, folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    let worker = lines.find_map(|line| line.unwrap().strip_prefix("ready ").map(str::to_owned)).unwrap();
    let leases = Leases::new(folder.path());
    let acquire = || leases.acquire(&built.device.id(), "next", Quarantine::default());
    assert!(matches!(acquire(), Err(LeaseError::Taken { .. })));
    holder.kill().unwrap();
    holder.wait().unwrap();
    // The worker holds the lock until the kernel has taken it down, whatever its launch does: the end of its output
    // tells that it is gone, since both wrote to one pipe that the test's own process does not hold open.
    let lease = loop {
        match acquire() {
            Ok(lease) => break lease,
            Err(LeaseError::Taken { .. }) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(lease.generation(), 2, "a later generation than that of the dead");
    assert!(!std::path::Path::new("/proc").join(worker).join("exe").exists(), "no worker outlives the lease");
}
