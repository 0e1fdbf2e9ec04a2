//! The rows of a workspace: how long people wait for a deployment, a cold start, a list, and a server's return.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::{
    report::{Bound, Row},
    rows::{Effort, median, settled_memory},
    stage::Stage,
    workspace::Home,
};

/// Of the row of lists.
const MODELS: usize = 1000;
const VERSIONS: usize = 10;
/// Of the row of a server's return.
const DEPLOYMENTS: usize = 200;
/// For which the processor time of a server with nothing to do is taken.
const IDLE: Duration = Duration::from_secs(10);
/// Of the kernel's counters of processor time.
const TICKS_PER_SECOND: f64 = 100.0;

fn seconds(name: &'static str, value: f64, bound: f64) -> Row {
    Row {
        name,
        baseline: "–".to_owned(),
        ours: format!("{value:.3} s"),
        value,
        unit: " s",
        bound: Bound::AtMost(bound),
    }
}

/// A deployment of the tiny model; `more` goes on after its properties.
pub(crate) fn document(name: &str, engine: &str, more: &str) -> String {
    format!(
        "name: {name}\nendpoint_name: bench\nmodel: azureml:tiny@latest\ninstance_count: 1\nproperties:\n  \
         moorline.engine: {engine}\n{more}"
    )
}

/// A home with an endpoint and the tiny model registered.
pub(crate) fn prepared<'a>(stage: &Stage<'a>, name: &str) -> Result<Home<'a>> {
    prepared_with(stage, name, &[])
}

/// The same with more arguments of `moorline up`.
pub(crate) fn prepared_with<'a>(stage: &Stage<'a>, name: &str, arguments: &[&str]) -> Result<Home<'a>> {
    let home = Home::with(stage.workspace, stage.folder(name), arguments)?;
    let model = stage.tiny_model()?;
    home.run(&["model", "create", "-n", "tiny", "-p", &model.to_string_lossy(), "-o", "none"])?;
    home.run(&["online-endpoint", "create", "-n", "bench", "-o", "none"])?;
    Ok(home)
}

/// From the command to its end: the deployment is there and takes requests.
pub(crate) fn create(stage: &Stage<'_>, effort: Effort) -> Result<Vec<Row>> {
    let home = prepared(stage, "create")?;
    let mut taken = Vec::new();
    for round in 0..effort.rounds.max(3) {
        let name = format!("d{round:03}");
        let file = home.folder.join("deployment.yml");
        fs_err::write(&file, document(&name, "tract", ""))?;
        let start = Instant::now();
        home.run(&["online-deployment", "create", "-f", &file.to_string_lossy(), "-o", "none"])?;
        taken.push(start.elapsed().as_secs_f64());
    }
    Ok(vec![seconds("`online-deployment create`, tiny ONNX, until `Succeeded`", median(taken), 1.0)])
}

/// One request to a deployment that has no replica.
pub(crate) fn cold(stage: &Stage<'_>, effort: Effort) -> Result<Vec<Row>> {
    let home = prepared(stage, "cold")?;
    let scale = "  moorline.scale_down_delay: \"1\"\nscale_settings:\n  type: target_utilization\n  min_instances: 0\n  max_instances: 1\n";
    let file = home.folder.join("deployment.yml");
    fs_err::write(&file, document("blue", "tract", scale))?;
    home.run(&["online-deployment", "create", "-f", &file.to_string_lossy(), "--all-traffic", "-o", "none"])?;
    let (key, body) = (home.key("bench")?, stage.tiny_json_body()?.to_string_lossy().into_owned());
    let mut taken = Vec::new();
    for _ in 0..effort.rounds.max(3) {
        home.wait_for_scorers(0)?;
        taken.push(home.seconds_of("/endpoints/bench/score", &scoring(&key, &body))?);
    }
    Ok(vec![seconds("a request that starts a replica from zero, tiny ONNX", median(taken), 0.25)])
}

pub(crate) fn scoring(key: &str, body: &str) -> [String; 6] {
    [
        "--header".to_owned(),
        format!("authorization: Bearer {key}"),
        "--header".to_owned(),
        "content-type: application/json".to_owned(),
        "--data-binary".to_owned(),
        format!("@{body}"),
    ]
}

