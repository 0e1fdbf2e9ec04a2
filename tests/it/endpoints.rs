//! Endpoints as applications see them: shares of the traffic, mirrors, keys and tokens, errors as Azure ML gives them.

use std::{collections::BTreeMap, thread, time::Duration};

use moorline_tests::{
    Connection, Request, Workspace, call,
    documents::{endpoint, onnx_deployment, script_deployment},
    eventually, onnx, run_client, venv,
};

const WORD: &str = "import os\n\n\ndef init():\n    pass\n\n\ndef run(data):\n    print('asked', flush=True)\n    return os.environ['WORD']\n";
const TROUBLE: &str = "import os\nimport time\n\n\ndef init():\n    pass\n\n\ndef run(data):\n    if data == 'raise':\n        raise ValueError('no')\n    if data == 'exit':\n        os._exit(1)\n    if data.startswith('sleep'):\n        time.sleep(float(data[5:]))\n    return data\n";

fn two_words(workspace: &Workspace, name: &str) -> String {
    workspace.write("code/score.py", WORD);
    workspace.write("endpoint.yml", endpoint(name));
    workspace.moorline(&["online-endpoint", "create", "-f", "endpoint.yml"]).ok();
    for word in ["blue", "green"] {
        let variable = format!("environment_variables:\n  WORD: {word}\n");
        workspace.write("one.yml", script_deployment(word, name, "code") + &variable);
        workspace.moorline(&["online-deployment", "create", "-f", "one.yml"]).ok();
    }
    workspace.key(name)
}

#[test]
fn traffic_is_split_by_its_weights() {
    let workspace = Workspace::up();
    let key = two_words(&workspace, "shared");
    let scoring = Workspace::scoring("shared", &key, "{}");
    // Nobody takes traffic that was given to nobody.
    assert!([404, 503].contains(&workspace.call(&scoring).status));
    let wrong =
        workspace.moorline(&["online-endpoint", "update", "-n", "shared", "--traffic", "blue=90 green=20"]);
    assert_eq!(wrong.code, Some(1), "{}", wrong.stderr);
    let unknown =
        workspace.moorline(&["online-endpoint", "update", "-n", "shared", "--traffic", "purple=100"]);
    assert_eq!(unknown.code, Some(1), "{}", unknown.stderr);
    workspace.moorline(&["online-endpoint", "update", "-n", "shared", "--traffic", "blue=90 green=10"]).ok();
    let mut seen = BTreeMap::<String, u32>::new();
    let mut connection = Connection::open(workspace.address()).unwrap();
    for _ in 0..200 {
        let reply = connection.send(&scoring).unwrap();
        let from = reply.header("azureml-model-deployment").unwrap_or_default().to_owned();
        assert_eq!(reply.value(), from);
        *seen.entry(from).or_default() += 1;
    }
    assert!((10..=30).contains(&seen["green"]), "{seen:?}");
}

#[test]
fn a_mirror_sees_copies_and_its_answers_are_dropped() {
    let workspace = Workspace::up();
    let key = two_words(&workspace, "mirrored");
    workspace.moorline(&["online-endpoint", "update", "-n", "mirrored", "--traffic", "blue=100"]).ok();
    workspace.moorline(&["online-endpoint", "update", "-n", "mirrored", "--mirror-traffic", "green=50"]).ok();
    let scoring = Workspace::scoring("mirrored", &key, "{}");
    for _ in 0..40 {
        assert_eq!(workspace.call(&scoring).value(), "blue");
    }
    let asked = || {
        let logs = workspace.moorline(&[
            "online-deployment",
            "get-logs",
            "-n",
            "green",
            "-e",
            "mirrored",
            "--lines",
            "1000",
        ]);
        logs.ok().stdout.matches("asked").count()
    };
    assert!(eventually(Duration::from_secs(10), || asked() >= 15), "{}", asked());
    assert!(asked() <= 25, "{}", asked());
}

