//! Environments are made once, from wheels in a folder, and what goes wrong is said.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use moorline_core::{Environment, ErrorClass};
use moorline_deploy::environment::{EnvironmentConfig, Environments};
use tempfile::TempDir;

use crate::place::{environment, eventually, skip};

/// The least that is a wheel.
const WHEEL: &str = r#"
import sys, zipfile
with zipfile.ZipFile(sys.argv[1] + "/moorline_probe-1.0-py3-none-any.whl", "w") as wheel:
    wheel.writestr("moorline_probe.py", "ANSWER = 42\n")
    info = "moorline_probe-1.0.dist-info/"
    wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: moorline-probe\nVersion: 1.0\n")
    wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(info + "RECORD", "".join(f"{name},,\n" for name in wheel.namelist()) + info + "RECORD,,\n")
"#;

/// The `uv` on the `PATH`, or the one that `cargo xtask test` installed.
pub(crate) fn uv() -> Option<PathBuf> {
    let own = environment();
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?.join("target/venvs/.uv/bin/uv");
    let on_path =
        std::env::split_paths(own.get("PATH")?).map(|folder| folder.join("uv")).find(|uv| uv.is_file());
    let set = own.get("MOORLINE_TEST_UV").map(PathBuf::from);
    let found = set.or(on_path).or_else(|| installed.is_file().then_some(installed));
    if found.is_none() {
        skip("uv is not installed");
    }
    found
}

pub(crate) fn config(home: &Path) -> EnvironmentConfig {
    let mut config = EnvironmentConfig::new(home.join("environments"), home.join("tools"), environment());
    config.environment.retain(|name, _| !name.starts_with("UV_") && !name.starts_with("PIP_"));
    config.environment.insert("UV_CACHE_DIR".to_owned(), home.join("cache").display().to_string());
    config
}

fn wheels() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let status = Command::new("python3").args(["-c", WHEEL]).arg(folder.path()).status();
    assert!(status.is_ok_and(|status| status.success()), "a wheel can be made");
    folder
}

pub(crate) fn of_conda(text: &str) -> Environment {
    Environment { conda_file: Some(text.to_owned()), ..Environment::default() }
}

fn of_wheel(wheels: &Path, package: &str) -> Environment {
    let wheels = wheels.display();
    of_conda(&format!(
        "name: probe\nchannels: [conda-forge]\ndependencies:\n- python>=3.8\n- pip\n- pip:\n  - --no-index\n  - --find-links {wheels}\n  - {package}\n"
    ))
}

pub(crate) fn run(python: &Path, code: &str) -> String {
    let output = Command::new(python).args(["-c", code]).output().expect("an interpreter can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_conda_file_there_is_an_interpreter_and_nothing_else() {
    let home = tempfile::tempdir().unwrap();
    let environments = Environments::open(config(home.path())).unwrap();
    let image = "mcr.microsoft.com/azureml/minimal-py312-inference:latest";
    let environment = Environment { image: Some(image.to_owned()), ..Environment::default() };
    let lines = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&lines);
    let place =
        environments.ensure(&environment, move |line| told.lock().unwrap().push(line.to_owned())).await;
    let place = place.unwrap();
    assert_eq!(place.python, environments.python(&environment));
    assert_eq!(run(&place.python, "import sys; print(sys.prefix != sys.base_prefix)"), "True");
    assert!(lines.lock().unwrap().iter().any(|line| line.contains(image) && line.contains("not used")));
}

