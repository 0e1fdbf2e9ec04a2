//! Baseline: ONNX Runtime with nothing around it. Threads that each own a session and run the same input in a loop;
//! or, with `--seconds 0`, only the creation of one session. The answer is one line of JSON.
#![expect(clippy::print_stdout, reason = "the harness reads the result from it")]

use std::{
    path::PathBuf,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use clap::Parser;
use ort::{
    environment::Environment,
    session::{Session, builder::GraphOptimizationLevel},
    value::Tensor,
};
use serde_json::json;

#[derive(Parser)]
struct Arguments {
    /// The ONNX Runtime library.
    #[arg(long)]
    library: PathBuf,
    #[arg(long)]
    model: PathBuf,
    /// The shape of the one input, filled with halves.
    #[arg(long, value_delimiter = ',')]
    shape: Vec<usize>,
    #[arg(long, default_value_t = 1)]
    threads: usize,
    #[arg(long)]
    seconds: f64,
}

fn main() -> Result<()> {
    let start = Instant::now();
    let arguments = Arguments::parse();
    let environment = ort::init_from(&arguments.library)?.build()?;
    if arguments.seconds == 0.0 {
        open(&environment, &arguments)?;
        println!("{}", json!({"seconds": start.elapsed().as_secs_f64()}));
        return Ok(());
    }
    let barrier = Barrier::new(arguments.threads);
    let rates = thread::scope(|scope| {
        let loops: Vec<_> =
            (0..arguments.threads).map(|_| scope.spawn(|| run(&environment, &arguments, &barrier))).collect();
        loops
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
            .collect::<Result<Vec<f64>>>()
    })?;
    println!("{}", json!({"runs_per_second": rates.iter().sum::<f64>()}));
    Ok(())
}

/// As the scorer opens its sessions for throughput.
fn open(environment: &Environment, arguments: &Arguments) -> Result<Session> {
    let mut builder = Session::builder(environment)?
        .with_optimization_level(GraphOptimizationLevel::All)
        .map_err(|error| anyhow!("{error}"))?
        .with_intra_threads(1)
        .map_err(|error| anyhow!("{error}"))?;
    builder
        .commit_from_file(&arguments.model)
        .with_context(|| format!("could not load {}", arguments.model.display()))
}

/// Runs a second; all threads begin together, after a run each to warm up.
fn run(environment: &Environment, arguments: &Arguments, barrier: &Barrier) -> Result<f64> {
    let opened = open(environment, arguments).and_then(|mut session| {
        let elements = arguments.shape.iter().product();
        let input = Tensor::from_array((arguments.shape.clone(), vec![0.5_f32; elements]))?;
        session.run(ort::inputs![&input])?;
        Ok((session, input))
    });
    // Whoever failed must come here too, or the others wait for ever.
    barrier.wait();
    let (mut session, input) = opened?;
    let limit = Duration::from_secs_f64(arguments.seconds);
    let start = Instant::now();
    let mut runs = 0_u32;
    while start.elapsed() < limit {
        session.run(ort::inputs![&input])?;
        runs += 1;
    }
    Ok(f64::from(runs) / start.elapsed().as_secs_f64())
}
