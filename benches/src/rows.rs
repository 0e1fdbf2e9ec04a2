//! The scorer's rows: each starts its baseline and a scorer, measures both by turns, and stops them.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, bail};
use xtask::scorer::RunningScorer;

use crate::{
    peers::{self, OrtLoop},
    report::{Bound, Row},
    stage::{IMAGE, Stage, infer_url},
    wrk::{Load, Sample},
};

/// Connections of the rows that ask for throughput.
const CONNECTIONS: usize = 16;
/// Of the conv net's row: its clients, and the threads of its raw loop.
const CONV_CLIENTS: usize = 2;
/// Of both servers of the scripts' row.
const WORKERS: usize = 2;
/// Starts of a process for a median.
const STARTS: usize = 5;

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Of one run.
    pub seconds: u64,
    /// Runs a side.
    pub rounds: usize,
    /// Of the model that is large.
    pub large: u64,
}

/// Makes one or several rows.
pub type Measure = fn(&Stage<'_>, Effort) -> Result<Vec<Row>>;

/// The scorer's measurements by name, in the order of the table.
pub const SCORER: [(&str, Measure); 7] = [
    ("tiny-json", tiny_json),
    ("tiny-binary", tiny_binary),
    ("conv", conv),
    ("script", script),
    ("collecting", collecting),
    ("memory", memory),
    ("start", start),
];

fn tiny_json(stage: &Stage<'_>, effort: Effort) -> Result<Vec<Row>> {
    let load = stage.tiny_json(CONNECTIONS)?;
    against_echo(stage, effort, "tiny ONNX, `/score` JSON, requests/s", &load, "score", 0.6)
}

fn tiny_binary(stage: &Stage<'_>, effort: Effort) -> Result<Vec<Row>> {
    let load = stage.tiny_binary(CONNECTIONS)?;
    against_echo(stage, effort, "tiny ONNX, OIP binary, requests/s", &load, "infer", 0.7)
}

fn against_echo(
    stage: &Stage<'_>,
    effort: Effort,
    name: &'static str,
    load: &Load,
    route: &str,
    bound: f64,
) -> Result<Vec<Row>> {
    let echo = peers::echo(stage.workspace)?;
    let scorer = stage.serve_model(&stage.tiny_model()?, &["--engine", "ort"])?;
    let url =
        if route == "infer" { infer_url(&scorer) } else { format!("http://{}/{route}", scorer.address) };
    let (theirs, ours) = by_turns(effort, load, &format!("http://{}/score", echo.address), &url)?;
    scorer.stop()?;
    Ok(vec![throughput(name, "bare axum echo", theirs.requests_per_second, ours.requests_per_second, bound)])
}

fn conv(stage: &Stage<'_>, effort: Effort) -> Result<Vec<Row>> {
    let model = stage.conv_model()?;
    let raw = OrtLoop { model: &model, shape: &IMAGE, threads: CONV_CLIENTS };
    let clients = CONV_CLIENTS.to_string();
    let scorer = stage.serve_model(&model, &["--engine", "ort", "--sessions", &clients, "--threads", "1"])?;
    let load = stage.image_binary(CONV_CLIENTS)?;
    let url = infer_url(&scorer);
    load.run(&url, 1)?;
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..effort.rounds {
        theirs.push(raw.runs_per_second(stage.workspace, effort.seconds)?);
        ours.push(load.run(&url, effort.seconds)?.requests_per_second);
    }
    scorer.stop()?;
    let name = "mid conv net, 2 clients, requests/s";
    Ok(vec![throughput(name, "raw `ort` loop, 2 threads", median(theirs), median(ours), 0.97)])
}

fn script(stage: &Stage<'_>, effort: Effort) -> Result<Vec<Row>> {
    let load = stage.tiny_json(CONNECTIONS)?;
    let peer = peers::azmlinfsrv(stage.workspace, WORKERS)?;
    let scorer = stage.serve_echo(WORKERS)?;
    let (theirs, ours) = by_turns(
        effort,
        &load,
        &format!("http://{}/score", peer.address),
        &format!("http://{}/score", scorer.address),
    )?;
    scorer.stop()?;
    let name = "`score.py` echo, 2 workers, requests/s";
    Ok(vec![
        throughput(name, "`azmlinfsrv`", theirs.requests_per_second, ours.requests_per_second, 6.0),
        Row {
            name: "the same, p99",
            baseline: format!("`azmlinfsrv`: {:.2} ms", theirs.p99),
            ours: format!("{:.2} ms", ours.p99),
            value: ours.p99 / theirs.p99,
            unit: "",
            bound: Bound::AtMost(0.25),
        },
    ])
}

/// Everything is kept of every request, in a folder that does not fill up meanwhile.
fn collecting(stage: &Stage<'_>, effort: Effort) -> Result<Vec<Row>> {
    let load = stage.tiny_json(CONNECTIONS)?;
    let plain = stage.serve_model(&stage.tiny_model()?, &["--engine", "ort"])?;
    let spool = stage.folder("collected");
    let spool = spool.to_str().context("the path of the stage is not UTF-8")?;
    let settings = ["--engine", "ort", "--collect-dir", spool, "--collect-bytes", "8000000000"];
    let scorer = stage.serve_collecting(&stage.tiny_model()?, &settings)?;
    let url = |scorer: &RunningScorer| format!("http://{}/score", scorer.address);
    let (theirs, ours) = by_turns(effort, &load, &url(&plain), &url(&scorer))?;
    plain.stop()?;
    scorer.stop()?;
    let name = "tiny ONNX, inputs and outputs of all requests collected, requests/s";
    let (theirs, ours) = (theirs.requests_per_second, ours.requests_per_second);
    Ok(vec![throughput(name, "nothing collected", theirs, ours, 0.95)])
}

fn memory(stage: &Stage<'_>, _: Effort) -> Result<Vec<Row>> {
    let resident = |engine: &str| -> Result<f64> {
        let mut sizes = Vec::new();
        for _ in 0..STARTS {
            let scorer = stage.serve_model(&stage.tiny_model()?, &["--engine", engine])?;
            sizes.push(settled_memory(scorer.id())?);
            scorer.stop()?;
        }
        Ok(median(sizes))
    };
    let row = |name, mib: f64, bound| Row {
        name,
        baseline: "–".to_owned(),
        ours: format!("{mib:.1} MiB"),
        value: mib,
        unit: " MiB",
        bound: Bound::Below(bound),
    };
    Ok(vec![
        row("resident memory, idle, tiny ONNX, tract", resident("tract")?, 40.0),
        row("resident memory, idle, tiny ONNX, ort", resident("ort")?, 80.0),
    ])
}

fn start(stage: &Stage<'_>, _: Effort) -> Result<Vec<Row>> {
    let model = stage.tiny_model()?;
    let raw = OrtLoop { model: &model, shape: &[1, 10], threads: 1 };
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        theirs.push(raw.session_creation(stage.workspace)? * 1000.0);
        let scorer = stage.serve_model(&model, &["--engine", "ort"])?;
        ours.push(scorer.start_time.as_secs_f64() * 1000.0);
        scorer.stop()?;
    }
    let (theirs, ours) = (median(theirs), median(ours));
    Ok(vec![Row {
        name: "start to ready, tiny ONNX, beyond the baseline",
        baseline: format!("library and session alone: {theirs:.0} ms"),
        ours: format!("{ours:.0} ms"),
        value: ours - theirs,
        unit: " ms",
        bound: Bound::AtMost(50.0),
    }])
}

