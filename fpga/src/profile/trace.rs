//! When everything happened, as the events that `chrome://tracing` and Perfetto show. A device's clock is its own: each
//! island's commands are put into the middle of the time in which the host waited for them.

use std::time::Duration;

use serde_json::{Value, json};

use super::Run;
use crate::{
    runtime::{Profile, Span},
    worker::Executor,
};

const HOST: u32 = 1;
const DEVICE: u32 = 2;

/// The tracks of the device.
const TO_DEVICE: u32 = 1;
const KERNELS: u32 = 2;
const FROM_DEVICE: u32 = 3;

pub(super) fn events(executor: &Executor, runs: &[Run]) -> Vec<Value> {
    let device = executor.device();
    let name = format!("{} ({})", device.name, device.class.as_str());
    let mut events = vec![
        named("process_name", HOST, 0, "host"),
        named("process_name", DEVICE, 0, &name),
        named("thread_name", HOST, 1, "requests"),
        named("thread_name", HOST, 2, "islands"),
        named("thread_name", DEVICE, TO_DEVICE, "to the device"),
        named("thread_name", DEVICE, KERNELS, "kernels"),
        named("thread_name", DEVICE, FROM_DEVICE, "from the device"),
    ];
    for (number, run) in runs.iter().enumerate() {
        events.push(event(
            &format!("request {number}"),
            (HOST, 1),
            micros(run.from),
            micros(run.to),
            json!({}),
        ));
        for step in &run.steps {
            let from = micros(step.from.saturating_duration_since(run.began));
            let to = micros(step.to.saturating_duration_since(run.began));
            let place = if step.device.is_some() { "device" } else { "CPU" };
            let name = format!("island {} on the {place}", step.island);
            events.push(event(&name, (HOST, 2), from, to, json!({})));
            let Some((program, profile)) = &step.device else { continue };
            let Some(at) = aligned(profile, from, to) else { continue };
            let mut command = |name: &str, track: u32, span: &Span, more: Value| {
                events.push(event(name, (DEVICE, track), at(span.start), at(span.end), more));
            };
            for (port, span) in program.inputs.iter().zip(&profile.writes) {
                command(&port.name, TO_DEVICE, span, json!({ "bytes": port.bytes }));
            }
            for (launch, span) in program.launches.iter().zip(&profile.launches) {
                let more = json!({
                    "nodes": launch.nodes,
                    "items": launch.items,
                    "operations": launch.operations,
                    "bytes": launch.bytes,
                });
                command(&launch.kernel, KERNELS, span, more);
            }
            for (port, span) in program.outputs.iter().zip(&profile.reads) {
                command(&port.name, FROM_DEVICE, span, json!({ "bytes": port.bytes }));
            }
        }
    }
    events
}

/// From the device's clock to microseconds of the host's.
fn aligned(profile: &Profile, from: f64, to: f64) -> Option<impl Fn(u64) -> f64 + use<>> {
    let all = || profile.writes.iter().chain(&profile.launches).chain(&profile.reads);
    let first = all().map(|span| span.queued).min()?;
    let last = all().map(|span| span.end).max()?;
    let length = last.saturating_sub(first) as f64 / 1e3;
    let begin = from + (to - from - length) / 2.0;
    Some(move |at: u64| begin + (at as f64 - first as f64) / 1e3)
}

fn micros(time: Duration) -> f64 {
    1e6 * time.as_secs_f64()
}

fn event(name: &str, (process, track): (u32, u32), from: f64, to: f64, more: Value) -> Value {
    json!({
        "name": name, "ph": "X", "pid": process, "tid": track, "ts": from, "dur": (to - from).max(0.0), "args": more
    })
}

/// What a process or a track is called.
fn named(what: &str, process: u32, track: u32, name: &str) -> Value {
    json!({ "name": what, "ph": "M", "pid": process, "tid": track, "args": { "name": name } })
}
