//! Gateways of namespaces: keys, split, header and mirror hold there as they do at the server, which may be away; and what
//! is missing is said before anything runs.

use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use moorline_tests::{
    BODY, Clustered, Connection, GivenCluster, Namespace, Request, Workspace, call,
    documents::onnx_deployment, eventually, onnx,
};
use serde_json::{Value, json};

use crate::kubernetes::paced;

/// Longer than any pod takes to come or go.
const PATIENCE: Duration = Duration::from_mins(2);
const NAME: &str = "moorline-gateway";
const KINDS: &str = "deployments,services,networkpolicies,poddisruptionbudgets,secrets,ingresses,pods";

/// A namespace with the account of a gateway, and a compute with one.
fn up(gateway: &str) -> Option<Clustered> {
    let namespace = GivenCluster::find()?.namespace();
    let workspace = Workspace::down();
    let role = workspace.moorline(&["kubernetes", "rbac", "--namespace", &namespace.name, "--gateway"]).ok();
    namespace.cluster.kubectl_with(&["apply", "-f", "-"], &role.stdout).ok();
    Some(Clustered::on(workspace, namespace, &format!("gateway: {gateway}\n")))
}

/// Where the gateway's service is.
fn service(namespace: &Namespace) -> SocketAddr {
    let service = namespace.get("service", NAME).expect("the gateway has a service");
    let address: IpAddr = service["spec"]["clusterIP"].as_str().unwrap().parse().unwrap();
    (address, 80).into()
}

/// The status of a request to the gateway, and the deployment that answered it.
fn ask(gateway: SocketAddr, endpoint: &str, key: &str, header: Option<&str>) -> (u16, String) {
    let mut request = Workspace::scoring(endpoint, key, BODY);
    if let Some(deployment) = header {
        request = request.header("azureml-model-deployment", deployment);
    }
    match Connection::open(gateway).and_then(|mut connection| connection.send(&request)) {
        Ok(reply) => (reply.status, reply.header("azureml-model-deployment").unwrap_or_default().to_owned()),
        // No pod of it takes connections yet.
        Err(_) => (0, String::new()),
    }
}

fn serves(gateway: SocketAddr, endpoint: &str, key: &str) -> bool {
    eventually(PATIENCE, || ask(gateway, endpoint, key, None).0 == 200)
}

/// What the gateway's pods and events say, for whoever reads of a failure.
fn story(clustered: &Clustered) -> String {
    let pods = clustered.namespace.kubectl_with(&["describe", "pods"], "").stdout;
    let logs = ["logs", "--tail", "30", "--selector", "app.kubernetes.io/component=gateway"];
    let logs = clustered.namespace.kubectl_with(&logs, "");
    format!("{pods}\n{}{}\n{}", logs.stdout, logs.stderr, clustered.workspace.server_log())
}

/// One that keeps its connection, and takes another one where it was closed between two requests.
struct Client {
    gateway: SocketAddr,
    connection: Option<Connection>,
}

impl Client {
    /// The status; 0 where a new connection is cut too.
    fn ask(&mut self, endpoint: &str, key: &str) -> u16 {
        let request = Workspace::scoring(endpoint, key, BODY);
        let kept = self.connection.as_mut().and_then(|connection| connection.send(&request).ok());
        let reply = kept.or_else(|| {
            self.connection = Connection::open(self.gateway).ok();
            self.connection.as_mut()?.send(&request).ok()
        });
        if reply.as_ref().is_none_or(|reply| reply.header("connection") == Some("close")) {
            self.connection = None;
        }
        reply.map_or(0, |reply| reply.status)
    }
}

