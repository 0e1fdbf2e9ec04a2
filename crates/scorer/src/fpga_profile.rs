//! `moorline-scorer fpga-profile`: where the time of a model goes on a device, as JSON. It is here because this binary has
//! the engines of the parts on the CPU; people type `moorline fpga profile`.

use std::{io::Write as _, num::NonZeroUsize, sync::Arc};

use anyhow::Context as _;
use moorline_core::ModelFiles;
use moorline_fpga::{engine::OpenClEngine, profile};
use serde_json::json;

use crate::{
    engines,
    failure::Failure,
    fpga,
    settings::{Environment, FpgaProfile, python},
};

pub(crate) fn run(verb: &FpgaProfile, environment: &Environment) -> Result<(), Failure> {
    let bitstream = verb.fpga.bitstream.as_deref();
    let bitstream =
        bitstream.context("no bitstream is named; say --fpga-bitstream").map_err(Failure::usage)?;
    let python = python(None, environment, std::path::Path::new("."));
    let host = engines::choose(verb.engine, environment, Some(python))?;
    let options = fpga::plan_options(&verb.fpga)?;
    let executor = fpga::executor(&verb.fpga, bitstream, "moorline fpga profile".to_owned(), environment)?;
    let engine = OpenClEngine::new(Arc::new(executor), host, options);
    let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN).get();
    let model = ModelFiles { path: verb.model.clone(), threads };
    let mut profiled = profile::profile(&engine, &model, verb.runs as usize, verb.trace.is_some())?;
    if let (Some(file), Some(events)) = (&verb.trace, profiled.trace.take()) {
        let document = json!({ "traceEvents": events, "displayTimeUnit": "ms" });
        fs_err::write(file, serde_json::to_vec(&document)?)?;
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(&profiled)?)?;
    Ok(())
}
