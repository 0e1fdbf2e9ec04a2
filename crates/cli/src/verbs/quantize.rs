//! `moorline fpga quantize`: runs the scorer's own verb, which has the engines, and shows how far it is and what came of it.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::PathBuf,
    process::{Command, Stdio},
    thread,
};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::{
    doctor,
    exit::Explained,
    output::{self, Columns, Printing},
    session::Session,
};

pub(super) const EXAMPLES: &str = "Examples:\n  \
    moorline fpga quantize resnet.onnx --calibration images.npy --out resnet-int8.onnx\n  \
    moorline fpga quantize bert.onnx --calibration samples/ --out bert-int8.onnx --method percentile --report accuracy.json\n  \
    moorline fpga quantize resnet.onnx --calibration images.npz --out r.onnx -o json --query agreement\n\n\
    Samples are .npy (one input), .npz (arrays by the names of the inputs) or .json (requests of the Open Inference \
    Protocol), or a folder of them. Preprocess them as requests will be. A hundred are enough for most models.";

const LAYERS: Columns = Columns(&[("Tensor", "tensor"), ("Operator", "op"), ("SNR (dB)", "snr_db")]);

const SUMS: Columns = Columns(&[
    ("Agreement", "agreement"),
    ("Greatest error", "max_error"),
    ("Samples", "samples"),
    ("Method", "method"),
    ("Per channel", "per_channel"),
]);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Method {
    /// Ranges reach over every value that was seen
    Minmax,
    /// Ranges leave out the rarest values at each end
    Percentile,
}

#[derive(Debug, Args)]
pub(crate) struct Request {
    /// The model of floats
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Samples: a file or a folder of .npy, .npz or .json
    #[arg(long, value_name = "DATA")]
    calibration: PathBuf,
    /// The quantised model
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// How the range of a tensor follows from its values
    #[arg(long, value_name = "METHOD", default_value = "minmax")]
    method: Method,
    /// How much of the values is within each bound, in hundredths, with --method percentile
    #[arg(long, value_name = "PERCENT", default_value_t = 99.99, value_parser = percentile)]
    percentile: f32,
    /// A scale for each output of a layer's weights; false: one for all of them
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    per_channel: bool,
    /// Write the report there, too, as JSON; it is in the model's metadata in any case
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// The engine that runs the model: auto, ort or tract
    #[arg(long, value_name = "ENGINE", default_value = "auto")]
    engine: String,
    /// The scorer [default: moorline-scorer beside this program or in PATH]
    #[arg(long, value_name = "FILE")]
    scorer: Option<PathBuf>,
    #[command(flatten)]
    printing: Printing,
}

fn percentile(text: &str) -> Result<f32, String> {
    match text.parse() {
        Ok(percentile) if percentile > 50.0 && percentile <= 100.0 => Ok(percentile),
        _ => Err("a number above 50 and up to 100 is wanted".to_owned()),
    }
}

pub(super) fn run(session: &Session, request: Request) -> anyhow::Result<()> {
    let scorer = request
        .scorer
        .clone()
        .or_else(|| doctor::find_beside("moorline-scorer", &session.variables.search_path))
        .ok_or_else(|| {
            Explained::new("there is no moorline-scorer beside this program or in PATH")
                .hint("it has the engine that runs the model; name it with --scorer")
        })?;
    let mut command = Command::new(&scorer);
    command.arg("fpga-quantize").arg(&request.model);
    command.arg("--calibration").arg(&request.calibration).arg("--out").arg(&request.out);
    command.args(["--engine", &request.engine]);
    if request.method == Method::Percentile {
        command.args(["--percentile", &request.percentile.to_string()]);
    }
    if !request.per_channel {
        command.arg("--per-tensor");
    }
    let accuracy = follow(session, command)
        .with_context(|| format!("`{}` was not quantised", request.model.display()))?;
    if let Some(file) = &request.report {
        fs_err::write(file, format!("{accuracy:#}\n"))?;
    }
    session.screen.note(format!("`{}` is written", request.out.display()));
    if !request.printing.is_table() {
        return request.printing.print(accuracy, SUMS);
    }
    request.printing.print(accuracy["layers"].clone(), LAYERS)?;
    output::write("\n")?;
    request.printing.print(accuracy, SUMS)
}

/// Shows what the scorer tells until it ends; gives the report.
fn follow(session: &Session, mut command: Command) -> anyhow::Result<Value> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("the scorer could not be started")?;
    let (told, complaints) = (child.stdout.take(), child.stderr.take());
    let complaints = thread::spawn(move || {
        let mut text = String::new();
        // What is no text is no complaint that could be shown.
        let _ = complaints.map(|mut complaints| complaints.read_to_string(&mut text));
        text
    });
    let wheel = session.screen.wheel("quantising");
    let mut accuracy = None;
    for line in told.into_iter().flat_map(|told| BufReader::new(told).lines()) {
        let mut line: Value =
            serde_json::from_str(&line?).context("the scorer said what is not understood")?;
        if let (Some(what), Some(done), Some(total)) =
            (line["what"].as_str(), line["done"].as_u64(), line["total"].as_u64())
        {
            wheel.set_message(format!("{what}: {done} of {total} samples"));
        } else {
            accuracy = line.get_mut("accuracy").map(Value::take);
        }
    }
    wheel.finish_and_clear();
    let status = child.wait()?;
    let complaints = complaints.join().unwrap_or_default();
    match accuracy {
        Some(accuracy) if status.success() => Ok(accuracy),
        _ => {
            let words = complaints.trim();
            let words = words.rsplit_once("error: ").map_or(words, |(_, words)| words);
            Err(if words.is_empty() {
                anyhow::anyhow!("the scorer ended with {status}")
            } else {
                anyhow::anyhow!("{words}")
            })
        }
    }
}
