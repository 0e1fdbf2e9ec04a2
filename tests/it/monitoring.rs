//! What people see of running deployments: the built-in monitor, its live view, and a real Prometheus.

use std::{
    env,
    fmt::Write as _,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use moorline_tests::{
    Connection, Request, Workspace,
    containers::free_port,
    documents::{onnx_deployment, script_deployment},
    eventually, onnx, own_folder, skip,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Several looks, on a machine that is busy.
const SOON: Duration = Duration::from_mins(1);
const BODY: &str = r#"{"data": [[1, 2, 3, 4]]}"#;
const FAILING: &str = "def init():\n    pass\n\n\ndef run(data):\n    raise ValueError('no')\n";

fn ask(workspace: &Workspace, endpoint: &str, query: &str) -> Value {
    let path = format!("/api/v1/workspaces/default/online-endpoints/{endpoint}/metrics?{query}");
    let reply = workspace.call(&Request::get(&path));
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.value()
}

/// The known values of a series of a deployment, oldest first.
fn values(answer: &Value, name: &str, deployment: &str) -> Vec<f64> {
    let all = answer["series"].as_array().expect("series");
    let series = all.iter().find(|series| series["name"] == name && series["deployment"] == deployment);
    let points = series.unwrap_or_else(|| panic!("no {name} of {deployment}"))["points"].as_array().unwrap();
    points.iter().filter_map(|point| point[1].as_f64()).collect()
}

/// Returns once the monitor has looked at a deployment: what is counted from then on is seen.
fn until_seen(workspace: &Workspace, endpoint: &str, deployment: &str) {
    let seen = || !values(&ask(workspace, endpoint, "names=replicas"), "replicas", deployment).is_empty();
    assert!(eventually(SOON, seen), "{}", workspace.server_log());
}

fn send(workspace: &Workspace, endpoint: &str, key: &str, count: usize) {
    for _ in 0..count {
        workspace.call(&Workspace::scoring(endpoint, key, BODY));
    }
}

#[test]
fn what_was_answered_is_counted_to_the_request() {
    let mut workspace = Workspace::up();
    workspace.write("model.onnx", onnx::linear_model());
    let key = workspace.deploy("watched", &onnx_deployment("blue", "watched", "model.onnx"));
    workspace.write("green/score.py", FAILING);
    workspace.write("green.yml", script_deployment("green", "watched", "green"));
    workspace.moorline(&["online-deployment", "create", "-f", "green.yml"]).ok();
    for deployment in ["blue", "green"] {
        until_seen(&workspace, "watched", deployment);
    }
    send(&workspace, "watched", &key, 40);
    let to_green = Workspace::scoring("watched", &key, BODY).header("azureml-model-deployment", "green");
    for _ in 0..10 {
        assert_eq!(workspace.call(&to_green).status, 424);
    }
    let counted = |deployment: &str, name: &str| -> f64 {
        values(&ask(&workspace, "watched", "step=5"), name, deployment).iter().sum()
    };
    let all = || {
        let sums = ["requests", "failures"].map(|name| (counted("blue", name), counted("green", name)));
        sums == [(40.0, 10.0), (0.0, 10.0)]
    };
    assert!(eventually(SOON, all), "{}", workspace.server_log());

    let answer = ask(&workspace, "watched", "step=5");
    let last = |name: &str, deployment: &str| values(&answer, name, deployment).last().copied();
    assert!(
        last("latency_p50", "blue").is_some_and(|p50| p50 > 0.0 && p50 < 60.0),
        "{}",
        workspace.server_log()
    );
    assert!(last("latency_p99", "blue") >= last("latency_p50", "blue"), "{}", workspace.server_log());
    assert_eq!((last("error_rate", "blue"), last("error_rate", "green")), (Some(0.0), Some(1.0)));
    assert_eq!((last("replicas_ready", "blue"), last("in_flight", "blue")), (Some(1.0), Some(0.0)));
    // A process has a size, and cannot have used more than this machine.
    assert!(last("memory", "blue").is_some_and(|bytes| bytes > 1e6), "{}", workspace.server_log());
    assert!(eventually(SOON, || {
        values(&ask(&workspace, "watched", ""), "cpu", "blue")
            .iter()
            .any(|cores| (0.0..1024.0).contains(cores))
    }));
    assert!(
        values(&answer, "inference_mean", "blue").iter().all(|mean| *mean > 0.0),
        "{}",
        workspace.server_log()
    );
    assert_eq!(
        answer["series"].as_array().unwrap().len() / 2,
        ask(&workspace, "watched", "deployment=green")["series"].as_array().unwrap().len()
    );

    // The command line: what the API says, and what people read.
    let shown =
        workspace.json(&["online-endpoint", "metrics", "-n", "watched", "-d", "blue", "--from", "1h"]);
    assert_eq!(values(&shown, "requests", "blue").iter().sum::<f64>(), 40.0);
    let table =
        workspace.moorline(&["online-endpoint", "metrics", "-n", "watched", "-o", "table"]).ok().stdout;
    for words in ["Deployment", "request_rate", "latency_p99", "100.0 %"] {
        assert!(table.contains(words), "no {words} in\n{table}");
    }
    let said = workspace.moorline(&["online-endpoint", "metrics", "-n", "nothing"]);
    assert!(said.code != Some(0) && said.stderr.contains("nothing"), "{said:?}");

    // One that dies is started again, and counted.
    let victim = workspace.scorers()[0];
    kill_process(Pid::from_raw(i32::try_from(victim).unwrap()).unwrap(), Signal::KILL).unwrap();
    let restarts = || counted("blue", "restarts") + counted("green", "restarts");
    assert!(eventually(SOON, || restarts() >= 1.0), "{}", workspace.server_log());

    // The next server knows what the last one saw.
    assert_eq!(workspace.stop(), Some(0));
    workspace.start();
    let requests = values(&ask(&workspace, "watched", "names=requests"), "requests", "blue");
    assert_eq!(requests.iter().sum::<f64>(), 40.0);
}

#[test]
fn a_live_view_goes_on_through_a_restart_of_the_server() {
    let mut workspace = Workspace::up();
    workspace.write("model.onnx", onnx::linear_model());
    workspace.deploy("live", &onnx_deployment("blue", "live", "model.onnx"));
    until_seen(&workspace, "live", "blue");
    let address = workspace.address().to_string();
    let mut view = workspace.command(&["online-endpoint", "metrics", "-n", "live", "--watch"]);
    view.env("MOORLINE_SERVER", format!("http://{address}"));
    let mut view = view.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(view.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("replicas_ready")), "the view ended");
    // Not the same port again: it says that it lost the server, and does not end.
    let errors = BufReader::new(view.stderr.take().unwrap());
    workspace.stop();
    assert!(errors.lines().map_while(Result::ok).any(|line| line.contains("trying again")));
    assert!(view.try_wait().unwrap().is_none(), "the view ended with its server");
    kill_process(Pid::from_child(&view), Signal::INT).unwrap();
    assert_eq!(view.wait().unwrap().code(), Some(0));
}

/// Programs of Debian's package `prometheus`.
fn prometheus_folder() -> Option<PathBuf> {
    if let Some(folder) = env::var_os("MOORLINE_TEST_PROMETHEUS") {
        return Some(folder.into());
    }
    let paths = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&paths).find(|folder| folder.join("promtool").exists());
    if found.is_none() {
        skip("no prometheus; `cargo xtask test` installs it on Debian");
    }
    found
}

