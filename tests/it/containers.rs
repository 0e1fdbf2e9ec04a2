//! Deployments on a container host through the front door: created, scored, updated without a lost request, healed,
//! moved, refused without a signature, and removed.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use moorline_tests::{
    BODY, Connection, Hosted, Workspace,
    containers::{Registry, base_image, docker, engine, inspect},
    documents::{endpoint, onnx_deployment},
    eventually, onnx,
};

/// Longer than any container takes to come.
const PATIENCE: Duration = Duration::from_mins(1);

#[test]
fn a_model_runs_in_a_container_that_heals_and_goes() {
    let Some(hosted) = Hosted::up("") else { return };
    hosted.workspace.write("model.onnx", onnx::linear_model());
    let key = hosted.deploy("boxed", &onnx_deployment("blue", "boxed", "model.onnx"));
    assert_eq!(hosted.score("boxed", &key).0, 200);
    let containers = hosted.containers("boxed");
    assert_eq!(containers.len(), 1, "{containers:?}");

    let seen = inspect(&hosted.host, &containers[0]);
    let settings = &seen["HostConfig"];
    assert_eq!(settings["ReadonlyRootfs"], true, "{settings}");
    assert_eq!(settings["CapDrop"][0], "ALL", "{settings}");
    assert_eq!(seen["Config"]["User"], "65532:65532");
    let published = settings["PortBindings"].to_string();
    assert!(published.contains("127.0.0.1") && !published.contains("0.0.0.0"), "{published}");
    let logs =
        hosted.workspace.moorline(&["online-deployment", "get-logs", "-n", "blue", "-e", "boxed"]).ok();
    assert!(logs.stdout.contains("ready"), "{}", logs.stdout);

    docker(&hosted.host, &["kill", &containers[0]]);
    let healed = || {
        let now = hosted.containers("boxed");
        now.len() == 1 && now != containers && hosted.score("boxed", &key).0 == 200
    };
    assert!(eventually(PATIENCE, healed), "no container took the killed one's place");

    let update = ["online-deployment", "update", "-n", "blue", "-e", "boxed", "--set", "instance_count=2"];
    hosted.workspace.moorline(&update).ok();
    assert!(eventually(PATIENCE, || hosted.containers("boxed").len() == 2));
    hosted.workspace.moorline(&["online-endpoint", "delete", "-n", "boxed", "-y"]).ok();
    assert!(eventually(PATIENCE, || hosted.containers("boxed").is_empty()));
    let networks =
        docker(&hosted.host, &["network", "ls", "--filter", "label=io.moorline.endpoint=boxed", "--quiet"]);
    assert_eq!(networks, "", "the endpoint's network is left");
}

#[test]
fn containers_outlive_a_killed_server_and_are_taken_up_by_the_next() {
    let Some(mut hosted) = Hosted::up("") else { return };
    hosted.workspace.write("model.onnx", onnx::linear_model());
    let key = hosted.deploy("outlives", &onnx_deployment("blue", "outlives", "model.onnx"));
    let before = hosted.containers("outlives");
    hosted.workspace.kill();
    assert_eq!(hosted.containers("outlives"), before);
    hosted.workspace.start();
    assert!(eventually(PATIENCE, || hosted.score("outlives", &key).0 == 200));
    assert_eq!(hosted.containers("outlives"), before, "the same container serves on");
}

#[test]
fn an_update_and_a_move_lose_no_request() {
    let Some(hosted) = Hosted::up("") else { return };
    hosted.workspace.write("model.onnx", onnx::linear_model());
    let document = onnx_deployment("blue", "moves", "model.onnx");
    hosted.workspace.write("endpoint.yml", endpoint("moves"));
    hosted.workspace.write("blue.yml", &document);
    hosted.workspace.moorline(&["online-endpoint", "create", "-f", "endpoint.yml"]).ok();
    hosted.workspace.moorline(&["online-deployment", "create", "-f", "blue.yml", "--all-traffic"]).ok();
    let key = hosted.workspace.key("moves");
    let stop = AtomicBool::new(false);
    let seen = thread::scope(|scope| {
        let clients: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut connection = Connection::open(hosted.workspace.address()).unwrap();
                    let mut seen = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        let reply = connection.send(&Workspace::scoring("moves", &key, BODY));
                        seen.push(reply.expect("the gateway closes no connection within a request").status);
                    }
                    seen
                })
            })
            .collect();
        // From this machine's processes into containers, another model in the same place, and back again.
        let update = |arguments: &[&str]| {
            let all = [&["online-deployment", "update", "-n", "blue", "-e", "moves"], arguments].concat();
            hosted.workspace.moorline(&all).ok()
        };
        update(&["--compute", "docker"]);
        assert!(!hosted.containers("moves").is_empty());
        assert!(eventually(PATIENCE, || hosted.workspace.scorers().is_empty()), "processes are left");
        update(&["--compute", "docker", "--set", "environment_variables.WORD=two"]);
        update(&["--compute", "local"]);
        assert!(eventually(PATIENCE, || hosted.containers("moves").is_empty()), "containers are left");
        stop.store(true, Ordering::Relaxed);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect::<Vec<u16>>()
    });
    let failed: Vec<&u16> = seen.iter().filter(|status| **status != 200).collect();
    assert!(failed.is_empty(), "of {} requests these failed: {failed:?}", seen.len());
}