#[test]
fn keys_are_replaced_and_tokens_run_out_on_their_own() {
    let workspace = Workspace::up();
    let old = two_words(&workspace, "locked");
    let keys = workspace.json(&["online-endpoint", "get-credentials", "-n", "locked"]);
    let secondary = keys["secondaryKey"].as_str().unwrap().to_owned();
    workspace.moorline(&["online-endpoint", "update", "-n", "locked", "--traffic", "blue=100"]).ok();
    let status = |key: &str| workspace.call(&Workspace::scoring("locked", key, "{}")).status;
    assert_eq!((status(&old), status(&secondary)), (200, 200));
    workspace.moorline(&["online-endpoint", "regenerate-keys", "-n", "locked", "--key-type", "primary"]).ok();
    assert_eq!((status(&old), status(&secondary), status(&workspace.key("locked"))), (401, 200, 200));
    let bare = Request::post("/endpoints/locked/score", "{}");
    assert_eq!(workspace.call(&bare).status, 401);

    workspace.write("tokens.yml", "name: with-tokens\nauth_mode: aml_token\n");
    workspace.moorline(&["online-endpoint", "create", "-f", "tokens.yml"]).ok();
    workspace.write(
        "one.yml",
        script_deployment("blue", "with-tokens", "code") + "environment_variables:\n  WORD: token\n",
    );
    workspace.moorline(&["online-deployment", "create", "-f", "one.yml", "--all-traffic"]).ok();
    let given = workspace.json(&["online-endpoint", "get-credentials", "-n", "with-tokens"]);
    let token = given["accessToken"].as_str().unwrap_or_else(|| panic!("no token in {given}"));
    assert!(given["expiryTimeUtc"].is_number() || given["expiryTimeUtc"].is_string(), "{given}");
    let reply = workspace.call(&Workspace::scoring("with-tokens", token, "{}"));
    assert_eq!((reply.status, reply.value()), (200, "token".into()));
    // A token is for one endpoint, and no key.
    assert_eq!(status(token), 401);
    assert_eq!(workspace.call(&Workspace::scoring("with-tokens", &old, "{}")).status, 401);
}

#[test]
fn errors_are_those_that_clients_of_azure_know() {
    let workspace = Workspace::up();
    workspace.write("code/score.py", TROUBLE);
    let key = workspace.deploy("trouble", &(script_deployment("blue", "trouble", "code")
            + "request_settings:\n  request_timeout_ms: 1500\n  max_concurrent_requests_per_instance: 1\n  max_queue_wait_ms: 200\n"));
    let address = workspace.address();
    let ask = |body: &str| call(address, &Workspace::scoring("trouble", &key, body));

    let raised = ask("raise");
    assert_eq!(raised.status, 424, "{}", raised.text());
    assert_eq!(raised.header("ms-azureml-model-error-statuscode"), Some("500"));
    assert!(raised.header("ms-azureml-model-error-reason").is_some());
    let late = ask("sleep5");
    assert_eq!(late.status, 408, "{}", late.text());
    let free = || ask("fine").status == 200;
    assert!(eventually(Duration::from_secs(20), free));
    let crashed = ask("exit");
    assert!([424, 502].contains(&crashed.status), "{} {}", crashed.status, crashed.text());
    assert!(eventually(Duration::from_secs(20), free));

    let statuses: Vec<u16> = thread::scope(|scope| {
        let all: Vec<_> = (0..4).map(|_| scope.spawn(|| ask("sleep0.9").status)).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(statuses.contains(&200) && statuses.contains(&429), "{statuses:?}");
}

#[test]
fn grpc_goes_through() {
    let Some(tools) = venv("tools") else { return };
    let workspace = Workspace::up();
    workspace.write("linear.onnx", onnx::linear_model());
    workspace.moorline(&["model", "create", "-n", "linear", "-p", "linear.onnx"]).ok();
    let document =
        onnx_deployment("blue", "remote", "x").replace("model:\n  path: x", "model: azureml:linear@latest");
    let (address, key) = (workspace.address().to_string(), workspace.deploy("remote", &document));
    let said = run_client(&tools, "gateway_grpc.py", &[&address, "remote", &key, "linear"]);
    assert_eq!(said.trim(), "seen");
}

#[test]
fn a_large_body_is_passed_on() {
    let workspace = Workspace::up();
    workspace.write("code/score.py", "def init():\n    pass\n\n\ndef run(data):\n    return len(data)\n");
    let patient = "request_settings:\n  request_timeout_ms: 60000\n";
    let key = workspace.deploy("wide", &(script_deployment("blue", "wide", "code") + patient));
    let body = "x".repeat(40 << 20);
    let reply = workspace.call(&Workspace::scoring("wide", &key, &body));
    assert_eq!((reply.status, reply.value()), (200, (40 << 20).into()));
    let beyond = "x".repeat(101 << 20);
    assert_eq!(workspace.call(&Workspace::scoring("wide", &key, &beyond)).status, 413);
}
