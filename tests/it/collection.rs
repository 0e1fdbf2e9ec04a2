//! What deployments are asked and answer, kept: from the scorer to the workspace's store and back.

use std::{collections::BTreeSet, path::Path, time::Duration};

use moorline_tests::{
    ReleaseDir, Request, Scorer, Workspace, call, containers::tool, documents::onnx_deployment, eventually,
    onnx, venv,
};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_mins(1);
const BODY: &str = r#"{"data": [[1, 2, 3, 4], [5, 6, 7, 8]]}"#;
const ALL: &str = "data_collector:\n  collections:\n    request: {enabled: 'true'}\n    response: {enabled: 'true'}\n    \
                   model_inputs: {enabled: 'True'}\n    model_outputs: {enabled: 'true'}\n    off: {enabled: 'false'}\n  \
                   request_logging: {capture_headers: [X-Tenant, Authorization]}\n";
const SCRIPT: &str = r#"
import json
import pandas
from azureml.ai.monitoring import Collector


def init():
    global inputs, own
    inputs, own = Collector(name="model_inputs"), Collector(name="own_things")


def run(data):
    frame = pandas.DataFrame(json.loads(data))
    context = inputs.collect(frame)
    own.collect(frame * 2, context)
    return {"rows": len(frame)}
"#;

/// The records of every file of a collection below a folder.
fn records(folder: &Path, collection: &str) -> Vec<Value> {
    let mut found = Vec::new();
    let Ok(entries) = fs_err::read_dir(folder) else { return found };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            found.extend(records(&path, collection));
        } else if path.to_string_lossy().contains(&format!("/{collection}/")) {
            let text = fs_err::read_to_string(path).unwrap();
            found.extend(text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()));
        }
    }
    found
}

/// Everything that was collected of `iris/blue`, in a folder of this name.
fn download(workspace: &Workspace, name: &str) -> std::path::PathBuf {
    let arguments = ["online-deployment", "collected", "download", "-n", "blue", "-e", "iris", "-p", name];
    workspace.moorline(&arguments).ok();
    workspace.work().join(name)
}

/// Has everything fetched, and says how many records of a collection there are.
fn fetched(workspace: &Workspace, collection: &str) -> u64 {
    let arguments =
        ["online-deployment", "collected", "list", "-n", "blue", "-e", "iris", "--collection", collection];
    let said = workspace.moorline(&[&arguments[..], &["--fetch", "-o", "json"]].concat());
    if said.code != Some(0) {
        return 0;
    }
    said.json().as_array().unwrap().iter().map(|file| file["records"].as_u64().unwrap()).sum()
}

/// A scorer of the linear model that collects, with changes to its settings, in a folder.
fn collecting(folder: &Path, settings: &Value, more: &[&str]) -> Scorer {
    let release = ReleaseDir::of_model(&onnx::linear_model());
    release.edit(|release| release["collection"] = settings.clone());
    let arguments = ["--engine", "tract", "--collect-dir", folder.to_str().unwrap()];
    release.serve().args(arguments).args(more).start()
}

/// The next segment of a scorer: what is said of it, and its records.
fn segment(scorer: &Scorer, query: &str) -> Option<(Value, Vec<Value>)> {
    let reply = call(scorer.admin(), &Request::get(&format!("/collected?{query}")));
    assert_eq!(reply.status, 200, "{}", reply.text());
    let text = reply.text();
    let mut lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    Some((lines.next()?, lines.collect()))
}

