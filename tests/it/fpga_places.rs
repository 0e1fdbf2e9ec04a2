//! Devices that are not on the server's own machine: in a container that is given them, and in a pod that asks for one.
//! Both run the bitstream that their image carries, on the OpenCL of its base.

use moorline_tests::{
    Clustered, Hosted, Workspace,
    containers::{Registry, docker, engine, inspect},
    documents::{endpoint, onnx_deployment},
    eventually, opencl_image,
};
use serde_json::{Value, json};
use std::time::Duration;

use crate::{
    bitstreams::{built, pocl},
    fpga::{compute, deploy, features, model},
};

/// Longer than a container or a pod takes to go.
const PATIENCE: Duration = Duration::from_mins(2);
/// A device that every machine has and no container is given by itself.
const NODE: &str = "/dev/kmsg";
const EXTENDED: &str = "moorline.dev/fpga";

/// Registers a bitstream for PoCL; the public key of whoever signed it, in one line of a document.
fn registered(workspace: &Workspace) -> Option<String> {
    pocl(workspace)?;
    let (file, key) = built(workspace);
    workspace.moorline(&["bitstream", "create", "-n", "conv16", "-p", file.to_str().unwrap()]).ok();
    workspace.write("model.onnx", model());
    Some(json!(fs_err::read_to_string(key).unwrap()).to_string())
}

fn agree(device: &[f64], cpu: &[f64]) {
    assert_eq!(device.len(), cpu.len());
    for (ours, theirs) in device.iter().zip(cpu) {
        assert!((ours - theirs).abs() <= 1e-4 + 1e-3 * theirs.abs(), "{ours} and {theirs}");
    }
}

#[test]
fn a_container_is_given_a_device_that_no_other_has() {
    let (Some(host), Some(registry)) = (engine(), Registry::start()) else { return };
    let Some(hosted) = Hosted::up("") else { return };
    let workspace = &hosted.workspace;
    let Some(key) = registered(workspace) else { return };
    let Some(image) = opencl_image(&host, &workspace.work()) else { return };
    registry.take(&image, "opencl:1");
    let more = format!(
        "compute: azureml:docker\nimage: {}/opencl:1\ndevice_nodes: [{NODE}]\ndevice_groups: [4]\nmin_coverage: 0.95\n",
        registry.host
    );
    compute(workspace, "boxed", &key, &more);
    deploy(workspace, "in-box", "boxed").ok();
    deploy(workspace, "on-cpu", "local").ok();
    let first = features(workspace, "in-box");
    agree(&first, &features(workspace, "on-cpu"));

    let containers = hosted.containers("in-box");
    let seen = inspect(&host, &containers[0]);
    assert_eq!(seen["HostConfig"]["Devices"][0]["PathOnHost"], NODE);
    assert_eq!(seen["HostConfig"]["GroupAdd"], json!(["4"]));
    assert_eq!(seen["Config"]["User"], "65532:65532");
    let logs = workspace.moorline(&["online-deployment", "get-logs", "-n", "blue", "-e", "in-box"]).ok();
    assert!(logs.stdout.contains("a device is leased"), "{}", logs.stdout);
    // All containers of a machine lease its devices in one place.
    let said = deploy(workspace, "too-late", "boxed");
    assert_ne!(said.code, Some(0), "{said:?}");
    assert!(said.stderr.contains("is leased to"), "{}", said.stderr);
    workspace.moorline(&["online-endpoint", "delete", "-n", "too-late", "-y"]).ok();
    // The device comes back to a container that takes the place of a killed one, and to another revision.
    docker(&host, &["kill", &containers[0]]);
    let healed = || hosted.containers("in-box").iter().any(|id| *id != containers[0]);
    assert!(eventually(PATIENCE, healed), "no container took the killed one's place");
    let update = ["online-deployment", "update", "-n", "blue", "-e", "in-box"];
    workspace.moorline(&[&update[..], &["--set", "environment_variables.ROUND=\"1\""]].concat()).ok();
    assert_eq!(features(workspace, "in-box"), first);
    // What the compute below is used for, it cannot be taken away from.
    let refused = workspace.moorline(&["compute", "delete", "-n", "docker", "-y"]);
    assert_ne!(refused.code, Some(0), "{refused:?}");
    workspace.moorline(&["online-endpoint", "delete", "-n", "in-box", "-y"]).ok();
    assert!(eventually(PATIENCE, || hosted.containers("in-box").is_empty()), "containers are left");
}

#[test]
fn a_pod_asks_for_a_device_by_its_extended_resource() {
    let Some(clustered) = Clustered::up("") else { return };
    let Some(host) = engine() else { return };
    let (workspace, cluster) = (&clustered.workspace, &clustered.namespace.cluster);
    let Some(key) = registered(workspace) else { return };
    let Some(image) = opencl_image(&host, &workspace.work()) else { return };
    let reference = format!("{}/opencl:1", cluster.registry);
    let from = format!("docker-archive:{}", image.display());
    let to = format!("docker://{reference}");
    moorline_tests::containers::tool("skopeo", &["copy", "--quiet", "--dest-tls-verify=false", &from, &to]);
    advertise(&clustered);
    let more = format!(
        "compute: azureml:cluster\nimage: {reference}\nextended_resources: {{{EXTENDED}: 1}}\nmin_coverage: 0.95\n"
    );
    compute(workspace, "boards", &key, &more);

    workspace.write("endpoint.yml", endpoint("in-pod"));
    workspace.write("blue.yml", onnx_deployment("blue", "in-pod", "model.onnx"));
    deploy(workspace, "in-pod", "boards").ok();
    deploy(workspace, "on-cpu", "local").ok();
    agree(&features(workspace, "in-pod"), &features(workspace, "on-cpu"));
    let pods = clustered.namespace.items("pods");
    let container = &pods[0]["spec"]["containers"][0];
    assert_eq!(container["resources"]["limits"][EXTENDED], "1", "{container}");
    // An update gives the device up first: the cluster has one.
    clustered.update("in-pod", &["--set", "environment_variables.ROUND=\"1\""]).ok();
    agree(&features(workspace, "in-pod"), &features(workspace, "on-cpu"));
}

/// Tells the cluster that its node has one device, as the plugin of a board's maker would.
fn advertise(clustered: &Clustered) {
    let cluster = &clustered.namespace.cluster;
    let nodes: Value = serde_json::from_str(&cluster.kubectl(&["get", "nodes", "-o", "json"])).unwrap();
    let node = nodes["items"][0]["metadata"]["name"].as_str().unwrap();
    let body = json!({ "status": { "capacity": { EXTENDED: "1" }, "allocatable": { EXTENDED: "1" } } });
    let path = format!("/api/v1/nodes/{node}/status");
    let patched =
        cluster.kubectl_with(&["replace", "--raw", &path, "-f", "-"], &merged(cluster, &path, &body));
    patched.ok();
    let there = || cluster.kubectl(&["get", "node", node, "-o", "json"]).contains(EXTENDED);
    assert!(eventually(PATIENCE, there), "the node has no device");
}

/// An object of the cluster with these keys more.
fn merged(cluster: &moorline_tests::GivenCluster, path: &str, more: &Value) -> String {
    fn merge(into: &mut Value, from: &Value) {
        match (into, from) {
            (Value::Object(into), Value::Object(from)) => {
                for (key, value) in from {
                    merge(into.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
            (into, from) => *into = from.clone(),
        }
    }
    let mut object: Value = serde_json::from_str(&cluster.kubectl(&["get", "--raw", path])).unwrap();
    merge(&mut object, more);
    object.to_string()
}
