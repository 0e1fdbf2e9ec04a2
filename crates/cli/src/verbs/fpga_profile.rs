//! `moorline fpga profile`: where the time of a model goes on a device. The scorer measures it, which has the engines of the
//! parts on the CPU; this prints what it found.

use std::{path::PathBuf, process::Command};

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};

use crate::{
    doctor,
    exit::Explained,
    output::{self, Columns, Printing},
    session::Session,
};

const KERNELS: Columns = Columns(&[
    ("Kernel", "kernel"),
    ("Launches", "launches"),
    ("ms", "milliseconds"),
    ("Share", "share"),
    ("GFLOP/s", "gflops"),
    ("of ceiling", "of_gflops"),
    ("GB/s", "gbytes"),
    ("of ceiling", "of_gbytes"),
]);

const NODES: Columns = Columns(&[
    ("Island", "island"),
    ("Nodes", "nodes"),
    ("Kernel", "kernel"),
    ("ms", "milliseconds"),
    ("GFLOP/s", "gflops"),
    ("of ceiling", "of_gflops"),
    ("GB/s", "gbytes"),
    ("of ceiling", "of_gbytes"),
]);

const ISLANDS: Columns = Columns(&[
    ("Island", "island"),
    ("Place", "place"),
    ("ms", "milliseconds"),
    ("Kernels", "kernels_milliseconds"),
    ("Bytes in", "bytes_to_device"),
    ("ms in", "to_device_milliseconds"),
    ("Bytes out", "bytes_from_device"),
    ("ms out", "from_device_milliseconds"),
    ("No kernel", "outside_milliseconds"),
]);

const SUMS: Columns = Columns(&[
    ("Device", "device"),
    ("Class", "device_class"),
    ("Runs", "runs"),
    ("ms", "milliseconds"),
    ("Kernels", "kernels_milliseconds"),
    ("CPU", "host_milliseconds"),
    ("Neither", "outside_milliseconds"),
    ("Share", "outside"),
    ("Most GFLOP/s", "ceilings.gflops"),
    ("Most GB/s", "ceilings.gbytes"),
]);

#[derive(Debug, Args)]
pub(crate) struct Request {
    /// The model
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// The bitstream that runs it
    #[arg(long, value_name = "FILE")]
    bitstream: PathBuf,
    /// The file with a public key that may have signed the bitstream (Ed25519, PEM); may be repeated
    #[arg(long, value_name = "FILE", required = true)]
    trusted_key: Vec<PathBuf>,
    /// Requests that are measured, one after the other, with noise as their inputs
    #[arg(short = 'n', long = "runs", value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Which device is taken: `platform=…`, `name=…`, `index=N`, `class=hardware|emulation` [default: the first that fits]
    #[arg(long, value_name = "FILTER")]
    device: Option<String>,
    /// Show the nodes of the model, launch by launch, in place of the kernels
    #[arg(long)]
    nodes: bool,
    /// Write when everything happened, for chrome://tracing or Perfetto
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// The folder with the leases of this machine's devices [default: devices in the home folder]
    #[arg(long, value_name = "DIR")]
    leases: Option<PathBuf>,
    /// The scorer, which has the engines for what is not on the device [default: moorline-scorer beside this program, or in PATH]
    #[arg(long, env = "MOORLINE_SCORER", value_name = "FILE", hide_env_values = true)]
    scorer: Option<PathBuf>,
    #[command(flatten)]
    printing: Printing,
}

pub(crate) fn run(session: &Session, request: Request) -> anyhow::Result<()> {
    let beside = || doctor::find_beside("moorline-scorer", &session.variables.search_path);
    let scorer = request.scorer.clone().or_else(beside).ok_or_else(|| {
        Explained::new("there is no moorline-scorer beside this program or in PATH")
            .hint("it runs what is not on the device; say where it is with --scorer")
    })?;
    let leases = match &request.leases {
        Some(folder) => folder.clone(),
        None => session.home()?.join("devices"),
    };
    let mut measure = Command::new(&scorer);
    measure.arg("fpga-profile").arg(&request.model).args(["--runs", &request.runs.to_string()]);
    measure.arg("--fpga-bitstream").arg(&request.bitstream).arg("--fpga-leases").arg(leases);
    for key in &request.trusted_key {
        measure.arg("--fpga-trusted-keys").arg(key);
    }
    if let Some(filter) = &request.device {
        measure.args(["--fpga-device", filter]);
    }
    if let Some(file) = &request.trace {
        measure.arg("--trace").arg(file);
    }
    let said = measure.output().with_context(|| format!("could not start `{}`", scorer.display()))?;
    if !said.status.success() {
        let words = String::from_utf8_lossy(&said.stderr);
        let words = words.trim();
        return Err(Explained::new(words.strip_prefix("error: ").unwrap_or(words)).into());
    }
    let told: Value = serde_json::from_slice(&said.stdout)
        .with_context(|| format!("`{}` is of another version: its words are no profile", scorer.display()))?;
    if !request.printing.is_table() {
        return request.printing.print(told, SUMS);
    }
    let told = for_people(told);
    let (rows, columns) = if request.nodes { (&told["nodes"], NODES) } else { (&told["kernels"], KERNELS) };
    request.printing.print(rows.clone(), columns)?;
    output::write("\n")?;
    request.printing.print(told["islands"].clone(), ISLANDS)?;
    output::write("\n")?;
    request.printing.print(told, SUMS)
}

/// Parts that are shown in percent, not as numbers.
const PARTS: [&str; 4] = ["share", "of_gflops", "of_gbytes", "outside"];

/// Numbers with as many digits as one can read, and lists of nodes as one text.
fn for_people(value: Value) -> Value {
    let readable = |key: &str, value: Value| match value {
        Value::Number(number) if number.is_f64() => {
            let number = number.as_f64().unwrap_or_default();
            if PARTS.contains(&key) {
                json!(format!("{:.1} %", 100.0 * number))
            } else {
                json!(format!("{number:.3}"))
            }
        }
        Value::Array(items) if key == "nodes" && items.iter().all(Value::is_string) => {
            let names: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
            json!(names.join(", "))
        }
        other => for_people(other),
    };
    match value {
        Value::Object(entries) => {
            let readable = entries.into_iter().map(|(key, value)| {
                let value = readable(&key, value);
                (key, value)
            });
            Value::Object(readable.collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(for_people).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_percents_and_three_digits() {
        let told = json!({
            "milliseconds": 1.234_56, "share": 0.5, "of_gbytes": null, "launches": 3,
            "nodes": [{"nodes": ["a", "b"], "gflops": 10.0}]
        });
        let wanted = json!({
            "milliseconds": "1.235", "share": "50.0 %", "of_gbytes": null, "launches": 3,
            "nodes": [{"nodes": "a, b", "gflops": "10.000"}]
        });
        assert_eq!(for_people(told), wanted);
    }
}
