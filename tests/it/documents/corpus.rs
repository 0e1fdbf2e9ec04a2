//! The corpus: valid documents, and what becomes of them when one thing is changed.

use std::{collections::HashSet, path::Path};

use serde_json::{Map, Value, json};

/// The kinds by the names that the Python side has for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Model,
    Environment,
    Compute,
    Workspace,
    Endpoint,
    Deployment,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Environment => "environment",
            Self::Compute => "compute",
            Self::Workspace => "workspace",
            Self::Endpoint => "online endpoint",
            Self::Deployment => "online deployment",
        }
    }
}

/// One document to read.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) kind: Kind,
    /// The key that was changed, `scale_settings.type`; empty for the document itself.
    pub(super) path: String,
    /// What was done there, `= 5`, `removed`, `misspelled`; empty where nothing was.
    pub(super) change: String,
    pub(super) text: String,
}

impl Case {
    pub(super) fn label(&self) -> String {
        format!("{}: {} {}", self.kind.name(), self.path, self.change)
    }
}

/// What the documents point at.
pub(super) fn write_files(folder: &Path) {
    for (path, text) in [
        ("model/model.onnx", ""),
        ("code/score.py", ""),
        ("context/Dockerfile", "FROM scratch\n"),
        ("conda.yml", "dependencies:\n- python=3.12\n"),
        ("environment.yml", "name: e\nimage: i\n"),
    ] {
        let path = folder.join(path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, text).unwrap();
    }
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (kind, document) in valid() {
        let plain = |path: &str, change: String, document: &Value| Case {
            kind,
            path: path.to_owned(),
            change,
            text: serde_json::to_string_pretty(document).unwrap(),
        };
        cases.push(plain("", String::new(), &document));
        let mut places = Vec::new();
        objects(&document, "", &mut places);
        for place in places {
            let with = |key: &str, value: Value| {
                edited(&document, &place, &|members| {
                    members.insert(key.to_owned(), value.clone());
                })
            };
            cases.push(plain(
                &joined(&place, "unknown_key"),
                "added".to_owned(),
                &with("unknown_key", json!("x")),
            ));
            for key in keys(&document, &place) {
                let path = joined(&place, &key);
                let removed = edited(&document, &place, &|members| {
                    members.shift_remove(&key);
                });
                cases.push(plain(&path, "removed".to_owned(), &removed));
                let misspelled = edited(&document, &place, &|members| {
                    let value = members.shift_remove(&key).unwrap();
                    members.insert(format!("{key}x"), value);
                });
                cases.push(plain(&path, "misspelled".to_owned(), &misspelled));
                for value in [
                    Value::Null,
                    json!(5),
                    json!(1.5),
                    json!(true),
                    json!("text"),
                    json!("5"),
                    json!([]),
                    json!(["text"]),
                    json!({}),
                    json!({"text": "text"}),
                ] {
                    let change = format!("= {value}");
                    cases.push(plain(&path, change, &with(&key, value)));
                }
            }
        }
    }
    for (kind, base, path, values) in values() {
        for value in values {
            let (place, key) = path.rsplit_once('.').unwrap_or(("", path));
            let change = format!("= {value}");
            let document = edited(&base, place, &|members| {
                members.insert(key.to_owned(), value.clone());
            });
            let text = serde_json::to_string_pretty(&document).unwrap();
            cases.push(Case { kind, path: path.to_owned(), change, text });
        }
    }
    for (kind, change, text) in texts() {
        cases.push(Case { kind, path: String::new(), change: change.to_owned(), text: text.to_owned() });
    }
    // A key that several documents have is changed in the first of them only.
    let mut seen = HashSet::new();
    cases.retain(|case| case.change.is_empty() || seen.insert(case.label()));
    cases
}

/// The paths of all objects in a document.
fn objects(value: &Value, path: &str, found: &mut Vec<String>) {
    if let Value::Object(members) = value {
        found.push(path.to_owned());
        for (key, member) in members {
            objects(member, &joined(path, key), found);
        }
    }
}

