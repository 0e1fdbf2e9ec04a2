//! Rollouts as a platform engineer uses them: promoted under traffic, rolled back for a reason, ended by hand, and not
//! impressed by a server that dies.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use moorline_tests::{
    Connection, Request, Said, Workspace,
    documents::{endpoint, script_deployment},
    eventually,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const GOOD: &str = "def init():\n    pass\n\n\ndef run(data):\n    return 'good'\n";
const FAILING: &str = "def init():\n    pass\n\n\ndef run(data):\n    raise ValueError('no')\n";
const SLOW: &str =
    "import time\n\n\ndef init():\n    pass\n\n\ndef run(data):\n    time.sleep(0.3)\n    return 'late'\n";
/// Fails when it is told to.
const OBEDIENT: &str = "def init():\n    pass\n\n\ndef run(data):\n    if 'fail' in data:\n        raise ValueError('as you wish')\n    return 'good'\n";
/// Does not come back once `stay-away` lies beside it.
const MORTAL: &str = "import os\n\n\ndef init():\n    if os.path.exists(os.environ['STAY_AWAY']):\n        raise RuntimeError('gone for good')\n\n\ndef run(data):\n    return 'good'\n";

const SOON: Duration = Duration::from_mins(1);

/// An endpoint whose `blue` has all of the traffic, and a `green` with this script; its key.
fn blue_and_green(workspace: &Workspace, name: &str, green: &str) -> String {
    workspace.write("blue/score.py", GOOD);
    workspace.write("green/score.py", green);
    let stay_away = workspace.work().join("stay-away").display().to_string();
    let variables = format!("environment_variables:\n  STAY_AWAY: {stay_away}\n");
    workspace.write("endpoint.yml", endpoint(name));
    workspace.write("blue.yml", script_deployment("blue", name, "blue"));
    workspace.write("green.yml", script_deployment("green", name, "green") + &variables);
    workspace.moorline(&["online-endpoint", "create", "-f", "endpoint.yml"]).ok();
    workspace.moorline(&["online-deployment", "create", "-f", "blue.yml", "--all-traffic"]).ok();
    workspace.moorline(&["online-deployment", "create", "-f", "green.yml"]).ok();
    workspace.key(name)
}

fn rollout(workspace: &Workspace, name: &str, more: &[&str]) -> Said {
    let mut arguments = vec!["online-endpoint", "rollout", "-n", name];
    arguments.extend(more);
    workspace.moorline(&arguments)
}

fn shown(workspace: &Workspace, name: &str) -> Value {
    workspace.json(&["online-endpoint", "show", "-n", name])
}

/// Waits until `online-endpoint show` says something of the rollout.
fn until(workspace: &Workspace, name: &str, is: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let came = eventually(SOON, || {
        last = shown(workspace, name);
        is(&last["rollout"])
    });
    assert!(came, "{last}\n{}", workspace.server_log());
    last
}

/// The state of the operation that the endpoint's rollout is.
fn state_of(workspace: &Workspace, shown: &Value) -> Value {
    let operation = shown["rollout"]["operation"].as_str().expect("a rollout has an operation");
    let path = format!("/api/v1/workspaces/default/operations/{operation}");
    workspace.call(&Request::get(&path)).value()["state"].clone()
}

/// Callers that ask an endpoint again and again.
struct Callers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<(u16, String)>>>,
}

impl Callers {
    fn begin(workspace: &Workspace, name: &str, key: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (address, scoring) = (workspace.address(), Workspace::scoring(name, key, "\"x\""));
        let caller = || {
            let (stop, scoring) = (Arc::clone(&stop), scoring.clone());
            thread::spawn(move || {
                let mut connection = Connection::open(address).unwrap();
                let mut seen = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let reply = connection.send(&scoring).expect("a request is answered");
                    let by = reply.header("azureml-model-deployment").unwrap_or_default().to_owned();
                    seen.push((reply.status, by));
                }
                seen
            })
        };
        let threads = vec![caller(), caller()];
        Self { stop, threads }
    }

    /// The status of every answer, and the deployment that it came from.
    fn end(self) -> Vec<(u16, String)> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    }
}

