//! Models on devices through the front door: a registered bitstream, a compute that names it, and answers that are those
//! of the CPU.

use std::{
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use moorline_tests::{
    ReleaseDir, Request, Scorer, Workspace,
    documents::{endpoint, onnx_deployment},
    onnx::{Attribute, ModelWriter, OnnxType, element},
};
use serde_json::{Value, json};

use crate::bitstreams::{built, pocl};

/// Channels and side of the images that the model takes.
const CHANNELS: usize = 48;
const SIDE: usize = 56;

/// A workspace with a bitstream for PoCL, and the public key of whoever signed it, in one line of a document.
fn up() -> Option<(Workspace, PathBuf, String)> {
    let workspace = Workspace::up();
    pocl(&workspace)?;
    let (file, key) = built(&workspace);
    let public = json!(fs_err::read_to_string(key).unwrap()).to_string();
    Some((workspace, file, public))
}

/// Two convolutions, large enough that a device is worth its transfer.
pub(crate) fn model() -> Vec<u8> {
    let sides = [Some(1), Some(CHANNELS as u64), Some(SIDE as u64), Some(SIDE as u64)];
    let image = OnnxType::Tensor(element::FLOAT, sides.to_vec());
    let weights = |seed: usize| -> Vec<f32> {
        (0..CHANNELS * CHANNELS * 9).map(|i| ((i * 37 + seed * 11) % 19) as f32 / 190.0 - 0.05).collect()
    };
    let shape = [CHANNELS as u64, CHANNELS as u64, 3, 3];
    let pads = [("pads", Attribute::Ints(vec![1; 4])), ("kernel_shape", Attribute::Ints(vec![3; 2]))];
    ModelWriter::default()
        .input("image", &image)
        .output("features", &image)
        .floats("w1", &shape, &weights(1))
        .floats("w2", &shape, &weights(2))
        .node_of("", "Conv", &["image", "w1"], &["a"], &pads)
        .node("Relu", &["a"], &["b"])
        .node_of("", "Conv", &["b", "w2"], &["features"], &pads)
        .write()
}

pub(crate) fn compute(workspace: &Workspace, name: &str, key: &str, more: &str) {
    let document =
        format!("name: {name}\ntype: fpga\nbitstream: azureml:conv16\ntrusted_keys: [{key}]\n{more}");
    workspace.write("compute.yml", document);
    workspace.moorline(&["compute", "create", "-f", "compute.yml"]).ok();
}

pub(crate) fn deploy(workspace: &Workspace, endpoint_name: &str, compute: &str) -> moorline_tests::Said {
    workspace.write("endpoint.yml", endpoint(endpoint_name));
    workspace.write("blue.yml", onnx_deployment("blue", endpoint_name, "model.onnx"));
    workspace.moorline(&["online-endpoint", "create", "-f", "endpoint.yml"]).ok();
    workspace.moorline(&[
        "online-deployment",
        "create",
        "-f",
        "blue.yml",
        "--compute",
        compute,
        "--all-traffic",
    ])
}

pub(crate) fn features(workspace: &Workspace, endpoint: &str) -> Vec<f64> {
    let pixel = |i: usize| ((i * 7919) % 257) as f64 / 257.0;
    let rows =
        |c: usize, y: usize| -> Vec<f64> { (0..SIDE).map(|x| pixel((c * SIDE + y) * SIDE + x)).collect() };
    let image: Vec<Vec<Vec<f64>>> = (0..CHANNELS).map(|c| (0..SIDE).map(|y| rows(c, y)).collect()).collect();
    let body = json!({ "data": [image] }).to_string();
    let reply = workspace.call(&Workspace::scoring(endpoint, &workspace.key(endpoint), &body));
    assert_eq!(reply.status, 200, "{}\n{}", reply.text(), workspace.server_log());
    fn flat(value: &Value, into: &mut Vec<f64>) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| flat(item, into)),
            number => into.push(number.as_f64().expect("a number")),
        }
    }
    let mut all = Vec::new();
    flat(&reply.value(), &mut all);
    all
}

