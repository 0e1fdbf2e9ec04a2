//! Where things lie: the binaries under test, this package's own files, and the Python environments that stand in
//! for the outside world.

use std::{
    env,
    ffi::OsString,
    io::Write,
    path::{Path, PathBuf},
};

/// The folder of this package, for clients and scenarios.
pub fn own_folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A binary of the workspace, built beside this test. `CARGO_BIN_EXE_*` does not reach across packages, so it is
/// found from where the test itself lies: `target/release/deps/it-…`.
pub fn binary(name: &str) -> PathBuf {
    let own = env::current_exe().expect("the test knows its own path");
    let folder = own.ancestors().nth(2).expect("a test lies in target/<profile>/deps");
    let path = folder.join(name);
    assert!(path.exists(), "{} is missing; build the workspace first", path.display());
    path
}

/// A Python environment made by `cargo xtask test`.
#[derive(Clone, Debug)]
pub struct Venv {
    folder: PathBuf,
}

impl Venv {
    /// One of its commands.
    pub fn bin(&self, command: &str) -> PathBuf {
        self.folder.join("bin").join(command)
    }

    pub fn python(&self) -> PathBuf {
        self.bin("python")
    }
}

/// The environment `oracle`, `tools`, `mlflow` or `azure-ml`, below `MOORLINE_TEST_VENVS` or the workspace's `target/venvs`.
/// `None` (and `SKIPPED` in the output) where it was not made.
pub fn venv(name: &str) -> Option<Venv> {
    let folder = venvs().join(name);
    if folder.join("bin/python").exists() {
        return Some(Venv { folder });
    }
    skip(&format!("no Python environment at {}; `cargo xtask test` makes it", folder.display()));
    None
}

fn venvs() -> PathBuf {
    env::var_os("MOORLINE_TEST_VENVS").map_or_else(
        || own_folder().parent().expect("this package has a workspace").join("target/venvs"),
        PathBuf::from,
    )
}

/// The `uv` that makes environments, where `cargo xtask tools` put it or the machine has it.
pub fn uv() -> Option<PathBuf> {
    if let Some(path) = env::var_os("MOORLINE_TEST_UV") {
        return Some(path.into());
    }
    let paths = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&paths).map(|folder| folder.join("uv")).find(|path| path.exists());
    if found.is_none() {
        skip("no uv; `cargo xtask test` installs it");
    }
    found
}

/// The Python that runs scripts with no dependencies.
pub fn python() -> OsString {
    env::var_os("MOORLINE_TEST_PYTHON").unwrap_or_else(|| "python3".into())
}

/// The ONNX Runtime library: `ORT_DYLIB_PATH`, or the one in the `tools` environment's `onnxruntime`.
pub fn ort_library() -> Option<PathBuf> {
    if let Some(path) = env::var_os("ORT_DYLIB_PATH") {
        return Some(path.into());
    }
    let entries = |path: PathBuf| fs_err::read_dir(path).into_iter().flatten().flatten();
    for python in entries(venvs().join("tools/lib")) {
        for file in entries(python.path().join("site-packages/onnxruntime/capi")) {
            if file.file_name().to_string_lossy().starts_with("libonnxruntime.so") {
                return Some(file.path());
            }
        }
    }
    None
}

/// Says that the test did not run, and why; fails instead where `CI=true`, so that nothing is skipped unseen there.
pub fn skip(why: &str) {
    // Not fatal: a closed stderr must not turn a skipped test into a failed one.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
    assert!(env::var_os("CI").is_none_or(|value| value != "true"), "CI must not skip a test: {why}");
}

/// The same, but where `MOORLINE_TEST_WITHOUT` names the component: then whoever runs the tests knows, and says so.
pub(crate) fn lack(component: &str, why: &str) {
    let known = env::var_os("MOORLINE_TEST_WITHOUT").unwrap_or_default();
    if known.to_string_lossy().split(',').any(|known| known == component) {
        let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
    } else {
        skip(why);
    }
}

/// The engines that can be tested here: `tract`, which is built in, and `ort` where its library is found.
pub fn engines() -> Vec<&'static str> {
    if ort_library().is_some() {
        return vec!["ort", "tract"];
    }
    skip("no ONNX Runtime library; only tract is tested");
    vec!["tract"]
}
