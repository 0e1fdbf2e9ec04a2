//! What the processes use that the scorer started: workers of scoring scripts and of devices, and whatever those started.
//! `process_*` has the scorer alone, which is often the smallest of them.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU64, Ordering},
};

use procfs::process::{Process, Stat};
use prometheus::{
    Counter, IntGauge, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};

/// Processes that are looked at, at most.
const MOST: usize = 512;

/// Two metrics, read from `/proc` when somebody asks.
#[derive(Debug)]
pub(crate) struct Workers {
    cpu: Opts,
    memory: Opts,
    /// The most ticks that were seen: a counter does not fall, though a child that outlives its worker takes its time away.
    most: AtomicU64,
    /// What the registry knows them by.
    described: (Counter, IntGauge),
}

impl Workers {
    /// `own` makes a metric of a name and its help.
    pub(crate) fn new(own: impl Fn(&str, &str) -> Opts) -> Result<Self, prometheus::Error> {
        let cpu = own(
            "moorline_worker_cpu_seconds_total",
            "Processor time of the processes that the scorer started, in seconds",
        );
        let memory = own(
            "moorline_worker_resident_memory_bytes",
            "Memory of the processes that the scorer started, in bytes",
        );
        let described = (Counter::with_opts(cpu.clone())?, IntGauge::with_opts(memory.clone())?);
        Ok(Self { cpu, memory, most: AtomicU64::new(0), described })
    }
}

impl Collector for Workers {
    fn desc(&self) -> Vec<&Desc> {
        [self.described.0.desc(), self.described.1.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Some((ticks, bytes)) = usage() else { return Vec::new() };
        let ticks = self.most.fetch_max(ticks, Ordering::Relaxed).max(ticks);
        // The same were made before without an error.
        let (Ok(cpu), Ok(memory)) =
            (Counter::with_opts(self.cpu.clone()), IntGauge::with_opts(self.memory.clone()))
        else {
            return Vec::new();
        };
        cpu.inc_by(ticks as f64 / procfs::ticks_per_second() as f64);
        memory.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        [cpu.collect(), memory.collect()].concat()
    }
}

/// Ticks of processors and bytes of all descendants. The time of those that have ended is with whoever waited for them.
fn usage() -> Option<(u64, u64)> {
    let own = Process::myself().ok()?;
    let stat = own.stat().ok()?;
    let mut ticks = ended(&stat);
    let mut pages = 0;
    let mut seen = BTreeSet::from([own.pid()]);
    let mut next = vec![own];
    while let Some(parent) = next.pop() {
        for task in parent.tasks().into_iter().flatten().flatten() {
            for child in task.children().unwrap_or_default() {
                let Ok(pid) = i32::try_from(child) else { continue };
                if seen.len() > MOST || !seen.insert(pid) {
                    continue;
                }
                // One that ends just now is counted by the next look.
                let Ok(child) = Process::new(pid) else { continue };
                let Ok(stat) = child.stat() else { continue };
                ticks += stat.utime + stat.stime + ended(&stat);
                pages += stat.rss;
                next.push(child);
            }
        }
    }
    Some((ticks, pages * procfs::page_size()))
}

/// Ticks of children that have ended and were waited for.
fn ended(stat: &Stat) -> u64 {
    u64::try_from(stat.cutime + stat.cstime).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn children_are_counted_while_they_live_and_after() {
        let before = usage().unwrap();
        let mut child = Command::new("sh")
            .args(["-c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo done; read line"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 4];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut said).unwrap();
        let during = usage().unwrap();
        assert!(during.0 > before.0, "{before:?} {during:?}");
        assert!(during.1 > 0);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(usage().unwrap().0 >= during.0);
    }
}