#[test]
fn a_model_on_a_device_answers_as_on_the_cpu() {
    let Some((workspace, file, key)) = up() else { return };
    workspace.write("model.onnx", model());
    let registered = workspace.json(&["bitstream", "create", "-n", "conv16", "-p", file.to_str().unwrap()]);
    assert_eq!(registered["id"], "azureml:conv16:1");
    compute(&workspace, "device", &key, "min_coverage: 0.95\ndevice: {class: emulation}\n");
    deploy(&workspace, "on-device", "device").ok();
    deploy(&workspace, "on-cpu", "local").ok();
    let (device, cpu) = (features(&workspace, "on-device"), features(&workspace, "on-cpu"));
    assert_eq!(device.len(), CHANNELS * SIDE * SIDE);
    assert_eq!(device.len(), cpu.len());
    for (ours, theirs) in device.iter().zip(&cpu) {
        assert!((ours - theirs).abs() <= 1e-4 + 1e-3 * theirs.abs(), "{ours} and {theirs}");
    }
    let logs = ["online-deployment", "get-logs", "-n", "blue", "-e", "on-device"];
    let logs = workspace.moorline(&logs).ok().stdout;
    assert!(logs.contains("a device is leased") && logs.contains("emulation"), "{logs}");

    // The device is taken, and says by whom.
    let said = deploy(&workspace, "too-late", "device");
    assert_ne!(said.code, Some(0), "{said:?}");
    assert!(said.stderr.contains("is leased to"), "{}", said.stderr);
    // An update takes its own device anew.
    let update = ["online-deployment", "update", "-n", "blue", "-e", "on-device"];
    workspace.moorline(&[&update[..], &["--set", "environment_variables.ROUND=\"1\""]].concat()).ok();
    assert_eq!(features(&workspace, "on-device"), device);
    // One that is given up can be taken by another one.
    workspace.moorline(&["online-endpoint", "delete", "-n", "on-device", "-y"]).ok();
    workspace.moorline(&["online-endpoint", "delete", "-n", "too-late", "-y"]).ok();
    deploy(&workspace, "in-time", "device").ok();
    assert_eq!(features(&workspace, "in-time"), device);
}

#[test]
fn an_update_that_has_a_device_to_spare_loses_no_request() {
    let mut workspace = Workspace::down();
    // PoCL offers as many as it is told to.
    workspace.set_variable("POCL_DEVICES", "pthread pthread");
    workspace.start();
    if pocl(&workspace).is_none() {
        return;
    }
    let (file, key) = built(&workspace);
    let key = json!(fs_err::read_to_string(key).unwrap()).to_string();
    workspace.write("model.onnx", model());
    workspace.moorline(&["bitstream", "create", "-n", "conv16", "-p", file.to_str().unwrap()]).ok();
    compute(&workspace, "device", &key, "rolling_updates: true\n");
    deploy(&workspace, "goes-on", "device").ok();
    let before = features(&workspace, "goes-on");
    let done = AtomicBool::new(false);
    let scored = thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut scored = 0;
            while !done.load(Ordering::Relaxed) {
                assert_eq!(features(&workspace, "goes-on"), before);
                scored += 1;
            }
            scored
        });
        for round in ["1", "2"] {
            let change = format!("environment_variables.ROUND=\"{round}\"");
            let update = ["online-deployment", "update", "-n", "blue", "-e", "goes-on", "--set", &change];
            workspace.moorline(&update).ok();
        }
        done.store(true, Ordering::Relaxed);
        client.join().expect("every request is answered")
    });
    assert!(scored > 0);
}

#[test]
fn what_a_device_cannot_run_is_refused_with_its_reason() {
    let Some((workspace, file, key)) = up() else { return };
    workspace.moorline(&["bitstream", "create", "-n", "conv16", "-p", file.to_str().unwrap()]).ok();
    workspace.write("model.onnx", model());
    let refused = |compute: &str| {
        let said = deploy(&workspace, &format!("{compute}-endpoint"), compute);
        assert_ne!(said.code, Some(0), "{said:?}");
        said.stderr
    };
    // Somebody else's signature.
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).current_dir(workspace.work()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    openssl(&["genpkey", "-algorithm", "ed25519", "-out", "other.pem"]);
    let public = json!(openssl(&["pkey", "-pubout", "-in", "other.pem"])).to_string();
    compute(&workspace, "strangers", &public, "");
    let said = refused("strangers");
    assert!(said.contains("cannot be used") && said.contains("key"), "{said}");
    // No such device.
    compute(&workspace, "absent", &key, "device: {name: stratix}\n");
    let said = refused("absent");
    assert!(said.contains("stratix"), "{said}");
    // No keys at all, a bitstream that is not there, and what is no model for a device.
    workspace.write("compute.yml", "name: open\ntype: fpga\nbitstream: azureml:conv16\n");
    workspace.moorline(&["compute", "create", "-f", "compute.yml"]).ok();
    assert!(refused("open").contains("names no `trusted_keys`"));
    workspace.write(
        "compute.yml",
        format!("name: none\ntype: fpga\nbitstream: azureml:other\ntrusted_keys: [{key}]\n"),
    );
    workspace.moorline(&["compute", "create", "-f", "compute.yml"]).ok();
    assert!(refused("none").contains("there is no bitstream `azureml:other`"));
    // A model of which nothing is worth a device.
    compute(&workspace, "strict", &key, "min_coverage: 0.9\n");
    workspace.write("model.onnx", moorline_tests::onnx::linear_model());
    let said = refused("strict");
    assert!(said.contains("coverage") || said.contains("90 %"), "{said}");
    // Its versions are listed, hidden and found again as those of other assets.
    workspace.moorline(&["bitstream", "archive", "-n", "conv16", "-v", "1"]).ok();
    assert_eq!(workspace.json(&["bitstream", "list"]), json!([]));
    workspace.moorline(&["bitstream", "restore", "-n", "conv16", "-v", "1"]).ok();
    assert_eq!(workspace.json(&["bitstream", "list"])[0]["name"], "conv16");
    let shown = workspace.call(&Request::get("/api/v1/workspaces/default/bitstreams/conv16/versions/1"));
    assert_eq!(shown.value()["files"].as_array().map(Vec::len), Some(1));
}

