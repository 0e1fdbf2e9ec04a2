//! Deployments on a Kubernetes cluster through the front door: Azure ML's documents as they are, scored, healed, updated
//! without a lost request, failed with a reason, and removed.

use std::{
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use moorline_tests::{BODY, Clustered, Connection, Workspace, documents::onnx_deployment, eventually, onnx};
use serde_json::Value;

/// Longer than any pod takes to come or go.
const PATIENCE: Duration = Duration::from_mins(2);
const KINDS: &str = "deployments,services,serviceaccounts,networkpolicies,poddisruptionbudgets,horizontalpodautoscalers,secrets,pods";

#[test]
fn a_model_runs_as_pods_that_heal_and_go() {
    let Some(clustered) = Clustered::up("") else { return };
    let namespace = &clustered.namespace;
    clustered.workspace.write("model.onnx", onnx::linear_model());
    let key = clustered.deploy("sailing", &onnx_deployment("blue", "sailing", "model.onnx"));
    assert_eq!(clustered.score("sailing", &key).0, 200);

    let pods = namespace.items("pods");
    assert_eq!(pods.len(), 1, "{pods:?}");
    let spec = &pods[0]["spec"];
    assert_eq!(spec["automountServiceAccountToken"], false);
    assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
    let container = &spec["containers"][0]["securityContext"];
    assert_eq!(container["readOnlyRootFilesystem"], true, "{container}");
    assert_eq!(container["capabilities"]["drop"][0], "ALL", "{container}");
    assert!(namespace.items("poddisruptionbudgets").is_empty(), "one pod has no budget");
    let logs =
        clustered.workspace.moorline(&["online-deployment", "get-logs", "-n", "blue", "-e", "sailing"]).ok();
    assert!(logs.stdout.contains("ready"), "{}", logs.stdout);

    // What is deleted or changed by hand comes back.
    let before = namespace.pods();
    namespace.kubectl(&["delete", "pod", &before[0], "--wait=false"]);
    let healed = || {
        namespace.pods().len() == 1 && namespace.pods() != before && clustered.score("sailing", &key).0 == 200
    };
    assert!(eventually(PATIENCE, healed), "no pod took the deleted one's place");
    let name = namespace.items("deployments")[0]["metadata"]["name"].as_str().unwrap().to_owned();
    namespace.kubectl(&["delete", "service", &name]);
    namespace.kubectl(&["scale", "deployment", &name, "--replicas=3"]);
    let repaired = || {
        namespace.items("services").len() == 1 && namespace.items("deployments")[0]["spec"]["replicas"] == 1
    };
    assert!(eventually(PATIENCE, repaired), "what was changed by hand stays changed");

    clustered.update("sailing", &["--set", "instance_count=2"]).ok();
    assert!(eventually(PATIENCE, || namespace.pods().len() == 2));
    assert_eq!(namespace.items("poddisruptionbudgets").len(), 1);
    clustered.workspace.moorline(&["online-endpoint", "delete", "-n", "sailing", "-y"]).ok();
    let left = || namespace.items(KINDS);
    assert!(eventually(PATIENCE, || left().is_empty()), "these are left: {:?}", left());
}

#[test]
fn azure_mls_kubernetes_documents_deploy_as_they_are() {
    let Some(clustered) = Clustered::up(
        "instance_types: {small: {cpu: '1', memory: 512Mi, requests: {cpu: 50m, memory: 64Mi}}}\n",
    ) else {
        return;
    };
    let workspace = &clustered.workspace;
    workspace.write("model/model.onnx", onnx::linear_model());
    workspace.write("token.txt", "correct horse battery staple");
    workspace.moorline(&["secret", "set", "token", "--value-file", "token.txt"]).ok();
    workspace.write(
        "endpoint.yml",
        "$schema: https://azuremlschemas.azureedge.net/latest/kubernetesOnlineEndpoint.schema.json\n\
         name: fleet\ncompute: azureml:cluster\nauth_mode: key\n",
    );
    workspace.write(
        "blue.yml",
        "$schema: https://azuremlschemas.azureedge.net/latest/kubernetesOnlineDeployment.schema.json\n\
         name: blue\ntype: kubernetes\nendpoint_name: fleet\nmodel: {path: model/model.onnx, type: custom_model}\n\
         app_insights_enabled: false\ninstance_type: small\ninstance_count: 2\n\
         environment_variables: {COLOUR: 'te$al', TOKEN: secret:token}\n\
         request_settings: {request_timeout_ms: 3000, max_concurrent_requests_per_instance: 4}\n\
         liveness_probe: {initial_delay: 5, period: 5, timeout: 2, success_threshold: 1, failure_threshold: 3}\n\
         readiness_probe: {initial_delay: 5, period: 2, timeout: 2, success_threshold: 1, failure_threshold: 30}\n\
         scale_settings: {type: default}\n",
    );
    workspace.moorline(&["online-endpoint", "create", "-f", "endpoint.yml"]).ok();
    workspace.moorline(&["online-deployment", "create", "-f", "blue.yml", "--all-traffic"]).ok();
    let key = workspace.key("fleet");
    assert_eq!(clustered.score("fleet", &key).0, 200);

    let deployment = clustered.namespace.items("deployments").remove(0);
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["resources"]["limits"], serde_json::json!({"cpu": "1", "memory": "512Mi"}));
    assert_eq!(container["resources"]["requests"], serde_json::json!({"cpu": "50m", "memory": "64Mi"}));
    assert_eq!(container["readinessProbe"]["periodSeconds"], 2);
    let variable = |name: &str| {
        let all = container["env"].as_array().unwrap();
        all.iter().find(|variable| variable["name"] == name).cloned().unwrap_or_default()
    };
    assert_eq!(variable("COLOUR")["value"], "te$$al");
    assert_eq!(variable("TOKEN")["valueFrom"]["secretKeyRef"]["key"], "TOKEN");
    let secrets = clustered.namespace.items("secrets");
    assert_eq!((secrets.len(), &secrets[0]["immutable"]), (1, &Value::Bool(true)));
    assert!(!deployment.to_string().contains("battery"), "a secret is in the Deployment");
}

