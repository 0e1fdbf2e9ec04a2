//! `moorline-scorer fpga-quantize`: what `moorline fpga quantize` starts, because engines are here and not there. It prints
//! a line of JSON whenever something was done, and at last one with the report.

use std::{io::Write as _, num::NonZeroUsize};

use moorline_fpga::quantize::{Method, Progress, QuantizeOptions, quantize};
use serde_json::json;

use crate::{
    engines,
    failure::Failure,
    settings::{Environment, FpgaQuantize, python},
};

pub(crate) fn run(request: &FpgaQuantize, environment: &Environment) -> Result<(), Failure> {
    let python = python(None, environment, std::path::Path::new("."));
    let engine = engines::choose(request.engine, environment, Some(python))?;
    let options = QuantizeOptions {
        method: request.percentile.map_or(Method::MinMax, Method::Percentile),
        per_channel: !request.per_tensor,
        threads: std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
    };
    let mut out = std::io::stdout().lock();
    let mut told = |Progress { what, done, total }: Progress| {
        // Who does not listen any more does not want to know.
        let _ = writeln!(out, "{}", json!({"what": what, "done": done, "total": total}));
    };
    let quantized = quantize(&request.model, &request.calibration, engine.as_ref(), &options, &mut told)?;
    // Written aside first: who sees the file sees all of it.
    let aside = request.out.with_extension("part");
    fs_err::write(&aside, &quantized.model)?;
    fs_err::rename(&aside, &request.out)?;
    // Not by way of a value, in which floats have more digits than in the model.
    writeln!(out, "{{\"accuracy\":{}}}", serde_json::to_string(&quantized.accuracy)?)?;
    Ok(())
}