/// How many records of a collection were kept.
fn kept(scorer: &Scorer, collection: &str) -> f64 {
    let labels = format!(r#"collection="{collection}",deployment="tested",endpoint="tested""#);
    scorer.metric(&format!("moorline_collected_records_total{{{labels}}}"))
}

/// How many requests were dropped for a reason.
fn dropped(scorer: &Scorer, reason: &str) -> f64 {
    let labels = format!(r#"collection="request",deployment="tested",endpoint="tested",reason="{reason}""#);
    scorer.metric(&format!("moorline_collected_dropped_total{{{labels}}}"))
}

#[test]
fn requests_answers_and_tensors_come_to_the_store_and_outlive_server_and_scorer() {
    let mut workspace = Workspace::up();
    workspace.write("model.onnx", onnx::linear_model());
    let document = onnx_deployment("blue", "iris", "model.onnx") + ALL;
    workspace.write("warned.yml", &document);
    let key = workspace.deploy("iris", &document);
    let said = workspace.moorline(&["online-deployment", "update", "-f", "warned.yml"]).ok();
    assert!(said.stderr.contains("`Authorization` is never captured"), "{}", said.stderr);
    let ask = |id: &str| {
        let request = Workspace::scoring("iris", &key, BODY).header("x-request-id", id);
        workspace.call(&request.header("x-tenant", "acme")).status
    };
    assert_eq!(ask("first"), 200);
    let there = |count| {
        let all = ["request", "response", "model_inputs", "model_outputs"];
        eventually(SOON, || all.iter().all(|collection| fetched(&workspace, collection) == count))
    };
    assert!(there(1), "{}", workspace.server_log());

    let folder = download(&workspace, "one");
    let request = &records(&folder, "request")[0];
    assert_eq!(request["data"], serde_json::from_str::<Value>(BODY).unwrap());
    assert_eq!((&request["method"], &request["path"]), (&json!("POST"), &json!("/score")));
    assert_eq!(request["headers"], json!({"x-tenant": "acme"}));
    assert_eq!(request["contentrange"], format!("bytes 0-{}/{}", BODY.len() - 1, BODY.len()));
    let response = &records(&folder, "response")[0];
    assert_eq!((&response["statuscode"], response["data"].is_array()), (&json!(200), true));
    let inputs = &records(&folder, "model_inputs")[0];
    let columns = json!([{"x_0": 1.0, "x_1": 2.0, "x_2": 3.0, "x_3": 4.0}, {"x_0": 5.0, "x_1": 6.0, "x_2": 7.0, "x_3": 8.0}]);
    assert_eq!(inputs["data"], columns);
    assert_eq!(inputs["type"], "azureml.inference.model_inputs");
    assert_eq!(records(&folder, "model_outputs")[0]["data"][0]["y_1"], 11.5);
    for collection in ["request", "response", "model_inputs", "model_outputs"] {
        let record = &records(&folder, collection)[0];
        assert_eq!((&record["correlationid"], &record["specversion"]), (&json!("first"), &json!("1.0")));
    }
    assert!(!workspace.server_log().contains("acme"));

    // A scorer that is killed has written what it answered; the next one of the deployment gives it.
    assert_eq!(ask("second"), 200);
    let written = || {
        let spool = workspace.home().join("local/deployments/default/iris/blue/collected");
        let files = fs_err::read_dir(spool).unwrap().flatten();
        let files =
            files.flat_map(|process| fs_err::read_dir(process.path()).into_iter().flatten().flatten());
        files.filter(|file| file.file_name().to_string_lossy().ends_with(".part")).count() == 4
    };
    assert!(eventually(SOON, written));
    let before = workspace.scorers();
    for pid in &before {
        tool("kill", &["-9", &pid.to_string()]);
    }
    assert!(eventually(SOON, || {
        let now = workspace.scorers();
        now.len() == 1 && now != before && ask("third") == 200
    }));
    // And so is the server, which finds the scorer again.
    workspace.kill();
    workspace.start();
    let ids = || -> BTreeSet<String> {
        let all = format!("all-{}", uuid());
        let records = records(&download(&workspace, &all), "model_inputs");
        records.iter().map(|record| record["correlationid"].as_str().unwrap().to_owned()).collect()
    };
    assert!(eventually(SOON, || { fetched(&workspace, "model_inputs") >= 3 }), "{}", workspace.server_log());
    let expected: BTreeSet<String> = ["first", "second", "third"].map(str::to_owned).into();
    assert_eq!(ids(), expected);
    // What is left when a deployment goes stays.
    workspace.moorline(&["online-endpoint", "delete", "-n", "iris", "-y"]).ok();
    assert_eq!(ids(), expected);
}

/// A name that no other call gives.
fn uuid() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    now.as_nanos().to_string()
}

#[test]
fn scripts_collect_with_the_package_of_azure_ml() {
    let Some(venv) = venv("mlflow") else { return };
    let folder = tempfile::tempdir().unwrap();
    let release = ReleaseDir::of_script(SCRIPT);
    release.edit(|release| release["collection"] = json!({"collections": ["model_inputs", "own_things"]}));
    let scorer = release
        .serve()
        .env("MOORLINE_PYTHON", venv.python())
        .args(["--collect-dir", folder.path().join("spool").to_str().unwrap()])
        .start();
    let reply = scorer.post("/score", &json!([{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]));
    assert_eq!((reply.status, reply.value()), (200, json!({"rows": 2})), "{}", scorer.log().text());
    let both = || (kept(&scorer, "model_inputs"), kept(&scorer, "own_things")) == (1.0, 1.0);
    assert!(eventually(SOON, both), "{}", scorer.log().text());
    let (head, inputs) = segment(&scorer, "seal=true").unwrap();
    assert_eq!(head["collection"], "model_inputs");
    assert_eq!(inputs[0]["data"], json!([{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]));
    // `pandas.core.frame.DataFrame` before pandas 3.
    assert!(inputs[0]["collectdatatype"].as_str().unwrap().ends_with(".DataFrame"));
    assert!(inputs[0]["agent"].as_str().unwrap().starts_with("azureml-ai-monitoring/"));
    let next = format!("acknowledged={}", head["segment"].as_str().unwrap());
    let (head, own) = segment(&scorer, &next).unwrap();
    assert_eq!(head["collection"], "own_things");
    assert_eq!(own[0]["data"], json!([{"a": 2, "b": "xx"}, {"a": 4, "b": "yy"}]));
    assert_eq!(own[0]["correlationid"], inputs[0]["correlationid"]);
}

#[test]
fn half_of_the_requests_are_kept_whole() {
    let folder = tempfile::tempdir().unwrap();
    let settings = json!({"collections": ["model_inputs", "response"], "sampling_rate": 0.5});
    let scorer = collecting(&folder.path().join("spool"), &settings, &[]);
    for number in 0..400 {
        let request = Request::post("/score", BODY).header("x-request-id", &format!("id-{number}"));
        assert_eq!(scorer.call(&request).status, 200);
    }
    let (one, inputs) = segment(&scorer, "seal=true").unwrap();
    let next = format!("acknowledged={}", one["segment"].as_str().unwrap());
    let (_, responses) = segment(&scorer, &next).unwrap();
    let ids = |records: &[Value]| -> BTreeSet<String> {
        records.iter().map(|record| record["correlationid"].as_str().unwrap().to_owned()).collect()
    };
    // The odds of less or more, were it chance, are below one in a million.
    assert!((150..250).contains(&inputs.len()), "{}", inputs.len());
    assert_eq!(ids(&inputs), ids(&responses));
}

#[test]
fn what_is_too_much_is_dropped_and_counted_and_requests_are_answered() {
    let folder = tempfile::tempdir().unwrap();
    let settings = json!({"collections": ["request"]});
    let scorer = collecting(&folder.path().join("spool"), &settings, &["--collect-bytes", "20000"]);
    // 10 MB: its length alone is kept.
    let large = Request::post("/score", format!(r#"{{"data": [[1, 2, 3, 4]]{}}}"#, " ".repeat(10_000_000)));
    assert_eq!(scorer.call(&large).status, 200);
    let (head, records) = segment(&scorer, "seal=true").unwrap();
    assert_eq!(
        (&records[0]["data"], records[0]["contentrange"].as_str()),
        (&Value::Null, Some("bytes */10000024"))
    );
    // Nobody fetches: the folder fills, and serving goes on.
    assert!(eventually(SOON, || {
        for _ in 0..20 {
            assert_eq!(scorer.post("/score", &json!({"data": [[1, 2, 3, 4]]})).status, 200);
        }
        dropped(&scorer, "spool_full") > 0.0
    }));
    // Somebody does, and it goes on.
    let mut next = head["segment"].as_str().unwrap().to_owned();
    while let Some((head, _)) = segment(&scorer, &format!("seal=true&acknowledged={next}")) {
        head["segment"].as_str().unwrap().clone_into(&mut next);
    }
    scorer.post("/score", &json!({"data": [[1, 2, 3, 4]]}));
    assert!(eventually(SOON, || segment(&scorer, "seal=true").is_some()));
}

#[test]
fn a_full_disk_costs_records_and_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap().to_owned();
    if !rustix::process::geteuid().is_root() {
        return moorline_tests::skip("a small disk takes root");
    }
    tool("mount", &["-t", "tmpfs", "-o", "size=64k", "tmpfs", &place]);
    let unmount = Unmount(place);
    let scorer = collecting(&folder.path().join("spool"), &json!({"collections": ["request"]}), &[]);
    assert!(eventually(SOON, || {
        for _ in 0..50 {
            assert_eq!(scorer.post("/score", &json!({"data": [[1, 2, 3, 4]]})).status, 200);
        }
        dropped(&scorer, "disk") > 0.0
    }));
    tool("mount", &["-o", "remount,size=8m", &unmount.0]);
    let before = kept(&scorer, "request");
    assert!(
        eventually(SOON, || {
            scorer.post("/score", &json!({"data": [[1, 2, 3, 4]]}));
            kept(&scorer, "request") > before
        }),
        "{}",
        scorer.log().text()
    );
    // Every line is whole: none was left half where the disk ended.
    let mut records = 0;
    let mut next = String::new();
    while let Some((head, lines)) = segment(&scorer, &format!("seal=true&acknowledged={next}")) {
        records += lines.len();
        head["segment"].as_str().unwrap().clone_into(&mut next);
    }
    assert!(records as f64 >= before);
    drop(scorer);
}

/// Takes a disk away with the value.
struct Unmount(String);

impl Drop for Unmount {
    fn drop(&mut self) {
        tool("umount", &["-l", &self.0]);
    }
}