#[test]
fn an_update_that_cannot_start_says_why_and_the_old_one_serves_on() {
    let Some(clustered) = Clustered::up("") else { return };
    clustered.workspace.write("model.onnx", onnx::linear_model());
    let document = onnx_deployment("blue", "steady", "model.onnx");
    let key = clustered.deploy("steady", &document);
    let before = clustered.namespace.pods();

    clustered.workspace.write("broken.onnx", "this is no model");
    clustered.workspace.write("broken.yml", document.replace("model.onnx", "broken.onnx"));
    let said = clustered.update("steady", &["-f", "broken.yml"]);
    assert_ne!(said.code, Some(0), "{said:?}");
    assert!(said.stderr.contains("broken.onnx"), "{}", said.stderr);
    assert!(eventually(PATIENCE, || clustered.namespace.pods() == before), "the old pod is not alone");
    assert_eq!(clustered.score("steady", &key).0, 200);

    let too_large = clustered.update("steady", &["--set", "resources.limits.memory=20Mi"]);
    assert_ne!(too_large.code, Some(0), "{too_large:?}");
    assert!(eventually(PATIENCE, || clustered.namespace.pods() == before));
    assert_eq!(clustered.score("steady", &key).0, 200);
}

#[test]
fn what_no_node_can_take_is_told_while_it_waits() {
    let Some(clustered) = Clustered::up("") else { return };
    clustered.workspace.write("model.onnx", onnx::linear_model());
    clustered.workspace.moorline(&["online-endpoint", "create", "-n", "giant"]).ok();
    let document = onnx_deployment("blue", "giant", "model.onnx");
    clustered
        .workspace
        .write("blue.yml", format!("{document}type: kubernetes\nresources: {{limits: {{cpu: '900'}}}}\n"));
    let told = clustered.workspace.work().join("told");
    let mut create = clustered.workspace.command(&[
        "online-deployment",
        "create",
        "--compute",
        "cluster",
        "-f",
        "blue.yml",
    ]);
    create.stdout(Stdio::null()).stderr(fs_err::File::create(&told).unwrap().into_parts().0);
    let mut create = create.spawn().unwrap();
    let text = || fs_err::read_to_string(&told).unwrap();
    let waits = eventually(PATIENCE, || text().contains("Insufficient cpu"));
    create.kill().unwrap();
    create.wait().unwrap();
    assert!(waits, "{}", text());
    clustered.workspace.moorline(&["online-endpoint", "delete", "-n", "giant", "-y"]).ok();
}

#[test]
fn a_killed_server_finds_the_same_pods_and_writes_nothing() {
    let Some(mut clustered) = Clustered::up("") else { return };
    clustered.workspace.write("model.onnx", onnx::linear_model());
    let key = clustered.deploy("outlives", &onnx_deployment("blue", "outlives", "model.onnx"));
    let generation = |clustered: &Clustered| {
        let objects = clustered.namespace.items("deployments,services,networkpolicies,serviceaccounts");
        objects.iter().map(|object| object["metadata"]["generation"].clone()).collect::<Vec<_>>()
    };
    let before = (clustered.namespace.pods(), generation(&clustered));
    clustered.workspace.kill();
    clustered.workspace.start();
    assert!(eventually(PATIENCE, || clustered.score("outlives", &key).0 == 200));
    assert_eq!((clustered.namespace.pods(), generation(&clustered)), before);
    // A server that ends in order leaves the cluster as it is too.
    clustered.workspace.stop();
    assert_eq!(clustered.namespace.pods(), before.0);
    clustered.workspace.start();
    assert!(eventually(PATIENCE, || clustered.score("outlives", &key).0 == 200));
}