#[test]
fn a_script_runs_on_its_image_with_its_packages_and_its_secret() {
    let (Some(base), Some(registry), Some(host)) = (base_image(), Registry::start(), engine()) else {
        return;
    };
    // The YAML says Azure's name; where it is, the home says.
    registry.take(&base, "azureml/minimal-py311-inference:latest");
    let workspace = Workspace::down();
    fs_err::create_dir_all(workspace.home()).unwrap();
    let mirror = format!("registries:\n  mcr.microsoft.com:\n    mirror: {}\n", registry.host);
    fs_err::write(workspace.home().join("registries.yml"), mirror).unwrap();
    let hosted = Hosted::on(workspace, &format!("registry: {}/made\n", registry.host), host);
    let workspace = &hosted.workspace;
    workspace.write(
        "code/score.py",
        "import os, six\n\n\ndef init():\n    pass\n\n\ndef run(data):\n    \
         return [six.__version__, len(os.environ['PASSWORD'])]\n",
    );
    workspace.write("password.txt", "correct horse battery staple");
    workspace.moorline(&["secret", "set", "password", "--value-file", "password.txt"]).ok();
    let document = "name: blue\nendpoint_name: scripted\ncode_configuration:\n  code: code\n  \
                    scoring_script: score.py\nenvironment:\n  \
                    image: mcr.microsoft.com/azureml/minimal-py311-inference\n  conda_file:\n    \
                    dependencies: [python=3.11, pip: [six==1.16.0]]\n\
                    environment_variables: {PASSWORD: secret:password}\ninstance_count: 1\n";
    let key = hosted.deploy("scripted", document);
    assert_eq!(hosted.score("scripted", &key), (200, "[\"1.16.0\",28]".to_owned()));

    let container = &hosted.containers("scripted")[0];
    let seen = inspect(&hosted.host, container);
    let image = seen["Config"]["Image"].as_str().unwrap();
    let pulled = inspect(&hosted.host, image)["RepoDigests"].to_string();
    assert!(pulled.contains(&format!("{}/made/", registry.host)), "{pulled}");
    let labels = seen["Config"]["Labels"].to_string();
    let history = docker(&hosted.host, &["history", "--no-trunc", image]);
    let told = [labels, history, inspect(&hosted.host, image).to_string(), hosted.workspace.server_log()];
    for text in told {
        assert!(!text.contains("battery"), "the secret is in {text}");
    }

    // A broken script leaves the old one serving, and its reason is told.
    workspace.write(
        "code/score.py",
        "def init():\n    raise RuntimeError('the oracle is out')\n\n\ndef run(data):\n    return data\n",
    );
    let broken =
        workspace.moorline(&["online-deployment", "update", "-f", "blue.yml", "--compute", "docker"]);
    assert_eq!(broken.code, Some(1), "{}", broken.stdout);
    assert!(broken.stderr.contains("the oracle is out"), "{}", broken.stderr);
    assert_eq!(hosted.score("scripted", &key).0, 200);
}

#[test]
fn a_container_with_its_own_server_is_wired_to_its_routes() {
    let (Some(registry), Some(host)) = (Registry::start(), engine()) else { return };
    let hosted = Hosted::on(Workspace::down(), "", host);
    let workspace = &hosted.workspace;
    workspace.write("model.onnx", onnx::linear_model());
    workspace.write("inner.yml", onnx_deployment("blue", "inner", "model.onnx"));
    // A server that somebody made: ours, under other routes.
    let made = format!("{}/others/server:1", registry.host);
    workspace.moorline(&["image", "build", "-f", "inner.yml", "-t", &made, "--push"]).ok();
    let document = format!(
        "name: blue\nendpoint_name: foreign\nenvironment:\n  image: {made}\n  inference_config:\n    \
         liveness_route: {{port: 5000, path: /live}}\n    readiness_route: {{port: 5000, path: /ready}}\n    \
         scoring_route: {{port: 5001, path: /invocations}}\ninstance_count: 1\n"
    );
    let key = hosted.deploy("foreign", &document);
    // MLflow's route takes MLflow's bodies: the answer shows that the request went there.
    let body = r#"{"inputs": [[1, 2, 3, 4]]}"#;
    let reply = workspace.call(&Workspace::scoring("foreign", &key, body));
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(reply.text().contains("predictions"), "{}", reply.text());
    let refused = workspace.moorline(&["online-deployment", "create", "-f", "blue.yml", "-n", "green"]);
    assert!(refused.stderr.contains("a container with a server of its own"), "{}", refused.stderr);
}