#[test]
fn one_that_does_well_gets_all_of_the_traffic() {
    let workspace = Workspace::up();
    let key = blue_and_green(&workspace, "canary", GOOD);
    let callers = Callers::begin(&workspace, "canary", &key);
    let steps = ["--to", "green", "--steps", "20:1s,60:1s,100:1s", "--max-error-rate", "1%"];
    let bounds = ["--max-p99", "60s", "--min-requests", "1", "-o", "json"];
    let said = rollout(&workspace, "canary", &[&steps[..], &bounds[..]].concat()).ok();
    let after = said.json();
    let seen = callers.end();
    assert_eq!((&after["traffic"], &after["rollout"]["state"]), (&json!({"green": 100}), &json!("Promoted")));
    for words in [
        "step 1 of 3 (20 %)",
        "blue=80 green=20; watched for 1s",
        "step 2 of 3 (60 %)",
        "blue=40 green=60; watched for 1s",
        "step 3 of 3 (100 %)",
        "green=100; watched for 1s",
        "held: ",
        "0.0 % failed",
    ] {
        assert!(said.stderr.contains(words), "{words} is not in:\n{}", said.stderr);
    }
    let lost: Vec<_> = seen.iter().filter(|(status, _)| *status != 200).collect();
    assert!(lost.is_empty(), "{} of {}: {:?}", lost.len(), seen.len(), lost.first());
    for deployment in ["blue", "green"] {
        assert!(seen.iter().any(|(_, by)| by == deployment), "nobody asked {deployment}");
    }
    let scoring = Workspace::scoring("canary", &key, "\"x\"");
    let by = workspace.call(&scoring).header("azureml-model-deployment").map(ToOwned::to_owned);
    assert_eq!(by.as_deref(), Some("green"));
}

#[test]
fn one_that_fails_loses_the_traffic_and_the_reason_is_told() {
    let workspace = Workspace::up();
    let key = blue_and_green(&workspace, "broken", FAILING);
    let callers = Callers::begin(&workspace, "broken", &key);
    let said = rollout(&workspace, "broken", &["--to", "green", "--steps", "20:1h,100"]);
    callers.end();
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    for words in [
        "the rollout of endpoint broken to green failed: error rate 100.0 % is above 1%: ",
        "requests failed, at step 1 of 2 (20 %); the traffic is as before: blue=100",
        "moorline online-deployment get-logs -n green -e broken",
    ] {
        assert!(said.stderr.contains(words), "{words} is not in:\n{}", said.stderr);
    }
    let after = shown(&workspace, "broken");
    assert_eq!(
        (&after["traffic"], &after["rollout"]["state"]),
        (&json!({"blue": 100}), &json!("RolledBack"))
    );
    assert!(after["rollout"]["message"].as_str().unwrap().contains("error rate"), "{after}");
    for _ in 0..20 {
        let reply = workspace.call(&Workspace::scoring("broken", &key, "\"x\""));
        assert_eq!((reply.status, reply.header("azureml-model-deployment")), (200, Some("blue")));
    }
}

#[test]
fn one_that_is_slow_breaks_the_bound_of_its_p99() {
    let workspace = Workspace::up();
    let key = blue_and_green(&workspace, "lazy", SLOW);
    let callers = Callers::begin(&workspace, "lazy", &key);
    let said = rollout(
        &workspace,
        "lazy",
        &["--to", "green", "--steps", "50:1h,100", "--max-error-rate", "100%", "--max-p99", "100ms"],
    );
    callers.end();
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert!(said.stderr.contains("failed: p99 "), "{}", said.stderr);
    assert!(said.stderr.contains("is above 100ms over "), "{}", said.stderr);
    assert!(said.stderr.contains("at step 1 of 2 (50 %)"), "{}", said.stderr);
    assert_eq!(shown(&workspace, "lazy")["traffic"], json!({"blue": 100}));
}

#[test]
fn a_server_that_was_killed_goes_on_with_it() {
    let mut workspace = Workspace::up();
    let key = blue_and_green(&workspace, "tough", OBEDIENT);
    rollout(&workspace, "tough", &["--to", "green", "--steps", "10:1s,50:1h,100", "--no-wait"]).ok();
    let before = until(&workspace, "tough", |rollout| rollout["step"] == 2);
    workspace.kill();
    workspace.start();
    let after = shown(&workspace, "tough");
    assert_eq!(after["traffic"], json!({"blue": 50, "green": 50}));
    assert_eq!(after["rollout"], before["rollout"]);

    // It is judged as before: what is sent to green by name counts.
    let fail = Workspace::scoring("tough", &key, "\"fail\"").header("azureml-model-deployment", "green");
    let mut statuses = Vec::new();
    let rolled_back = eventually(SOON, || {
        statuses.push(workspace.call(&fail).status);
        shown(&workspace, "tough")["rollout"]["state"] == "RolledBack"
    });
    assert!(rolled_back, "{statuses:?}\n{}", workspace.server_log());
    let after = shown(&workspace, "tough");
    assert_eq!(after["traffic"], json!({"blue": 100}));
    let message = after["rollout"]["message"].as_str().unwrap();
    assert!(message.contains("error rate") && message.contains("step 2 of 3 (50 %)"), "{after}");

    // And it comes to its end, wherever it was cut.
    rollout(&workspace, "tough", &["--to", "green", "--steps", "10:1s,20:1s,50:1s,100:1s", "--no-wait"]).ok();
    for _ in 0..3 {
        workspace.kill();
        workspace.start();
    }
    let after = until(&workspace, "tough", |rollout| rollout["state"] == "Promoted");
    assert_eq!(after["traffic"], json!({"green": 100}));
    assert!(eventually(SOON, || state_of(&workspace, &after) == "Succeeded"));
}

