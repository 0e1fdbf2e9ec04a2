//! Finds and loads `libonnxruntime`, and makes the one environment that ONNX Runtime allows a process.
//!
//! Nothing is downloaded. The order: the path that the user gave, beside the binary, the system, an installed Python
//! `onnxruntime`. A path that was given is the only place looked at, because a setting that is silently passed over
//! helps nobody.

use std::{
    env::consts::{DLL_PREFIX, DLL_SUFFIX},
    ffi::OsStr,
    fmt::Write,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use ort::{environment::Environment, logging::LogLevel};

use crate::guard::guarded;

/// Where to look for ONNX Runtime's library; what is `None` is not looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OrtSearch {
    /// The value of `ORT_DYLIB_PATH`: the library, or the folder it is in. When given, nothing else is looked at: if it
    /// is wrong, the engine is missing, for a reason that names it.
    pub dylib_path: Option<PathBuf>,
    /// The folder of the running binary.
    pub binary_dir: Option<PathBuf>,
    /// A Python interpreter that may have the package `onnxruntime`. It is started only when all else failed, and
    /// asked where the package is without importing it.
    pub python: Option<PathBuf>,
}

/// Folders where packages put libraries, beside the loader's own path.
const SYSTEM_DIRS: [&str; 8] = [
    "/usr/local/lib",
    "/usr/local/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/opt/onnxruntime/lib",
    "/opt/homebrew/lib",
];

/// How long Python may take to say where its `onnxruntime` is.
const PYTHON_PATIENCE: Duration = Duration::from_secs(10);

/// Empty entries of `sys.path` stand for the working folder, whose content is not an installed package.
const PYTHON_QUESTION: &str = "import sys, importlib.util\n\
    sys.path = [entry for entry in sys.path if entry]\n\
    spec = importlib.util.find_spec('onnxruntime')\n\
    print(spec.submodule_search_locations[0] if spec and spec.origin else '')";

/// The library of this process. It is kept for good: ONNX Runtime allows one environment in a process's life.
static LOADED: Mutex<Option<(PathBuf, Environment)>> = Mutex::new(None);

/// Loads the library, or says where it was looked for and how to get it.
pub(super) fn load(search: &OrtSearch) -> Result<(PathBuf, Environment), String> {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let mut tried = String::new();
    if let Some(given) = &search.dylib_path {
        let found = if given.is_dir() { libraries_in(given) } else { vec![given.clone()] };
        if let Some(done) =
            first_usable(found, &format!("ORT_DYLIB_PATH ({})", given.display()), &mut loaded, &mut tried)
        {
            return Ok(done);
        }
    } else {
        if let Some(done) = &*loaded {
            return Ok(done.clone());
        }
        if let Some(dir) = &search.binary_dir {
            let place = format!("beside the binary ({})", dir.display());
            if let Some(done) = first_usable(libraries_in(dir), &place, &mut loaded, &mut tried) {
                return Ok(done);
            }
        }
        if let Some(done) = first_usable(system_libraries(), "the system", &mut loaded, &mut tried) {
            return Ok(done);
        }
        if let Some(python) = &search.python {
            let place = format!("the package of {}", python.display());
            let found = match python_package(python) {
                Ok(package) => libraries_in(&package.join("capi")),
                Err(reason) => {
                    note(&mut tried, &place, &reason);
                    vec![]
                }
            };
            if let Some(done) = first_usable(found, &place, &mut loaded, &mut tried) {
                return Ok(done);
            }
        }
    }
    Err(format!(
        "no usable ONNX Runtime library was found (version 1.{} or newer); searched {tried}. Install it with \
         `pip install onnxruntime`, put {} beside the binary, or set ORT_DYLIB_PATH to it",
        ort::MINOR_VERSION,
        library_name()
    ))
}

/// Takes the first of `found` that loads, and notes in `tried` why the others do not.
fn first_usable(
    found: Vec<PathBuf>,
    place: &str,
    loaded: &mut Option<(PathBuf, Environment)>,
    tried: &mut String,
) -> Option<(PathBuf, Environment)> {
    if found.is_empty() && !tried.contains(place) {
        note(tried, place, "not there");
    }
    for path in found {
        if let Some(done) = loaded.as_ref().filter(|_| path.exists()) {
            if done.0 != path {
                tracing::debug!(used = %done.0.display(), asked = %path.display(), "another ONNX Runtime is loaded");
            }
            return Some(done.clone());
        }
        match open(&path) {
            Ok(environment) => {
                tracing::debug!(library = %path.display(), "ONNX Runtime loaded");
                return Some(loaded.insert((path, environment)).clone());
            }
            // The bare name is a question to the loader, whose answer "no" is not worth more words.
            Err(_) if path.as_os_str() == OsStr::new(&library_name()) => note(tried, place, "not there"),
            Err(reason) => note(tried, place, &reason),
        }
    }
    None
}

fn note(tried: &mut String, place: &str, reason: &str) {
    let separator = if tried.is_empty() { "" } else { "; " };
    // Writing to a string cannot fail.
    let _ = write!(tried, "{separator}{place}: {reason}");
}

/// Loads one library and makes the environment.
fn open(path: &Path) -> Result<Environment, String> {
    guarded(|| {
        let builder = ort::init_from(path).map_err(|error| error.to_string())?;
        let environment = builder
            .with_name("moorline")
            .with_telemetry(false)
            .with_logger(Arc::new(|level, _category, id, location, message| {
                log(level, id, location, message);
            }))
            .build()
            .map_err(|error| error.to_string())?;
        environment.set_log_level(LogLevel::Warning);
        Ok(environment)
    })
    .and_then(|result| result)
}