fn joined(place: &str, key: &str) -> String {
    if place.is_empty() { key.to_owned() } else { format!("{place}/{key}").replace('/', ".") }
}

fn keys(document: &Value, place: &str) -> Vec<String> {
    let mut at = document;
    for key in place.split('.').filter(|key| !key.is_empty()) {
        at = &at[key];
    }
    at.as_object().unwrap().keys().cloned().collect()
}

fn edited(document: &Value, place: &str, edit: &dyn Fn(&mut Map<String, Value>)) -> Value {
    let mut document = document.clone();
    let mut at = &mut document;
    for key in place.split('.').filter(|key| !key.is_empty()) {
        at = &mut at[key];
    }
    edit(at.as_object_mut().unwrap());
    document
}

fn endpoint() -> Value {
    json!({"name": "diabetes", "auth_mode": "key"})
}

fn deployment() -> Value {
    json!({"name": "blue", "endpoint_name": "diabetes", "instance_type": "Standard_DS3_v2", "instance_count": 1})
}

/// Documents with every key between them.
fn valid() -> Vec<(Kind, Value)> {
    let schema = |kind: &str| format!("https://azuremlschemas.azureedge.net/latest/{kind}.schema.json");
    let probe = json!({"period": 10, "initial_delay": 5, "timeout": 2, "success_threshold": 1, "failure_threshold": 3});
    let route = json!({"port": 5001, "path": "/score"});
    vec![
        (
            Kind::Endpoint,
            json!({
                "$schema": schema("managedOnlineEndpoint"), "name": "diabetes", "description": "d", "auth_mode": "key",
                "tags": {"a": "b"}, "properties": {"a": "b"}, "location": "westeurope",
                "identity": {"type": "system_assigned"}, "public_network_access": "enabled",
                "traffic": {"blue": 90, "green": 10}, "mirror_traffic": {"green": 10},
                "provisioning_state": "Succeeded", "scoring_uri": "https://x/score", "openapi_uri": "https://x",
                "kind": "Managed", "id": "x",
            }),
        ),
        (Kind::Endpoint, json!({"name": "diabetes", "compute": "azureml:k8s", "auth_mode": "aml_token"})),
        (
            Kind::Deployment,
            json!({
                "$schema": schema("managedOnlineDeployment"), "name": "blue", "endpoint_name": "diabetes",
                "description": "d", "tags": {"a": "b"}, "properties": {"a": "b"}, "type": "managed",
                "model": {"name": "m", "version": "1", "path": "model", "type": "custom_model", "description": "d",
                    "tags": {"a": "b"}, "properties": {"a": "b"}},
                "model_mount_path": "mount",
                "code_configuration": {"code": "code", "scoring_script": "score.py"},
                "environment": {"name": "e", "image": "i", "conda_file": "conda.yml",
                    "inference_config": {"liveness_route": route, "readiness_route": route, "scoring_route": route}},
                "environment_variables": {"A": "b"}, "app_insights_enabled": false, "instance_count": 2,
                "instance_type": "Standard_DS3_v2", "scale_settings": {"type": "default"},
                "request_settings": {"request_timeout_ms": 3000, "max_concurrent_requests_per_instance": 2,
                    "max_queue_wait_ms": 500},
                "liveness_probe": probe, "readiness_probe": probe,
                "data_collector": {"collections": {"model_inputs": {"enabled": "true", "client_id": "c",
                    "data": {"name": "n", "path": "azureml://datastores/d/paths/p", "version": "1", "data_id": "i"}}},
                    "rolling_rate": "hour", "sampling_rate": 0.5, "request_logging": {"capture_headers": ["x"]}},
                "egress_public_network_access": "disabled", "private_network_connection": false,
                "provisioning_state": "Succeeded",
            }),
        ),
        (
            Kind::Deployment,
            json!({
                "name": "blue", "endpoint_name": "diabetes", "type": "kubernetes", "model": "azureml:m:1",
                "environment": "azureml:e@latest", "instance_count": 1, "instance_type": "small",
                "scale_settings": {"type": "target_utilization", "polling_interval": 10,
                    "target_utilization_percentage": 70, "min_instances": 1, "max_instances": 3},
                "resources": {"requests": {"cpu": "500m", "memory": "1Gi"},
                    "limits": {"cpu": "1", "memory": "2Gi", "gpu": "1"}},
            }),
        ),
        (Kind::Deployment, deployment()),
        (
            Kind::Model,
            json!({
                "$schema": schema("model"), "name": "m", "version": "1", "type": "mlflow_model", "path": "model",
                "description": "d", "tags": {"a": "b"}, "properties": {"a": "b"}, "stage": "Production",
                "flavors": {"python_function": {"loader_module": "x"}}, "datastore": "d",
                "system_metadata": {"a": "b"}, "latest_version": "3", "job_name": "j",
            }),
        ),
        (
            Kind::Environment,
            json!({
                "$schema": schema("environment"), "name": "e", "version": "1", "description": "d", "tags": {"a": "b"},
                "image": "mcr.microsoft.com/azureml/minimal", "os_type": "linux", "datastore": "d",
                "conda_file": {"channels": ["conda-forge"], "dependencies": ["python=3.12", {"pip": ["numpy"]}]},
                "inference_config": {"liveness_route": route, "readiness_route": route, "scoring_route": route},
            }),
        ),
        (
            Kind::Environment,
            json!({"name": "e", "build": {"path": "context", "dockerfile_path": "Dockerfile"}}),
        ),
        (Kind::Environment, json!({"name": "e", "image": "i", "conda_file": "conda.yml"})),
        (
            Kind::Compute,
            json!({
                "name": "k8s", "type": "kubernetes", "namespace": "ml", "description": "d", "tags": {"a": "b"},
                "location": "westeurope", "properties": {"a": "b"}, "identity": {"type": "system_assigned"},
                "resource_id": "/subscriptions/s/x", "provisioning_state": "Succeeded", "created_on": "x",
            }),
        ),
        (
            Kind::Workspace,
            json!({
                "$schema": schema("workspace"), "name": "w", "location": "westeurope", "resource_group": "rg",
                "description": "d", "display_name": "W", "hbi_workspace": false, "tags": {"a": "b"},
                "image_build_compute": "c", "public_network_access": "Enabled", "system_datastores_auth_mode": "x",
                "managed_network": {"isolation_mode": "disabled"}, "primary_user_assigned_identity": "x",
                "enable_data_isolation": false, "provision_network_now": false, "discovery_url": "x",
            }),
        ),
    ]
}