pub(crate) fn throughput(name: &'static str, peer: &str, theirs: f64, ours: f64, bound: f64) -> Row {
    Row {
        name,
        baseline: format!("{peer}: {theirs:.0}"),
        ours: format!("{ours:.0}"),
        value: ours / theirs,
        unit: "",
        bound: Bound::AtLeast(bound),
    }
}

/// Measures both addresses by turns after a second of warm-up each; medians of each figure.
pub(crate) fn by_turns(effort: Effort, load: &Load, theirs: &str, ours: &str) -> Result<(Sample, Sample)> {
    load.run(theirs, 1)?;
    load.run(ours, 1)?;
    let (mut their_samples, mut our_samples) = (Vec::new(), Vec::new());
    for _ in 0..effort.rounds {
        their_samples.push(load.run(theirs, effort.seconds)?);
        our_samples.push(load.run(ours, effort.seconds)?);
    }
    Ok((typical(&their_samples), typical(&our_samples)))
}

fn typical(samples: &[Sample]) -> Sample {
    Sample {
        requests_per_second: median(samples.iter().map(|sample| sample.requests_per_second).collect()),
        p50: median(samples.iter().map(|sample| sample.p50).collect()),
        p99: median(samples.iter().map(|sample| sample.p99).collect()),
    }
}

/// The middle of an odd number, the lower middle of an even one; 0 of none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or_default()
}

/// Resident MiB once it no longer changes.
pub(crate) fn settled_memory(process: u32) -> Result<f64> {
    let mut before = resident_kib(process)?;
    for _ in 0..30 {
        thread::sleep(Duration::from_millis(200));
        let now = resident_kib(process)?;
        if now == before {
            return Ok(now as f64 / 1024.0);
        }
        before = now;
    }
    bail!("the memory of process {process} does not settle")
}

fn resident_kib(process: u32) -> Result<u64> {
    let status = fs_err::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_a_measured_value() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0]), 1.0);
        assert_eq!(median(vec![]), 0.0);
    }

    #[test]
    fn this_process_has_memory() {
        assert!(resident_kib(std::process::id()).unwrap() > 0);
    }
}
