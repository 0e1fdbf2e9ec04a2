//! The pieces of one request's way, alone: codecs, batches, and what it costs to record a request.
//! `cargo xtask bench hot-path` runs them.

use std::{
    hint::black_box,
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use moorline_core::{
    BatchSettings, Batcher, DataType, Dim, Item, Signature, Take, Tensor, TensorSpec, Tensors, ValueKind,
    split, stack,
};
use moorline_serve::{
    Metrics, Protocol,
    codec::{
        Limits, ModelIdentity,
        oip::{self, Requested},
        score::{self, Door, Style},
    },
};

const COLUMNS: usize = 10;

fn signature() -> Signature {
    let spec = |name: &str| TensorSpec {
        name: name.into(),
        data_type: DataType::F32,
        shape: Some(vec![Dim::Dynamic(None), Dim::Fixed(COLUMNS)]),
        kind: ValueKind::Tensor,
        optional: false,
    };
    Signature { inputs: vec![spec("x")], outputs: vec![spec("y")] }
}

fn rows(name: &str, count: usize) -> Tensors {
    let numbers: Vec<f32> = (0..count * COLUMNS).map(|index| index as f32 * 0.37 - 1.5).collect();
    let mut tensors = Tensors::new();
    tensors.push(name, Tensor::new(vec![count, COLUMNS], numbers.into()).expect("the count fits the shape"));
    tensors
}

fn codecs(criterion: &mut Criterion) {
    let signature = signature();
    let limits = Limits::default();
    let model = ModelIdentity { name: "m", version: "1" };
    for count in [1, 100] {
        let mut group = criterion.benchmark_group(format!("codec/{count}x{COLUMNS}"));
        group.throughput(Throughput::Elements((count * COLUMNS) as u64));
        let (inputs, outputs) = (rows("x", count), rows("y", count));
        let predictions = score::encode(&inputs, Style::Bare);
        let body = [&b"{\"data\":"[..], &predictions, b"}"].concat();
        group.bench_function("score/decode", |bencher| {
            bencher.iter(|| score::decode(black_box(&body), &signature, limits, Door::Score));
        });
        group.bench_function("score/encode", |bencher| {
            bencher.iter(|| score::encode(black_box(&outputs), Style::Bare));
        });

        let raw: Vec<u8> = (0..count * COLUMNS).flat_map(|index| (index as f32).to_le_bytes()).collect();
        let header = format!(
            r#"{{"inputs":[{{"name":"x","shape":[{count},{COLUMNS}],"datatype":"FP32","parameters":{{"binary_data_size":{}}}}}],"parameters":{{"binary_data_output":true}}}}"#,
            raw.len()
        );
        let body = [header.as_bytes(), &raw].concat();
        group.bench_function("oip_binary/decode", |bencher| {
            bencher.iter(|| oip::decode(black_box(&body), Some(header.len()), &signature, limits));
        });
        let requested = Requested { binary: true, ..Requested::default() };
        group.bench_function("oip_binary/encode", |bencher| {
            bencher.iter(|| oip::encode(model, None, &requested, black_box(&outputs)));
        });
        group.finish();
    }
}

#[derive(Clone)]
struct Job(Instant);

impl Item for Job {
    fn rows(&self) -> usize {
        1
    }
    fn arrived(&self) -> Instant {
        self.0
    }
    fn compatible(&self, _: &Self) -> bool {
        true
    }
}

fn batches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("batch/32");
    group.throughput(Throughput::Elements(32));
    let items: Vec<Tensors> = (0..32).map(|_| rows("x", 1)).collect();
    let borrowed: Vec<&Tensors> = items.iter().collect();
    group.bench_function("stack", |bencher| bencher.iter(|| stack(black_box(&borrowed))));
    group.bench_function("split", |bencher| {
        bencher.iter_batched(|| rows("y", 32), |outputs| split(outputs, &[1; 32]), BatchSize::SmallInput);
    });
    let settings = BatchSettings {
        max_size: NonZeroUsize::new(32).expect("not zero"),
        max_delay_us: 0,
        preferred_sizes: vec![],
    };
    let now = Instant::now();
    group.bench_function("batcher", |bencher| {
        let mut batcher = Batcher::new(Some(&settings));
        bencher.iter(|| {
            (0..32).for_each(|_| batcher.push(Job(now)));
            assert!(matches!(batcher.take(now), Take::Batch(_)));
        });
    });
    group.finish();
}

fn observation(criterion: &mut Criterion) {
    let metrics = Metrics::new("endpoint", "deployment").expect("the names are distinct");
    criterion.bench_function("metrics/record", |bencher| {
        bencher.iter(|| {
            metrics.record_request(black_box(Protocol::Score), 200, Duration::from_micros(80));
            metrics.record_wait(Duration::from_micros(10));
            metrics.record_run(Duration::from_micros(20));
            metrics.record_batch(1);
        });
    });
}

criterion_group!(benches, codecs, batches, observation);
criterion_main!(benches);