#[test]
fn a_host_that_trusts_keys_runs_nothing_that_they_did_not_sign() {
    let Some(hosted) = Hosted::up("") else { return };
    let workspace = &hosted.workspace;
    let key = workspace.moorline(&["image", "generate-key", "-n", "signing"]).ok().stdout;
    let indented = format!("    {}\n", key.trim_end().replace('\n', "\n    "));
    let strict = |sign: &str| {
        let host = &hosted.host;
        workspace.write(
            "docker.yml",
            format!("name: strict\ntype: container\nhost: {host}\n{sign}trusted_keys:\n  - |\n{indented}"),
        );
        workspace.moorline(&["compute", "create", "-f", "docker.yml"])
    };
    strict("").ok();
    workspace.write("model.onnx", onnx::linear_model());
    workspace.write("endpoint.yml", endpoint("strict"));
    workspace.write("blue.yml", onnx_deployment("blue", "strict", "model.onnx"));
    workspace.moorline(&["online-endpoint", "create", "-f", "endpoint.yml"]).ok();
    let create = ["online-deployment", "create", "-f", "blue.yml", "--compute", "strict"];
    let refused = workspace.moorline(&create);
    assert_eq!(refused.code, Some(1), "{}", refused.stdout);
    assert!(refused.stderr.contains("asks for a signature by one of its trusted keys"), "{}", refused.stderr);
    assert!(hosted.containers("strict").is_empty());
    workspace.moorline(&["online-deployment", "delete", "-n", "blue", "-e", "strict", "-y"]).ok();
    workspace.moorline(&["compute", "delete", "-n", "strict", "-y"]).ok();
    strict("sign_with: signing\n").ok();
    workspace.moorline(&create).ok();
    assert_eq!(hosted.containers("strict").len(), 1);
}

#[test]
fn a_dockerfile_is_built_and_a_broken_one_says_its_last_lines() {
    let (Some(base), Some(host)) = (base_image(), engine()) else { return };
    docker(&host, &["load", "--quiet", "--input", base.to_str().unwrap()]);
    let hosted = Hosted::on(Workspace::down(), "", host);
    let workspace = &hosted.workspace;
    workspace.write(
        "context/Dockerfile",
        "FROM moorline-test-python:1\nENV BUILT=here\nCOPY word.txt /word.txt\n",
    );
    workspace.write("context/word.txt", "from the context");
    workspace.write(
        "code/score.py",
        "import os\n\n\ndef init():\n    pass\n\n\ndef run(data):\n    \
         return [os.environ['BUILT'], open('/word.txt').read()]\n",
    );
    let document = "name: blue\nendpoint_name: built\ncode_configuration:\n  code: code\n  \
                    scoring_script: score.py\nenvironment:\n  build: {path: context}\ninstance_count: 1\n";
    let key = hosted.deploy("built", document);
    assert_eq!(hosted.score("built", &key), (200, "[\"here\",\"from the context\"]".to_owned()));
    workspace.write("context/Dockerfile", "FROM moorline-test-python:1\nCOPY nothing.txt /x\n");
    let broken =
        workspace.moorline(&["online-deployment", "update", "-f", "blue.yml", "--compute", "docker"]);
    assert_eq!(broken.code, Some(1), "{}", broken.stdout);
    assert!(broken.stderr.contains("nothing.txt"), "{}", broken.stderr);
    assert_eq!(hosted.score("built", &key).0, 200);
}

#[test]
fn a_host_that_cannot_be_reached_is_named() {
    let workspace = Workspace::up();
    workspace.write("docker.yml", "name: away\ntype: container\nhost: unix:///nowhere/docker.sock\n");
    workspace.moorline(&["compute", "create", "-f", "docker.yml"]).ok();
    workspace.write("model.onnx", onnx::linear_model());
    workspace.write("endpoint.yml", endpoint("away"));
    workspace.write("blue.yml", onnx_deployment("blue", "away", "model.onnx"));
    workspace.moorline(&["online-endpoint", "create", "-f", "endpoint.yml"]).ok();
    let refused = workspace.moorline(&["online-deployment", "create", "-f", "blue.yml", "--compute", "away"]);
    assert_eq!(refused.code, Some(1), "{}", refused.stdout);
    assert!(refused.stderr.contains("/nowhere/docker.sock"), "{}", refused.stderr);
}
