//! Bodies of requests: the same checks, and no files.

use moorline_spec::{
    AssetRef, BuildSource, Compute, Document, Environment, Model, OnlineDeployment, OnlineEndpoint, from_json,
};
use serde_json::{Value, json};

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn refusal<T: Document + std::fmt::Debug>(body: Value) -> String {
    from_json::<T>(&body).unwrap_err().to_string()
}

#[test]
fn refusals_name_the_key_by_its_path() {
    insta::assert_snapshot!(refusal::<OnlineDeployment>(json!({
        "name": "blue", "endpoint_name": "diabetes", "instance_cout": 1,
        "liveness_probe": {"period": "x"}, "tags": {"a": [1]},
        "code_configuration": {"code": "./code", "scoring_script": "score.py"},
        "model": {"path": "./model"},
        "environment": {"image": "i", "conda_file": {"dependencies": [{"pip": ["-r a.txt"]}]}},
    })), @r"
    tags.a: `a` is a list; expected text, a number or a boolean
    model.path: unknown key `path` in model
    code_configuration.code: `./code` is not a reference: it does not begin with `azureml:`
    environment.conda_file.dependencies[0].pip[0]: `-r a.txt` includes a file, and the folder of the conda file is not here; write the requirements themselves instead
    liveness_probe.period: `period` is the text `x`; expected an integer
    instance_cout: unknown key `instance_cout` in online deployment; did you mean `instance_count`?
    ");
    insta::assert_snapshot!(refusal::<OnlineEndpoint>(json!([])), @"a list stands where an online endpoint is expected; expected an object with keys");
    insta::assert_snapshot!(refusal::<Model>(json!({"name": "m", "files": [{"path": "../x", "size": -1, "sha256": "x"}]})), @r"
    files[0].path: `path` is the text `../x`; expected a relative path with `/` between its parts, and neither `.` nor `..` among them
    files[0].size: `size` is the number -1; expected something else
    files[0].sha256: `sha256` is the text `x`; expected a digest, `sha256:` and 64 digits of `0-9a-f`
    ");
    insta::assert_snapshot!(refusal::<Environment>(json!({"name": "e", "image": "i", "conda_file": "conda.yml"})), @"conda_file: `conda_file` is the text `conda.yml`; expected an object with keys");
    insta::assert_snapshot!(refusal::<OnlineDeployment>(json!({
        "name": "blue", "endpoint_name": "diabetes", "environment": "file:/etc/passwd",
    })), @"environment: `environment` is a path; the server cannot see files of yours; upload them, and name them by digest");
}

#[test]
fn what_the_command_line_sends_is_read() {
    let model = from_json::<Model>(&json!({
        "name": "m", "type": "custom_model", "files": [{"path": "a/b.onnx", "size": 0, "sha256": DIGEST}],
    }));
    assert_eq!(model.unwrap().document.files[0].path, "a/b.onnx");
    let environment = from_json::<Environment>(&json!({
        "name": "e", "build": {"context": DIGEST, "dockerfile_path": "Dockerfile"},
    }))
    .unwrap()
    .document;
    assert!(matches!(environment.build.as_ref().unwrap().source, BuildSource::Context(_)));
    assert!(environment.described().is_some());
    let deployment = from_json::<OnlineDeployment>(&json!({
        "name": "blue", "endpoint_name": "diabetes", "model": "azureml:m:1", "environment": "azureml:e:1",
        "code_configuration": {"code": "azureml:c:1", "scoring_script": "score.py"},
    }))
    .unwrap()
    .document;
    assert!(matches!(deployment.model, Some(AssetRef::Reference(_))));
}

/// `show -o json > x.json`, then `create -f x.json`.
#[test]
fn what_the_server_shows_can_be_read() {
    let deployment = json!({
        "name": "blue", "endpoint_name": "diabetes", "type": "managed", "instance_count": 1, "model": "azureml:m:1",
        "provisioning_state": "Succeeded", "compute_name": "local", "generation": 3, "error": {"message": "m", "log": []},
        "replicas": [{"id": "r", "state": "ready"}], "creation_context": {"created_at": "t"},
    });
    assert!(from_json::<OnlineDeployment>(&deployment).is_ok());
    let endpoint = json!({
        "name": "diabetes", "kind": "Managed", "auth_mode": "key", "traffic": {}, "mirror_traffic": {}, "tags": {},
        "scoring_uri": "u", "openapi_uri": "u", "provisioning_state": "Succeeded", "generation": 1,
        "creation_context": {"created_at": "t"},
    });
    assert!(from_json::<OnlineEndpoint>(&endpoint).is_ok());
    let model = json!({
        "id": "azureml:m:1", "name": "m", "version": "1", "digest": DIGEST, "is_anonymous": false, "archived": false,
        "creation_context": {"created_at": "t"}, "type": "custom_model", "files": [],
    });
    assert!(from_json::<Model>(&model).is_ok());
}

#[test]
fn computes_keep_what_their_kind_reads() {
    let body = json!({"name": "k", "type": "kubernetes", "namespace": "ml", "context": "prod",
        "instance_types": {"small": {"cpu": "500m", "memory": "1Gi"}}});
    let compute = from_json::<Compute>(&body).unwrap().document;
    assert_eq!(compute.instance_types["small"].resources().cpu_millis, Some(500));
    assert_eq!(serde_json::to_value(&compute).unwrap(), body);
    let key = "-----BEGIN PUBLIC KEY-----\nMA==\n-----END PUBLIC KEY-----\n";
    let body = json!({"name": "c", "type": "container", "host": "tcp://10.0.0.7:2376",
        "tls": {"ca": "/tls/ca.pem", "cert": "/tls/cert.pem", "key": "/tls/key.pem"}, "publish": "10.0.0.7",
        "registry": "localhost:5000/ml", "sign_with": "signing", "trusted_keys": [key]});
    let compute = from_json::<Compute>(&body).unwrap().document;
    assert_eq!(compute.container().publish, Some([10, 0, 0, 7].into()));
    assert_eq!(compute.container().trusted_keys, [key]);
    assert_eq!(serde_json::to_value(&compute).unwrap(), body);
}

#[test]
fn a_container_host_that_cannot_be_says_why() {
    let said = |key: &str, value: serde_json::Value| {
        let mut body = json!({"name": "c", "type": "container", "host": "unix:///run/docker.sock"});
        body[key] = value;
        from_json::<Compute>(&body).unwrap_err().to_string()
    };
    for (key, value, part) in [
        ("host", json!("http://x"), "expected `unix:///path`, `tcp://host:port` or `ssh://user@host`"),
        ("hosts", json!("unix:///x"), "did you mean `host`?"),
        (
            "tls",
            json!({"ca": "/a", "cert": "/b", "key": "/c"}),
            "`tls` belongs to a `host` that begins with `tcp://`",
        ),
        ("tls", json!({"ca": "a", "cert": "/b"}), "no `key`"),
        ("publish", json!("everywhere"), "expected an IP address"),
        ("registry", json!("https://x.io/y"), "expected a registry and a prefix in it"),
        ("trusted_keys", json!(["-----BEGIN EC PRIVATE KEY-----"]), "this is a private key"),
        ("trusted_keys", json!(["cosign.pub"]), "expected a public key in PEM"),
    ] {
        let text = said(key, value);
        assert!(text.contains(part), "{text}");
    }
}
