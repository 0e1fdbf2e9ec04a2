//! The gateway's rows: what it costs to go through it, beside the same scorer asked directly.

use anyhow::Result;

use crate::{
    peers::collector,
    report::{Bound, Row},
    rows::{Effort, Measure, by_turns, median, throughput},
    stage::Stage,
    workspace::Home,
    workspace_rows::{self, document, prepared, prepared_with},
    wrk::{Load, Sample},
};

/// Of the row that asks for throughput.
const CONNECTIONS: usize = 16;

/// The gateway's measurements by name, in the order of the table.
pub const GATEWAY: [(&str, Measure); 7] = [
    ("hop", hop),
    ("through", through),
    ("observed", observed),
    ("create", workspace_rows::create),
    ("cold", workspace_rows::cold),
    ("registry", workspace_rows::registry),
    ("restart", workspace_rows::restart),
];

fn hop(stage: &Stage<'_>, effort: Effort) -> Result<Vec<Row>> {
    let (direct, through) = measure(stage, effort, 1)?;
    let [direct, through] = [direct, through].map(|sample| sample.p50 * 1000.0);
    Ok(vec![Row {
        name: "what the gateway adds to a request, tiny ONNX, 1 connection, p50",
        baseline: format!("the scorer alone: {direct:.0} µs"),
        ours: format!("{through:.0} µs"),
        value: through - direct,
        unit: " µs",
        bound: Bound::AtMost(100.0),
    }])
}

fn through(stage: &Stage<'_>, effort: Effort) -> Result<Vec<Row>> {
    let (direct, through) = measure(stage, effort, CONNECTIONS)?;
    Ok(vec![throughput(
        "tiny ONNX through the gateway, requests/s",
        "the scorer alone",
        direct.requests_per_second,
        through.requests_per_second,
        0.7,
    )])
}

/// One replica of a deployment, directly and through the server that deployed it, by turns.
fn measure(stage: &Stage<'_>, effort: Effort, connections: usize) -> Result<(Sample, Sample)> {
    let home = prepared(stage, "gateway")?;
    deploy(&home)?;
    let load = stage.tiny_json_with_key("gateway", &home.key("bench")?, connections)?;
    by_turns(
        effort,
        &load,
        &format!("http://{}/score", home.replica_address()?),
        &format!("http://{}/endpoints/bench/score", home.address),
    )
}

fn deploy(home: &Home<'_>) -> Result<()> {
    let file = home.folder.join("deployment.yml");
    fs_err::write(&file, document("blue", "ort", ""))?;
    home.run(&["online-deployment", "create", "-f", &file.to_string_lossy(), "--all-traffic", "-o", "none"])?;
    Ok(())
}

/// What it costs to be seen: servers that trace, and one that writes an access log, beside one that does neither. Their
/// scorers trace too, and the collector is on the same cores.
fn observed(stage: &Stage<'_>, effort: Effort) -> Result<Vec<Row>> {
    let collector = collector(stage.workspace)?;
    let log = stage.folder("access.json");
    let served = |name: &str, arguments: &[&str]| -> Result<(Home<'_>, Load)> {
        let home = prepared_with(stage, name, arguments)?;
        deploy(&home)?;
        let load = stage.tiny_json_with_key(name, &home.key("bench")?, CONNECTIONS)?;
        Ok((home, load))
    };
    let traced = |ratio: &str| {
        served(&format!("traced-{ratio}"), &["--otlp-endpoint", &collector.address, "--trace-ratio", ratio])
    };
    let sides = [
        served("unseen", &[])?,
        traced("0.01")?,
        traced("1")?,
        served("logged", &["--access-log", &log.to_string_lossy()])?,
    ];
    let run = |(home, load): &(Home<'_>, Load), seconds: u64| -> Result<f64> {
        Ok(load.run(&format!("http://{}/endpoints/bench/score", home.address), seconds)?.requests_per_second)
    };
    for side in &sides {
        run(side, 1)?;
    }
    let mut rates: [Vec<f64>; 4] = Default::default();
    for _ in 0..effort.rounds {
        for (side, rates) in sides.iter().zip(&mut rates) {
            rates.push(run(side, effort.seconds)?);
        }
    }
    let [unseen, few, all, logged] = rates.map(median);
    let row = |name: &'static str, rate: f64, bound: f64| throughput(name, "not seen", unseen, rate, bound);
    Ok(vec![
        row("through the gateway, one trace in a hundred recorded, requests/s", few, 0.95),
        row("through the gateway, every trace recorded, requests/s", all, 0.6),
        row("through the gateway, with an access log, requests/s", logged, 0.9),
    ])
}