/// ONNX Runtime's own messages. Its errors come back as errors of the call too, so that only we know whether one
/// matters; its warnings are about a model's export, not about a request.
fn log(level: LogLevel, id: &str, location: &str, message: &str) {
    match level {
        LogLevel::Fatal => tracing::error!(target: "onnxruntime", id, location, message, "engine message"),
        LogLevel::Error | LogLevel::Warning => {
            tracing::debug!(target: "onnxruntime", id, location, message, "engine message");
        }
        LogLevel::Info | LogLevel::Verbose => {
            tracing::trace!(target: "onnxruntime", id, location, message, "engine message");
        }
    }
}

/// `libonnxruntime.so` as this platform spells it.
fn library_name() -> String {
    format!("{DLL_PREFIX}onnxruntime{DLL_SUFFIX}")
}

/// The libraries in `dir`: the plain name first, then versioned ones, newest first.
fn libraries_in(dir: &Path) -> Vec<PathBuf> {
    let name = library_name();
    let plain = dir.join(&name);
    let mut found: Vec<(Vec<u32>, PathBuf)> = fs_err::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let file_name = entry.file_name();
            let version = version_of(file_name.to_str()?, &name)?;
            Some((version, entry.path()))
        })
        .collect();
    found.sort_by(|left, right| right.cmp(left));
    let plain = plain.is_file().then_some(plain);
    plain.into_iter().chain(found.into_iter().map(|(_, path)| path)).collect()
}

/// The version in a file name: `[1, 32, 0]` of `libonnxruntime.so.1.32.0` (or `libonnxruntime.1.32.0.dylib`).
fn version_of(file_name: &str, library_name: &str) -> Option<Vec<u32>> {
    let stem = library_name.strip_suffix(DLL_SUFFIX)?;
    let version = match file_name.strip_prefix(library_name) {
        Some(version) => version,
        None => file_name.strip_prefix(stem)?.strip_suffix(DLL_SUFFIX)?,
    };
    version.strip_prefix('.')?.split('.').map(|part| part.parse().ok()).collect()
}

/// What the loader finds by name, then what lies in the usual folders.
fn system_libraries() -> Vec<PathBuf> {
    let by_name = PathBuf::from(library_name());
    std::iter::once(by_name).chain(SYSTEM_DIRS.iter().flat_map(|dir| libraries_in(Path::new(dir)))).collect()
}

/// The folder of Python's `onnxruntime`, without importing it.
fn python_package(python: &Path) -> Result<PathBuf, String> {
    let mut child = Command::new(python)
        .args(["-c", PYTHON_QUESTION])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("could not be started: {error}"))?;
    let Some(mut stdout) = child.stdout.take() else { return Err("has no output".to_owned()) };
    let (sender, answer) = mpsc::channel();
    thread::spawn(move || {
        let mut text = String::new();
        let read = stdout.read_to_string(&mut text).map(|_| text);
        // The receiver is gone when patience ran out; there is nobody to tell then.
        let _ = sender.send(read);
    });
    let answer = answer.recv_timeout(PYTHON_PATIENCE);
    // Harmless after its end, and the end of a child that was too slow.
    let _ = child.kill();
    let _ = child.wait();
    match answer {
        Ok(Ok(text)) if !text.trim().is_empty() => Ok(PathBuf::from(text.trim())),
        Ok(Ok(_)) => Err("not installed there".to_owned()),
        Ok(Err(error)) => Err(format!("could not be read: {error}")),
        Err(_) => Err(format!("gave no answer within {} s", PYTHON_PATIENCE.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_plain_name_comes_first_then_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        for name in
            ["libonnxruntime.so.1.9.0", "libonnxruntime.so.1.32.0", "libonnxruntime_providers_shared.so", "x"]
        {
            fs_err::write(dir.path().join(name), "").unwrap();
        }
        let names = || -> Vec<String> {
            libraries_in(dir.path())
                .iter()
                .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
                .collect()
        };
        assert_eq!(names(), ["libonnxruntime.so.1.32.0", "libonnxruntime.so.1.9.0"]);
        fs_err::write(dir.path().join("libonnxruntime.so"), "").unwrap();
        assert_eq!(names()[0], "libonnxruntime.so");
    }

    #[test]
    fn a_given_path_that_is_no_library_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let search = OrtSearch { dylib_path: Some(dir.path().to_owned()), ..OrtSearch::default() };
        let reason = load(&search).unwrap_err();
        assert!(
            reason.contains(&format!("ORT_DYLIB_PATH ({}): not there", dir.path().display())),
            "{reason}"
        );
        assert!(reason.contains("pip install onnxruntime"), "{reason}");
        let garbage = dir.path().join("garbage");
        fs_err::write(&garbage, "not a library").unwrap();
        // Where another test loaded a library, that one is used and nothing is wrong.
        if let Err(reason) = load(&OrtSearch { dylib_path: Some(garbage), ..OrtSearch::default() }) {
            assert!(reason.contains("failed to load"), "{reason}");
        }
    }

    #[test]
    fn a_python_without_the_package_is_no_answer() {
        assert!(
            python_package(Path::new("/nonexistent/python")).unwrap_err().contains("could not be started")
        );
    }
}
