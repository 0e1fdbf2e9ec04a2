//! `moorline fpga`: what a bitstream and a device make of a model, before anything is deployed.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};
use moorline_fpga::{
    bitstream::Unverified,
    plan::{Costs, Numerics, Plan, PlanOptions},
};
use serde_json::{Value, json};

use super::fpga_profile;
use crate::{
    output::{self, Columns, Printing},
    session::Session,
};

const NODES: Columns = Columns(&[
    ("Node", "name"),
    ("Operator", "op"),
    ("Place", "place"),
    ("Island", "island"),
    ("Operations", "flops"),
    ("Why not on the device", "reason"),
]);

const SUMS: Columns = Columns(&[
    ("Coverage", "coverage"),
    ("Operations", "flops"),
    ("Bytes moved", "bytes_moved"),
    ("Islands on the device", "device_islands"),
    ("on the CPU", "host_islands"),
    ("Device memory", "device_memory"),
    ("Agreement", "accuracy.agreement"),
    ("Least SNR (dB)", "accuracy.least_snr_db"),
]);

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show where each node of an ONNX model would run, why not on the device, and what that costs
    #[command(after_help = "Examples:\n  moorline fpga plan resnet.onnx --bitstream pocl.fbit\n  \
        moorline fpga plan resnet.onnx --bitstream pocl.fbit --min-coverage 0.95 -o none\n  \
        moorline fpga plan ssd.onnx --bitstream pocl.fbit --query \"nodes[].[name,place,reason]\" -o table\n\n\
        No device is needed, and the bitstream's signature is not looked at.")]
    Plan(Request),
    /// Make a model of 8-bit integers of a model of floats, with samples of what it will be asked
    #[command(after_help = super::quantize::EXAMPLES)]
    Quantize(super::quantize::Request),
    /// Run an ONNX model on a device of this machine, and show what each kernel takes and how much the device could do
    #[command(after_help = "Examples:\n  \
        moorline fpga profile resnet.onnx --bitstream pocl.fbit --trusted-key key.pub.pem\n  \
        moorline fpga profile resnet.onnx --bitstream pocl.fbit --trusted-key key.pub.pem --nodes\n  \
        moorline fpga profile resnet.onnx --bitstream pocl.fbit --trusted-key key.pub.pem --trace trace.json -o none\n\n\
        Kernels are timed by the device's clock. Figures of an emulated device say nothing of an FPGA.")]
    Profile(fpga_profile::Request),
}

#[derive(Debug, Args)]
pub(crate) struct Request {
    /// The model
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// The bitstream whose kernels it is planned for
    #[arg(long, value_name = "FILE")]
    bitstream: PathBuf,
    /// The rows of one run, where the model leaves them open
    #[arg(long, value_name = "ROWS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Fail unless at least this part of the operations is on the device, from 0 to 1
    #[arg(long, value_name = "PART", default_value_t = 0.0, value_parser = part)]
    min_coverage: f64,
    /// How the device computes: f32-fma-v1, i8-rne-v1 or bfp9-v1 [default: on codes what the model quantises, the rest on floats]
    #[arg(long, value_name = "NAME")]
    numerics: Option<Numerics>,
    /// Fail unless the model reports of itself that it agrees with the model of floats for this part of its samples
    #[arg(long, value_name = "PART", value_parser = part)]
    min_agreement: Option<f64>,
    /// Fail if the device needs more memory than this many bytes
    #[arg(long, value_name = "BYTES")]
    device_memory: Option<u64>,
    /// Give the device everything that it can do, even what is not worth moving there
    #[arg(long)]
    eager: bool,
    #[command(flatten)]
    printing: Printing,
}

fn part(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(part) if (0.0..=1.0).contains(&part) => Ok(part),
        _ => Err("a number from 0 to 1 is wanted".to_owned()),
    }
}

pub(crate) fn run(session: &Session, verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Plan(request) => plan(request),
        Verb::Quantize(request) => super::quantize::run(session, request),
        Verb::Profile(request) => fpga_profile::run(session, request),
    }
}

fn plan(request: Request) -> anyhow::Result<()> {
    let file = &request.bitstream;
    let bitstream =
        Unverified::read(fs_err::File::open(file)?).with_context(|| format!("`{}`", file.display()))?;
    let options = PlanOptions {
        batch: request.batch as usize,
        min_coverage: request.min_coverage,
        device_memory: request.device_memory,
        costs: if request.eager { Costs::NOTHING } else { Costs::default() },
        numerics: request.numerics,
        min_agreement: request.min_agreement,
    };
    let plan = Plan::new(&request.model, bitstream.manifest(), &options)
        .with_context(|| format!("`{}`", request.model.display()))?;
    let mut told = serde_json::to_value(plan.report())?;
    told["architecture"] = json!(bitstream.manifest().arch.name);
    if !request.printing.is_table() {
        return request.printing.print(told, SUMS);
    }
    request.printing.print(told["nodes"].take(), NODES)?;
    output::write("\n")?;
    let coverage = format!("{:.1} %", 100.0 * plan.report().coverage);
    told["coverage"] = Value::String(coverage);
    request.printing.print(told, SUMS)
}
