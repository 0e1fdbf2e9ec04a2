//! Quantising a model through the command line, with samples that NumPy wrote; the result is what ONNX's own checker and
//! ONNX Runtime take, what a device computes on codes, and what a scorer holds to its report.

use std::process::Command;

use moorline_tests::{ReleaseDir, Said, Workspace, venv};
use serde_json::{Value, json};

use crate::{
    bitstreams::{built, pocl},
    fpga::model,
};

/// Writes samples in each form that is read.
const SAMPLES: &str = r#"
import json
import os

import numpy as np

random = np.random.default_rng(3)
images = random.uniform(0, 1, (6, 48, 56, 56)).astype(np.float32)
np.savez_compressed("images.npz", image=images)
np.savez("plain.npz", image=images[:2].astype(np.float64))
os.makedirs("folder")
np.save("folder/1.npy", images[:3])
request = {"inputs": [{"name": "image", "shape": [1, 48, 56, 56], "datatype": "FP32",
                       "data": images[3].ravel().tolist()}]}
with open("folder/2.json", "w") as file:
    json.dump(request, file)
np.save("wrong.npy", images[:, :4])
"#;

/// Holds the quantised model to the model of floats, by the reference implementations.
const REFERENCE: &str = r#"
import json
import numpy as np
import onnx
import onnxruntime

model = onnx.load("int8.onnx")
onnx.checker.check_model(model, full_check=True)
report = json.loads({entry.key: entry.value for entry in model.metadata_props}["moorline.accuracy"])
image = np.load("images.npz")["image"][:1]
run = lambda name: onnxruntime.InferenceSession(name, providers=["CPUExecutionProvider"]).run(None, {"image": image})[0]
floats, codes = run("model.onnx"), run("int8.onnx")
snr = 10 * np.log10((floats ** 2).sum() / ((floats - codes) ** 2).sum())
print(json.dumps({"report": report, "snr": float(snr), "ops": sorted({node.op_type for node in model.graph.node})}))
"#;

fn refused(said: &Said, words: &str) {
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert!(said.stderr.contains(words), "`{words}` is not in: {}", said.stderr);
}

#[test]
fn a_model_is_quantised_planned_and_held_to_its_report() {
    let workspace = Workspace::down();
    let (Some(_), Some(tools)) = (pocl(&workspace), venv("tools")) else { return };
    let python = |script: &str| {
        let mut command = Command::new(tools.python());
        command.args(["-c", script]).current_dir(workspace.work());
        workspace.run(command).ok().stdout
    };
    workspace.write("model.onnx", model());
    python(SAMPLES);
    let quantize = |data: &str, out: &str, more: &[&str]| {
        let line = ["fpga", "quantize", "model.onnx", "--calibration", data, "--out", out];
        workspace.moorline(&[&line[..], more].concat())
    };
    let told = quantize("images.npz", "int8.onnx", &["--report", "report.json", "-o", "json"]).ok().json();
    assert_eq!(
        (&told["samples"], &told["method"], &told["per_channel"]),
        (&6.into(), &"minmax".into(), &true.into())
    );
    let agreement = told["agreement"].as_f64().unwrap();
    assert!(agreement > 0.9, "{told:#}");
    let written: Value =
        serde_json::from_slice(&fs_err::read(workspace.work().join("report.json")).unwrap()).unwrap();
    assert_eq!(written, told);
    let reference: Value = serde_json::from_str(&python(REFERENCE)).unwrap();
    assert_eq!(reference["report"], told);
    assert_eq!(reference["ops"], json!(["Conv", "DequantizeLinear", "QuantizeLinear", "Relu"]));
    assert!(reference["snr"].as_f64().unwrap() > 30.0, "{reference}");

    // Other samples, in other forms.
    let folder = quantize("folder", "two.onnx", &["--method", "percentile", "-o", "json"]).ok().json();
    assert_eq!((&folder["samples"], &folder["method"]), (&4.into(), &"percentile".into()));
    let one = ["--per-channel", "false", "--engine", "tract", "-o", "table"];
    let table = quantize("plain.npz", "three.onnx", &one).ok().stdout;
    assert!(table.contains("SNR (dB)") && table.contains("Agreement"), "{table}");
    refused(&quantize("wrong.npy", "four.onnx", &[]), "[6, 4, 56, 56]");
    refused(&quantize("nothing", "four.onnx", &[]), "nothing");
    let again = ["fpga", "quantize", "int8.onnx", "--calibration", "images.npz", "--out", "four.onnx"];
    refused(&workspace.moorline(&again), "quantised already");
    assert!(!workspace.work().join("four.onnx").exists());

    // On a device, all of it on codes; and not without having been quantised.
    let (bitstream, key) = built(&workspace);
    let plan = |model: &str, more: &[&str]| {
        workspace
            .moorline(&[&["fpga", "plan", model, "--bitstream", "pocl.fbit", "-o", "json"], more].concat())
    };
    let planned = plan("int8.onnx", &["--numerics", "i8-rne-v1"]).ok().json();
    assert_eq!(planned["coverage"], 1.0);
    assert_eq!(planned["accuracy"]["agreement"], told["agreement"]);
    refused(&plan("model.onnx", &["--numerics", "i8-rne-v1"]), "moorline fpga quantize");
    assert_eq!(plan("model.onnx", &["--numerics", "bfp9-v1"]).ok().json()["coverage"], 1.0);
    assert_eq!(plan("model.onnx", &["--numerics", "int4"]).code, Some(2));
    refused(&plan("model.onnx", &["--min-agreement", "0.5"]), "no report");

    // A scorer takes what reports enough of itself, and nothing else.
    let serve = |model: &[u8], least: f64| {
        ReleaseDir::of_model(model)
            .serve()
            .args(["--fpga-numerics", "i8-rne-v1", "--fpga-min-agreement", &least.to_string()])
            .arg("--fpga-bitstream")
            .arg(&bitstream)
            .arg("--fpga-trusted-keys")
            .arg(&key)
            .arg("--fpga-leases")
            .arg(workspace.work().join("leases"))
    };
    let codes = fs_err::read(workspace.work().join("int8.onnx")).unwrap();
    let scorer = serve(&codes, agreement).start();
    let image = vec![0.5; 48 * 56 * 56];
    let input = json!({"name": "image", "datatype": "FP32", "shape": [1, 48, 56, 56], "data": image});
    // Kernels are timed in one of sixteen requests.
    for _ in 0..16 {
        let reply = scorer.post("/v2/models/tested/infer", &json!({"inputs": [input]}));
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    let on_codes = ["p14_o2", "p7_o4"].map(|tile| {
        let labels = format!(
            r#"deployment="tested",device_class="emulation",endpoint="tested",kernel="code_conv_l16_s1_{tile}""#
        );
        scorer.metric(&format!("moorline_fpga_kernel_seconds_count{{{labels}}}"))
    });
    assert!(on_codes.iter().sum::<f64>() >= 2.0, "{on_codes:?}");
    drop(scorer);
    let failure = serve(&model(), agreement).fail();
    assert!(failure.log.contains("moorline fpga quantize"), "{}", failure.log);
}
