//! Images through the front door: built without an Engine, the same wherever they are built, pushed, signed, checked
//! with tools that are not ours, and run alone.

use std::time::Duration;

use moorline_tests::{
    Request, Workspace, call,
    containers::{Registry, docker, engine, tool},
    documents::{endpoint, onnx_deployment},
    eventually, onnx,
};
use serde_json::Value;

const BODY: &str = r#"{"data": [[1, 2, 3, 4]]}"#;

/// A workspace with the document of a deployment of an ONNX model in it.
fn with_model(arguments: &[&str]) -> Workspace {
    let workspace = Workspace::up_with(arguments);
    workspace.write("model.onnx", onnx::linear_model());
    workspace.write("blue.yml", onnx_deployment("blue", "linear", "model.onnx"));
    workspace
}

fn build(workspace: &Workspace, arguments: &[&str]) -> Value {
    let all = [&["image", "build", "-f", "blue.yml"], arguments].concat();
    workspace.json(&all)
}

#[test]
fn an_image_is_the_same_wherever_it_is_built_and_says_what_is_in_it() {
    let tract = |workspace: &Workspace| {
        let document = fs_err::read_to_string(workspace.work().join("blue.yml")).unwrap();
        workspace.write("blue.yml", document + "properties: {moorline.engine: tract}\n");
        build(workspace, &["-t", "example.org/ml/linear:1", "-o", "linear.tar"])
    };
    let (one, other) = (with_model(&[]), with_model(&[]));
    let (built, again) = (tract(&one), tract(&other));
    assert_eq!(built["digest"], again["digest"], "{built}\n{again}");
    let read = |workspace: &Workspace| fs_err::read(workspace.work().join("linear.tar")).unwrap();
    assert!(read(&one) == read(&other), "the archives differ");

    let kinds: Vec<&str> =
        built["layers"].as_array().unwrap().iter().map(|layer| layer["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["base", "scorer", "model", "release"]);
    assert!(built["size"].as_u64().unwrap() < 40_000_000, "{built}");
    let said: Vec<&str> =
        built["referrers"].as_array().unwrap().iter().map(|said| said["kind"].as_str().unwrap()).collect();
    assert_eq!(said, ["sbom", "provenance"]);

    // The model is read where the store has it, and not copied out first.
    let left: Vec<_> = fs_err::read_dir(one.home().join("releases")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");

    let archive = one.work().join("linear.tar");
    let from = format!("oci-archive:{}", archive.display());
    let seen: Value = serde_json::from_str(&tool("skopeo", &["inspect", "--config", &from])).unwrap();
    assert_eq!(seen["config"]["User"], "65532:65532");
    assert_eq!(seen["config"]["Entrypoint"][0], "/opt/moorline/bin/moorline-scorer");
    let listed = one.json(&["image", "list"]);
    assert_eq!(listed[0]["digest"], built["digest"]);
    let shown = one.json(&["image", "show", "example.org/ml/linear:1"]);
    assert_eq!(shown["digest"], built["digest"]);

    let pruned = one.json(&["image", "prune", "-y"]);
    assert_eq!(pruned["images"], 1, "{pruned}");
    assert!(one.json(&["image", "list"]).as_array().unwrap().is_empty());
    let gone = one.moorline(&["image", "show", "example.org/ml/linear:1"]);
    assert!(gone.stderr.contains("there is no image `example.org/ml/linear:1`"), "{}", gone.stderr);
}

#[test]
fn an_image_runs_alone_as_nobody_on_a_root_that_cannot_be_written() {
    let Some(host) = engine() else { return };
    let workspace = with_model(&[]);
    let built = build(&workspace, &["-t", "moorline-test/alone:1", "-o", "alone.tar"]);
    let archive = workspace.work().join("alone.tar");
    let to = format!("docker-daemon:moorline-test/alone:{}", std::process::id());
    let from = format!("oci-archive:{}", archive.display());
    tool("skopeo", &["copy", "--quiet", "--dest-daemon-host", &host, &from, &to]);
    let image = to.trim_start_matches("docker-daemon:");
    let hardened = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--tmpfs=/tmp"];
    let run = [&["run", "--rm", "--detach", "--publish=127.0.0.1::5001"][..], &hardened, &[image]].concat();
    let container = docker(&host, &run).trim().to_owned();
    let port = docker(&host, &["port", &container, "5001"]);
    let address = port.trim().parse().unwrap_or_else(|error| panic!("{error}: {port}"));
    let scores = || {
        let request = Request::post("/score", BODY).header("content-type", "application/json");
        std::net::TcpStream::connect(address).is_ok() && call(address, &request).status == 200
    };
    let served = eventually(Duration::from_secs(30), scores);
    let log = docker(&host, &["logs", &container]);
    docker(&host, &["rm", "--force", &container]);
    docker(&host, &["rmi", image]);
    assert!(served, "{built}\n{log}");
}

#[test]
fn an_image_is_pushed_with_its_signature_and_verified() {
    let Some(registry) = Registry::start() else { return };
    let workspace = with_model(&[]);
    let public = workspace.moorline(&["image", "generate-key", "-n", "signing"]).ok().stdout;
    workspace.write("signing.pub", &public);
    let other = workspace.moorline(&["image", "generate-key", "-n", "other"]).ok().stdout;
    workspace.write("other.pub", &other);
    let taken = workspace.moorline(&["image", "generate-key", "-n", "signing"]);
    assert!(taken.stderr.contains("there is a secret `signing` already"), "{}", taken.stderr);

    let reference = format!("{}/ml/linear:7", registry.host);
    let built = build(&workspace, &["-t", &reference, "--push", "--sign-with", "signing"]);
    let digest = built["digest"].as_str().unwrap();
    let inspect = |what: &str| {
        let name = format!("docker://{}/ml/linear{what}", registry.host);
        serde_json::from_str::<Value>(&tool("skopeo", &["inspect", "--tls-verify=false", "--raw", &name]))
            .unwrap()
    };
    let manifest = inspect(":7");
    assert_eq!(manifest["layers"].as_array().map(Vec::len), built["layers"].as_array().map(Vec::len));
    if let Some(library) = moorline_tests::ort_library() {
        let sbom = built["referrers"].as_array().unwrap().iter().find(|said| said["kind"] == "sbom").unwrap();
        let sbom = inspect(&format!("@{}", sbom["digest"].as_str().unwrap()));
        let blob = sbom["layers"][0]["digest"].as_str().unwrap().replace("sha256:", "blobs/sha256/");
        let text = fs_err::read(workspace.home().join("images").join(blob)).unwrap();
        let text: Value = serde_json::from_slice(&text).unwrap();
        let packages = text["packages"].as_array().unwrap();
        let runtime = packages.iter().find(|package| package["name"] == "onnxruntime").unwrap();
        let version = runtime["versionInfo"].as_str().unwrap();
        let named = fs_err::canonicalize(library).unwrap().display().to_string();
        assert!(version.starts_with("1.") && named.contains(version), "{version} of {named}");
    }
    let signature = inspect(&format!(":sha256-{}.sig", digest.trim_start_matches("sha256:")));
    let annotations = &signature["layers"][0]["annotations"];
    assert!(annotations["dev.cosignproject.cosign/signature"].is_string(), "{signature}");

    let verify = |key: &str| workspace.moorline(&["image", "verify", &reference, "--key", key, "-o", "json"]);
    assert_eq!(verify("signing.pub").ok().json()["digest"], digest);
    let refused = verify("other.pub");
    assert_eq!(refused.code, Some(1), "{}", refused.stdout);
    assert!(refused.stderr.contains("key that is not trusted"), "{}", refused.stderr);

    // What is there already is not sent again.
    let again = workspace.moorline(&["image", "build", "-f", "blue.yml", "-t", &reference, "--push"]).ok();
    assert!(again.stderr.contains(": 0.0 MB sent"), "{}", again.stderr);
}

#[test]
fn what_cannot_be_built_or_pushed_says_why() {
    let workspace = with_model(&[]);
    let said = |arguments: &[&str]| {
        let said = workspace.moorline(&[&["image", "build", "-f", "blue.yml"], arguments].concat());
        assert_ne!(said.code, Some(0), "{}", said.stdout);
        said.stderr
    };
    let name = said(&["-t", "Not/A:Name:1"]);
    assert!(name.contains("is not the reference of an image"), "{name}");
    let digest = said(&["-t", &format!("x.io/a@sha256:{}", "0".repeat(64))]);
    assert!(digest.contains("has a digest, which follows from the image"), "{digest}");
    // A port that nobody listens on.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let unreachable = said(&["-t", &format!("127.0.0.1:{port}/a:1"), "--push"]);
    assert!(unreachable.contains(&format!("127.0.0.1:{port}")), "{unreachable}");
    let key = said(&["-t", "x.io/a:1", "--sign-with", "nothing"]);
    assert!(key.contains("there is no secret `nothing`"), "{key}");
    workspace.moorline(&["secret", "set", "word", "--value-file", "blue.yml"]).ok();
    let no_key = said(&["-t", "x.io/a:1", "--sign-with", "word"]);
    assert!(no_key.contains("the secret `word` is no key that images can be signed with"), "{no_key}");
    assert!(!no_key.contains("endpoint_name"), "a secret's text is shown: {no_key}");
    workspace.write("endpoint.yml", endpoint("linear"));
    let none = workspace.moorline(&["image", "build", "-t", "x.io/a:1"]);
    assert_eq!(none.code, Some(2), "{}", none.stderr);
}
