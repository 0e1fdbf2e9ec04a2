//! ResNet-50 at batch 1 on the device that PoCL emulates, beside ONNX Runtime with as many threads, in one table. Figures
//! of emulation show what the host costs and what the kernels get out of a machine; they say nothing of an FPGA.
//!
//! `cargo xtask bench fpga` installs what it needs and runs it.
#![expect(clippy::print_stdout, reason = "the table is what it is run for")]
#![expect(clippy::unwrap_used, reason = "a measurement that fails has nothing else to say")]

#[path = "../tests/models/bench.rs"]
mod bench;

use std::time::{Duration, Instant};

use moorline_core::{Session, TensorData};
use moorline_fpga::{
    plan::{Numerics, Plan, PlanOptions},
    quantize::{Method, QuantizeOptions},
    runtime::Profile,
};

use bench::{Bench, assert_close, bitstream, load, made, named, noise, quantized};

const ROUNDS: usize = 60;
const SHAPE: [usize; 4] = [1, 3, 224, 224];

fn main() {
    // Everything that is made once.
    let (Some(_), Some(path)) = (bitstream(), made("generate.py", "resnet_50")) else { return };
    let begin = Instant::now();
    let Some(bench) = Bench::new() else { return };
    let start = begin.elapsed();
    let engine = bench.engine(PlanOptions::default());
    let begin = Instant::now();
    let ours = load(&engine, &path);
    let loaded = begin.elapsed();
    let theirs = load(&*bench.ort, &path);
    // The same model on codes, calibrated with noise.
    let folder = tempfile::tempdir().unwrap();
    let options = QuantizeOptions { method: Method::MinMax, per_channel: true, threads: 2 };
    let (held, _) = quantized(&*bench.ort, &path, &SHAPE, &options, folder.path());
    let (codes, codes_there) = (load(&engine, &held), load(&*bench.ort, &held));
    let in_blocks = PlanOptions { numerics: Some(Numerics::Bfp9), ..PlanOptions::default() };
    let in_blocks = load(&bench.engine(in_blocks), &path);
    let (mut ours, mut theirs) = (ours.session().unwrap(), theirs.session().unwrap());
    let mut in_blocks = in_blocks.session().unwrap();
    let (mut codes, mut codes_there) = (codes.session().unwrap(), codes_there.session().unwrap());

    let input = || named(vec![("input", noise(&SHAPE, 1))]);
    assert_close(&ours.run(input()).unwrap(), &theirs.run(input()).unwrap(), "ResNet-50");
    let once = |session: &mut dyn Session| {
        // Once before: each finds the caches as it leaves them, not as the one before it does.
        session.run(input()).unwrap();
        let input = input();
        let begin = Instant::now();
        session.run(input).unwrap();
        begin.elapsed()
    };
    // In turns, so that what else the machine does falls on both.
    let (mut device, mut host) = (Vec::new(), Vec::new());
    let (mut on_codes, mut host_codes, mut blocks) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        device.push(once(&mut *ours));
        host.push(once(&mut *theirs));
        on_codes.push(once(&mut *codes));
        host_codes.push(once(&mut *codes_there));
        blocks.push(once(&mut *in_blocks));
    }
    let (device, host) = (middle(device), middle(host));
    let (on_codes, host_codes) = (middle(on_codes), middle(host_codes));

    // The same program again, to see when its kernels ran.
    let manifest = bench.executor.bitstream().manifest();
    let plan = Plan::new(&path, manifest, &PlanOptions::default()).unwrap();
    let lowered = plan.device_islands().next().unwrap();
    let program =
        bench.executor.load(lowered.program.clone().into(), lowered.constants.as_slice().into()).unwrap();
    let image = noise(&SHAPE, 1);
    let TensorData::F32(floats) = image.data() else { unreachable!("noise is of floats") };
    let inputs: Vec<u8> = floats.iter().flat_map(|float| float.to_le_bytes()).collect();
    let (mut alone, mut outside, mut between) = (Vec::new(), Vec::new(), Vec::new());
    let kernels =
        |profile: &Profile| -> u64 { profile.launches.iter().map(|launch| launch.end - launch.start).sum() };
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        let (_, profile) = bench.executor.profile(program, &inputs).unwrap();
        alone.push(begin.elapsed());
        let whole = begin.elapsed().as_nanos() as f64;
        let (first, last) = (profile.launches.first().unwrap(), profile.launches.last().unwrap());
        outside.push(1.0 - kernels(&profile) as f64 / whole);
        between.push((last.end - first.start - kernels(&profile)) as f64 / whole);
    }
    // Two at once: the transfers of one pass while the other one computes.
    let begin = Instant::now();
    let busy: u64 = std::thread::scope(|scope| {
        let session = || {
            let profiles = (0..ROUNDS / 2).map(|_| bench.executor.profile(program, &inputs).unwrap().1);
            profiles.map(|profile| kernels(&profile)).sum::<u64>()
        };
        let sessions = [scope.spawn(session), scope.spawn(session)];
        sessions.into_iter().map(|session| session.join().unwrap()).sum()
    });
    let both = begin.elapsed();

    let rows = [
        ("f32-fma-v1, one request", format!("{:.1} ms", millis(device)), String::new()),
        ("ONNX Runtime, 2 threads", format!("{:.1} ms", millis(host)), String::new()),
        ("f32-fma-v1 to ONNX Runtime", format!("{:.2}", millis(device) / millis(host)), "1.5".to_owned()),
        ("the same without the others", format!("{:.1} ms", millis(middle(alone))), String::new()),
        ("outside of kernels, one request", percent(middle(outside)), "5 %".to_owned()),
        ("of that between launches", percent(middle(between)), String::new()),
        (
            "outside of kernels, two sessions",
            percent(1.0 - busy as f64 / both.as_nanos() as f64),
            "5 %".to_owned(),
        ),
        ("two sessions, each request", format!("{:.1} ms", millis(both / ROUNDS as u32)), String::new()),
        ("i8-rne-v1, one request", format!("{:.1} ms", millis(on_codes)), String::new()),
        ("bfp9-v1, one request", format!("{:.1} ms", millis(middle(blocks))), String::new()),
        ("ONNX Runtime on codes", format!("{:.1} ms", millis(host_codes)), String::new()),
        (
            "i8-rne-v1 to ONNX Runtime on floats",
            format!("{:.2}", millis(on_codes) / millis(host)),
            "1.0".to_owned(),
        ),
        ("worker started and ready", format!("{:.2} s", start.as_secs_f64()), "1 s".to_owned()),
        ("model planned and loaded", format!("{:.2} s", loaded.as_secs_f64()), String::new()),
    ];
    let mut table = format!(
        "ResNet-50, batch 1, {} ({}); medians of {ROUNDS}\n\n| | measured | at most |\n| --- | --- | --- |\n",
        bench.executor.device().name,
        bench.executor.device().class.as_str(),
    );
    for (what, measured, most) in rows {
        table += &["| ", what, " | ", &measured, " | ", &most, " |\n"].concat();
    }
    print!("{table}");
}

fn middle<T: PartialOrd + Copy>(mut values: Vec<T>) -> T {
    values.sort_by(|one, other| one.partial_cmp(other).unwrap());
    values[values.len() / 2]
}

fn percent(part: f64) -> String {
    format!("{:.1} %", 100.0 * part)
}

fn millis(time: Duration) -> f64 {
    1e3 * time.as_secs_f64()
}