#[test]
fn rolling_updates_and_an_emptied_node_lose_no_request() {
    let Some(clustered) = Clustered::up("") else { return };
    clustered.workspace.write("model.onnx", onnx::linear_model());
    let document =
        onnx_deployment("blue", "rolls", "model.onnx").replace("instance_count: 1", "instance_count: 2");
    let key = clustered.deploy("rolls", &document);
    let failed = under_load(&clustered, "rolls", &key, || {
        for round in 0..10 {
            let set = format!("environment_variables.ROUND=\"{round}\"");
            clustered.update("rolls", &["--set", &set]).ok();
        }
        clustered.update("rolls", &["--set", "instance_count=2"]).ok();
        // As `kubectl drain` does it: one at a time, as the budget allows.
        let node = clustered.namespace.items("pods")[0]["spec"]["nodeName"].as_str().unwrap().to_owned();
        let pod = clustered.namespace.pods().remove(0);
        evict(&clustered, &pod);
        let back = || {
            let pods = clustered.namespace.pods();
            pods.len() == 2 && !pods.contains(&pod)
        };
        assert!(eventually(PATIENCE, back), "no pod of {node} took the evicted one's place");
    });
    assert!(failed.is_empty(), "these failed: {failed:?}");
}

#[test]
fn pods_go_while_nobody_asks_and_come_back_for_a_request() {
    let Some(clustered) = Clustered::up("") else { return };
    clustered.workspace.write("model.onnx", onnx::linear_model());
    let scale = "scale_settings: {type: target_utilization, min_instances: 0, max_instances: 1, polling_interval: 1}\n\
                 properties: {moorline.scale_down_delay: '1'}\n";
    let document = onnx_deployment("blue", "sleepy", "model.onnx").replace("instance_count: 1\n", scale);
    let key = clustered.deploy("sleepy", &document);
    assert!(eventually(PATIENCE, || clustered.namespace.pods().is_empty()), "a pod is left");
    let (status, text) = clustered.score("sleepy", &key);
    assert_eq!(status, 200, "{text}\n{}", clustered.workspace.server_log());
}

#[test]
fn pods_are_reached_through_the_api_server_too() {
    let Some(clustered) = Clustered::up("reach: forward\n") else { return };
    clustered.workspace.write("model.onnx", onnx::linear_model());
    let key = clustered.deploy("far", &onnx_deployment("blue", "far", "model.onnx"));
    for _ in 0..20 {
        assert_eq!(clustered.score("far", &key).0, 200);
    }
}

#[test]
fn what_would_be_applied_can_be_seen_before() {
    let Some(clustered) = Clustered::up("") else { return };
    let workspace = &clustered.workspace;
    workspace.write("model.onnx", onnx::linear_model());
    workspace.write("blue.yml", onnx_deployment("blue", "seen", "model.onnx"));
    workspace.moorline(&["online-endpoint", "create", "-n", "seen"]).ok();
    let of = ["-f", "blue.yml", "--compute", "cluster"];
    let diff = |of: &[&str]| workspace.moorline(&[&["kubernetes", "diff"], of].concat()).ok().stdout;
    assert!(diff(&of).lines().all(|line| line.starts_with("+ ")), "{}", diff(&of));
    clustered.create(&["-f", "blue.yml"]).ok();
    assert!(diff(&of).lines().all(|line| line.starts_with("= ")), "{}", diff(&of));
    workspace.write("two.yml", onnx_deployment("blue", "seen", "model.onnx").replace("count: 1", "count: 2"));
    let two = diff(&["-f", "two.yml", "--compute", "cluster"]);
    assert!(two.contains("spec.replicas: 1 → 2") && two.contains("+ PodDisruptionBudget"), "{two}");

    // What is printed is what is there.
    let manifests = workspace.moorline(&[&["kubernetes", "manifests"], &of[..]].concat()).ok().stdout;
    let again = clustered.namespace.cluster.kubectl_with(
        &[
            "--namespace",
            &clustered.namespace.name,
            "apply",
            "--server-side",
            "--force-conflicts",
            "--field-manager=moorline",
            "-f",
            "-",
        ],
        &manifests,
    );
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    assert!(diff(&of).lines().all(|line| line.starts_with("= ")), "{}", diff(&of));
    let deployment: &Value = &clustered.namespace.items("deployments")[0];
    assert_eq!(deployment["metadata"]["generation"], 1, "it is as it was");

    // Also where there is a secret, whose value is in none of it.
    workspace.write("token.txt", "correct horse battery staple");
    workspace.moorline(&["secret", "set", "token", "--value-file", "token.txt"]).ok();
    let secret = "environment_variables: {TOKEN: secret:token}\n";
    workspace.write("secret.yml", onnx_deployment("blue", "seen", "model.onnx") + secret);
    let of = ["-f", "secret.yml", "--compute", "cluster"];
    assert!(diff(&of).contains("+ Secret "), "{}", diff(&of));
    clustered.update("seen", &["-f", "secret.yml"]).ok();
    assert!(diff(&of).lines().all(|line| line.starts_with("= ")), "{}", diff(&of));
}

