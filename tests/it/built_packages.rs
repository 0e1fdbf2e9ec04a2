//! Packages without wheels: built by the Engine in the image that they are for, once, and told when they cannot be.

use moorline_tests::{
    Said, Workspace,
    containers::{Registry, base_image, docker, engine, tool},
    documents::endpoint,
};

/// Builds itself, and writes down where. Nothing has to be fetched for it.
const BACKEND: &str = r#"
import os, sys, sysconfig, zipfile

def build_wheel(directory, config_settings=None, metadata_directory=None):
    python = "cp%d%d" % sys.version_info[:2]
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    name = f"built_probe-1.0-{python}-{python}-{platform}.whl"
    info = "built_probe-1.0.dist-info/"
    files = {
        "built_probe.py": f"PLACE = {os.environ['TMPDIR']!r}\nUSER = {os.getuid()}\n",
        info + "METADATA": "Metadata-Version: 2.1\nName: built-probe\nVersion: 1.0\n",
        info + "WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: false\nTag: {python}-{python}-{platform}\n",
    }
    with zipfile.ZipFile(os.path.join(directory, name), "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
        wheel.writestr(info + "RECORD", "".join(f"{path},,\n" for path in files) + info + "RECORD,,\n")
    return name
"#;
/// As setuptools ends where there is no compiler.
const BROKEN: &str = "\ndef build_wheel(*_, **__):\n    \
                      raise RuntimeError(\"error: command 'gcc' failed: No such file or directory\")\n";
const SCORE: &str = "import built_probe\n\n\ndef init():\n    pass\n\n\ndef run(data):\n    \
                     return [built_probe.PLACE, built_probe.USER]\n";

fn sdist(workspace: &Workspace, package: &str, backend: &str) {
    let source = format!("source/{package}-1.0");
    workspace.write(
        &format!("{source}/pyproject.toml"),
        "[build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n",
    );
    workspace.write(&format!("{source}/backend.py"), backend);
    let metadata = format!("Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n");
    workspace.write(&format!("{source}/PKG-INFO"), metadata);
    workspace.write("wheels/README", "");
    let archive = workspace.work().join(format!("wheels/{package}-1.0.tar.gz"));
    let folder = workspace.work().join("source");
    let arguments = ["--create", "--gzip", "--file", archive.to_str().unwrap(), "--directory"];
    let named = format!("{package}-1.0");
    tool("tar", &[&arguments[..], &[folder.to_str().unwrap(), &named]].concat());
}

fn document(workspace: &Workspace, image: &str, package: &str) -> String {
    let links = workspace.work().join("wheels");
    format!(
        "name: blue\nendpoint_name: compiled\ncode_configuration:\n  code: code\n  scoring_script: score.py\n\
         environment:\n  image: {image}\n  conda_file:\n    dependencies:\n      - python=3.11\n      - pip:\n          \
         - --no-index\n          - --find-links {}\n          - {package}\ninstance_count: 1\n",
        links.display()
    )
}

#[test]
fn a_package_without_a_wheel_is_built_once_in_the_image() {
    let (Some(base), Some(registry), Some(host)) = (base_image(), Registry::start(), engine()) else {
        return;
    };
    registry.take(&base, "bases/python:1");
    let image = format!("{}/bases/python:1", registry.host);
    let workspace = Workspace::up();
    workspace.write("docker.yml", format!("name: docker\ntype: container\nhost: {host}\n"));
    workspace.moorline(&["compute", "create", "-f", "docker.yml"]).ok();
    workspace.write("endpoint.yml", endpoint("compiled"));
    workspace.moorline(&["online-endpoint", "create", "-f", "endpoint.yml"]).ok();
    sdist(&workspace, "built_probe", BACKEND);
    sdist(&workspace, "broken_probe", BROKEN);
    workspace.write("code/score.py", SCORE);
    workspace.write("blue.yml", document(&workspace, &image, "built_probe"));
    let deploy = |verb: &str, more: &[&str]| -> Said {
        let all = [&["online-deployment", verb, "-f", "blue.yml", "--compute", "docker"], more].concat();
        workspace.moorline(&all)
    };
    let created = deploy("create", &["--all-traffic"]).ok();
    assert!(created.stderr.contains("so it is built in the image"), "{}", created.stderr);
    let key = workspace.key("compiled");
    let score = || {
        let reply = workspace.call(&Workspace::scoring("compiled", &key, "{}"));
        (reply.status, reply.text().replace(", ", ","))
    };
    assert_eq!(score(), (200, "[\"/moorline-build/tmp\",65532]".to_owned()));

    // The environment is there: other code needs no Engine to be built.
    workspace.write("code/score.py", format!("{SCORE}# changed\n"));
    let updated = deploy("update", &[]).ok();
    assert!(!updated.stderr.contains("so it is built in the image"), "{}", updated.stderr);
    assert_eq!(score().0, 200);

    workspace.write("blue.yml", document(&workspace, &image, "broken_probe"));
    let broken = deploy("update", &[]);
    assert_eq!(broken.code, Some(1), "{}", broken.stdout);
    assert!(broken.stderr.contains("has not got a C compiler"), "{}", broken.stderr);
    assert!(broken.stderr.contains("command 'gcc' failed"), "its last lines: {}", broken.stderr);
    assert_eq!(score().0, 200, "the one before serves on");
    let left = docker(&host, &["ps", "--all", "--quiet", "--filter", "name=moorline-build-"]);
    assert_eq!(left, "", "containers are left");
    workspace.moorline(&["online-endpoint", "delete", "-n", "compiled", "-y"]).ok();
}