#[tokio::test(flavor = "multi_thread")]
async fn packages_are_installed_once_for_all_who_ask() {
    let Some(uv) = uv() else { return };
    let (home, wheels) = (tempfile::tempdir().unwrap(), wheels());
    let config = EnvironmentConfig { uv: Some(uv), ..config(home.path()) };
    let environments = Environments::open(config.clone()).unwrap();
    let environment = of_wheel(wheels.path(), "moorline-probe==1.0");
    let builds = Arc::new(AtomicUsize::new(0));
    let count = || {
        let builds = Arc::clone(&builds);
        move |line: &str| {
            builds.fetch_add(usize::from(line.starts_with("Python ")), Ordering::Relaxed);
        }
    };
    let [one, two] = [environments.ensure(&environment, count()), environments.ensure(&environment, count())];
    let (one, two) = tokio::join!(one, two);
    let place = one.unwrap();
    assert_eq!(place, two.unwrap());
    assert_eq!(builds.load(Ordering::Relaxed), 1);
    assert_eq!(run(&place.python, "import moorline_probe; print(moorline_probe.ANSWER)"), "42");
    let lock = place.python.ancestors().nth(2).unwrap().join("moorline-lock.txt");
    assert_eq!(fs_err::read_to_string(lock).unwrap().trim(), "moorline-probe==1.0");

    let again = Environments::open(config).unwrap();
    assert_eq!(again.ensure(&environment, count()).await.unwrap(), place);
    assert_eq!(builds.load(Ordering::Relaxed), 1, "what is there is not made again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_build_shows_its_log_and_leaves_nothing() {
    let Some(uv) = uv() else { return };
    let (home, wheels) = (tempfile::tempdir().unwrap(), wheels());
    let environments = Environments::open(EnvironmentConfig { uv: Some(uv), ..config(home.path()) }).unwrap();
    let environment = of_wheel(wheels.path(), "moorline-probe==2.0");
    let error = environments.ensure(&environment, |_| {}).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::InvalidInput);
    assert!(error.log().join("\n").contains("moorline-probe==2.0"), "{error}: {:?}", error.log());
    assert!(!environments.python(&environment).exists());
    let building = home.path().join("environments/.building");
    assert_eq!(fs_err::read_dir(building).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_that_is_not_there_is_told_with_those_that_are() {
    let Some(uv) = uv() else { return };
    let home = tempfile::tempdir().unwrap();
    let environments = Environments::open(EnvironmentConfig { uv: Some(uv), ..config(home.path()) }).unwrap();
    let environment = of_conda("dependencies:\n- python=3.99\n");
    let error = environments.ensure(&environment, |_| {}).await.unwrap_err().to_string();
    assert!(error.contains("Python 3.99") && error.contains("found: 3."), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_named_with_what_helps() {
    let home = tempfile::tempdir().unwrap();
    let mut config = config(home.path());
    config.environment.insert("PATH".to_owned(), home.path().display().to_string());
    let environments = Environments::open(config).unwrap();
    let refusal = async |text: &str| {
        let error = environments.ensure(&of_conda(text), |_| {}).await.unwrap_err();
        (error.class(), error.to_string())
    };
    let (class, text) = refusal("dependencies:\n- python=3.11\n- pip:\n  - numpy\n").await;
    assert_eq!(class, ErrorClass::Unavailable);
    assert!(text.contains("pip install uv"), "{text}");
    let (class, text) =
        refusal("channels: [conda-forge]\ndependencies:\n- python=3.11\n- cudatoolkit=11.8\n").await;
    assert_eq!(class, ErrorClass::Unsupported);
    assert!(text.contains("`cudatoolkit`") && text.contains("micromamba"), "{text}");
    let (class, text) = refusal("dependencies: 7\n").await;
    assert_eq!(class, ErrorClass::InvalidInput);
    assert!(text.contains("dependencies"), "{text}");
}

/// Stands in for micromamba, which is not to be had from any package registry that tests can ask.
#[tokio::test(flavor = "multi_thread")]
async fn micromamba_makes_what_only_conda_has() {
    let home = tempfile::tempdir().unwrap();
    let tools = home.path().join("tools");
    fs_err::create_dir_all(&tools).unwrap();
    let script = "#!/bin/sh\nwhile [ $# -gt 0 ]; do\n  [ \"$1\" = --prefix ] && prefix=$2\n  [ \"$1\" = --file ] && file=$2\n  shift\ndone\n\
                  grep -q cudatoolkit \"$file\" || exit 1\nmkdir -p \"$prefix/bin\"\nln -s \"$(command -v python3)\" \"$prefix/bin/python\"\n";
    let program = tools.join("micromamba");
    fs_err::write(&program, script).unwrap();
    fs_err::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let environments = Environments::open(config(home.path())).unwrap();
    let environment = of_conda("channels: [conda-forge]\ndependencies:\n- python=3.11\n- cudatoolkit=11.8\n");
    let place = environments.ensure(&environment, |_| {}).await.unwrap();
    assert_eq!(run(&place.python, "print('here')"), "here");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_is_not_waited_for_ends() {
    let home = tempfile::tempdir().unwrap();
    let uv = home.path().join("uv");
    // It answers what Pythons it knows with none, and then takes forever.
    let script = "#!/bin/sh\n[ \"$1\" = python ] && { echo '[]'; exit 0; }\necho begun\nsleep 300 &\necho $! > \"$HOME/pid\"\nwait\n";
    fs_err::write(&uv, script).unwrap();
    fs_err::set_permissions(&uv, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut config = EnvironmentConfig { uv: Some(uv), ..config(home.path()) };
    config.environment.insert("HOME".to_owned(), home.path().display().to_string());
    let environments = Environments::open(config.clone()).unwrap();
    let environment = of_conda("dependencies:\n- python\n- pip:\n  - numpy\n");
    let file = home.path().join("pid");
    let build = {
        let environment = environment.clone();
        tokio::spawn(async move { environments.ensure(&environment, |_| {}).await })
    };
    let pid = || fs_err::read_to_string(&file).ok().filter(|text| text.ends_with('\n'));
    eventually("the start of the build", || pid().is_some()).await;
    let process = format!("/proc/{}", pid().unwrap().trim());
    assert!(Path::new(&process).exists());
    build.abort();
    let ended = || {
        let status = fs_err::read_to_string(Path::new(&process).join("status")).unwrap_or_default();
        status.is_empty() || status.contains("State:\tZ")
    };
    eventually("the end of what the build had started", ended).await;

    config.timeout = std::time::Duration::from_millis(300);
    let environments = Environments::open(config).unwrap();
    let error = environments.ensure(&environment, |_| {}).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Timeout);
}
