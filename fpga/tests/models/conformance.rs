//! The engine against the contract of the seam: with everything on the device that can be, and with nothing.

use std::sync::Arc;

use moorline_core::Engine;
use moorline_fpga::plan::{Costs, PlanOptions};
use moorline_testkit::engine_conformance;

use crate::bench::Bench;

#[test]
fn it_keeps_the_contract_with_the_model_on_the_device() {
    let Some(bench) = Bench::new() else { return };
    let options = PlanOptions { costs: Costs::NOTHING, min_coverage: 1.0, ..PlanOptions::default() };
    engine_conformance(|| Arc::new(bench.engine(options)) as Arc<dyn Engine>);
}

#[test]
fn it_keeps_the_contract_with_the_model_on_the_cpu() {
    let Some(bench) = Bench::new() else { return };
    engine_conformance(|| Arc::new(bench.engine(PlanOptions::default())) as Arc<dyn Engine>);
}