/// The list of a large registry, and the memory of the server that gives it.
pub(crate) fn registry(stage: &Stage<'_>, effort: Effort) -> Result<Vec<Row>> {
    let home = Home::new(stage.workspace, stage.folder("registry"))?;
    stage.python(
        "benches/models/many_models.py",
        &[&home.address, &MODELS.to_string(), &VERSIONS.to_string()],
    )?;
    let mut taken = Vec::new();
    for _ in 0..effort.rounds.max(3) * 3 {
        taken.push(home.seconds_of("/api/v1/workspaces/default/models?limit=1000", &[])? * 1000.0);
    }
    let listed = median(taken);
    let memory = settled_memory(home.server_id()?)?;
    Ok(vec![
        Row {
            name: "list of 1,000 models with 10 versions each",
            baseline: "–".to_owned(),
            ours: format!("{listed:.1} ms"),
            value: listed,
            unit: " ms",
            bound: Bound::AtMost(20.0),
        },
        Row {
            name: "resident memory of that server",
            baseline: "–".to_owned(),
            ours: format!("{memory:.1} MiB"),
            value: memory,
            unit: " MiB",
            bound: Bound::Below(150.0),
        },
    ])
}

/// A server is killed and started: how long until every deployment answers through it, and what it costs to be idle.
pub(crate) fn restart(stage: &Stage<'_>, _: Effort) -> Result<Vec<Row>> {
    let mut home = prepared(stage, "restart")?;
    deploy_many(&home)?;
    let (key, body) = (home.key("bench")?, stage.tiny_json_body()?.to_string_lossy().into_owned());
    let answered = |home: &Home<'_>, start: f64| -> Result<f64> {
        let arguments = [&home.address, "bench", &key, &start.to_string(), &DEPLOYMENTS.to_string(), &body];
        let said = stage.python("benches/models/all_answer.py", &arguments)?;
        said.trim().parse().context("all_answer.py prints seconds")
    };
    answered(&home, monotonic()?)?;
    home.kill()?;
    let start = monotonic()?;
    home.start()?;
    let taken = answered(&home, start)?;
    let busy = processor_percent(home.server_id()?, IDLE)?;
    Ok(vec![
        seconds("200 deployments answer after the server was killed and started", taken, 2.0),
        Row {
            name: "processor time of that server when idle",
            baseline: "–".to_owned(),
            ours: format!("{busy:.1} %"),
            value: busy,
            unit: " %",
            bound: Bound::Below(5.0),
        },
    ])
}

/// Many deployments of the tiny model, each with a replica.
pub(crate) fn deploy_many(home: &Home<'_>) -> Result<()> {
    let file = home.folder.join("deployment.yml");
    for number in 0..DEPLOYMENTS {
        let name = format!("d{number:03}");
        fs_err::write(&file, document(&name, "tract", ""))?;
        home.run(&["online-deployment", "create", "-f", &file.to_string_lossy(), "--no-wait", "-o", "none"])?;
    }
    home.wait_for_scorers(DEPLOYMENTS)
}

/// Seconds of the clock that Python's `CLOCK_MONOTONIC` is too.
fn monotonic() -> Result<f64> {
    let text = fs_err::read_to_string("/proc/uptime")?;
    let seconds = text.split_whitespace().next().context("/proc/uptime begins with seconds")?;
    Ok(seconds.parse()?)
}

/// What a process takes of a core in the time that comes.
pub(crate) fn processor_percent(process: u32, time: Duration) -> Result<f64> {
    let before = processor_seconds(process)?;
    std::thread::sleep(time);
    Ok((processor_seconds(process)? - before) / time.as_secs_f64() * 100.0)
}

/// User and system time that a process has taken.
fn processor_seconds(process: u32) -> Result<f64> {
    let stat = fs_err::read_to_string(format!("/proc/{process}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<f64>().ok());
    let (user, system) = ticks(11).zip(ticks(12)).context("/proc/PID/stat has times")?;
    Ok((user + system) / TICKS_PER_SECOND)
}