#[test]
fn a_large_model_is_an_image_of_its_own_and_a_volume_of_the_pods() {
    let Some(clustered) = Clustered::up("model_volume: {over: '100'}\n") else { return };
    let (workspace, namespace) = (&clustered.workspace, &clustered.namespace);
    workspace.write("model.onnx", onnx::linear_model());
    let key = clustered.deploy("heavy", &onnx_deployment("blue", "heavy", "model.onnx"));
    assert_eq!(clustered.score("heavy", &key).0, 200);
    // The release's image and the model's, of which a cluster that can makes a volume.
    let images = || {
        let spec = &namespace.items("deployments")[0]["spec"]["template"]["spec"];
        let volume =
            spec["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == "model").unwrap();
        let of_volume = volume["image"]["reference"].as_str();
        let model = of_volume.or(spec["initContainers"][0]["image"].as_str()).unwrap().to_owned();
        (spec["containers"][0]["image"].as_str().unwrap().to_owned(), model)
    };
    let before = images();
    assert_ne!(before.0, before.1);
    let of = ["-f", "blue.yml", "--compute", "cluster"];
    let diff = workspace.moorline(&[&["kubernetes", "diff"], &of[..]].concat()).ok().stdout;
    assert!(diff.lines().all(|line| line.starts_with("= ")), "{diff}");

    // A change of the release leaves the model's image as it is.
    clustered.update("heavy", &["--set", "environment_variables.ROUND=\"1\""]).ok();
    let after = images();
    assert_eq!((after.0 == before.0, &after.1), (false, &before.1));
    assert_eq!(clustered.score("heavy", &key).0, 200);
    let pruned = workspace.moorline(&["image", "prune", "-y"]).ok();
    let digest = before.1.rsplit_once('@').unwrap().1;
    assert_eq!(workspace.moorline(&["image", "show", digest]).code, Some(0), "{}", pruned.stdout);

    let logs = workspace.moorline(&["online-deployment", "get-logs", "-n", "blue", "-e", "heavy"]).ok();
    assert!(logs.stdout.contains("ready"), "{}", logs.stdout);
}

/// Asks for the eviction of a pod, which its budget may refuse.
fn evict(clustered: &Clustered, pod: &str) {
    let namespace = &clustered.namespace.name;
    let eviction = serde_json::json!({
        "apiVersion": "policy/v1beta1", "kind": "Eviction",
        "metadata": { "name": pod, "namespace": namespace },
    });
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/eviction");
    let served =
        clustered.namespace.cluster.kubectl(&["api-versions"]).lines().any(|line| line == "policy/v1");
    let eviction = if served { eviction.to_string().replace("v1beta1", "v1") } else { eviction.to_string() };
    clustered.namespace.cluster.kubectl_with(&["create", "--raw", &path, "-f", "-"], &eviction).ok();
}

/// Until it is to stop: a hundred times a second, so that the pods have the few cores to themselves.
pub(crate) fn paced(stop: &AtomicBool) -> bool {
    thread::park_timeout(Duration::from_millis(10));
    !stop.load(Ordering::Relaxed)
}

/// The statuses that were not 200 while `work` went on.
fn under_load(clustered: &Clustered, endpoint: &str, key: &str, work: impl FnOnce()) -> Vec<u16> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut connection = Connection::open(clustered.workspace.address()).unwrap();
                    let mut seen = Vec::new();
                    while paced(&stop) {
                        let reply = connection.send(&Workspace::scoring(endpoint, key, BODY));
                        seen.push(reply.expect("the gateway closes no connection within a request").status);
                    }
                    seen
                })
            })
            .collect();
        // However it ends, the clients have to.
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        let seen = clients.into_iter().flat_map(|client| client.join().unwrap());
        let failed = seen.filter(|status| *status != 200).collect();
        if let Err(panic) = ended {
            std::panic::resume_unwind(panic);
        }
        failed
    })
}