/// The pods of one deployment that were not told to end.
fn pods(namespace: &Namespace, component: &str, instance: &str) -> Vec<String> {
    let own = |pod: &&Value| {
        let labels = &pod["metadata"]["labels"];
        labels["app.kubernetes.io/component"] == component
            && labels["app.kubernetes.io/instance"].as_str().is_some_and(|own| own.contains(instance))
            && pod["metadata"]["deletionTimestamp"].is_null()
    };
    let all = namespace.items("pods");
    all.iter().filter(own).map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_gateway_of_the_namespace_needs_no_server() {
    let Some(mut clustered) = up("{replicas: 1}") else { return };
    clustered.workspace.write("model.onnx", onnx::linear_model());
    let key = clustered.deploy("near", &onnx_deployment("blue", "near", "model.onnx"));
    clustered.workspace.write("green.yml", onnx_deployment("green", "near", "model.onnx"));
    clustered.create(&["-f", "green.yml"]).ok();
    assert!(
        eventually(PATIENCE, || clustered.namespace.get("service", NAME).is_some()),
        "{}",
        story(&clustered)
    );
    let gateway = service(&clustered.namespace);
    assert!(serves(gateway, "near", &key), "{}", story(&clustered));

    assert_eq!(ask(gateway, "near", "wrong", None).0, 401);
    assert_eq!(ask(gateway, "far", &key, None).0, 404);
    assert_eq!(ask(gateway, "near", &key, Some("green")), (200, "green".to_owned()));
    assert_eq!(ask(gateway, "near", &key, Some("red")).0, 404);

    // A change of traffic gets there by itself, and shares are exact.
    let update = |more: &[&str]| {
        let which = ["online-endpoint", "update", "-n", "near"];
        clustered.workspace.moorline(&[&which, more].concat()).ok();
    };
    update(&["--traffic", "blue=90 green=10"]);
    let green_of_a_hundred = || {
        let greens = (0..100).filter(|_| ask(gateway, "near", &key, None).1 == "green");
        greens.count()
    };
    assert!(eventually(PATIENCE, || green_of_a_hundred() == 10), "{}", story(&clustered));
    update(&["--traffic", "blue=100 green=0", "--mirror-traffic", "green=50"]);
    let mirrored = || {
        let pod = pods(&clustered.namespace, "gateway", NAME).remove(0);
        let pod = clustered.namespace.get("pod", &pod).unwrap();
        let address: IpAddr = pod["status"]["podIP"].as_str().unwrap().parse().unwrap();
        let metrics = call((address, 5000).into(), &Request::get("/metrics")).text();
        let copies = |line: &&str| {
            line.starts_with("moorline_gateway_mirrored_total")
                && ["green", "answered"].iter().all(|label| line.contains(&format!("\"{label}\"")))
        };
        let line = metrics.lines().find(copies);
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or_default()
    };
    let copies = || {
        (0..10).for_each(|_| drop(ask(gateway, "near", &key, None)));
        mirrored() > 0.0
    };
    assert!(eventually(PATIENCE, copies), "nothing is mirrored: {}", story(&clustered));

    // A rollout is judged by what passed the gateway alone.
    update(&["--mirror-traffic", "green=0"]);
    let stop = AtomicBool::new(false);
    let said = thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut client = Client { gateway, connection: None };
            while paced(&stop) {
                client.ask("near", &key);
            }
        });
        let said = clustered.workspace.moorline(&[
            "online-endpoint",
            "rollout",
            "-n",
            "near",
            "--to",
            "green",
            "--steps",
            "50:5s,100",
        ]);
        stop.store(true, Ordering::Relaxed);
        client.join().unwrap();
        said
    })
    .ok();
    let told = format!("{}{}", said.stdout, said.stderr);
    let judged = told.split("held: ").nth(1).and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    assert!(judged.is_some_and(|requests| requests > 10), "{told}");

    // Without the server, also when a pod goes.
    clustered.workspace.kill();
    assert_eq!(ask(gateway, "near", &key, None).0, 200);
    let before = pods(&clustered.namespace, "scorer", "green");
    clustered.namespace.kubectl(&["delete", "pod", &before[0], "--wait=false"]);
    let replaced = || {
        let now = pods(&clustered.namespace, "scorer", "green");
        now.len() == 1 && now != before && ask(gateway, "near", &key, None).0 == 200
    };
    assert!(eventually(PATIENCE, replaced), "{}", story(&clustered));
    // And when the gateway itself does.
    let own = pods(&clustered.namespace, "gateway", NAME);
    clustered.namespace.kubectl(&["delete", "pod", &own[0], "--wait=false"]);
    let replaced = || {
        let now = pods(&clustered.namespace, "gateway", NAME);
        now.len() == 1 && now != own
    };
    assert!(eventually(PATIENCE, replaced), "{}", story(&clustered));
    assert!(serves(gateway, "near", &key), "{}", story(&clustered));

    clustered.workspace.start();
    clustered
        .workspace
        .moorline(&["online-endpoint", "regenerate-keys", "-n", "near", "--key-type", "primary"])
        .ok();
    assert!(eventually(PATIENCE, || ask(gateway, "near", &key, None).0 == 401), "the old key opens still");
    let key = clustered.workspace.key("near");
    assert!(serves(gateway, "near", &key));

    clustered.workspace.moorline(&["online-endpoint", "delete", "-n", "near", "-y"]).ok();
    let left = || clustered.namespace.items(KINDS);
    assert!(eventually(PATIENCE, || left().is_empty()), "these are left: {:?}", left());
}

