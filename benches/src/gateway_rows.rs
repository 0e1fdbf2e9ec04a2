//! The gateway's rows: what it costs to go through it, beside the same scorer asked directly.

use anyhow::Result;

use crate::{
    report::{Bound, Row},
    rows::{Effort, Measure, by_turns, throughput},
    stage::Stage,
    workspace_rows::{self, document, prepared},
    wrk::Sample,
};

/// Of the row that asks for throughput.
const CONNECTIONS: usize = 16;

/// The gateway's measurements by name, in the order of the table.
pub const GATEWAY: [(&str, Measure); 6] = [
    ("hop", hop),
    ("through", through),
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
    let file = home.folder.join("deployment.yml");
    fs_err::write(&file, document("blue", "ort", ""))?;
    home.run(&["online-deployment", "create", "-f", &file.to_string_lossy(), "--all-traffic", "-o", "none"])?;
    let load = stage.tiny_json_with_key(&home.key("bench")?, connections)?;
    by_turns(
        effort,
        &load,
        &format!("http://{}/score", home.replica_address()?),
        &format!("http://{}/endpoints/bench/score", home.address),
    )
}
