//! Bitstreams and devices through the command line, on the real PoCL: what is built is shown, verified and refused, and
//! devices are listed by a process that is not the command's own.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use moorline_tests::{Said, Workspace, binary, skip};
use serde_json::Value;

/// The device of PoCL; nothing where there is none.
pub(crate) fn pocl(workspace: &Workspace) -> Option<Value> {
    let devices = workspace.moorline(&["device", "list", "-o", "json"]);
    let found = (devices.code == Some(0)).then(|| devices.json());
    let device = found.as_ref().and_then(Value::as_array).and_then(|devices| {
        devices.iter().find(|device| device["platform"] == "Portable Computing Language").cloned()
    });
    if device.is_none() {
        skip(&format!("there is no PoCL; install pocl-opencl-icd and ocl-icd-libopencl1 {}", devices.stderr));
    }
    device
}

/// Builds the bitstream of our kernels, as `cargo xtask fpga build` does, and the public key that it is signed by.
pub(crate) fn built(workspace: &Workspace) -> (PathBuf, PathBuf) {
    let program = binary("moorline-fpga");
    // Each test is a process: whoever comes first builds, the others wait for it.
    let made = fs_err::metadata(&program).unwrap().modified().unwrap();
    let made = made.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bitstream-{made}"));
    let lock = fs_err::File::create(kept.with_extension("lock")).unwrap().into_parts().0;
    lock.lock().unwrap();
    if !kept.exists() {
        let beside = kept.with_extension("part");
        fs_err::create_dir_all(&beside).unwrap();
        let mut build = Command::new(program);
        build.args(["build", "Portable Computing Language"]);
        build.arg(beside.join("key.pem")).arg(beside.join("pocl.fbit"));
        let said = workspace.run(build).ok();
        assert!(said.stdout.contains("golden tests passed: 4"), "{}", said.stdout);
        fs_err::rename(beside, &kept).unwrap();
    }
    let work = workspace.work();
    for file in ["key.pem", "key.pub.pem", "pocl.fbit"] {
        fs_err::copy(kept.join(file), work.join(file)).unwrap();
    }
    (work.join("pocl.fbit"), work.join("key.pub.pem"))
}

fn refused(said: &Said, words: &str) {
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert!(said.stderr.contains(words), "`{words}` is not in: {}", said.stderr);
}

#[test]
fn a_device_is_listed_with_what_it_is() {
    let workspace = Workspace::down();
    let Some(device) = pocl(&workspace) else { return };
    assert_eq!((&device["class"], &device["kind"]), (&"emulation".into(), &"CPU".into()));
    assert!(device["memory"].as_u64().unwrap() > 0);
    assert!(!device["driver"].as_str().unwrap().is_empty());
    assert_eq!(device["lease"]["holder"], Value::Null);
    let table = workspace.moorline(&["device", "list", "-o", "table"]).ok().stdout;
    assert!(table.starts_with("Platform") && table.contains("emulation"), "{table}");
}

#[test]
fn a_bitstream_is_shown_verified_and_completed() {
    let workspace = Workspace::down();
    let Some(device) = pocl(&workspace) else { return };
    let (_, key) = built(&workspace);
    let key = key.to_str().unwrap();
    let shown = workspace.json(&["bitstream", "inspect", "pocl.fbit"]);
    assert_eq!((&shown["id"], &shown["schema"]), (&"org.moorline.conv16".into(), &1.into()));
    assert_eq!(shown["images"][0]["target"]["device"]["device"], device["name"]);
    let verified = workspace.json(&["bitstream", "verify", "pocl.fbit", "--trusted-key", key]);
    assert_eq!(verified, shown);

    // A key that made another bitstream, one that is none, a file that was changed, and one that is none.
    workspace.write("other.pem", "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n-----END PUBLIC KEY-----\n");
    let verify =
        |file: &str, key: &str| workspace.moorline(&["bitstream", "verify", file, "--trusted-key", key]);
    refused(&verify("pocl.fbit", "other.pem"), "which is not trusted here");
    refused(&verify("pocl.fbit", "pocl.fbit"), "UTF-8");
    let mut bytes = fs_err::read(workspace.work().join("pocl.fbit")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    workspace.write("changed.fbit", &bytes);
    refused(&verify("changed.fbit", key), "is damaged");
    workspace.write("short.fbit", &bytes[..middle]);
    refused(&verify("short.fbit", key), "it ends within");
    workspace.write("none.fbit", "no bitstream");
    refused(&verify("none.fbit", key), "is not a bitstream");

    workspace.write("image.xclbin", "made by a vendor's compiler");
    let line = "bitstream add-image --from pocl.fbit --image image.xclbin --platform Xilinx --board xilinx_u250 \
                --interface-uuid 1234 --key key.pem --version 1.1.0 --out both.fbit";
    let create: Vec<&str> = line.split_whitespace().collect();
    let created = workspace.json(&create);
    assert_eq!((&created["version"], created["images"].as_array().unwrap().len()), (&"1.1.0".into(), 2));
    assert_eq!(created["images"][1]["class"], "hardware");
    assert_eq!(workspace.json(&["bitstream", "verify", "both.fbit", "--trusted-key", key]), created);
    refused(&workspace.moorline(&create), "exists");
}

#[test]
fn a_plan_says_where_a_model_runs() {
    let workspace = Workspace::down();
    let Some(_) = pocl(&workspace) else { return };
    built(&workspace);
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/testkit/fixtures/double.onnx");
    let plan = |more: &[&str]| {
        workspace.moorline(&[&["fpga", "plan", model, "--bitstream", "pocl.fbit"], more].concat())
    };
    let told = plan(&["--eager", "-o", "json"]).ok().json();
    assert_eq!((&told["coverage"], &told["device_islands"]), (&1.0.into(), &1.into()));
    assert_eq!((&told["nodes"][0]["op"], &told["nodes"][0]["place"]), (&"Add".into(), &"device".into()));
    assert!(told["islands"][0]["memory"]["activations"].as_u64().unwrap() > 0);
    // Three additions are not worth the way there and back.
    let table = plan(&["-o", "table"]).ok().stdout;
    assert!(table.contains("host") && table.contains("less than moving its data"), "{table}");
    assert!(table.contains("0.0 %"), "{table}");
    refused(&plan(&["--min-coverage", "0.5"]), "at least 50.0 % are wanted");
    refused(&plan(&["--eager", "--device-memory", "16"]), "the device has 16");
    assert_eq!(plan(&["--min-coverage", "2"]).code, Some(2));
}