/// One metric of a device, by its own labels.
fn of_device(scorer: &Scorer, name: &str, label: &str) -> f64 {
    let own = r#"deployment="tested",device_class="emulation",endpoint="tested""#;
    let mut labels: Vec<&str> =
        own.split(',').chain(label.split(',').filter(|label| !label.is_empty())).collect();
    labels.sort_unstable();
    scorer.metric(&format!("moorline_fpga_{name}{{{}}}", labels.join(",")))
}

#[test]
fn a_scorer_counts_what_its_device_does_and_outlives_its_worker() {
    let workspace = Workspace::down();
    if pocl(&workspace).is_none() {
        return;
    }
    let (bitstream, key) = built(&workspace);
    let leases = workspace.work().join("leases");
    let options =
        [("--fpga-bitstream", &bitstream), ("--fpga-trusted-keys", &key), ("--fpga-leases", &leases)];
    let scorer = ReleaseDir::of_model(&model()).serve().arg("--engine").arg("tract");
    let scorer =
        options.into_iter().fold(scorer, |scorer, (flag, value)| scorer.arg(flag).arg(value)).start();
    let bytes = (CHANNELS * SIDE * SIDE * 4) as f64;
    let image = vec![0.5; CHANNELS * SIDE * SIDE];
    let input =
        json!({"name": "image", "datatype": "FP32", "shape": [1, CHANNELS, SIDE, SIDE], "data": image});
    let score = || {
        let reply = scorer.post("/v2/models/tested/infer", &json!({"inputs": [input]}));
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.value()["outputs"][0]["data"].clone()
    };
    let sent = of_device(&scorer, "transfer_bytes_total", r#"direction="to_device""#);
    let first = score();
    let more = of_device(&scorer, "transfer_bytes_total", r#"direction="to_device""#);
    assert_eq!(more - sent, bytes);
    assert!(of_device(&scorer, "transfer_bytes_total", r#"direction="from_device""#) >= bytes);
    assert!(of_device(&scorer, "device_busy_ratio", "") > 0.0);
    let coverage = of_device(&scorer, "coverage_ratio", r#"model="model.onnx""#);
    assert!(coverage > 0.95 && coverage <= 1.0, "{coverage}");
    for _ in 0..16 {
        score();
    }
    let launched = r#"kernel="conv_l16_s1_p14_o1""#;
    let launched = ["p14_o1", "p14_o2", "p7_o2", "p7_o4"]
        .map(|tile| of_device(&scorer, "kernel_seconds_count", &launched.replace("p14_o1", tile)));
    assert!(launched.iter().sum::<f64>() >= 2.0, "two convolutions of at least one request: {launched:?}");

    // The worker is the scorer's only child.
    let pids = Command::new("pgrep").args(["-P", &scorer.pid().to_string()]).output().unwrap();
    let worker = String::from_utf8(pids.stdout).unwrap();
    assert!(Command::new("kill").args(["-9", worker.trim()]).status().unwrap().success(), "{worker}");
    assert_eq!(score(), first, "a request is run again with a new worker");
    assert_eq!(of_device(&scorer, "worker_restarts_total", r#"reason="died""#), 1.0);
}

#[test]
fn a_profile_says_where_the_time_goes() {
    let workspace = Workspace::down();
    if pocl(&workspace).is_none() {
        return;
    }
    let (_, key) = built(&workspace);
    workspace.write("model.onnx", model());
    let key = key.to_str().unwrap();
    let profile =
        ["fpga", "profile", "model.onnx", "--bitstream", "pocl.fbit", "--trusted-key", key, "-n", "2"];
    let told = workspace.json(&[&profile[..], &["--trace", "trace.json"]].concat());
    assert_eq!((&told["device_class"], &told["runs"]), (&"emulation".into(), &2.into()));
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{told:#}"));
    assert!(number(&told["milliseconds"]) >= number(&told["kernels_milliseconds"]));
    let kernels = told["kernels"].as_array().unwrap();
    assert!(number(&kernels[0]["gflops"]) > 0.0 && kernels[0]["of_gflops"].is_number(), "{told:#}");
    let trace: Value =
        serde_json::from_slice(&fs_err::read(workspace.work().join("trace.json")).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    assert!(events.iter().any(|event| event["name"] == kernels[0]["kernel"]), "{events:?}");

    let table = workspace.moorline(&[&profile[..], &["-o", "table", "--nodes"]].concat()).ok().stdout;
    assert!(table.contains("emulation") && table.contains('%') && table.contains("of ceiling"), "{table}");
    let refused = workspace.moorline(&[&profile[..], &["--device", "class=hardware"]].concat());
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("there is no device for class hardware"), "{}", refused.stderr);
}
