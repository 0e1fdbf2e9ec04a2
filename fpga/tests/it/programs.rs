//! What a device does when everything is right, and what it refuses without harm.

use std::sync::Arc;

use moorline_fpga::{
    bitstream::{BitstreamError, DeviceClass},
    runtime::RuntimeError,
    worker::{Executor, ProgramId, WorkerError},
};

use crate::bench::{Bench, built, constants, floats, parts, scale, sign};

fn start() -> Option<(Bench, Executor)> {
    let bench = Bench::new();
    let executor = bench.start(sign(parts(built()?))).unwrap();
    Some((bench, executor))
}

fn load(executor: &Executor, plus: f32) -> ProgramId {
    executor.load(Arc::new(scale(plus)), constants().into()).unwrap()
}

#[test]
fn programs_run_side_by_side_and_one_after_the_other() {
    let Some((_bench, executor)) = start() else { return };
    assert_eq!(executor.device().class, DeviceClass::Emulation);
    let (one, two) = (load(&executor, 1.0), load(&executor, 2.0));
    for round in 0..3 {
        let x = round as f32;
        let inputs = floats(&[x, x, x, x]);
        let expect = |plus: f32| vec![floats(&[x + plus, 2.0 * x + plus, 3.0 * x + plus, 4.0 * x + plus])];
        assert_eq!(executor.run(one, &inputs).unwrap(), expect(1.0));
        assert_eq!(executor.run(two, &inputs).unwrap(), expect(2.0));
    }
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let executor = &executor;
            scope.spawn(move || {
                for round in 0..100 {
                    let x = (thread * 1000 + round) as f32;
                    let (program, plus) = if round % 3 == 0 { (two, 2.0) } else { (one, 1.0) };
                    let outputs = executor.run(program, &floats(&[x; 4])).unwrap();
                    let wanted = floats(&[x + plus, 2.0 * x + plus, 3.0 * x + plus, 4.0 * x + plus]);
                    assert_eq!(outputs[0], wanted, "requests do not mix");
                }
            });
        }
    });
    assert_eq!(executor.restarts(), 0);
}

#[test]
fn a_profile_has_a_span_for_every_command() {
    let Some((_bench, executor)) = start() else { return };
    let program = load(&executor, 1.0);
    let inputs = floats(&[1.0; 4]);
    let (outputs, profile) = executor.profile(program, &inputs).unwrap();
    assert_eq!(outputs, executor.run(program, &inputs).unwrap(), "profiling changes no result");
    assert_eq!((profile.writes.len(), profile.launches.len(), profile.reads.len()), (1, 1, 1));
    let (write, launch, read) = (profile.writes[0], profile.launches[0], profile.reads[0]);
    for span in [write, launch, read] {
        assert!(span.queued <= span.start && span.start <= span.end, "{span:?}");
    }
    assert!(write.end <= launch.start && launch.end <= read.start, "one queue, in order: {profile:?}");
}

#[test]
fn what_does_not_fit_is_refused_and_harms_nothing() {
    let Some((_bench, executor)) = start() else { return };
    let good = load(&executor, 1.0);
    let error = executor.run(good, &floats(&[1.0; 3])).unwrap_err();
    assert!(matches!(error, WorkerError::Refused(RuntimeError::Input { .. })), "{error}");

    let mut other = scale(1.0);
    other.architecture = "00".repeat(32);
    let error = executor.load(Arc::new(other), constants().into()).unwrap_err();
    assert!(matches!(error, WorkerError::Bitstream(BitstreamError::Fingerprint { .. })), "{error}");

    let mut strange = scale(1.0);
    strange.launches[0].kernel = "nothing".to_owned();
    let error = executor.load(Arc::new(strange), constants().into()).unwrap_err();
    assert!(matches!(error, WorkerError::Refused(RuntimeError::Program { .. })), "{error}");

    let mut large = scale(1.0);
    large.buffers[2].bytes = executor.device().memory + 1;
    let error = executor.load(Arc::new(large), constants().into()).unwrap_err();
    let WorkerError::Refused(RuntimeError::Memory { needed, free, .. }) = error else { panic!("{error}") };
    assert_eq!(free, executor.device().memory - 80, "the program takes its part, twice where the host is");
    assert!(needed > free);

    assert_eq!(executor.run(good, &floats(&[0.0; 4])).unwrap(), [floats(&[1.0; 4])]);
    executor.unload(good).unwrap();
    assert!(matches!(executor.run(good, &floats(&[0.0; 4])), Err(WorkerError::NoProgram { .. })));
    assert_eq!(executor.restarts(), 0);
}

#[test]
fn memory_that_no_kernel_wrote_is_zero() {
    let Some((_bench, executor)) = start() else { return };
    let mut program = scale(1.0);
    // Reads what nothing writes in place of the result.
    program.buffers.push(moorline_fpga::program::BufferPlan { bytes: 1 << 20, constant: None });
    program.outputs[0].buffer = 3;
    program.outputs[0].bytes = 1 << 20;
    let id = executor.load(Arc::new(program), constants().into()).unwrap();
    let outputs = executor.run(id, &floats(&[1.0; 4])).unwrap();
    assert!(outputs[0].len() == 1 << 20 && outputs[0].iter().all(|byte| *byte == 0));
}
