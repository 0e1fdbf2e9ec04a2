//! What was recorded of many runs, as means of one run that add up.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::{Ceilings, Run};
use crate::{
    bitstream::DeviceClass,
    plan::Place,
    program::{Launch, Program},
    runtime::{Profile, Span},
    worker::Executor,
};

/// Where the time of a model goes. Times are means of one run, in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Profiled {
    pub device: String,
    /// Figures of emulation say nothing of an FPGA.
    pub device_class: DeviceClass,
    pub bitstream: String,
    pub runs: usize,
    /// From a request to its answer.
    pub milliseconds: f64,
    pub median_milliseconds: f64,
    /// Of that what kernels took,
    pub kernels_milliseconds: f64,
    /// what the parts on the CPU took,
    pub host_milliseconds: f64,
    /// and what is left: transfers, launching and waiting.
    pub outside_milliseconds: f64,
    /// The same as a part of the whole.
    pub outside: f64,
    pub ceilings: Ceilings,
    /// The one that takes most comes first.
    pub kernels: Vec<KernelProfile>,
    /// In the order in which they run.
    pub islands: Vec<IslandProfile>,
    /// Launches in the order in which they run.
    pub nodes: Vec<NodeProfile>,
    /// Events as browsers' viewers of traces take them.
    #[serde(skip)]
    pub trace: Option<Vec<serde_json::Value>>,
}

/// All launches of one kernel.
#[derive(Clone, Debug, Serialize)]
pub struct KernelProfile {
    pub kernel: String,
    /// In one run.
    pub launches: usize,
    #[serde(flatten)]
    pub speed: Speed,
    /// Its part of the time of all kernels.
    pub share: f64,
}

/// One launch, and the nodes of the model that it is for.
#[derive(Clone, Debug, Serialize)]
pub struct NodeProfile {
    pub island: usize,
    pub launch: usize,
    pub kernel: String,
    pub nodes: Vec<String>,
    #[serde(flatten)]
    pub speed: Speed,
}

/// How fast something was.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Speed {
    pub milliseconds: f64,
    /// Thousand millions of multiplications and additions a second.
    pub gflops: f64,
    /// The same as a part of the ceiling.
    pub of_gflops: Option<f64>,
    /// Thousand millions of bytes a second, read and written at least.
    pub gbytes: f64,
    /// The same as a part of the ceiling: more than 1 for what a cache kept.
    pub of_gbytes: Option<f64>,
}

/// One part of the model.
#[derive(Clone, Debug, Serialize)]
pub struct IslandProfile {
    pub island: usize,
    pub place: Place,
    pub milliseconds: f64,
    /// Nothing of the rest on the CPU.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceProfile>,
}

/// What an island does on the device.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct DeviceProfile {
    pub kernels_milliseconds: f64,
    pub bytes_to_device: u64,
    pub to_device_milliseconds: f64,
    pub bytes_from_device: u64,
    pub from_device_milliseconds: f64,
    /// All that is no kernel, transfers as well.
    pub outside_milliseconds: f64,
}

#[derive(Clone, Copy, Default)]
struct Sum {
    launches: usize,
    nanos: u64,
    operations: u64,
    bytes: u64,
}

impl Sum {
    fn add(&mut self, launch: &Launch, nanos: u64) {
        self.launches += 1;
        self.nanos += nanos;
        self.operations += launch.operations;
        self.bytes += launch.bytes;
    }

    fn speed(&self, runs: usize, ceilings: Ceilings) -> Speed {
        let rate = |count: u64| if self.nanos == 0 { 0.0 } else { count as f64 / self.nanos as f64 };
        let (gflops, gbytes) = (rate(self.operations), rate(self.bytes));
        let part = |of: f64, ceiling: Option<f64>| Some(of / ceiling?);
        Speed {
            milliseconds: millis(self.nanos, runs),
            gflops,
            of_gflops: part(gflops, ceilings.gflops),
            gbytes,
            of_gbytes: part(gbytes, ceilings.gbytes),
        }
    }
}

fn millis(nanos: u64, runs: usize) -> f64 {
    nanos as f64 / 1e6 / runs.max(1) as f64
}

fn nanos(span: &Span) -> u64 {
    span.end.saturating_sub(span.start)
}

fn sum(spans: &[Span]) -> u64 {
    spans.iter().map(nanos).sum()
}