fn deploy_folder() -> PathBuf {
    own_folder().parent().expect("this package has a workspace").join("deploy")
}

fn promtool(programs: &Path, folder: &Path, arguments: &[&str]) {
    let output =
        Command::new(programs.join("promtool")).current_dir(folder).args(arguments).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&said));
}

#[test]
fn rules_alert_when_they_should_and_only_then() {
    let Some(programs) = prometheus_folder() else { return };
    let folder = deploy_folder().join("prometheus");
    promtool(&programs, &folder, &["check", "config", "prometheus.yml"]);
    promtool(&programs, &folder, &["test", "rules", "tests/rules.yml"]);
    promtool(
        &programs,
        &deploy_folder().join("compose"),
        &["check", "config", "--syntax-only", "prometheus.yml"],
    );
}

/// No Docker Compose is at hand: what it would mount is there.
#[test]
fn what_compose_mounts_is_there() {
    let folder = deploy_folder().join("compose");
    let text = fs_err::read_to_string(folder.join("compose.yml")).unwrap();
    let mounts = text.lines().filter_map(|line| {
        let mount = line.trim_start().strip_prefix("- ")?.strip_suffix(":ro")?;
        Some(mount.split_once(':')?.0)
    });
    let mounts: Vec<&str> = mounts.collect();
    assert_eq!(mounts.len(), 5, "{mounts:?}");
    for mount in mounts {
        assert!(folder.join(mount).exists(), "{mount}");
    }
}

