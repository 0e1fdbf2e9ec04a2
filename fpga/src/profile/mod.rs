//! Where the time of a model goes on a device: what each kernel takes by the device's own clock, how near that is to what
//! the device can do, what transfers take, and what is left for the host.

mod ceiling;
mod report;
mod trace;

use std::time::{Duration, Instant};

use moorline_core::{
    DataType, Dim, EngineError, LoadedModel as _, ModelFiles, Session as _, Signature, Tensor, TensorData,
    TensorSpec, Tensors, with_elements,
};

pub use self::{
    ceiling::Ceilings,
    report::{DeviceProfile, IslandProfile, KernelProfile, NodeProfile, Profiled, Speed},
};
use crate::engine::{OpenClEngine, StepTime};

/// Runs a model that often, one request after the other, with noise as its inputs, and says where the time went. With
/// `trace`, also when everything happened.
pub fn profile(
    engine: &OpenClEngine,
    model: &ModelFiles,
    runs: usize,
    trace: bool,
) -> Result<Profiled, EngineError> {
    let executor = engine.executor();
    let ceilings = Ceilings::measure(executor)?;
    let planned = engine.place(model)?;
    let mut session = planned.recording()?;
    let inputs = |run: usize| noise(planned.signature(), run as u32);
    // The first request pays for what is made once.
    session.run(inputs(0)?)?;
    session.take_steps();
    let began = Instant::now();
    let mut recorded = Vec::with_capacity(runs);
    for run in 0..runs {
        let inputs = inputs(run)?;
        let from = began.elapsed();
        session.run(inputs)?;
        let to = began.elapsed();
        recorded.push(Run { began, from, to, steps: session.take_steps() });
    }
    let mut profiled = Profiled::new(executor, ceilings, &recorded);
    if trace {
        profiled.trace = Some(trace::events(executor, &recorded));
    }
    Ok(profiled)
}

/// One request.
#[derive(Debug)]
struct Run {
    /// What its times are counted from.
    began: Instant,
    from: Duration,
    to: Duration,
    steps: Vec<StepTime>,
}

/// Inputs that fit a signature: numbers that look like noise for floats, zeros for everything else.
fn noise(signature: &Signature, seed: u32) -> Result<Tensors, EngineError> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let tensor = |spec: &TensorSpec| {
        let size = |dim: &Dim| match dim {
            Dim::Fixed(size) => *size,
            Dim::Dynamic(_) => 1,
        };
        let shape: Vec<usize> = spec.shape.iter().flatten().map(size).collect();
        let count = shape.iter().product();
        let data = if spec.data_type == DataType::F32 {
            (0..count).map(|_| next()).collect::<Vec<f32>>().into()
        } else {
            let mut data = TensorData::with_capacity(spec.data_type, count);
            with_elements!(&mut data, elements => elements.resize_with(count, Default::default));
            data
        };
        let tensor = Tensor::new(shape, data).map_err(|error| EngineError::Input(error.to_string()))?;
        Ok((spec.name.clone(), tensor.into()))
    };
    signature.inputs.iter().map(tensor).collect()
}
