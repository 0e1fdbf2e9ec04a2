//! The gateway's rows: what it costs to go through it, beside the same scorer asked directly.

use anyhow::Result;

use crate::{
    peers,
    report::{Bound, Row},
    rows::{Effort, Measure, by_turns, throughput},
    stage::Stage,
    workspace_rows,
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

/// One scorer, directly and through a gateway, by turns.
fn measure(stage: &Stage<'_>, effort: Effort, connections: usize) -> Result<(Sample, Sample)> {
    let scorer = stage.serve_model(&stage.tiny_model()?, &["--engine", "ort"])?;
    let gateway = peers::gateway(stage.workspace, &scorer.address)?;
    let load = stage.tiny_json_with_key(peers::GATEWAY_KEY, connections)?;
    let samples = by_turns(
        effort,
        &load,
        &format!("http://{}/score", scorer.address),
        &format!("http://{}/endpoints/bench/score", gateway.address),
    )?;
    scorer.stop()?;
    Ok(samples)
}
