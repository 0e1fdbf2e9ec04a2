//! Where the time of a model goes: what is told adds up, and is told of every launch.

use moorline_core::ModelFiles;
use moorline_fpga::{
    bitstream::DeviceClass,
    plan::{Plan, PlanOptions},
    profile::profile,
};

use crate::bench::{Bench, made};

const RUNS: usize = 3;

#[test]
fn a_profile_adds_up() {
    let (Some(bench), Some(path)) = (Bench::new(), made("generate.py", "mlp")) else { return };
    let manifest = bench.executor.bitstream().manifest();
    let plan = Plan::new(&path, manifest, &PlanOptions::default()).unwrap();
    let launches: usize = plan.device_islands().map(|lowered| lowered.program.launches.len()).sum();
    let engine = bench.engine(PlanOptions::default());
    let profiled = profile(&engine, &ModelFiles { path, threads: 2 }, RUNS, true).unwrap();
    assert_eq!((profiled.runs, profiled.device_class), (RUNS, DeviceClass::Emulation));
    let parts = profiled.kernels_milliseconds + profiled.host_milliseconds + profiled.outside_milliseconds;
    assert!((parts - profiled.milliseconds).abs() < 1e-6, "{profiled:?}");
    assert!(profiled.kernels_milliseconds > 0.0 && profiled.host_milliseconds > 0.0, "{profiled:?}");
    let shares: f64 = profiled.kernels.iter().map(|kernel| kernel.share).sum();
    assert!((shares - 1.0).abs() < 1e-9, "{shares}");
    assert_eq!(profiled.kernels.iter().map(|kernel| kernel.launches).sum::<usize>(), launches);
    assert_eq!(profiled.nodes.len(), launches);
    assert!(profiled.ceilings.gflops.is_some_and(|most| most > 0.0), "{:?}", profiled.ceilings);
    assert!(profiled.ceilings.gbytes.is_some_and(|most| most > 0.0), "{:?}", profiled.ceilings);
    let report = plan.report();
    assert_eq!(profiled.islands.len(), report.device_islands + report.host_islands);
    let moved: u64 = profiled
        .islands
        .iter()
        .filter_map(|island| island.device)
        .map(|device| device.bytes_to_device + device.bytes_from_device)
        .sum();
    assert_eq!(moved, report.bytes_moved);

    let events = profiled.trace.unwrap();
    let of = |process: u64, track: u64| {
        let here = |event: &&serde_json::Value| {
            event["ph"] == "X" && event["pid"] == process && event["tid"] == track
        };
        events.iter().filter(here).collect::<Vec<_>>()
    };
    assert_eq!(of(1, 1).len(), RUNS, "requests");
    assert_eq!(of(1, 2).len(), RUNS * profiled.islands.len(), "islands");
    assert_eq!(of(2, 2).len(), RUNS * launches, "kernels");
    assert!(of(2, 2).iter().all(|event| event["dur"].as_f64().is_some_and(|dur| dur >= 0.0)));
}