#[test]
fn one_that_is_under_way_is_not_disturbed_and_can_be_ended() {
    let workspace = Workspace::up();
    blue_and_green(&workspace, "watched", GOOD);
    let long = ["--to", "green", "--steps", "20:1h,100"];
    thread::scope(|scope| {
        let waiting = scope.spawn(|| rollout(&workspace, "watched", &long));
        let running = until(&workspace, "watched", |rollout| rollout["state"] == "Running");
        assert_eq!(running["traffic"], json!({"blue": 80, "green": 20}));
        assert_eq!(running["rollout"]["traffic_before"], json!({"blue": 100}));
        let table = workspace.moorline(&["online-endpoint", "list", "-o", "table"]).ok();
        assert!(table.stdout.contains("Running"), "{}", table.stdout);

        workspace.write("grey.yml", script_deployment("grey", "watched", "blue"));
        let update = ["online-endpoint", "update", "-n", "watched"];
        let of_green = ["online-deployment", "update", "-n", "green", "-e", "watched"];
        for refused in [
            [&update[..], &["--traffic", "blue=50 green=50"]].concat(),
            vec!["online-endpoint", "rollout", "-n", "watched", "--to", "green"],
            [&of_green[..], &["--set", "environment_variables.WORD=new"]].concat(),
            vec!["online-deployment", "create", "-f", "grey.yml", "--all-traffic"],
            vec!["online-deployment", "delete", "-n", "blue", "-e", "watched", "-y"],
        ] {
            let said = workspace.moorline(&refused);
            assert_eq!(said.code, Some(1), "{refused:?}: {}", said.stdout);
            if !refused.contains(&"delete") {
                assert!(said.stderr.contains("a rollout to `green` is under way"), "{}", said.stderr);
                assert!(said.stderr.contains("rollout -n watched --abort"), "{}", said.stderr);
            }
        }
        // What does not touch it goes on: tags, and replicas.
        workspace.moorline(&[&update[..], &["--set", "tags.team=a"]].concat()).ok();
        workspace.moorline(&[&of_green[..], &["--set", "instance_count=2"]].concat()).ok();
        assert_eq!(shown(&workspace, "watched")["rollout"]["state"], "Running");

        let aborted = rollout(&workspace, "watched", &["--abort", "-o", "json"]).ok().json();
        assert_eq!(aborted["traffic"], json!({"blue": 100}));
        assert_eq!(aborted["rollout"]["state"], "Aborted");
        let said = waiting.join().unwrap();
        assert_eq!(said.code, Some(1), "{}", said.stderr);
        assert!(said.stderr.contains("was cancelled: it was aborted"), "{}", said.stderr);
    });

    for (arguments, code, words) in [
        (&["--abort"][..], 1, "no rollout under way"),
        (&["--to", "purple"][..], 1, "has no deployment `purple`"),
        (&["--to", "blue"][..], 1, "has all of the traffic already"),
        (&["--to", "green", "--steps", "10:5m,5:5m,100"][..], 2, "step 2 (`5:5m`)"),
    ] {
        let said = rollout(&workspace, "watched", arguments);
        assert_eq!(said.code, Some(code), "{arguments:?}: {}", said.stderr);
        assert!(said.stderr.contains(words), "{words} is not in:\n{}", said.stderr);
    }

    // Without a request nothing speaks against it, and that is said.
    let said = rollout(&workspace, "watched", &["--to", "green", "--steps", "10:1s,100"]).ok();
    let words = "nothing spoke against it, over fewer than the 100 requests of a judgement: no requests";
    assert!(said.stderr.contains(words), "{}", said.stderr);
    assert_eq!(shown(&workspace, "watched")["traffic"], json!({"green": 100}));

    // It goes with its endpoint.
    rollout(&workspace, "watched", &["--to", "blue", "--steps", "20:1h,100", "--no-wait"]).ok();
    let running = shown(&workspace, "watched");
    assert_eq!(state_of(&workspace, &running), "Running");
    workspace.moorline(&["online-endpoint", "delete", "-n", "watched", "-y"]).ok();
    assert!(eventually(SOON, || state_of(&workspace, &running) == "Cancelled"));
}

#[test]
fn one_whose_replicas_are_gone_is_rolled_back() {
    let workspace = Workspace::up();
    blue_and_green(&workspace, "mortal", MORTAL);
    let green = |pid: &u32| {
        let line = fs_err::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains("stay-away")
    };
    let pid = workspace.scorers().into_iter().find(green).expect("green runs");
    rollout(&workspace, "mortal", &["--to", "green", "--steps", "20:1h,100", "--no-wait"]).ok();
    until(&workspace, "mortal", |rollout| rollout["state"] == "Running");
    workspace.write("stay-away", "");
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL).unwrap();
    let after = until(&workspace, "mortal", |rollout| rollout["state"] == "RolledBack");
    assert!(after["rollout"]["message"].as_str().unwrap().contains("no replica is ready"), "{after}");
    assert_eq!(after["traffic"], json!({"blue": 100}));
}