/// A Prometheus with the configuration that is shipped, on this server; it ends with the value.
struct Prometheus {
    folder: tempfile::TempDir,
    child: Child,
    port: u16,
}

impl Prometheus {
    fn start(server: &str) -> Option<Self> {
        let programs = prometheus_folder()?;
        let folder = tempfile::tempdir().unwrap();
        let shipped = deploy_folder().join("prometheus");
        let mut text = fs_err::read_to_string(shipped.join("prometheus.yml")).unwrap();
        assert!(text.contains("127.0.0.1:7440") && text.contains("15s"), "{text}");
        text = text.replace("127.0.0.1:7440", server).replace("15s", "1s");
        text = text.replace("rules/*.yml", &shipped.join("rules/*.yml").display().to_string());
        let config = folder.path().join("prometheus.yml");
        fs_err::write(&config, text).unwrap();
        let port = free_port();
        let log = fs_err::File::create(folder.path().join("log")).unwrap().into_parts().0;
        let child = Command::new(programs.join("prometheus"))
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Some(Self { folder, child, port })
    }

    /// The values that a question has now, with their labels.
    fn ask(&self, question: &str) -> Vec<(Value, f64)> {
        let mut url = format!("/api/v1/query?time={}&query=", now());
        for byte in question.bytes() {
            write!(url, "%{byte:02X}").unwrap();
        }
        let address = ([127, 0, 0, 1], self.port).into();
        let request = Request::get(&url).header("host", "prometheus");
        // It takes a moment until it listens, and another until it can answer.
        let reply = Connection::open(address).and_then(|mut connection| connection.send(&request));
        let Some(reply) = reply.ok().filter(|reply| reply.status == 200) else { return Vec::new() };
        let found = reply.value()["data"]["result"].as_array().cloned().unwrap_or_default();
        let value = |sample: &Value| sample["value"][1].as_str().and_then(|text| text.parse().ok());
        found.iter().filter_map(|sample| Some((sample["metric"].clone(), value(sample)?))).collect()
    }

    /// Waits until a question has one answer, which is as it should be; its labels.
    fn until(&self, question: &str, is: impl Fn(f64) -> bool) -> Value {
        let mut last = Vec::new();
        let came = eventually(SOON, || {
            last = self.ask(question);
            matches!(&last[..], [(_, value)] if is(*value))
        });
        assert!(came, "{question} is {last:?}\n{}", self.log());
        last.swap_remove(0).0
    }