#[test]
fn updates_of_what_is_behind_a_gateway_and_of_the_gateway_lose_no_request() {
    let Some(clustered) = up("{replicas: 2}") else { return };
    clustered.workspace.write("model.onnx", onnx::linear_model());
    let document =
        onnx_deployment("blue", "rolls", "model.onnx").replace("instance_count: 1", "instance_count: 2");
    let key = clustered.deploy("rolls", &document);
    assert!(eventually(PATIENCE, || clustered.namespace.get("service", NAME).is_some()));
    let gateway = service(&clustered.namespace);
    assert!(serves(gateway, "rolls", &key), "{}", story(&clustered));
    let both = || pods(&clustered.namespace, "gateway", NAME).len() == 2;
    assert!(eventually(PATIENCE, both), "{}", story(&clustered));
    let stop = AtomicBool::new(false);
    let failed: Vec<u16> = thread::scope(|scope| {
        let clients: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = Client { gateway, connection: None };
                    let mut seen = Vec::new();
                    while paced(&stop) {
                        seen.push(client.ask("rolls", &key));
                    }
                    seen
                })
            })
            .collect();
        let work = || {
            for round in 0..3 {
                let set = format!("environment_variables.ROUND=\"{round}\"");
                clustered.update("rolls", &["--set", &set]).ok();
            }
            let before = pods(&clustered.namespace, "gateway", NAME);
            clustered.namespace.kubectl(&["rollout", "restart", "deployment", NAME]);
            let replaced = || {
                let all = clustered.namespace.items("pods");
                let left = all.iter().filter_map(|pod| pod["metadata"]["name"].as_str());
                left.filter(|name| before.iter().any(|own| own == name)).count() == 0 && both()
            };
            assert!(eventually(PATIENCE, replaced), "{}", story(&clustered));
        };
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        let seen: Vec<u16> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        if let Err(panic) = ended {
            std::panic::resume_unwind(panic);
        }
        assert!(seen.len() > 100, "only {} requests were sent", seen.len());
        seen.into_iter().filter(|status| *status != 200).collect()
    });
    assert!(failed.is_empty(), "these failed: {failed:?}\n{}", story(&clustered));
}

#[test]
fn a_request_at_the_gateway_starts_what_sleeps() {
    let Some(clustered) = up("{replicas: 1}") else { return };
    clustered.workspace.write("model.onnx", onnx::linear_model());
    let scale = "scale_settings: {type: target_utilization, min_instances: 0, max_instances: 1, polling_interval: 1}\n\
                 properties: {moorline.scale_down_delay: '1'}\n";
    let document = onnx_deployment("blue", "dozes", "model.onnx").replace("instance_count: 1\n", scale);
    let key = clustered.deploy("dozes", &document);
    assert!(eventually(PATIENCE, || clustered.namespace.get("service", NAME).is_some()));
    let gateway = service(&clustered.namespace);
    let known = || ask(gateway, "dozes", "wrong", None).0 == 401;
    assert!(eventually(PATIENCE, known), "{}", story(&clustered));
    let asleep = || pods(&clustered.namespace, "scorer", "dozes").is_empty();
    assert!(eventually(PATIENCE, asleep), "a pod is left: {}", story(&clustered));
    let (status, _) = ask(gateway, "dozes", &key, None);
    assert_eq!(status, 200, "{}", story(&clustered));
}

