//! The kernels of this checkout as a bitstream on PoCL, ONNX Runtime beside it, and the comparison of the two.

use std::{
    collections::BTreeMap,
    env,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, OnceLock},
    time::Duration,
};

use moorline_core::{Digest, Engine, LoadedModel, ModelFiles, Tensor, TensorData, Tensors, Value};
use moorline_engines::{OrtEngine, OrtSearch};
use moorline_fpga::{
    bitstream::{Bitstream, PublicKey, SigningKey, pack},
    conv16,
    device::DeviceFilter,
    engine::OpenClEngine,
    lease::{Leases, Quarantine},
    lower,
    plan::PlanOptions,
    quantize::{Accuracy, QuantizeOptions, quantize},
    runtime::RuntimeError,
    worker::{Executor, ExecutorSettings, Launcher, Limits, WorkerError, build},
};
use tempfile::TempDir;

pub(crate) fn skip(why: &str) {
    // Not fatal: a closed stderr must not turn a skipped test into a failed one.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
    assert!(env::var_os("CI").is_none_or(|value| value != "true"), "CI must not skip a test: {why}");
}

fn launcher(scratch: PathBuf) -> Launcher {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    Launcher {
        program: env!("CARGO_BIN_EXE_moorline-fpga").into(),
        arguments: vec!["worker".into()],
        environment: env::vars_os().filter_map(text).collect::<BTreeMap<_, _>>(),
        scratch,
    }
}

fn pocl() -> DeviceFilter {
    DeviceFilter { platform: Some("Portable Computing Language".to_owned()), ..DeviceFilter::default() }
}

fn limits() -> Limits {
    Limits { start: Duration::from_mins(10), ..Limits::default() }
}

/// The kernels of this checkout, built and signed once for all tests; nothing where there is no PoCL.
pub(crate) fn bitstream() -> Option<Arc<Bitstream>> {
    static BITSTREAM: OnceLock<Option<Arc<Bitstream>>> = OnceLock::new();
    let bitstream = BITSTREAM.get_or_init(|| {
        let scratch = tempfile::tempdir().unwrap();
        let launcher = launcher(scratch.path().to_owned());
        let source = lower::source_on("Portable Computing Language");
        // Each test is a process: whoever comes first builds, the others wait for it.
        let made = fs_err::metadata(env::current_exe().unwrap()).unwrap().modified().unwrap();
        let name = Digest::of(format!("{made:?} {source}").as_bytes()).hex();
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kernels-{name}.fbit"));
        let lock = fs_err::File::create(kept.with_extension("lock")).unwrap().into_parts().0;
        lock.lock().unwrap();
        let now = "2026-11-30T12:00:00Z".parse().unwrap();
        if let Ok(key) = fs_err::read_to_string(kept.with_extension("pem")) {
            let bytes = fs_err::read(&kept).unwrap();
            let key = PublicKey::from_pem(&key).unwrap();
            return Some(Arc::new(Bitstream::open(&bytes[..], &[key], now).unwrap()));
        }
        let built = match build(&launcher, &limits(), &pocl(), &source) {
            Ok(built) => built,
            Err(WorkerError::NoDevice { .. } | WorkerError::Refused(RuntimeError::NoOpenCl)) => return None,
            Err(error) => panic!("the kernels could not be built: {error:?}"),
        };
        let parts = conv16::parts(built, source).unwrap();
        let key = SigningKey::generate().unwrap();
        let (manifest, files) = parts.assemble().unwrap();
        let mut bytes = Vec::new();
        pack(&manifest, &files, &key, &mut bytes).unwrap();
        // The key last: it says that the other file is whole.
        fs_err::write(&kept, &bytes).unwrap();
        let beside = kept.with_extension("part");
        fs_err::write(&beside, key.public().to_pem()).unwrap();
        fs_err::rename(beside, kept.with_extension("pem")).unwrap();
        Some(Arc::new(Bitstream::open(&bytes[..], &[key.public()], now).unwrap()))
    });
    if bitstream.is_none() {
        skip("there is no PoCL; install pocl-opencl-icd and ocl-icd-libopencl1");
    }
    bitstream.clone()
}

/// A device of one test, with leases of its own.
pub(crate) struct Bench {
    pub(crate) executor: Arc<Executor>,
    pub(crate) ort: Arc<dyn Engine>,
    _folder: TempDir,
}

