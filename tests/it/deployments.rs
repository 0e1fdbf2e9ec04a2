//! Deployments through the front door: created, scored, updated without a lost request, failed, and deleted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use moorline_tests::{
    Connection, Request, Workspace,
    documents::{endpoint, onnx_deployment, script_deployment},
    eventually, onnx,
};

const ECHO: &str =
    "import os\n\n\ndef init():\n    pass\n\n\ndef run(data):\n    return os.environ.get('WORD', 'none')\n";
const BROKEN: &str =
    "def init():\n    raise RuntimeError('the oracle is out')\n\n\ndef run(data):\n    return data\n";

#[test]
fn an_onnx_model_needs_no_script() {
    let workspace = Workspace::up();
    workspace.write("model.onnx", onnx::linear_model());
    workspace.write("endpoint.yml", endpoint("linear"));
    workspace.write("blue.yml", onnx_deployment("blue", "linear", "model.onnx"));
    let created = workspace.json(&["online-endpoint", "create", "-f", "endpoint.yml"]);
    assert_eq!(created["provisioning_state"], "Succeeded", "{created}");
    let deployed = workspace.json(&["online-deployment", "create", "-f", "blue.yml", "--all-traffic"]);
    assert_eq!(deployed["provisioning_state"], "Succeeded", "{deployed}");

    let key = workspace.key("linear");
    let body = r#"{"data": [[1, 2, 3, 4]]}"#;
    let reply = workspace.call(&Workspace::scoring("linear", &key, body));
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.header("azureml-model-deployment"), Some("blue"));
    for target in ["/", "/v2", "/v2/health/ready", "/swagger.json?version=3"] {
        let request = Request::get(&format!("/endpoints/linear{target}"));
        let reply = workspace.call(&request.header("authorization", &format!("Bearer {key}")));
        assert_eq!(reply.status, 200, "{target}: {}", reply.text());
    }
    let refused = workspace.call(&Workspace::scoring("linear", "not-the-key", body));
    assert_eq!(refused.status, 401, "{}", refused.text());
    let unknown = Workspace::scoring("linear", &key, body).header("azureml-model-deployment", "purple");
    assert_eq!(workspace.call(&unknown).status, 404);
    assert_eq!(workspace.call(&Workspace::scoring("square", &key, body)).status, 404);

    let models = workspace.json(&["model", "list"]);
    assert!(models.as_array().is_some_and(Vec::is_empty), "anonymous models are not listed: {models}");
    workspace.moorline(&["online-endpoint", "delete", "-n", "linear", "-y"]).ok();
    assert!(eventually(Duration::from_secs(10), || workspace.scorers().is_empty()));
}

#[test]
fn an_update_loses_no_request() {
    let workspace = Workspace::up();
    workspace.write("code/score.py", ECHO);
    let document =
        script_deployment("blue", "rolling", "code").replace("instance_count: 1", "instance_count: 2");
    let key = workspace.deploy("rolling", &document);
    let stop = Arc::new(AtomicBool::new(false));
    let address = workspace.address();
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (stop, key) = (Arc::clone(&stop), key.clone());
            thread::spawn(move || {
                let mut connection = Connection::open(address).unwrap();
                let mut seen = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let reply = connection.send(&Workspace::scoring("rolling", &key, "{}"));
                    let reply = reply.expect("the gateway closes no connection within a request");
                    seen.push((reply.status, reply.text()));
                }
                seen
            })
        })
        .collect();
    for word in ["one", "two", "three"] {
        let set = format!("environment_variables.WORD={word}");
        workspace
            .moorline(&["online-deployment", "update", "-n", "blue", "-e", "rolling", "--set", &set])
            .ok();
        let reply = workspace.call(&Workspace::scoring("rolling", &key, "{}"));
        assert_eq!(reply.value(), word);
    }
    workspace
        .moorline(&[
            "online-deployment",
            "update",
            "-n",
            "blue",
            "-e",
            "rolling",
            "--set",
            "instance_count=1",
        ])
        .ok();
    stop.store(true, Ordering::Relaxed);
    let seen: Vec<(u16, String)> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    let lost: Vec<_> = seen.iter().filter(|(status, _)| *status != 200).collect();
    assert!(lost.is_empty(), "{} of {} requests: {:?}", lost.len(), seen.len(), lost.first());
    for word in ["none", "one", "two", "three"] {
        assert!(
            seen.iter().any(|(_, text)| text.contains(word)),
            "no request saw `{word}` of {}",
            seen.len()
        );
    }
    assert!(
        eventually(Duration::from_secs(20), || workspace.scorers().len() == 1),
        "{:?}",
        workspace.scorers()
    );
}

