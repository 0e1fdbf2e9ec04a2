//! Devices of a workspace through the command line and the server's hub, with the unmodified client of Azure's library at
//! the other end.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use moorline_tests::{Workspace, eventually, own_folder, venv};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_mins(1);

/// A client, or `moorline edge monitor`: lines of JSON come out of it.
struct Talker {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<Value>,
}

impl Talker {
    fn start(mut command: Command) -> Self {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it can be started");
        let (input, output) = (child.stdin.take(), child.stdout.take().expect("it is piped"));
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Ok(value) = serde_json::from_str(&line)
                    && sender.send(value).is_err()
                {
                    return;
                }
            }
        });
        Self { child, input, lines }
    }

    /// A device or module that connects with this connection string.
    fn client(workspace: &Workspace, connection: &Value) -> Option<Self> {
        let python = venv("edge")?.python();
        let trust = workspace.work().join("trust.pem");
        fs_err::write(&trust, connection["trusted_certificates"].as_str().unwrap()).unwrap();
        let mut command = Command::new(python);
        command.arg("-B").arg(own_folder().join("clients/edge_device.py"));
        command.arg(connection["primary_connection_string"].as_str().unwrap()).arg(trust);
        Some(Self::start(command))
    }

    fn tell(&mut self, line: &str) {
        let input = self.input.as_mut().expect("it listens");
        writeln!(input, "{line}").and_then(|()| input.flush()).expect("it reads");
    }

    /// The next line that `is` one; what comes before it is passed over.
    fn next(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let rest = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(rest).unwrap_or_else(|error| panic!("{what}: {error}"));
            if is(&line) {
                return line;
            }
        }
    }

    fn event(&self, event: &str) -> Value {
        self.next(event, |line| line["event"] == event)
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server with a hub on an address of this test's own, at the one port that Azure's clients know.
fn up(address: &str) -> Workspace {
    let hub = format!("{address}:8883");
    Workspace::up_with(&["--hub", &hub, "--hub-name", address])
}

#[test]
fn a_device_of_azures_library_is_told_called_and_heard() {
    if venv("edge").is_none() {
        return;
    }
    let mut workspace = up("127.0.81.1");
    let made = workspace.json(&[
        "edge",
        "device",
        "create",
        "-n",
        "line-3",
        "--tag",
        "site=lyon",
        "--tag",
        "gpu=true",
    ]);
    assert_eq!(made["tags"], json!({ "site": "lyon", "gpu": true }));
    let again = workspace.moorline(&["edge", "device", "create", "-n", "line-3"]);
    assert!(again.code != Some(0) && again.stderr.contains("already"), "{again:?}");
    workspace.json(&["edge", "twin", "update", "-d", "line-3", "--desired", r#"{"interval":5}"#]);
    let connection = workspace.json(&["edge", "device", "connection-string", "-n", "line-3"]);
    let Some(mut device) = Talker::client(&workspace, &connection) else { return };
    let monitor = Talker::start(workspace.command(&["edge", "monitor"]));
    let twin = device.event("twin");
    assert_eq!(twin["twin"]["desired"]["interval"], 5, "{twin}");
    device.event("ready");
    let shown = workspace.json(&["edge", "device", "show", "-n", "line-3"]);
    assert_eq!(shown["connected"], true, "{shown}");

    // What it sends: watchers see it, and the log has it. Which comes first, the watcher or the message, is not said.
    let mut number = 0;
    let heard = loop {
        number += 1;
        device.tell(&format!("send {{\"number\":{number}}}"));
        device.event("sent");
        if let Ok(heard) = monitor.lines.recv_timeout(Duration::from_millis(500)) {
            break heard;
        }
        assert!(number < 100, "nothing is heard");
    };
    assert_eq!((&heard["device"], &heard["properties"]), (&json!("line-3"), &json!({ "alert": "yes" })));
    assert!(heard["payload"]["number"].is_u64() && heard["message_id"].is_string(), "{heard}");
    device.tell(r#"report {"version": "2", "interval": 5}"#);
    device.event("reported");
    let twin = workspace.json(&["edge", "twin", "show", "-d", "line-3"]);
    assert_eq!(twin["properties"]["reported"]["version"], "2", "{twin}");
    // What it is told.
    let update = r#"{"interval":null,"mode":"night"}"#;
    workspace.json(&["edge", "twin", "update", "-d", "line-3", "--desired", update]);
    let patch = device.event("patch");
    assert_eq!((&patch["patch"]["interval"], &patch["patch"]["mode"]), (&Value::Null, &json!("night")));
    let answer = workspace.json(&["edge", "call", "-d", "line-3", "reboot", "--payload", r#"{"in":3}"#]);
    assert_eq!(answer, json!({ "status": 201, "payload": { "done": "reboot" } }));
    let called = device.event("method");
    assert_eq!((&called["name"], &called["payload"]["in"]), (&json!("reboot"), &json!(3)));
    workspace.moorline(&["edge", "send", "-d", "line-3", "--payload", "hello", "-p", "urgent=yes"]).ok();
    let message = device.event("message");
    assert_eq!(message["body"], "\"hello\"", "{message}");
    assert_eq!(message["properties"]["urgent"], "yes");

    // A module is somebody else, with a twin of its own; calls to whoever is not there say so.
    workspace.json(&["edge", "module", "create", "-d", "line-3", "-n", "camera"]);
    let connection = workspace.json(&["edge", "module", "connection-string", "-d", "line-3", "-n", "camera"]);
    let absent = workspace.moorline(&["edge", "call", "-d", "line-3", "-m", "camera", "focus"]);
    assert!(absent.code != Some(0) && absent.stderr.contains("not connected"), "{absent:?}");
    let Some(module) = Talker::client(&workspace, &connection) else { return };
    assert_eq!(module.event("twin")["twin"]["desired"], json!({ "$version": 1 }));
    module.event("ready");
    let answer = workspace.json(&["edge", "call", "-d", "line-3", "-m", "camera", "focus"]);
    assert_eq!(answer["payload"]["done"], "focus");

    // Whoever is disabled or deleted is sent away, and a key that was made anew ends what the old one began.
    workspace.json(&["edge", "device", "update", "-n", "line-3", "--disabled", "true"]);
    device.next("the end", |line| line["event"] == "connection" && line["connected"] == false);
    let refused = Talker::client(
        &workspace,
        &json!({
            "primary_connection_string": connection["primary_connection_string"].as_str().unwrap().replace("Key=", "Key=AAAA"),
            "trusted_certificates": connection["trusted_certificates"],
        }),
    );
    let mut refused = refused.unwrap();
    assert!(eventually(PATIENCE, || refused
        .child
        .try_wait()
        .unwrap()
        .is_some_and(|status| !status.success())));

    // Everything is there again after a kill.
    workspace.kill();
    workspace.start();
    let twin = workspace.json(&["edge", "twin", "show", "-d", "line-3"]);
    assert_eq!(twin["properties"]["reported"]["version"], "2", "{twin}");
    assert_eq!(twin["tags"]["site"], "lyon");
    workspace.moorline(&["edge", "device", "delete", "-n", "line-3", "-y"]).ok();
    assert_eq!(workspace.json(&["edge", "device", "list"]), json!([]));
    // One of the same name is a new one.
    workspace.json(&["edge", "device", "create", "-n", "line-3"]);
    let twin = workspace.json(&["edge", "twin", "show", "-d", "line-3"]);
    assert_eq!(twin["tags"], json!({}));
    let log = fs_err::read_dir(workspace.home().join("hub/messages")).unwrap().next().unwrap().unwrap();
    let log = fs_err::read_to_string(log.path()).unwrap();
    assert_eq!(log.lines().filter(|line| line.contains("\"number\":1}")).count(), 1, "{log}");
    // Keys are in no log.
    let key = connection["primary_connection_string"].as_str().unwrap().rsplit("Key=").next().unwrap();
    assert!(!workspace.server_log().contains(key));
}

#[test]
fn what_a_hub_cannot_do_is_said() {
    let workspace = Workspace::up();
    let said = workspace.moorline(&["edge", "device", "list"]);
    assert_ne!(said.code, Some(0));
    assert!(said.stderr.contains("no hub") && said.stderr.contains("--hub"), "{}", said.stderr);
    let workspace = up("127.0.81.2");
    for (arguments, words) in [
        (vec!["edge", "device", "show", "-n", "nobody"], "nobody"),
        (vec!["edge", "device", "update", "-n", "nobody", "--tag", "a=1"], "nobody"),
        (vec!["edge", "device", "create", "-n", "a", "--auth", "self-signed"], "thumbprint"),
        (vec!["edge", "device", "create", "-n", "a", "--primary-thumbprint", "abc"], "thumbprint"),
        (vec!["edge", "twin", "update", "-d", "a"], "nothing is changed"),
        (vec!["edge", "twin", "update", "-d", "a", "--desired", "[1]"], "no object"),
        (vec!["edge", "call", "-d", "nobody", "reboot"], "nobody"),
    ] {
        let said = workspace.moorline(&arguments);
        assert_ne!(said.code, Some(0), "{arguments:?}");
        assert!(said.stderr.contains(words), "{arguments:?}: `{words}` is not in {}", said.stderr);
    }
    let certified =
        workspace.json(&["edge", "device", "create", "-n", "b", "--auth", "certificate-authority"]);
    assert_eq!(certified["authentication"]["type"], "certificateAuthority");
    let said = workspace.moorline(&["edge", "device", "connection-string", "-n", "b"]);
    assert!(said.stderr.contains("by a certificate"), "{}", said.stderr);
    let deep = r#"{"a":{"b":{"c":{"d":{"e":{"f":{"g":{"h":{"i":1}}}}}}}}}"#;
    let said = workspace.moorline(&["edge", "twin", "update", "-d", "b", "--desired", deep]);
    assert!(said.code != Some(0) && said.stderr.contains("8 levels"), "{}", said.stderr);
}

#[test]
fn a_deployment_is_a_module_of_azures_runtime() {
    let workspace = Workspace::down();
    let document = "name: blue\nendpoint_name: iris\nmodel: {path: model.onnx, type: custom_model}\n\
        environment_variables: {LEVEL: '3'}\nresources: {limits: {cpu: '0.5', memory: 256Mi}}\ntype: kubernetes\n";
    workspace.write("blue.yml", document);
    workspace.write("model.onnx", moorline_tests::onnx::linear_model());
    let line = ["edge", "manifest", "-f", "blue.yml", "--image", "registry.example/iris@sha256:12"];
    let route = "frames=FROM /messages/modules/cam/* INTO BrokeredEndpoint(\"/modules/iris/inputs/frames\")";
    let said = workspace.moorline(&[&line[..], &["--route", route]].concat()).ok();
    let agent = &said.json()["modulesContent"]["$edgeAgent"]["properties.desired"];
    let module = &agent["modules"]["iris"];
    assert_eq!((&agent["schemaVersion"], &module["restartPolicy"]), (&json!("1.1"), &json!("always")));
    assert_eq!(module["env"]["LEVEL"]["value"], "3");
    let options: String = ["createOptions", "createOptions01"]
        .iter()
        .filter_map(|name| module["settings"][name].as_str())
        .collect();
    let options: Value = serde_json::from_str(&options).unwrap();
    assert_eq!(options["HostConfig"]["Memory"], 268_435_456);
    assert_eq!(options["HostConfig"]["NanoCpus"], 500_000_000);
    // What was written is what is read; what is not one is told with its places.
    workspace.write("manifest.json", &said.stdout);
    let checked = workspace.moorline(&["edge", "manifest", "--check", "manifest.json"]).ok();
    assert!(checked.stdout.contains("1 module(s), 1 route(s)"), "{}", checked.stdout);
    let broken = said.stdout.replace("\"always\"", "\"sometimes\"").replace("FROM", "FORM");
    workspace.write("broken.json", broken);
    let refused = workspace.moorline(&["edge", "manifest", "--check", "broken.json"]);
    assert_ne!(refused.code, Some(0));
    for words in ["restartPolicy", "on-unhealthy", "routes.frames"] {
        assert!(refused.stderr.contains(words), "`{words}` is not in {}", refused.stderr);
    }
    workspace.write("secret.yml", document.replace("'3'", "secret:level"));
    let secret = ["edge", "manifest", "-f", "secret.yml", "--image", "a/b:1"];
    let refused = workspace.moorline(&secret);
    assert!(refused.code != Some(0) && refused.stderr.contains("is a secret"), "{}", refused.stderr);
}
