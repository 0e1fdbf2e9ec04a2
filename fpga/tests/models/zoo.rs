//! Whole models: nearly all of their work is on the device, and what they answer is what ONNX Runtime answers.

use moorline_fpga::plan::{Plan, PlanOptions};

use crate::bench::{Bench, assert_close, load, made, named, noise};

/// Plans, runs and compares one model of the zoo.
fn check(name: &str, shape: &[usize], islands: (usize, usize)) {
    let (Some(bench), Some(path)) = (Bench::new(), made("generate.py", name)) else { return };
    let options = PlanOptions { min_coverage: 0.95, ..PlanOptions::default() };
    let plan = Plan::new(&path, bench.executor.bitstream().manifest(), &options).unwrap();
    let report = plan.report();
    assert_eq!((report.device_islands, report.host_islands), islands, "{:#?}", report.nodes);
    let (ours, theirs) = (load(&bench.engine(options), &path), load(&*bench.ort, &path));
    let (mut ours, mut theirs) = (ours.session().unwrap(), theirs.session().unwrap());
    for seed in 0..2 {
        let input = || named(vec![("input", noise(shape, seed))]);
        let found = ours.run(input()).unwrap();
        assert_close(&found, &theirs.run(input()).unwrap(), name);
    }
}

#[test]
fn resnet_50() {
    check("resnet_50", &[1, 3, 224, 224], (1, 0));
}

#[test]
fn resnet_152() {
    check("resnet_152", &[1, 3, 96, 96], (1, 0));
}

#[test]
fn a_resnet_whose_batch_is_open() {
    check("resnet_any_batch", &[3, 3, 64, 64], (1, 0));
}

#[test]
fn densenet_121() {
    check("densenet_121", &[1, 3, 224, 224], (1, 0));
}

#[test]
fn vgg_16() {
    check("vgg_16", &[1, 3, 96, 96], (1, 1));
}

#[test]
fn ssd_vgg() {
    check("ssd_vgg", &[1, 3, 300, 300], (2, 2));
}

#[test]
fn mobilenet_v2() {
    check("mobilenet_v2", &[1, 3, 224, 224], (1, 0));
}

#[test]
fn an_mlp() {
    check("mlp", &[2, 784], (1, 1));
}
