//! Images for several platforms: an index where there are scorers for them, read by tools that are not ours.

use moorline_tests::{
    Workspace,
    containers::{Registry, tool},
    documents::onnx_deployment,
    onnx,
};
use serde_json::{Value, json};

/// An ELF file for arm64 that loads nothing. Nobody runs it here.
fn scorer_for_arm() -> Vec<u8> {
    let mut elf = vec![0; 64];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    elf[18] = 183;
    elf[54] = 56;
    elf
}

/// The second is where the scorer lies.
fn with_scorer_for_arm() -> (Workspace, Workspace) {
    let scorer = Workspace::down();
    scorer.write("scorer-arm64", scorer_for_arm());
    let flag = format!("linux/arm64={}", scorer.work().join("scorer-arm64").display());
    let workspace = Workspace::up_with(&["--other-scorer", &flag]);
    workspace.write("model.onnx", onnx::linear_model());
    (workspace, scorer)
}

fn architectures(index: &Value) -> Vec<&str> {
    let manifests = index["manifests"].as_array().unwrap_or_else(|| panic!("no index: {index}"));
    manifests.iter().map(|one| one["platform"]["architecture"].as_str().unwrap()).collect()
}

fn here() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

#[test]
fn a_model_is_an_image_for_every_platform_that_has_a_scorer() {
    if here() == "arm64" {
        return moorline_tests::skip("the other platform of this test is this machine's");
    }
    let (workspace, _scorer) = with_scorer_for_arm();
    workspace.write("blue.yml", onnx_deployment("blue", "both", "model.onnx"));
    let built = workspace.json(&["image", "build", "-f", "blue.yml", "-t", "x.io/both:1", "-o", "both.tar"]);
    assert_eq!(built["platforms"], json!(["linux/amd64", "linux/arm64"]), "{built}");
    let from = format!("oci-archive:{}", workspace.work().join("both.tar").display());
    for architecture in ["amd64", "arm64"] {
        let said = tool("skopeo", &["inspect", "--override-arch", architecture, &from]);
        assert_eq!(serde_json::from_str::<Value>(&said).unwrap()["Architecture"], architecture);
    }
}

#[test]
fn a_base_for_two_platforms_makes_an_index_and_is_pushed_as_one() {
    let Some(registry) = Registry::start() else { return };
    if here() == "arm64" {
        return moorline_tests::skip("the other platform of this test is this machine's");
    }
    let (workspace, _scorer) = with_scorer_for_arm();
    // A base that somebody made for both, out of an image of ours.
    workspace.write("blue.yml", onnx_deployment("blue", "both", "model.onnx"));
    let base = format!("{}/bases/both", registry.host);
    workspace.moorline(&["image", "build", "-f", "blue.yml", "-t", &format!("{base}:1"), "--push"]).ok();
    let made = format!("{}/made/both:1", registry.host);
    let build = ["image", "build", "-f", "blue.yml", "--base", &format!("{base}:1"), "-t", &made, "--push"];
    workspace.moorline(&build).ok();
    let raw = tool("skopeo", &["inspect", "--tls-verify=false", "--raw", &format!("docker://{made}")]);
    assert_eq!(architectures(&serde_json::from_str(&raw).unwrap()), ["amd64", "arm64"]);
    let of_arm = format!("docker://{made}");
    let said = tool("skopeo", &["inspect", "--tls-verify=false", "--override-arch", "arm64", &of_arm]);
    assert_eq!(serde_json::from_str::<Value>(&said).unwrap()["Architecture"], "arm64");

    // An engine that is here for one platform alone makes no image for the other.
    let asked = onnx_deployment("blue", "both", "model.onnx") + "properties: {moorline.engine: ort}\n";
    workspace.write("ort.yml", asked);
    if moorline_tests::ort_library().is_some() {
        let one = workspace.json(&["image", "build", "-f", "ort.yml", "-t", "x.io/one:1"]);
        assert_eq!(one["platforms"], json!(["linux/amd64"]), "{one}");
    }
}

#[test]
fn a_scorer_for_another_processor_than_it_says_is_refused_at_the_start() {
    let workspace = Workspace::down();
    workspace.write("scorer-arm64", scorer_for_arm());
    let file = workspace.work().join("scorer-arm64");
    for (platform, why) in
        [("linux/riscv64", "is a program for another processor"), ("arm64", "is not a platform")]
    {
        let flag = format!("{platform}={}", file.display());
        let said = workspace.moorline(&["up", "--listen", "127.0.0.1:0", "--other-scorer", &flag]);
        assert_ne!(said.code, Some(0));
        assert!(said.stderr.contains(why), "{}", said.stderr);
    }
}

#[test]
fn a_path_for_the_model_is_for_containers_with_their_own_server() {
    let workspace = Workspace::up();
    workspace.write("model.onnx", onnx::linear_model());
    let document = onnx_deployment("blue", "mounted", "model.onnx") + "model_mount_path: /models\n";
    workspace.write("blue.yml", document);
    let said = workspace.moorline(&["image", "build", "-f", "blue.yml", "-t", "x.io/mounted:1"]);
    assert_ne!(said.code, Some(0), "{}", said.stdout);
    assert!(said.stderr.contains("`model_mount_path`, which is for a container with"), "{}", said.stderr);
}
