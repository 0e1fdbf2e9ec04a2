//! What is counted of a device: what it was given and gave, when its kernels ran, and how its workers ended.

use std::{collections::HashMap, process::Command, sync::Arc};

use moorline_fpga::metrics::Metrics;
use prometheus::Registry;

use crate::bench::{Bench, built, constants, floats, hang, parts, scale, sign};

/// The value of one series, or nothing where it is not there.
fn value(registry: &Registry, series: &str) -> Option<f64> {
    let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn a_device_is_counted() {
    let Some(built) = built() else { return };
    let bench = Bench::new().impatient();
    let registry = Registry::new();
    let metrics = Metrics::register(&registry, &HashMap::new()).unwrap();
    let executor = bench.start(sign(parts(built))).unwrap().observed(Arc::new(metrics));
    let good = executor.load(scale(1.0).into(), constants().into()).unwrap();
    let bad = executor.load(hang().into(), constants().into()).unwrap();
    let of = |name: &str, label: &str| {
        value(&registry, &format!(r#"moorline_fpga_{name}{{device_class="emulation"{label}}}"#))
    };
    let to_device = || of("transfer_bytes_total", r#",direction="to_device""#).unwrap();
    assert_eq!(to_device(), 40.0, "twice the constants");
    assert_eq!(of("device_busy_ratio", ""), None, "nothing ran");
    for _ in 0..17 {
        executor.run(good, &floats(&[0.0; 4])).unwrap();
    }
    assert_eq!(to_device(), 40.0 + 17.0 * 16.0);
    assert_eq!(of("transfer_bytes_total", r#",direction="from_device""#), Some(17.0 * 16.0));
    assert_eq!(of("kernel_seconds_count", r#",kernel="scale""#), Some(2.0), "one request in 16");
    assert!(of("kernel_seconds_sum", r#",kernel="scale""#).unwrap() > 0.0);
    let busy = of("device_busy_ratio", "").unwrap();
    assert!(busy > 0.0 && busy <= 1.0, "{busy}");

    let process = executor.process().unwrap().to_string();
    assert!(Command::new("kill").args(["-9", &process]).status().unwrap().success());
    executor.run(good, &floats(&[0.0; 4])).unwrap();
    assert_eq!(of("worker_restarts_total", r#",reason="died""#), Some(1.0));
    executor.run(bad, &floats(&[0.0; 4])).unwrap_err();
    assert_eq!(
        of("worker_restarts_total", r#",reason="hung""#),
        Some(1.0),
        "the second end has no successor yet"
    );
}