impl Profiled {
    pub(super) fn new(executor: &Executor, ceilings: Ceilings, runs: &[Run]) -> Self {
        let device = executor.device();
        let manifest = executor.bitstream().manifest();
        let count = runs.len();
        let mut whole: Vec<Duration> = runs.iter().map(|run| run.to.saturating_sub(run.from)).collect();
        whole.sort_unstable();
        let all = whole.iter().sum::<Duration>().as_nanos() as u64;
        let mut kernels: BTreeMap<&str, Sum> = BTreeMap::new();
        let mut launches: BTreeMap<(usize, usize), (&Launch, Sum)> = BTreeMap::new();
        let mut islands: BTreeMap<usize, Island<'_>> = BTreeMap::new();
        for step in runs.iter().flat_map(|run| &run.steps) {
            let took = step.to.saturating_duration_since(step.from).as_nanos() as u64;
            islands.entry(step.island).or_default().nanos += took;
            let Some((program, profile)) = &step.device else { continue };
            islands.entry(step.island).or_default().device.push((program, profile));
            for (at, (launch, span)) in program.launches.iter().zip(&profile.launches).enumerate() {
                kernels.entry(&launch.kernel).or_default().add(launch, nanos(span));
                launches
                    .entry((step.island, at))
                    .or_insert((launch, Sum::default()))
                    .1
                    .add(launch, nanos(span));
            }
        }
        let in_kernels: u64 = kernels.values().map(|sum| sum.nanos).sum();
        let on_host: u64 =
            islands.values().filter(|island| island.device.is_empty()).map(|island| island.nanos).sum();
        let outside = all.saturating_sub(in_kernels + on_host);
        let kernel = |(name, sum): (&&str, &Sum)| KernelProfile {
            kernel: (*name).to_owned(),
            launches: sum.launches / count.max(1),
            speed: sum.speed(count, ceilings),
            share: sum.nanos as f64 / in_kernels.max(1) as f64,
        };
        let mut by_time: Vec<KernelProfile> = kernels.iter().map(kernel).collect();
        by_time.sort_by(|one, other| other.share.total_cmp(&one.share));
        Self {
            device: device.id().to_string(),
            device_class: device.class,
            bitstream: format!("{} {}", manifest.id, manifest.version),
            runs: count,
            milliseconds: millis(all, count),
            median_milliseconds: whole.get(count / 2).map_or(0.0, |time| 1e3 * time.as_secs_f64()),
            kernels_milliseconds: millis(in_kernels, count),
            host_milliseconds: millis(on_host, count),
            outside_milliseconds: millis(outside, count),
            outside: outside as f64 / all.max(1) as f64,
            ceilings,
            kernels: by_time,
            islands: islands.iter().map(|(&at, island)| island.profile(at, count)).collect(),
            nodes: launches
                .iter()
                .map(|(&(island, at), (launch, sum))| NodeProfile {
                    island,
                    launch: at,
                    kernel: launch.kernel.clone(),
                    nodes: launch.nodes.clone(),
                    speed: sum.speed(count, ceilings),
                })
                .collect(),
            trace: None,
        }
    }
}

/// What was recorded of an island.
#[derive(Default)]
struct Island<'a> {
    nanos: u64,
    /// Nothing of one on the CPU.
    device: Vec<(&'a Program, &'a Profile)>,
}

impl Island<'_> {
    fn profile(&self, island: usize, runs: usize) -> IslandProfile {
        let total = |of: fn(&Profile) -> &[Span]| -> u64 {
            self.device.iter().map(|(_, profile)| sum(of(profile))).sum()
        };
        let bytes = |of: fn(&Program) -> &[crate::program::Port]| -> u64 {
            self.device.first().map_or(0, |(program, _)| of(program).iter().map(|port| port.bytes).sum())
        };
        let kernels = total(|profile| &profile.launches);
        let device = DeviceProfile {
            kernels_milliseconds: millis(kernels, runs),
            bytes_to_device: bytes(|program| &program.inputs),
            to_device_milliseconds: millis(total(|profile| &profile.writes), runs),
            bytes_from_device: bytes(|program| &program.outputs),
            from_device_milliseconds: millis(total(|profile| &profile.reads), runs),
            outside_milliseconds: millis(self.nanos.saturating_sub(kernels), runs),
        };
        let on_device = !self.device.is_empty();
        IslandProfile {
            island,
            place: if on_device { Place::Device } else { Place::Host },
            milliseconds: millis(self.nanos, runs),
            device: on_device.then_some(device),
        }
    }
}
