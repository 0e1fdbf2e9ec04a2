//! Releases that cannot be served: a start error that names the thing, exit code 1 (2 for a wrong command line), and
//! no panic.

use std::process::Command;

use moorline_tests::{Failure, ReleaseDir, Scorer, binary, engines, onnx};
use serde_json::{Value, json};

fn model() -> ReleaseDir {
    ReleaseDir::of_model(&onnx::linear_model())
}

fn names(failure: &Failure, parts: &[&str]) {
    assert_eq!(failure.code, Some(1), "{}", failure.log);
    for part in parts {
        assert!(failure.log.contains(part), "`{part}` is not in:\n{}", failure.log);
    }
}

#[test]
fn a_folder_that_is_not_there_or_is_no_release() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("nowhere");
    names(&Scorer::of(&missing).fail(), &["nowhere"]);
    names(&Scorer::of(folder.path()).fail(), &["release.json"]);
}

#[test]
fn a_release_json_that_is_wrong_is_refused_with_the_place() {
    for (change, parts) in [
        (
            (|value| value["colour"] = json!(1)) as fn(&mut Value),
            &["release.json:", "unknown field `colour`"][..],
        ),
        (|value| value["model"]["colour"] = json!(1), &["unknown field `colour`"]),
        (|value| value["format"] = json!(9), &["format 9"]),
        (|value| value["name"] = json!("../up"), &["../up"]),
        (|value| value["engine"] = json!({"name": "abacus"}), &["abacus"]),
        (|value| value["model"]["files"][0]["path"] = json!("../../etc/passwd"), &["`../../etc/passwd`"]),
        (|value| value["model"]["files"][0]["path"] = json!("/etc/passwd"), &["`/etc/passwd`"]),
        (|value| value["model"]["files"][0]["sha256"] = json!("sha256:0"), &["sha256:0"]),
        (|value| *value = json!([]), &["release.json"]),
    ] {
        let release = model();
        release.edit(change);
        names(&release.serve().fail(), parts);
    }
    let release = model();
    fs_err::write(release.path().join("release.json"), "{\"format\": 1,\n  oops").unwrap();
    names(&release.serve().fail(), &["release.json:2:"]);
}

#[test]
fn a_model_file_that_is_missing_is_named() {
    let release = model();
    fs_err::remove_file(release.model().join("model.onnx")).unwrap();
    names(&release.serve().fail(), &["model.onnx"]);
}

#[test]
fn a_model_file_that_was_changed_is_refused_by_its_digest() {
    let release = model();
    let path = release.model().join("model.onnx");
    let mut bytes = fs_err::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs_err::write(&path, bytes).unwrap();
    names(&release.serve().fail(), &["model.onnx", "sha256"]);
}

#[test]
fn a_model_file_that_links_to_something_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let outside = folder.path().join("outside.onnx");
    fs_err::write(&outside, onnx::identity_model(1)).unwrap();
    let release = model();
    let path = release.model().join("model.onnx");
    fs_err::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&outside, &path).unwrap();
    names(&release.serve().fail(), &["model.onnx"]);
}

#[test]
fn a_corrupt_onnx_is_refused_by_both_engines() {
    let whole = onnx::linear_model();
    let mut wrong_operator = whole.clone();
    let at = wrong_operator.windows(6).position(|part| part == b"MatMul").unwrap();
    wrong_operator[at..at + 6].copy_from_slice(b"MatMol");
    for engine in engines() {
        for (bytes, what) in [
            (Vec::new(), "empty"),
            (b"this is no model".to_vec(), "text"),
            (whole[..whole.len() / 2].to_vec(), "half"),
            (vec![0xff; 4096], "ones"),
            (vec![0; 4096], "zeros"),
            (wrong_operator.clone(), "an unknown operator"),
        ] {
            let failure = ReleaseDir::of_model_unchecked(&bytes).serve().args(["--engine", engine]).fail();
            assert_eq!(failure.code, Some(1), "{engine}, {what}: {}", failure.log);
            assert!(failure.log.contains("model.onnx"), "{engine}, {what}: {}", failure.log);
        }
    }
}

#[test]
fn a_scoring_script_that_is_missing_is_named() {
    let release = ReleaseDir::of_script("def init():\n    pass\n\n\ndef run(data):\n    return data\n");
    fs_err::remove_file(release.code().join("score.py")).unwrap();
    names(&release.serve().fail(), &["score.py"]);
}

#[test]
fn a_python_that_is_not_there_is_named() {
    let release = ReleaseDir::of_script("def init():\n    pass\n\n\ndef run(data):\n    return data\n");
    let failure = release.serve().args(["--python", "/nowhere/python"]).fail();
    names(&failure, &["/nowhere/python"]);
}

#[test]
fn a_wrong_command_line_is_2_and_says_what_it_takes() {
    for arguments in [&["--colour"][..], &["--release"], &[], &["--release", "x", "--port", "many"]] {
        let output = Command::new(binary("moorline-scorer")).env_clear().args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(text.contains("--help") || text.contains("--release"), "{arguments:?}: {text}");
    }
}

#[test]
fn help_documents_every_setting_with_its_variable() {
    let output = Command::new(binary("moorline-scorer")).arg("--help").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success());
    for name in [
        "SERVER_PORT",
        "MOORLINE_ADMIN_PORT",
        "MOORLINE_ENGINE",
        "MOORLINE_OPTIMIZE_FOR",
        "MOORLINE_SESSIONS",
        "MOORLINE_THREADS",
        "MOORLINE_MAX_BATCH_SIZE",
        "MOORLINE_PYTHON",
        "WORKER_COUNT",
        "WORKER_TIMEOUT",
        "SCORING_TIMEOUT_MS",
        "MOORLINE_MAX_BODY_BYTES",
        "MOORLINE_MAX_JSON_DEPTH",
        "MOORLINE_MAX_QUEUE_LENGTH",
        "MOORLINE_HEADER_TIMEOUT_MS",
        "MOORLINE_BODY_TIMEOUT_MS",
        "MOORLINE_DRAIN_TIMEOUT_MS",
        "AML_CORS_ORIGINS",
        "MOORLINE_LOG_FORMAT",
        "AZUREML_LOG_LEVEL",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    ] {
        assert!(text.contains(name), "--help does not say {name}:\n{text}");
    }
}