impl Bench {
    pub(crate) fn new() -> Option<Self> {
        let ort: Arc<dyn Engine> =
            Arc::new(OrtEngine::new(OrtSearch { dylib_path: ort_library(), ..OrtSearch::default() }));
        if let Err(error) = ort.check() {
            skip(&format!("there is nothing to compare with: {error}"));
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let settings = ExecutorSettings {
            launcher: launcher(folder.path().join("scratch")),
            limits: limits(),
            device: pocl(),
            rebuild: false,
            leases: Leases::new(folder.path().join("leases")),
            quarantine: Quarantine::default(),
            holder: "the test".to_owned(),
        };
        let executor = Executor::start(settings, bitstream()?).unwrap();
        Some(Self { executor: Arc::new(executor), ort, _folder: folder })
    }

    pub(crate) fn engine(&self, options: PlanOptions) -> OpenClEngine {
        OpenClEngine::new(Arc::clone(&self.executor), Arc::clone(&self.ort), options)
    }
}

fn venvs() -> PathBuf {
    env::var_os("MOORLINE_TEST_VENVS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("target/venvs"),
        PathBuf::from,
    )
}

fn ort_library() -> Option<PathBuf> {
    if let Some(path) = env::var_os("ORT_DYLIB_PATH") {
        return Some(path.into());
    }
    let entries = |path: PathBuf| fs_err::read_dir(path).into_iter().flatten().flatten();
    entries(venvs().join("tools/lib"))
        .flat_map(|python| entries(python.path().join("site-packages/onnxruntime/capi")))
        .find(|file| file.file_name().to_string_lossy().starts_with("libonnxruntime.so"))
        .map(|file| file.path())
}

/// What a script of `tests/zoo` writes, made once for each text of the script; nothing where there is no Python for it.
pub(crate) fn made(script: &str, name: &str) -> Option<PathBuf> {
    let python = venvs().join("tools/bin/python");
    if !python.exists() {
        skip(&format!("no Python at {}; `cargo xtask test` makes it", python.display()));
        return None;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/zoo").join(script);
    let digest = Digest::of(&fs_err::read(&script).unwrap()).hex();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("zoo").join(&digest[..16]);
    let file = folder.join(name).with_extension("onnx");
    if !file.exists() {
        let run = Command::new(python).arg(&script).arg(&folder).arg(name).output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    }
    Some(file)
}

pub(crate) fn load(engine: &dyn Engine, path: &Path) -> Arc<dyn LoadedModel> {
    engine
        .load(&ModelFiles { path: path.to_owned(), threads: 2 })
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Samples as `numpy.save` writes them.
pub(crate) fn npy(tensor: &Tensor) -> Vec<u8> {
    let TensorData::F32(floats) = tensor.data() else { panic!("floats") };
    let sizes: Vec<String> = tensor.shape().iter().map(|size| format!("{size},")).collect();
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}", sizes.concat());
    let length = (10 + header.len() + 1).next_multiple_of(64) - 10;
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((length as u16).to_le_bytes());
    bytes.extend(format!("{header:width$}\n", width = length - 1).bytes());
    bytes.extend(floats.iter().flat_map(|float| float.to_le_bytes()));
    bytes
}

/// A model of floats as codes, calibrated with noise of that shape.
pub(crate) fn quantized(
    engine: &dyn Engine,
    path: &Path,
    shape: &[usize],
    options: &QuantizeOptions,
    folder: &Path,
) -> (PathBuf, Accuracy) {
    let samples = folder.join("samples.npy");
    fs_err::write(&samples, npy(&noise(shape, 3))).unwrap();
    let quantized = quantize(path, &samples, engine, options, &mut |_| ()).unwrap();
    let file = folder.join("quantized.onnx");
    fs_err::write(&file, &quantized.model).unwrap();
    (file, quantized.accuracy)
}

/// Numbers that look like noise and are the same everywhere.
pub(crate) fn noise(shape: &[usize], seed: u32) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let floats: Vec<f32> = (0..shape.iter().product()).map(|_| next()).collect();
    Tensor::new(shape.to_vec(), floats.into()).unwrap()
}

pub(crate) fn named(values: Vec<(&str, Tensor)>) -> Tensors {
    values.into_iter().map(|(name, tensor)| (name.into(), tensor.into())).collect()
}

/// Holds `found` to what is wanted of whole models: rtol 1e-3, atol 1e-4.
pub(crate) fn assert_close(found: &Tensors, wanted: &Tensors, what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    for ((name, found), (wanted_name, wanted)) in found.iter().zip(wanted.iter()) {
        assert_eq!(name, wanted_name, "{what}");
        let (Value::Tensor(found), Value::Tensor(wanted)) = (found, wanted) else {
            panic!("{what}: tensors")
        };
        assert_eq!(found.shape(), wanted.shape(), "{what}: {name}");
        let (TensorData::F32(found), TensorData::F32(wanted)) = (found.data(), wanted.data()) else {
            assert_eq!(found, wanted, "{what}: {name}");
            continue;
        };
        for (at, (found, wanted)) in found.iter().zip(wanted).enumerate() {
            let close = (found - wanted).abs() <= 1e-4 + 1e-3 * wanted.abs();
            assert!(
                close || (found.is_nan() && wanted.is_nan()),
                "{what}: {name}[{at}] is {found}, wanted {wanted}"
            );
        }
    }
}