#[test]
fn what_a_gateway_lacks_is_said_before_anything_runs() {
    let Some(given) = GivenCluster::find() else { return };
    let clustered = Clustered::on(Workspace::down(), given.namespace(), "gateway: {}\n");
    let workspace = &clustered.workspace;
    workspace.write("model.onnx", onnx::linear_model());
    workspace.write("blue.yml", onnx_deployment("blue", "lacks", "model.onnx"));
    workspace.moorline(&["online-endpoint", "create", "-n", "lacks"]).ok();
    let refused = || {
        let said = clustered.create(&["-f", "blue.yml"]);
        assert_ne!(said.code, Some(0), "{said:?}");
        said.stderr
    };
    let said = refused();
    assert!(said.contains("no ServiceAccount `moorline-gateway`"), "{said}");
    assert!(said.contains("moorline kubernetes rbac"), "{said}");
    assert!(clustered.namespace.items(KINDS).is_empty());

    // Somebody else's is left alone.
    let role = workspace.moorline(&["kubernetes", "rbac", "-n", &clustered.namespace.name, "--gateway"]).ok();
    given.kubectl_with(&["apply", "-f", "-"], &role.stdout).ok();
    let theirs = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": NAME}});
    clustered.namespace.kubectl_with(&["create", "-f", "-"], &theirs.to_string()).ok();
    let said = refused();
    assert!(said.contains("is not this compute's"), "{said}");
    clustered.namespace.kubectl(&["delete", "secret", NAME]);

    let document =
        |gateway: &str| format!("name: cluster\n{}gateway: {gateway}\n", clustered.namespace.lines());
    workspace
        .write("cluster.yml", document("{host: models.example.org, tls_secret: t, parent: {name: public}}"));
    let said = workspace.moorline(&["compute", "create", "-f", "cluster.yml"]);
    assert!(said.stderr.contains("`tls_secret` is of an Ingress"), "{}", said.stderr);
    if !given.kubectl(&["api-versions"]).contains("gateway.networking.k8s.io") {
        workspace.write("cluster.yml", document("{parent: {name: public, namespace: infra}}"));
        workspace.moorline(&["compute", "create", "-f", "cluster.yml"]).ok();
        let said = refused();
        assert!(said.contains("has no HTTPRoute"), "{said}");
    }
    // With a host, an Ingress leads to it, and scoring URIs say so.
    workspace.write(
        "cluster.yml",
        document("{host: models.example.org, tls_secret: models-tls, ingress_class: nginx}"),
    );
    workspace.moorline(&["compute", "create", "-f", "cluster.yml"]).ok();
    workspace.write("endpoint.yml", "name: outside\ncompute: azureml:cluster\nauth_mode: key\n");
    let made = workspace.json(&["online-endpoint", "create", "-f", "endpoint.yml"]);
    assert_eq!(made["scoring_uri"], "https://models.example.org/endpoints/outside/score");
    workspace.write("blue.yml", onnx_deployment("blue", "outside", "model.onnx"));
    workspace.moorline(&["online-deployment", "create", "-f", "blue.yml", "--all-traffic"]).ok();
    let there = || clustered.namespace.get("ingress", NAME).is_some();
    assert!(eventually(PATIENCE, there), "{}", story(&clustered));
    let ingress = clustered.namespace.get("ingress", NAME).unwrap();
    assert_eq!(ingress["spec"]["ingressClassName"], "nginx");
    assert_eq!(ingress["spec"]["rules"][0]["host"], "models.example.org");
    assert_eq!(ingress["spec"]["tls"][0]["secretName"], "models-tls");
    // A gateway that is not asked for any more goes, and the deployment stays.
    workspace.write("cluster.yml", format!("name: cluster\n{}", clustered.namespace.lines()));
    workspace.moorline(&["compute", "create", "-f", "cluster.yml"]).ok();
    let gone = || {
        ["ingress", "deployment", "secret"].iter().all(|kind| clustered.namespace.get(kind, NAME).is_none())
    };
    assert!(eventually(PATIENCE, gone), "{}", story(&clustered));
    assert_eq!(pods(&clustered.namespace, "scorer", "outside").len(), 1);
    workspace.moorline(&["online-endpoint", "delete", "-n", "outside", "-y"]).ok();
    let left = || clustered.namespace.items(KINDS);
    assert!(eventually(PATIENCE, || left().is_empty()), "these are left: {:?}", left());
}
