//! The rows of who looks on: what it costs the server to look at its replicas, and how soon and how smoothly the portal shows
//! what there is.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::Value;
use xtask::shell;

use crate::{
    report::{Bound, Row},
    rows::{Effort, Measure},
    stage::Stage,
    workspace_rows::{deploy_many, prepared_with, processor_percent},
};

/// Of the list of devices.
const DEVICES: usize = 1000;
/// After which what was started has come to rest.
const REST: Duration = Duration::from_secs(20);
const CHROMIUM: &str = "/usr/bin/chromium";

/// The measurements by name.
pub const MONITOR: [(&str, Measure); 1] = [("monitor", monitor)];

fn monitor(stage: &Stage<'_>, effort: Effort) -> Result<Vec<Row>> {
    let hub = ["--hub", "127.0.0.1:0", "--hub-name", "localhost"];
    let home = prepared_with(stage, "monitor", &hub)?;
    // Several looks, which the server takes each five seconds.
    let looked = Duration::from_secs(effort.seconds * 6);
    let idle = processor_percent(home.server_id()?, looked)?;
    deploy_many(&home)?;
    std::thread::sleep(REST);
    let busy = processor_percent(home.server_id()?, looked)? - idle;
    let mut rows = vec![Row {
        name: "processor time for the metrics of 200 replicas",
        baseline: format!("the server with none: {idle:.1} %"),
        ours: format!("{busy:.1} % more"),
        value: busy,
        unit: " % of a core",
        bound: Bound::Below(3.0),
    }];
    stage.python("benches/models/many_devices.py", &[&home.address, &DEVICES.to_string()])?;
    rows.extend(portal(stage, &home.address)?);
    Ok(rows)
}

fn portal(stage: &Stage<'_>, address: &str) -> Result<Vec<Row>> {
    const NAME: &str = "the portal in a browser";
    let portal = stage.workspace.root().join("portal");
    if !portal.join("node_modules/playwright-core").exists() {
        return Ok(vec![Row::not_measured(NAME, "the portal's npm packages are not installed")]);
    }
    if !Path::new(CHROMIUM).exists() {
        return Ok(vec![Row::not_measured(NAME, "there is no Chromium")]);
    }
    let mut node = stage.workspace.command("node");
    node.arg(portal.join("tests/speed.mjs")).env("PORTAL_BASE", format!("http://{address}"));
    let said = shell::output(node.current_dir(&portal))?;
    let measured: Value = serde_json::from_str(said.trim()).context("speed.mjs prints JSON")?;
    let number = |name: &str| measured[name].as_f64().with_context(|| format!("speed.mjs says no {name}"));
    let (paint, empty) = (number("paint")?, number("empty_paint")?);
    let frame = number("empty_frame")?;
    let scrolled = |name: &'static str, longest: f64| Row {
        name,
        baseline: format!("a plain page of that height: {frame:.0} ms"),
        ours: format!("{longest:.0} ms"),
        value: longest,
        unit: " ms",
        bound: Bound::AtMost(50.0),
    };
    Ok(vec![
        Row {
            name: "first paint of the portal, with nothing cached",
            baseline: format!("a page of one word: {empty:.0} ms"),
            ours: format!("{paint:.0} ms"),
            value: paint / 1000.0,
            unit: " s",
            bound: Bound::AtMost(1.0),
        },
        Row {
            name: "what is sent for it, compressed",
            baseline: "–".to_owned(),
            ours: format!("{:.0} kB", number("bytes")? / 1000.0),
            value: number("bytes")? / 1000.0,
            unit: " kB",
            bound: Bound::AtMost(300.0),
        },
        scrolled("longest frame while 200 deployments are scrolled", number("deployments")?),
        scrolled("longest frame while 1,000 devices are scrolled", number("devices")?),
    ])
}