/// Values worth a try at one key each.
fn values() -> Vec<(Kind, Value, &'static str, Vec<Value>)> {
    let long = "n".repeat(33);
    let names = json!([
        "ab",
        "abc",
        "1ab",
        "-ab",
        "ab-",
        "a_b",
        "a.b",
        "a/b",
        "..",
        "ünï",
        "a b",
        "",
        long,
        &long[1..]
    ]);
    let arm = "azureml:/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/rg/providers/\
               Microsoft.MachineLearningServices/workspaces/ws/models/m/versions/1";
    let environment_arm = arm.replace("/models/", "/environments/");
    let compute_arm = arm.replace("/models/m/versions/1", "/computes/c");
    let list = |value: Value| value.as_array().unwrap().clone();
    let kubernetes = edited(&deployment(), "", &|members| {
        members.insert("type".to_owned(), json!("kubernetes"));
    });
    vec![
        (Kind::Endpoint, endpoint(), "name", list(names.clone())),
        (Kind::Deployment, deployment(), "name", list(names)),
        (
            Kind::Endpoint,
            endpoint(),
            "auth_mode",
            list(json!([
                "Key",
                "KEY",
                "AMLToken",
                "aml_token",
                "AmlToken",
                "aadToken",
                "aad_token",
                "keys",
                "none",
                ""
            ])),
        ),
        (
            Kind::Endpoint,
            endpoint(),
            "traffic",
            list(json!([
                {"blue": 100}, {"blue": 101}, {"blue": 60, "green": 41}, {"blue": 0}, {"blue": "50"}, {"blue": "x"},
                {"blue": true}, {}, {"blue": [1]}, {"blue": 1.0},
            ])),
        ),
        (
            Kind::Endpoint,
            endpoint(),
            "mirror_traffic",
            list(json!([{"blue": 50}, {"blue": 51}, {"blue": 10, "green": 10}, {"blue": "x"}, {}])),
        ),
        (
            Kind::Endpoint,
            endpoint(),
            "compute",
            list(json!(["azureml:c", "c", "azureml:", compute_arm, "file:x.yml"])),
        ),
        (
            Kind::Deployment,
            deployment(),
            "model",
            list(json!([
                "azureml:m:1", "azureml:m", "azureml:m@latest", "azureml:m@production", "m:1", "m", "azureml:", "azureml",
                "azureml:a/b:1", "AZUREML:m:1", arm, "azureml://registries/azureml/models/m/versions/1",
                "azureml://registries/azureml/models/m/labels/latest", {"path": "model"}, {"path": "model", "name": "m"},
                {"path": "model", "type": "TRITON_MODEL"}, {"path": "model", "type": "onnx"},
            ])),
        ),
        (
            Kind::Deployment,
            deployment(),
            "environment",
            list(json!([
                "azureml:e:1", "azureml:e", "azureml:e@latest", "e:1", environment_arm, "file:environment.yml",
                "file:absent.yml", "azureml://registries/azureml/environments/e/versions/1", {"image": "i"},
                {"image": "i", "build": {"path": "context"}}, {"build": {"path": "context"}},
                {"build": {"path": "absent"}}, {"image": "i", "conda_file": "absent.yml"},
                {"channels": ["c"], "dependencies": ["d"]}, {"conda_file": "conda.yml"},
            ])),
        ),
        (
            Kind::Deployment,
            deployment(),
            "code_configuration",
            list(
                json!([{"code": "code", "scoring_script": "score.py"}, {"code": "code"}, {"scoring_script": "score.py"}]),
            ),
        ),
        (
            Kind::Deployment,
            deployment(),
            "type",
            list(json!(["managed", "Managed", "kubernetes", "serverless"])),
        ),
        (
            Kind::Deployment,
            kubernetes,
            "scale_settings",
            list(json!([
                {"type": "default"}, {"type": "Default"}, {"type": "TargetUtilization"}, {"type": "targetUtilization"},
                {"type": "target_utilization", "min_instances": "1", "max_instances": "2"}, {"type": "manual"},
                {"min_instances": 1}, {"type": "default", "min_instances": 1},
            ])),
        ),
        (
            Kind::Deployment,
            deployment(),
            "app_insights_enabled",
            list(json!(["yes", "no", "True", "on", "t", 1, 0, 2, "perhaps"])),
        ),
        (
            Kind::Deployment,
            deployment(),
            "data_collector",
            list(json!([
                {}, {"sampling_rate": 1}, {"sampling_rate": 1.1}, {"sampling_rate": -0.1}, {"sampling_rate": "0.5"},
                {"rolling_rate": "Minute"}, {"rolling_rate": "second"}, {"collections": {"a": {"enabled": "True"}}},
                {"collections": {"a": {"enabled": "maybe"}}}, {"collections": {"a": {}}},
                {"collections": {"a": {"enabled": "true", "data": "azureml:d:1"}}},
            ])),
        ),
        (
            Kind::Model,
            json!({"name": "m", "path": "model"}),
            "version",
            list(json!(["1", 1, 1.5, "1.0.0", "a-b_c", true, [1]])),
        ),
        (
            Kind::Environment,
            json!({"name": "e", "image": "i"}),
            "os_type",
            list(json!(["linux", "Linux", "windows", "Windows", "macos"])),
        ),
        (
            Kind::Environment,
            json!({"name": "e", "image": "i"}),
            "dependencies",
            list(json!([["python"], null])),
        ),
        (
            Kind::Compute,
            json!({"name": "c", "namespace": "default"}),
            "type",
            list(json!([
                "kubernetes",
                "Kubernetes",
                "local",
                "container",
                "fpga",
                "edge",
                "amlcompute",
                "nonsense"
            ])),
        ),
    ]
}

