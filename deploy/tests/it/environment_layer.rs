//! Environments for images: made of wheels without the image, the same whoever makes them, and they work.

#![expect(clippy::unwrap_used, reason = "what tests share may fail as they do")]

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use moorline_core::{Digest, ErrorClass};
use moorline_deploy::{
    Progress,
    environment::{EnvironmentConfig, Environments},
    image::BasePython,
};
use tempfile::TempDir;

use crate::environments::{config, of_conda, run, uv};

/// A wheel with a script, and one for another Python than any that runs this.
const WHEELS: &str = r#"
import sys, zipfile
def wheel(name, tag, files, entry=""):
    with zipfile.ZipFile(f"{sys.argv[1]}/{name}-1.0-{tag}.whl", "w") as wheel:
        for path, content in files.items():
            wheel.writestr(path, content)
        info = f"{name}-1.0.dist-info/"
        wheel.writestr(info + "METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nLicense: MIT\n")
        wheel.writestr(info + "WHEEL", f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n")
        if entry:
            wheel.writestr(info + "entry_points.txt", entry)
        wheel.writestr(info + "RECORD", "".join(f"{n},,\n" for n in wheel.namelist()) + info + "RECORD,,\n")
wheel("layer_probe", "py3-none-any", {"layer_probe.py": "def main():\n    print(42)\n"}, "[console_scripts]\nlayer-probe = layer_probe:main\n")
wheel("native_probe", "cp310-cp310-manylinux_2_28_x86_64", {"native_probe.py": "ANSWER = 310\n"})
import tarfile, io
with tarfile.open(sys.argv[1] + "/source_probe-1.0.tar.gz", "w:gz") as archive:
    for name, text in (("setup.py", "from setuptools import setup\nsetup(name='source-probe', version='1.0')\n"),
                       ("PKG-INFO", "Metadata-Version: 2.1\nName: source-probe\nVersion: 1.0\n")):
        info = tarfile.TarInfo("source_probe-1.0/" + name)
        info.size = len(text)
        archive.addfile(info, io.BytesIO(text.encode()))
"#;

fn wheels() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let status = Command::new("python3").args(["-c", WHEELS]).arg(folder.path()).status();
    assert!(status.is_ok_and(|status| status.success()), "wheels can be made");
    folder
}

fn base(home: &str, minor: u32) -> BasePython {
    BasePython {
        path: format!("{home}/python3.{minor}"),
        home: home.to_owned(),
        major: 3,
        minor,
        patch: None,
        platform: "x86_64-manylinux_2_36".to_owned(),
        site_packages: None,
    }
}

/// Of the base that the environment is for.
fn image() -> Digest {
    Digest::of(b"a base")
}

fn conda(wheels: &Path, python: &str, packages: &str) -> moorline_core::Environment {
    let wheels = wheels.display();
    of_conda(&format!(
        "channels: [conda-forge]\ndependencies:\n- python{python}\n- pip\n- pip:\n  - --no-index\n  - --find-links {wheels}\n  - {packages}\n"
    ))
}

fn open(home: &Path, uv: &Path) -> Environments {
    Environments::open(EnvironmentConfig { uv: Some(uv.to_owned()), ..config(home) }).unwrap()
}

