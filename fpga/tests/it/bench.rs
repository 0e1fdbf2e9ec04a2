//! A work bench: kernels for the tests, built once, and bitstreams and executors around them.

use std::{
    collections::BTreeMap,
    env,
    io::Write as _,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use moorline_fpga::{
    bitstream::{
        Architecture, Bitstream, Compiled, GoldenCase, KERNEL_ABI, Op, Parts, Recipe, SigningKey, pack,
    },
    device::{DeviceFilter, DeviceId},
    lease::{Leases, Quarantine},
    program::{Argument, BufferPlan, Launch, Port, Program, Range},
    worker::{Built, Executor, ExecutorSettings, Launcher, Limits, WorkerError, build},
};
use tempfile::TempDir;

/// One kernel that computes, one that never ends, one that runs into memory that is not there.
pub(crate) const SOURCE: &str = r"
kernel void scale(const global float *in, const global float *by, global float *out, int n, float plus) {
    for (int i = 0; i < n; ++i) out[i] = fma(in[i], by[i], plus);
}
kernel void hang(volatile global float *x) {
    while (x[0] == 0.0f) ;
    x[0] = 1.0f;
}
kernel void crash(global float *x, int far) {
    for (int i = 0; i < 64; ++i) x[(size_t)far * (size_t)(i + 1) * 1048576] = 1.0f;
}
";

pub(crate) fn skip(why: &str) {
    // Not fatal: a closed stderr must not turn a skipped test into a failed one.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
    assert!(env::var_os("CI").is_none_or(|value| value != "true"), "CI must not skip a test: {why}");
}

pub(crate) fn environment() -> BTreeMap<String, String> {
    env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

pub(crate) fn launcher(scratch: PathBuf) -> Launcher {
    Launcher {
        program: env!("CARGO_BIN_EXE_moorline-fpga").into(),
        arguments: vec!["worker".into()],
        environment: environment(),
        scratch,
    }
}

/// PoCL and nothing else that this machine may have.
pub(crate) fn pocl() -> DeviceFilter {
    DeviceFilter { platform: Some("Portable Computing Language".to_owned()), ..DeviceFilter::default() }
}

/// The kernels for PoCL's device, built once for all tests; nothing where there is no PoCL.
pub(crate) fn built() -> Option<&'static Built> {
    static BUILT: OnceLock<Option<Built>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let scratch = tempfile::tempdir().unwrap();
        match build(&launcher(scratch.path().to_owned()), &Limits::default(), &pocl(), SOURCE) {
            Ok(built) => Some(built),
            Err(WorkerError::NoDevice { .. }) => None,
            Err(WorkerError::Refused(moorline_fpga::runtime::RuntimeError::NoOpenCl)) => None,
            Err(error) => panic!("the kernels could not be built: {error}"),
        }
    });
    if built.is_none() {
        skip("there is no PoCL; install pocl-opencl-icd and ocl-icd-libopencl1");
    }
    built.as_ref()
}

pub(crate) fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub(crate) fn arch() -> Architecture {
    Architecture {
        name: "test".to_owned(),
        vec: 16,
        lane_tile: 14,
        acc: "i32".to_owned(),
        act: vec!["f32".to_owned()],
        k_block_i8: 1024,
        k_block_u8: 512,
    }
}

fn launch(kernel: &str, arguments: Vec<Argument>) -> Launch {
    let nodes = vec![format!("Node_{kernel}")];
    Launch { kernel: kernel.to_owned(), items: 1, arguments, nodes, operations: 8, bytes: 48 }
}

/// `out = fma(in, [1, 2, 3, 4], plus)`.
pub(crate) fn scale(plus: f32) -> Program {
    let port = |name: &str, buffer| Port { name: name.to_owned(), buffer, bytes: 16 };
    Program {
        architecture: arch().fingerprint(KERNEL_ABI),
        buffers: vec![
            BufferPlan { bytes: 16, constant: None },
            BufferPlan { bytes: 16, constant: Some(Range { offset: 4, bytes: 16 }) },
            BufferPlan { bytes: 16, constant: None },
        ],
        launches: vec![launch(
            "scale",
            vec![
                Argument::Buffer(0),
                Argument::Buffer(1),
                Argument::Buffer(2),
                Argument::I32(4),
                Argument::F32(plus),
            ],
        )],
        pipelines: Vec::new(),
        inputs: vec![port("in", 0)],
        outputs: vec![port("out", 2)],
    }
}

