//! The chart on a cluster: its pods run as it says they do, one of them leads, and the other one takes over.

use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    time::Duration,
};

use moorline_tests::{
    GivenCluster, Namespace, Request, Workspace, binary, call,
    containers::{base_image, docker, engine},
    eventually, own_folder, skip,
    stores::{Bucket, Postgres},
};
use serde_json::{Value, json};

use crate::chart::{Helm, scenario};

/// Longer than an image is pulled, a schema is made and a lease runs out.
const PATIENCE: Duration = Duration::from_mins(3);
const OWNER: &str = "0123456789abcdef0123456789abcdef";

/// The image of the Dockerfile, where the cluster pulls from; its name.
fn image(registry: &str, host: &str) -> Option<String> {
    let base = base_image()?;
    docker(host, &["load", "--quiet", "--input", base.to_str().unwrap()]);
    let context = tempfile::tempdir().unwrap();
    for name in ["moorline", "moorline-scorer"] {
        fs_err::copy(binary(name), context.path().join(name)).unwrap();
    }
    // The tests' base has none, which the Dockerfile's has.
    fs_err::copy("/etc/ssl/certs/ca-certificates.crt", context.path().join("certificates.pem")).unwrap();
    let name = format!("{registry}/test/server:{}", std::process::id());
    let file = own_folder().parent().unwrap().join("deploy/docker/Dockerfile");
    let (file, context) = (file.to_str().unwrap(), context.path().to_str().unwrap());
    let base = "BASE=moorline-test-python:1";
    docker(host, &["build", "--quiet", "--build-arg", base, "--tag", &name, "--file", file, context]);
    docker(host, &["push", "--quiet", &name]);
    docker(host, &["rmi", "--force", &name]);
    Some(name)
}

/// The address of the one node, where this machine is that node.
fn own_node(cluster: &GivenCluster) -> Option<IpAddr> {
    let nodes = cluster.kubectl_with(&["get", "nodes", "--output", "json"], "").ok().json();
    let addresses = nodes["items"].as_array().unwrap().iter();
    let addresses = addresses.filter_map(|node| node["status"]["addresses"][0]["address"].as_str());
    let own = addresses.filter_map(|address| address.parse::<IpAddr>().ok());
    let own = own.into_iter().find(|address| TcpListener::bind((*address, 0)).is_ok());
    if own.is_none() {
        skip("no node of the cluster is this machine, so that its pods reach no store of ours");
    }
    own
}

fn secret(name: &str, content: &Value) -> String {
    let object = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "stringData": content,
    });
    object.to_string()
}

/// The pods that lead and are not about to go.
fn leaders(namespace: &Namespace) -> Vec<String> {
    let selector = "moorline.io/role=leader";
    let pods =
        namespace.kubectl_with(&["get", "pods", "--selector", selector, "--output", "json"], "").ok().json();
    let pods = pods["items"].as_array().unwrap().iter();
    let pods = pods.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    pods.map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

/// What the cluster and the pods say, for whoever reads of a failure.
fn story(namespace: &Namespace) -> String {
    let pods = namespace.kubectl_with(&["describe", "pods"], "").stdout;
    let selector = "app.kubernetes.io/name=moorline";
    let logs = |more: &[&str]| {
        namespace.kubectl_with(&[&["logs", "--tail", "20", "--selector", selector], more].concat(), "").stdout
    };
    format!("{pods}\n{}\n{}", logs(&["--previous"]), logs(&[]))
}

#[test]
fn the_service_has_one_leader_and_then_the_other() {
    let (Some(helm), Some(cluster), Some(host)) = (Helm::given(), GivenCluster::find(), engine()) else {
        return;
    };
    let Some(node) = own_node(&cluster) else { return };
    let (Some(postgres), Some(bucket)) = (Postgres::start(node), Bucket::start(node)) else { return };
    let Some(image) = image(&cluster.registry, &host) else { return };
    let namespace = cluster.namespace();
    let identity = Workspace::up();
    let identity = fs_err::read_to_string(identity.home().join("keys/secrets.agekey")).unwrap();
    for (name, content) in [
        ("owner", json!({ "token": OWNER })),
        ("database", json!({ "url": postgres.url() })),
        ("s3", json!({ "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key" })),
        ("keys", json!({ "secrets.agekey": identity })),
    ] {
        namespace.kubectl_with(&["apply", "-f", "-"], &secret(name, &content)).ok();
    }
    let (repository, tag) = image.rsplit_once(':').unwrap();
    let endpoint = format!("blobs.s3.endpoint={}", bucket.endpoint());
    let name = format!("blobs.s3.bucket={}", Bucket::NAME);
    let (repository, tag) = (format!("image.repository={repository}"), format!("image.tag={tag}"));
    let values = scenario("several");
    let mut arguments = vec!["--namespace", &namespace.name, "--kube-version", "1.20.2", "--values", &values];
    arguments.extend([&repository, &endpoint, &name].iter().flat_map(|set| ["--set", set.as_str()]));
    arguments.extend(["--set-string", &tag, "--set"]);
    arguments.push("env[0].name=SSL_CERT_FILE,env[0].value=/opt/moorline/certificates.pem");
    let rendered = helm.template(&arguments).ok().stdout;
    namespace.kubectl_with(&["apply", "-f", "-"], &rendered).ok();
    let up = namespace.kubectl_with(&["rollout", "status", "deployment/ml-moorline", "--timeout", "3m"], "");
    assert_eq!(up.code, Some(0), "{}\n{}", up.stderr, story(&namespace));

    // The cluster's own address of the Service is good on its node.
    let service = namespace.get("service", "ml-moorline").unwrap();
    let address: IpAddr = service["spec"]["clusterIP"].as_str().unwrap().parse().unwrap();
    let address = SocketAddr::from((address, 7440));
    let token = format!("Bearer {OWNER}");
    let status = |request: Request| {
        std::net::TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
        Some(call(address, &request.header("authorization", &token)).status)
    };
    assert!(
        eventually(PATIENCE, || status(Request::get("/ready")) == Some(200)),
        "nobody leads\n{}",
        story(&namespace)
    );
    let first = leaders(&namespace);
    assert_eq!(first.len(), 1, "{first:?}");
    let made = status(Request::json("/api/v1/workspaces", &json!({ "name": "kept" })));
    assert_eq!(made, Some(201));
    let anonymous = call(address, &Request::get("/api/v1/workspaces"));
    assert_eq!(anonymous.status, 401, "{}", anonymous.text());

    namespace.kubectl_with(&["delete", "pod", &first[0], "--wait=false"], "").ok();
    let taken_over = || {
        let now = leaders(&namespace);
        now.len() == 1 && now != first && status(Request::get("/api/v1/workspaces/kept")) == Some(200)
    };
    assert!(eventually(PATIENCE, taken_over), "nobody took over\n{}", story(&namespace));
}