/// What JSON cannot say.
fn texts() -> Vec<(Kind, &'static str, &'static str)> {
    vec![
        (Kind::Endpoint, "empty", ""),
        (Kind::Endpoint, "a comment", "# nothing\n"),
        (Kind::Endpoint, "a list", "- name: abc\n"),
        (Kind::Endpoint, "text", "name\n"),
        (Kind::Endpoint, "two documents", "name: abc\n---\nname: abc\n"),
        (Kind::Endpoint, "an explicit document", "---\nname: abc\n...\n"),
        (Kind::Endpoint, "a duplicate key", "name: abc\nname: abc\n"),
        (Kind::Endpoint, "a tab as indentation", "name: abc\ntags:\n\ta: b\n"),
        (Kind::Endpoint, "a tab behind a colon", "name:\tabc\n"),
        (Kind::Endpoint, "an unclosed object", "name: abc\ntags: {a: b\n"),
        (Kind::Endpoint, "an unclosed quote", "name: 'abc\n"),
        (Kind::Endpoint, "a reserved character", "name: abc\ndescription: @x\n"),
        (Kind::Endpoint, "an unknown anchor", "name: *abc\n"),
        (Kind::Endpoint, "an anchor", "name: abc\ntags: &t {a: b}\nproperties: *t\n"),
        (Kind::Endpoint, "a merge key", "name: abc\ntags: &t {a: b}\nproperties: {<<: *t, c: d}\n"),
        (Kind::Endpoint, "an unknown tag", "name: !x abc\n"),
        (Kind::Endpoint, "a tag", "name: !!str abc\n"),
        (Kind::Endpoint, "a python tag", "name: !!python/object/apply:os.getcwd []\n"),
        (Kind::Endpoint, "a yes that is a boolean", "name: yes\n"),
        (Kind::Endpoint, "an on that is a boolean", "name: abc\ndescription: on\n"),
        (Kind::Endpoint, "an off in quotes", "name: abc\ndescription: 'off'\n"),
        (Kind::Endpoint, "a y that is text", "name: abc\ndescription: y\n"),
        (Kind::Endpoint, "an octal number", "name: abc\ntraffic: {blue: 012}\n"),
        (Kind::Endpoint, "a number with underscores", "name: abc\ntraffic: {blue: 1_0}\n"),
        (Kind::Endpoint, "an exponent that is text", "name: abc\ndescription: 1e3\n"),
        (Kind::Endpoint, "an exponent that is a number", "name: abc\ndescription: 1.0e+3\n"),
        (Kind::Endpoint, "a number in base 60", "name: abc\ndescription: 1:30\n"),
        (Kind::Endpoint, "a colon that is text", "name: abc\ndescription: a:30\n"),
        (Kind::Endpoint, "a date", "name: abc\ndescription: 2024-01-01\n"),
        (Kind::Endpoint, "a tilde", "name: abc\ndescription: ~\n"),
        (Kind::Endpoint, "a key without a value", "name: abc\ndescription:\n"),
        (Kind::Endpoint, "a block of text", "name: abc\ndescription: |\n  a\n  b\n"),
        (Kind::Endpoint, "a folded text", "name: abc\ndescription: >-\n  a\n  b\n"),
        (Kind::Endpoint, "carriage returns", "name: abc\r\ntags:\r\n  a: b\r\n"),
        (Kind::Endpoint, "a byte order mark", "\u{feff}name: abc\n"),
        (Kind::Endpoint, "a key that is a list", "? [a]\n: b\nname: abc\n"),
        (Kind::Endpoint, "a key that is a number", "name: abc\ntags: {1: a}\n"),
        (Kind::Endpoint, "a number for a deployment's name", "name: abc\ntraffic: {1: 10}\n"),
        (Kind::Endpoint, "a misleading indentation", "name: abc\n tags: {a: b}\n"),
        (Kind::Endpoint, "a control character", "name: abc\ndescription: \"a\u{1}b\"\n"),
    ]
}