/// With four bytes in front that no buffer wants.
pub(crate) fn constants() -> Vec<u8> {
    floats(&[9.0, 1.0, 2.0, 3.0, 4.0])
}

/// The same, and before it a kernel that ends only if the first input is not zero.
pub(crate) fn hang() -> Program {
    let mut program = scale(0.0);
    program.launches.push(launch("hang", vec![Argument::Buffer(0)]));
    program
}

/// A kernel that ends the process unless `far` is zero.
pub(crate) fn crash(far: i32) -> Program {
    let mut program = scale(0.0);
    program.launches.push(launch("crash", vec![Argument::Buffer(2), Argument::I32(far)]));
    program
}

pub(crate) fn parts(built: &Built) -> Parts {
    Parts {
        recipe: Recipe {
            id: "org.moorline.test".to_owned(),
            version: "1.0.0".to_owned(),
            arch: arch(),
            numerics: vec!["f32-fma-v1".to_owned()],
            ops: vec![Op {
                op: "Mul".to_owned(),
                numerics: vec!["f32-fma-v1".to_owned()],
                limits: BTreeMap::new(),
            }],
        },
        kernels: built.kernels.clone(),
        images: vec![Compiled::for_device(&built.device, built.binary.clone())],
        golden: vec![GoldenCase {
            name: "scale".to_owned(),
            program: scale(0.5),
            constants: constants(),
            inputs: floats(&[1.0, 10.0, 100.0, 1000.0]),
            outputs: vec![floats(&[1.5, 20.5, 300.5, 4000.5])],
        }],
        source: None,
        expires: None,
    }
}

/// Signs what was put together, right or wrong, as whoever holds a trusted key can.
pub(crate) fn sign(parts: Parts) -> Arc<Bitstream> {
    let key = SigningKey::generate().unwrap();
    let (manifest, files) = parts.assemble().unwrap();
    let mut bytes = Vec::new();
    pack(&manifest, &files, &key, &mut bytes).unwrap();
    let now = "2026-11-30T12:00:00Z".parse().unwrap();
    Arc::new(Bitstream::open(&bytes[..], &[key.public()], now).unwrap())
}

/// A folder with leases of its own, and executors on PoCL in it.
pub(crate) struct Bench {
    pub(crate) folder: TempDir,
    pub(crate) limits: Limits,
    pub(crate) quarantine: Quarantine,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder, limits: Limits::default(), quarantine: Quarantine::default() }
    }

    /// A launch may take this long.
    pub(crate) fn impatient(mut self) -> Self {
        self.limits.launch = Duration::from_secs(2);
        self
    }

    pub(crate) fn leases(&self) -> Leases {
        Leases::new(self.folder.path().join("leases"))
    }

    /// A device that was given back is free as soon as no process has its lock: one that another test starts at the same
    /// time has it until it has become another program.
    pub(crate) fn assert_free(&self, device: &DeviceId) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Some(holder) = self.leases().state(device).unwrap().holder {
            assert!(Instant::now() < deadline, "{device} is still leased to {holder}");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    pub(crate) fn settings(&self) -> ExecutorSettings {
        ExecutorSettings {
            launcher: launcher(self.folder.path().join("scratch")),
            limits: self.limits,
            device: pocl(),
            rebuild: false,
            leases: self.leases(),
            quarantine: self.quarantine,
            holder: "the test".to_owned(),
        }
    }

    pub(crate) fn start(&self, bitstream: Arc<Bitstream>) -> Result<Executor, WorkerError> {
        Executor::start(self.settings(), bitstream)
    }
}