/// Every path below a folder, with what is in it and whether it can be run.
fn listing(root: &Path) -> Vec<(PathBuf, Vec<u8>, bool)> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs_err::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let kind = fs_err::symlink_metadata(&path).unwrap();
            let inner = path.strip_prefix(root).unwrap().to_owned();
            if kind.is_symlink() {
                let target = fs_err::read_link(&path).unwrap();
                found.push((inner, target.into_os_string().into_encoded_bytes(), false));
            } else if kind.is_dir() {
                folders.push(path);
            } else {
                found.push((inner, fs_err::read(&path).unwrap(), kind.permissions().mode() & 0o111 != 0));
            }
        }
    }
    found.sort_unstable();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_is_the_same_again_and_has_nothing_of_this_machine() {
    let Some(uv) = uv() else { return };
    let (one, two, wheels) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), wheels());
    let environment = conda(wheels.path(), "=3.10", "layer_probe\n  - native_probe");
    let base = base("/usr/bin", 10);
    let [first, second] = [one.path(), two.path()].map(|home| open(home, &uv));
    let first = first.layer(&environment, &base, &image(), &Progress::none()).await;
    let first = first.unwrap_or_else(|error| panic!("{error}: {:?}", error.log()));
    let second = second.layer(&environment, &base, &image(), &Progress::none()).await.unwrap();
    assert_ne!(first.root, second.root);
    let files = listing(&first.root);
    assert_eq!(files, listing(&second.root));
    assert_eq!(first.lock, "layer-probe==1.0\nnative-probe==1.0\n");
    let named = |path: &str| {
        let found = files.iter().find(|(own, ..)| own == Path::new(path));
        let (_, content, runs) = found.unwrap_or_else(|| panic!("{path} is not in the tree"));
        (String::from_utf8(content.clone()).unwrap(), *runs)
    };
    assert_eq!(named("bin/python").0, "/usr/bin/python3.10");
    assert_eq!(named("bin/python3").0, "python");
    assert_eq!(named("bin/python3.10").0, "python");
    let (script, runs) = named("bin/layer-probe");
    assert!(script.starts_with("#!/opt/moorline/release/environment/bin/python\n") && runs, "{script}");
    let (settings, _) = named("pyvenv.cfg");
    assert_eq!(settings, "home = /usr/bin\ninclude-system-site-packages = true\nversion = 3.10\n");
    named("lib/python3.10/site-packages/native_probe.py");
    let (record, _) = named("lib/python3.10/site-packages/layer_probe-1.0.dist-info/RECORD");
    let line = record.lines().find(|line| line.starts_with("../../../bin/layer-probe,")).unwrap();
    assert!(line.ends_with(&format!(",{}", script.len())), "{line}");
    let here = [one.path(), two.path(), wheels.path()].map(|path| path.display().to_string());
    for (path, content, _) in &files {
        let text = String::from_utf8_lossy(content);
        assert!(
            !here.iter().any(|here| text.contains(here)),
            "{} names a folder of this machine",
            path.display()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_works_where_its_python_is() {
    let Some(uv) = uv() else { return };
    let (home, wheels) = (tempfile::tempdir().unwrap(), wheels());
    let real = run(Path::new("python3"), "import os, sys; print(os.path.realpath(sys._base_executable))");
    let minor = run(Path::new("python3"), "import sys; print(sys.version_info[1])").parse().unwrap();
    let folder = Path::new(&real).parent().unwrap().to_str().unwrap().to_owned();
    let base = BasePython { path: real, ..base(&folder, minor) };
    let environment = conda(wheels.path(), ">=3.8", "layer_probe");
    let environments = open(home.path(), &uv);
    let told = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let lines = std::sync::Arc::clone(&told);
    let progress = Progress::new(move |step| lines.lock().unwrap().push(format!("{step:?}")));
    let tree = environments.layer(&environment, &base, &image(), &progress).await.unwrap();
    let python = tree.root.join("bin/python");
    assert_eq!(run(&python, "import layer_probe; layer_probe.main()"), "42");
    assert_eq!(run(&python, "import sys; print(sys.prefix != sys.base_prefix)"), "True");
    assert_eq!(run(&python, "import importlib.metadata as m; print(m.version('layer-probe'))"), "1.0");
    assert!(told.lock().unwrap().iter().any(|line| line.contains("layer-probe")), "uv's lines are told");
    let built = told.lock().unwrap().len();
    assert_eq!(environments.layer(&environment, &base, &image(), &progress).await.unwrap(), tree);
    // Another process finds it as well.
    assert_eq!(open(home.path(), &uv).layer(&environment, &base, &image(), &progress).await.unwrap(), tree);
    assert_eq!(told.lock().unwrap().len(), built, "what is there is not made again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_made_is_named() {
    let Some(uv) = uv() else { return };
    let (home, wheels) = (tempfile::tempdir().unwrap(), wheels());
    let environments = open(home.path(), &uv);
    let base = base("/usr/bin", 11);
    let refusal = async |environment| {
        environments.layer(&environment, &base, &image(), &Progress::none()).await.unwrap_err()
    };

    let error = refusal(conda(wheels.path(), "=3.12", "layer_probe")).await.to_string();
    assert!(error.contains("Python 3.12") && error.contains("has Python 3.11"), "{error}");

    let from_source = conda(wheels.path(), "=3.11", "source_probe");
    let error = refusal(from_source).await;
    assert_eq!(error.class(), ErrorClass::Unsupported, "{error}: {:?}", error.log());
    assert_eq!(error.without_wheels(), ["source-probe"]);
    assert!(error.to_string().contains("`source-probe`"), "{error}");

    let error = refusal(of_conda("dependencies:\n- python=3.11\n- cudatoolkit=11.8\n")).await;
    assert_eq!(error.class(), ErrorClass::Unsupported);
    assert!(error.to_string().contains("`cudatoolkit`"), "{error}");

    let error = refusal(conda(wheels.path(), "=3.11", "absent_probe")).await;
    assert_eq!(error.class(), ErrorClass::InvalidInput);
    let building = home.path().join("environments/.building");
    assert_eq!(fs_err::read_dir(building).unwrap().count(), 0, "what failed leaves nothing");
}