#[test]
fn a_failed_update_leaves_the_old_version_serving() {
    let workspace = Workspace::up();
    workspace.write("code/score.py", ECHO);
    workspace.write("broken/score.py", BROKEN);
    workspace.write("broken.yml", script_deployment("blue", "careful", "broken"));
    let key = workspace.deploy("careful", &script_deployment("blue", "careful", "code"));
    let failed = workspace.moorline(&["online-deployment", "update", "-f", "broken.yml"]);
    assert_eq!(failed.code, Some(1), "{}", failed.stderr);
    assert!(failed.stderr.contains("the oracle is out"), "{}", failed.stderr);
    let shown = workspace.json(&["online-deployment", "show", "-n", "blue", "-e", "careful"]);
    assert_eq!(shown["provisioning_state"], "Failed", "{shown}");
    let scoring = Workspace::scoring("careful", &key, "{}");
    assert_eq!(workspace.call(&scoring).value(), "none");

    // The way back: the same document as before succeeds again.
    workspace.moorline(&["online-deployment", "update", "-f", "blue.yml"]).ok();
    let shown = workspace.json(&["online-deployment", "show", "-n", "blue", "-e", "careful"]);
    assert_eq!(shown["provisioning_state"], "Succeeded", "{shown}");
    assert_eq!(workspace.call(&scoring).value(), "none");
}

#[test]
fn a_deployment_that_cannot_start_says_why() {
    let workspace = Workspace::up();
    workspace.write("broken/score.py", BROKEN);
    workspace.write("endpoint.yml", endpoint("hopeless"));
    workspace.write("blue.yml", script_deployment("blue", "hopeless", "broken"));
    workspace.moorline(&["online-endpoint", "create", "-f", "endpoint.yml"]).ok();
    let failed = workspace.moorline(&["online-deployment", "create", "-f", "blue.yml"]);
    assert_eq!(failed.code, Some(1), "{}", failed.stderr);
    assert!(failed.stderr.contains("RuntimeError: the oracle is out"), "{}", failed.stderr);
    let logs = workspace.moorline(&["online-deployment", "get-logs", "-n", "blue", "-e", "hopeless"]).ok();
    assert!(logs.stdout.contains("the oracle is out"), "{}", logs.stdout);
    workspace.moorline(&["online-endpoint", "delete", "-n", "hopeless", "-y"]).ok();
    assert!(workspace.scorers().is_empty());
}

#[test]
fn a_dry_run_shows_what_would_run_and_changes_nothing() {
    let workspace = Workspace::up();
    workspace.write("model.onnx", onnx::linear_model());
    workspace.write("endpoint.yml", endpoint("dry"));
    workspace.write("blue.yml", onnx_deployment("blue", "dry", "model.onnx"));
    workspace.moorline(&["online-endpoint", "create", "-f", "endpoint.yml"]).ok();
    let shown = workspace.moorline(&["online-deployment", "create", "-f", "blue.yml", "--dry-run"]).ok();
    assert!(shown.stdout.contains("--release"), "{}", shown.stdout);
    let list = workspace.json(&["online-deployment", "list", "-e", "dry"]);
    assert!(list.as_array().is_some_and(Vec::is_empty), "{list}");
}

#[test]
fn a_secret_is_handed_over_and_never_shown() {
    const SECRET: &str = "open-sesame-7f3a";
    let workspace = Workspace::up();
    workspace.write("code/score.py", ECHO);
    workspace.write("endpoint.yml", endpoint("quiet"));
    workspace.write(
        "blue.yml",
        script_deployment("blue", "quiet", "code") + "environment_variables:\n  WORD: secret:door\n",
    );
    workspace.write("value", SECRET);
    workspace.moorline(&["online-endpoint", "create", "-f", "endpoint.yml"]).ok();
    let early = workspace.moorline(&["online-deployment", "create", "-f", "blue.yml"]);
    assert_eq!(early.code, Some(1));
    assert!(
        early.stderr.contains("`door`") && early.stderr.contains("moorline secret set"),
        "{}",
        early.stderr
    );
    workspace.moorline(&["secret", "set", "door", "--value-file", "value"]).ok();
    workspace.moorline(&["online-deployment", "create", "-f", "blue.yml", "--all-traffic"]).ok();
    let key = workspace.key("quiet");
    assert_eq!(workspace.call(&Workspace::scoring("quiet", &key, "{}")).value(), SECRET);

    let listed = workspace.moorline(&["secret", "list", "-o", "json"]).ok();
    assert!(listed.stdout.contains("door") && !listed.stdout.contains(SECRET), "{}", listed.stdout);
    let shown = workspace.moorline(&["online-deployment", "show", "-n", "blue", "-e", "quiet"]).ok();
    let logs = workspace.moorline(&["online-deployment", "get-logs", "-n", "blue", "-e", "quiet"]).ok();
    for text in [&shown.stdout, &shown.stderr, &logs.stdout, &workspace.server_log()] {
        assert!(!text.contains(SECRET), "{text}");
    }
    for pid in workspace.scorers() {
        let line = fs_err::read(format!("/proc/{pid}/cmdline")).unwrap();
        assert!(!String::from_utf8_lossy(&line).contains(SECRET));
    }
    for file in files_below(&workspace.home()) {
        let content = fs_err::read(&file).unwrap_or_default();
        let found = content.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
        assert!(!found, "{} holds the secret", file.display());
    }
}

fn files_below(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir(folder).into_iter().flatten().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(files_below(&entry.path()));
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
    found
}