    fn log(&self) -> String {
        fs_err::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn prometheus_finds_replicas_and_answers_about_them() {
    let workspace = Workspace::up();
    let Some(prometheus) = Prometheus::start(&workspace.address().to_string()) else { return };
    workspace.write("model.onnx", onnx::linear_model());
    let key = workspace.deploy("scraped", &onnx_deployment("blue", "scraped", "model.onnx"));
    let found = prometheus.until(r#"up{job="moorline-replicas"}"#, |up| up == 1.0);
    for (label, value) in
        [("workspace", "default"), ("endpoint", "scraped"), ("deployment", "blue"), ("target", "local")]
    {
        assert_eq!(found[label], value, "{found}");
    }
    assert!(found["replica"].is_string() && found["exported_endpoint"].is_null(), "{found}");

    let own = r#"endpoint="scraped",deployment="blue""#;
    let zero = prometheus.until(&format!("sum(moorline_requests_in_flight{{{own}}})"), |value| value == 0.0);
    assert_eq!(zero, serde_json::json!({}));
    send(&workspace, "scraped", &key, 50);
    // The gateway and the replica counted the same requests.
    prometheus
        .until(&format!(r#"moorline_gateway_requests_total{{{own},code="200"}}"#), |value| value == 50.0);
    prometheus.until(&format!(r#"sum(moorline_requests_total{{{own},code="200"}})"#), |value| value == 50.0);
    prometheus.until(&format!("moorline_deployment_request_timeout_seconds{{{own}}}"), |value| value == 5.0);
    prometheus.until(&format!("moorline_deployment_capacity_requests{{{own}}}"), |value| value >= 1.0);
    prometheus
        .until(&format!(r#"moorline_deployment_state{{{own},state="Succeeded"}}"#), |value| value == 1.0);
    // The rules that are shipped, on the real thing. A rate needs two samples, between which something came.
    let rate = format!("endpoint_deployment:moorline_requests:rate5m{{{own}}}");
    assert!(eventually(SOON, || {
        send(&workspace, "scraped", &key, 5);
        matches!(&prometheus.ask(&rate)[..], [(_, value)] if *value > 0.0)
    }));
    let p99 = format!("endpoint_deployment:moorline_request_duration_seconds:p99_5m{{{own}}}");
    prometheus.until(&p99, |value| value > 0.0 && value < 5.0);
    prometheus
        .until(&format!("endpoint_deployment:moorline_saturation:ratio{{{own}}}"), |value| value == 0.0);

    // One that fails is told, and what fails no more is not.
    workspace.write("green/score.py", "raise RuntimeError('never')\n");
    workspace.write("green.yml", script_deployment("green", "scraped", "green"));
    let said = workspace.moorline(&["online-deployment", "create", "-f", "green.yml"]);
    assert_ne!(said.code, Some(0));
    let alert = r#"ALERTS{alertname="MoorlineDeploymentFailed"}"#;
    assert_eq!(prometheus.until(alert, |value| value == 1.0)["deployment"], "green");
    workspace.moorline(&["online-deployment", "delete", "-n", "green", "-e", "scraped", "-y"]).ok();
    assert!(eventually(SOON, || prometheus.ask(alert).is_empty()), "{}", prometheus.log());

    // A replica that is gone is not asked any more.
    workspace.moorline(&["online-endpoint", "delete", "-n", "scraped", "-y"]).ok();
    let gone = || prometheus.ask(r#"up{job="moorline-replicas"}"#).is_empty();
    assert!(eventually(SOON, gone), "{}", prometheus.log());
}

#[test]
fn replicas_can_be_asked_where_they_are() {
    let workspace = Workspace::up();
    workspace.write("model.onnx", onnx::linear_model());
    workspace.deploy("direct", &onnx_deployment("blue", "direct", "model.onnx"));
    let targets = || {
        let reply = workspace.call(&Request::get("/api/v1/prometheus/targets?direct=true"));
        (reply.status == 200).then(|| reply.value()).filter(|found| found.as_array().unwrap().len() == 1)
    };
    assert!(eventually(SOON, || targets().is_some()), "{}", workspace.server_log());
    let found = targets().unwrap();
    let address = found[0]["targets"][0].as_str().unwrap().parse().unwrap();
    let text = moorline_tests::call(address, &Request::get("/metrics")).text();
    assert!(text.contains("moorline_model_load_seconds"), "{text}");
    assert!(found[0]["labels"]["__metrics_path__"].is_null(), "{found}");
    // The server passes on the same.
    let replica = found[0]["labels"]["replica"].as_str().unwrap();
    let path = format!(
        "/api/v1/workspaces/default/online-endpoints/direct/deployments/blue/replicas/{replica}/metrics"
    );
    let passed = workspace.call(&Request::get(&path));
    assert_eq!((passed.status, passed.header("x-content-type-options")), (200, Some("nosniff")));
    assert!(passed.header("content-type").unwrap().starts_with("text/plain"));
    assert!(passed.text().contains("moorline_model_load_seconds"), "{}", passed.text());
}
