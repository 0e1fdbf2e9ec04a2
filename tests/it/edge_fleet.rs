//! Deployments to devices: the real server and its hub, real agents that enrol with it, and the real scorers that they run.

use std::{
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use moorline_tests::{
    Connection, Request, Said, Workspace, binary,
    containers::{Registry, base_image, docker, engine},
    eventually, onnx, ort_library,
};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_mins(1);

/// A device: a folder, and the agent that runs in it.
struct Device {
    name: String,
    folder: PathBuf,
    /// Of the agent, beside what every one has.
    arguments: Vec<String>,
    agent: Option<Child>,
}

impl Device {
    /// Makes a device in the workspace, and enrols it.
    fn enrol(workspace: &Workspace, name: &str, tags: &[&str]) -> Self {
        let mut line = vec!["edge", "device", "create", "-n", name];
        line.extend(tags.iter().flat_map(|tag| ["--tag", tag]));
        workspace.json(&line);
        let folder = workspace.work().join(name);
        let given = folder.join("given");
        let said = workspace
            .moorline(&[
                "edge",
                "device",
                "enrol-token",
                "-n",
                name,
                "--folder",
                given.to_str().expect("it is text"),
            ])
            .ok();
        let server = said.stderr.split_whitespace().find(|word| word.starts_with("https://"));
        let device = Self { name: name.to_owned(), folder, arguments: Vec::new(), agent: None };
        device.ask_to_enrol(workspace, server.expect("it says where to")).ok();
        device
    }

    fn ask_to_enrol(&self, workspace: &Workspace, server: &str) -> Said {
        let mut command = Command::new(binary("moorline-edge"));
        command.args(["enrol", "--server", server, "--device", &self.name]);
        let given = self.folder.join("given");
        command.arg("--token-file").arg(given.join("token"));
        command.arg("--authority").arg(given.join("authority.pem"));
        command.arg("--folder").arg(self.folder.join("state"));
        workspace.run(command)
    }

    fn run(&mut self) {
        let log = fs_err::OpenOptions::new().create(true).append(true).open(self.folder.join("log"));
        let mut command = Command::new(binary("moorline-edge"));
        command.arg("run").arg("--folder").arg(self.folder.join("state"));
        command.arg("--scorer").arg(binary("moorline-scorer")).args(["--measure-every", "1"]);
        command.args(&self.arguments);
        if let Some(library) = ort_library() {
            command.env("ORT_DYLIB_PATH", library);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("a log can be made").into_file())
            .spawn();
        self.agent = Some(child.expect("an agent can be started"));
    }

    fn kill(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill().and_then(|()| agent.wait()).expect("it ran");
        }
    }

    /// Its module, as the workspace shows it.
    fn module(&self, workspace: &Workspace) -> Value {
        let shown = workspace.json(&["edge", "device", "show", "-n", &self.name]);
        shown["agent"]["modules"]["iris"].clone()
    }

    /// What its own scoring endpoint answers to `[[1, 2, 3, 4]]`.
    fn score(&self, workspace: &Workspace) -> Option<Value> {
        let address: SocketAddr = self.module(workspace)["address"].as_str()?.parse().ok()?;
        let request = Request::post("/score", r#"{"data": [[1, 2, 3, 4]]}"#)
            .header("host", "device")
            .header("content-type", "application/json");
        // Nobody listens there while the agent is gone, and nobody answers while the module starts.
        let reply = Connection::open(address).ok()?.send(&request).ok()?;
        (reply.status == 200).then(|| reply.value())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.kill();
        // What its agent left when it was killed.
        for pid in moorline_tests::processes_with("moorline-scorer", &self.folder) {
            if let Some(pid) = rustix::process::Pid::from_raw(pid as i32) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

/// A server with a hub on an address of this test's own.
fn up(address: &str) -> Workspace {
    let (hub, https) = (format!("{address}:8883"), format!("{address}:8443"));
    Workspace::up_with(&["--hub", &hub, "--hub-https", &https, "--hub-name", address])
}

const GOLDEN: &str = r#"{"request": {"data": [[1, 2, 3, 4]]}, "answer": [[0.5, 11.5, 22.5]]}"#;

/// A deployment of the model, with the answer that it is known to give.
fn document(deployment: &str, golden: &str, more: &str) -> String {
    format!(
        "name: {deployment}\nendpoint_name: iris\nmodel: {{path: model.onnx, type: custom_model}}\nproperties:\n  moorline.edge.golden: '{golden}'\n{more}"
    )
}

fn fleet(workspace: &Workspace, name: &str, more: &str) {
    workspace.write("compute.yml", format!("name: {name}\ntype: edge\n{more}"));
    workspace.json(&["compute", "create", "-f", "compute.yml"]);
}

#[test]
fn a_release_reaches_devices_is_updated_rolled_back_and_taken_away() {
    let mut workspace = up("127.0.82.1");
    workspace.write("model.onnx", onnx::linear_model());
    let tags = ["site=lyon", "gpu=true"];
    let mut devices: Vec<Device> =
        ["line-1", "line-2", "line-3"].iter().map(|name| Device::enrol(&workspace, name, &tags)).collect();
    let mut other = Device::enrol(&workspace, "oslo-1", &["site=oslo"]);
    devices.iter_mut().for_each(Device::run);
    other.run();
    // A token is good once.
    let again = devices[0].ask_to_enrol(&workspace, "https://127.0.82.1:8443");
    assert!(again.code != Some(0) && again.stderr.contains("was used"), "{}", again.stderr);

    fleet(
        &workspace,
        "lyon",
        "condition: tags.site = 'lyon' AND tags.gpu = true\nstages: [1, 50%]\nmessaging: {input: frames, output: results}\n",
    );
    workspace.write("endpoint.yml", "name: iris\ncompute: azureml:lyon\n");
    workspace.json(&["online-endpoint", "create", "-f", "endpoint.yml"]);
    workspace.write("blue.yml", document("blue", GOLDEN, ""));
    let plan = workspace.moorline(&["online-deployment", "create", "-f", "blue.yml", "--dry-run"]).ok();
    assert!(plan.stdout.contains("tags.site") && plan.stdout.contains("iris"), "{}", plan.stdout);
    let made = workspace.json(&["online-deployment", "create", "-f", "blue.yml"]);
    assert_eq!(made["provisioning_state"], "Succeeded", "{made}");
    let expected = json!([[0.5, 11.5, 22.5]]);
    for device in &devices {
        let module = device.module(&workspace);
        assert_eq!((&module["status"], &module["version"]), (&json!("running"), &module["desired_version"]));
        assert_eq!(device.score(&workspace).as_ref(), Some(&expected), "{}", device.name);
    }
    assert_eq!(other.module(&workspace), Value::Null);
    let log = workspace.moorline(&["online-deployment", "get-logs", "-n", "blue", "-e", "iris"]).ok();
    assert!(!log.stdout.is_empty(), "no device has a log");

    // What devices measure are metrics of the server.
    let metrics = || workspace.call(&Request::get("/metrics")).text();
    for line in [
        "moorline_edge_device_connected{workspace=\"default\",device=\"line-1\"} 1",
        "moorline_module_up{workspace=\"default\",device=\"line-2\",module=\"iris\"} 1",
    ] {
        assert!(eventually(PATIENCE, || metrics().contains(line)), "`{line}` is not in {}", metrics());
    }
    assert!(metrics().contains(
        "moorline_edge_device_last_seen_timestamp_seconds{workspace=\"default\",device=\"oslo-1\""
    ));

    // A version whose answer is not the known one fails on the first device, which goes on with what it has.
    let before = devices[0].module(&workspace)["version"].clone();
    let wrong = GOLDEN.replace("22.5", "23.5");
    workspace.write("wrong.yml", document("blue", &wrong, "environment_variables: {LEVEL: '2'}\n"));
    let failed = workspace.moorline(&["online-deployment", "update", "-f", "wrong.yml"]);
    assert_ne!(failed.code, Some(0));
    assert!(failed.stderr.contains("1 of 1 devices failed, 1 of 3 were told"), "{}", failed.stderr);
    assert!(failed.stderr.contains("golden request"), "{}", failed.stderr);
    let back = |device: &Device| {
        let module = device.module(&workspace);
        module["version"] == before && module["desired_version"] == before && module["status"] == "running"
    };
    assert!(eventually(PATIENCE, || devices.iter().all(back)), "{}", devices[0].module(&workspace));
    for device in &devices {
        assert_eq!(device.score(&workspace).as_ref(), Some(&expected), "{}", device.name);
    }

    // What the devices tell is in the history of the deployment.
    let charted = || {
        assert!(devices.iter().all(|device| device.score(&workspace).is_some()));
        let history = workspace.json(&["online-endpoint", "metrics", "-n", "iris"]);
        let series = history["series"].as_array().cloned().unwrap_or_default();
        let rates = series.iter().filter(|series| series["name"] == "request_rate");
        let points = rates.flat_map(|series| series["points"].as_array().cloned().unwrap_or_default());
        points.into_iter().any(|point| point[1].as_f64().is_some_and(|rate| rate > 0.0))
    };
    assert!(eventually(PATIENCE, charted));

    // Over a kill of the server nothing is told anew, and who was away follows when it comes back.
    devices[2].kill();
    workspace.kill();
    workspace.start();
    assert!(eventually(PATIENCE, || devices[..2].iter().all(|device| {
        let shown = workspace.json(&["edge", "device", "show", "-n", &device.name]);
        shown["agent"]["connected"] == true
    })));
    assert_eq!(devices[0].module(&workspace)["desired_version"], before);
    workspace.write("second.yml", document("blue", GOLDEN, "environment_variables: {LEVEL: '3'}\n"));
    let made = workspace.json(&["online-deployment", "update", "-f", "second.yml"]);
    assert_eq!(made["provisioning_state"], "Succeeded", "{made}");
    let newest = devices[0].module(&workspace)["version"].clone();
    assert_ne!(newest, before);
    assert_eq!(devices[2].module(&workspace)["desired_version"], newest);
    assert_eq!(devices[2].module(&workspace)["version"], before);
    devices[2].run();
    assert!(eventually(PATIENCE, || devices[2].module(&workspace)["version"] == newest));

    // A device that meets the condition from now on gets it, and one that does not loses it.
    workspace.json(&["edge", "device", "update", "-n", "oslo-1", "--tag", "site=lyon", "--tag", "gpu=true"]);
    assert!(eventually(PATIENCE, || other.module(&workspace)["version"] == newest));
    workspace.json(&["edge", "device", "update", "-n", "line-1", "--tag", "gpu=null"]);
    assert!(eventually(PATIENCE, || devices[0].module(&workspace).is_null()));

    // One that is disabled is sent away with its agent, which goes on with what it has.
    workspace.json(&["edge", "device", "update", "-n", "oslo-1", "--disabled", "true"]);
    let connected =
        || workspace.json(&["edge", "device", "show", "-n", "oslo-1"])["agent"]["connected"].clone();
    assert!(eventually(PATIENCE, || connected() == false));
    assert_eq!(other.score(&workspace).as_ref(), Some(&expected));

    // The deployment that has the higher priority wins where both are meant, until it is gone.
    fleet(&workspace, "canary", "condition: deviceId = 'line-2'\npriority: 10\n");
    workspace.write("green.yml", document("green", GOLDEN, "environment_variables: {LEVEL: '4'}\n"));
    workspace.json(&["online-deployment", "create", "-f", "green.yml", "--compute", "canary"]);
    let run =
        |device: &Device| device.module(&workspace)["deployment"].as_str().unwrap_or_default().to_owned();
    assert_eq!(run(&devices[1]), "default/iris/green");
    assert_eq!(run(&devices[2]), "default/iris/blue");
    workspace.moorline(&["online-deployment", "delete", "-n", "green", "-e", "iris", "-y"]).ok();
    assert!(eventually(PATIENCE, || devices[1].module(&workspace)["version"] == newest));

    workspace.moorline(&["online-deployment", "delete", "-n", "blue", "-e", "iris", "-y"]).ok();
    assert!(eventually(PATIENCE, || devices[1].module(&workspace).is_null()));
    let states = devices.iter().map(|device| device.folder.join("state"));
    assert!(eventually(PATIENCE, || states.clone().all(|state| moorline_tests::processes_with(
        "moorline-scorer",
        &state
    )
    .is_empty())));
}

#[test]
fn a_rollout_is_paused_and_goes_on() {
    let workspace = up("127.0.82.2");
    workspace.write("model.onnx", onnx::linear_model());
    let mut devices: Vec<Device> =
        ["a", "b"].iter().map(|name| Device::enrol(&workspace, name, &[])).collect();
    devices.iter_mut().for_each(Device::run);
    fleet(&workspace, "all", "condition: 'true'\nstages: [1]\npaused: true\n");
    workspace.write("endpoint.yml", "name: iris\ncompute: azureml:all\n");
    workspace.json(&["online-endpoint", "create", "-f", "endpoint.yml"]);
    workspace.write("blue.yml", document("blue", GOLDEN, ""));
    let said = workspace.work().join("said");
    let mut create = workspace.command(&["online-deployment", "create", "-f", "blue.yml"]);
    create.stderr(fs_err::File::create(&said).unwrap().into_file()).stdout(Stdio::null());
    let mut create = create.spawn().unwrap();
    let heard = |words: &str| fs_err::read_to_string(&said).unwrap().contains(words);
    let told = || devices.iter().filter(|device| !device.module(&workspace).is_null()).count();
    assert!(eventually(PATIENCE, || heard("paused; 0 of 2 devices were told")));
    assert_eq!(told(), 0);
    workspace.json(&["compute", "update", "-n", "all", "--set", "paused=false"]);
    let mut ended = None;
    assert!(
        eventually(PATIENCE, || {
            ended = create.try_wait().unwrap();
            ended.is_some()
        }),
        "{}",
        fs_err::read_to_string(&said).unwrap()
    );
    assert!(ended.is_some_and(|status| status.success()), "{}", fs_err::read_to_string(&said).unwrap());
    assert_eq!(told(), 2);
}

#[test]
fn what_devices_cannot_run_is_refused_and_the_reason_is_told() {
    let workspace = up("127.0.82.3");
    workspace.write("model.onnx", onnx::linear_model());
    for (more, words) in [
        ("condition: site = 'lyon'\n", "`tags.…`"),
        ("priority: 3\n", "condition"),
        ("condition: 'true'\nroutes: {up: INTO}\n", "routes.up"),
        ("condition: 'true'\nstages: [0]\n", "stages"),
        ("condition: 'true'\nmodule: a/b\n", "module"),
    ] {
        workspace.write("compute.yml", format!("name: bad\ntype: edge\n{more}"));
        let refused = workspace.moorline(&["compute", "create", "-f", "compute.yml"]);
        assert_ne!(refused.code, Some(0), "{more}");
        assert!(refused.stderr.contains(words), "{more}: `{words}` is not in {}", refused.stderr);
    }
    fleet(&workspace, "all", "condition: 'true'\n");
    workspace.write("endpoint.yml", "name: iris\ncompute: azureml:all\n");
    workspace.json(&["online-endpoint", "create", "-f", "endpoint.yml"]);
    for (more, words) in [
        ("environment_variables: {LEVEL: 'secret:none'}\n", "there is no secret `none`"),
        (
            "scale_settings: {type: target_utilization, min_instances: 1, max_instances: 3}\n",
            "nothing to scale",
        ),
    ] {
        workspace.write("blue.yml", document("blue", GOLDEN, more));
        let refused = workspace.moorline(&["online-deployment", "create", "-f", "blue.yml"]);
        assert_ne!(refused.code, Some(0), "{more}");
        assert!(refused.stderr.contains(words), "{more}: `{words}` is not in {}", refused.stderr);
    }
    workspace.json(&["edge", "device", "create", "-n", "a"]);
    let token = workspace.json(&["edge", "device", "enrol-token", "-n", "a"]);
    assert!(token["token"].as_str().is_some_and(|token| token.len() > 40), "{token}");
    assert!(!workspace.server_log().contains(token["token"].as_str().unwrap()));
    let without = Workspace::up();
    without.write("compute.yml", "name: all\ntype: edge\ncondition: 'true'\n");
    without.json(&["compute", "create", "-f", "compute.yml"]);
    without.write("endpoint.yml", "name: iris\ncompute: azureml:all\n");
    without.json(&["online-endpoint", "create", "-f", "endpoint.yml"]);
    without.write("model.onnx", onnx::linear_model());
    without.write("blue.yml", document("blue", GOLDEN, ""));
    let refused = without.moorline(&["online-deployment", "create", "-f", "blue.yml"]);
    assert!(refused.code != Some(0) && refused.stderr.contains("--hub-https"), "{}", refused.stderr);
}

#[test]
fn a_manifest_of_azures_is_a_devices_own_beside_its_deployments() {
    let workspace = up("127.0.82.4");
    workspace.write("model.onnx", onnx::linear_model());
    let mut device = Device::enrol(&workspace, "gate-1", &[]);
    device.run();
    workspace.write("blue.yml", document("blue", GOLDEN, ""));
    fleet(&workspace, "all", "condition: 'true'\n");
    workspace.write("endpoint.yml", "name: iris\ncompute: azureml:all\n");
    workspace.json(&["online-endpoint", "create", "-f", "endpoint.yml"]);
    workspace.json(&["online-deployment", "create", "-f", "blue.yml"]);
    let manifest = workspace
        .moorline(&[
            "edge",
            "manifest",
            "-f",
            "blue.yml",
            "--image",
            "registry.example/cam:1",
            "--module",
            "cam",
        ])
        .ok();
    let mut manifest = manifest.json();
    manifest["modulesContent"]["cam"] = json!({ "properties.desired": { "fps": 5 } });
    workspace.write("manifest.json", manifest.to_string());
    let said = workspace.moorline(&["edge", "manifest", "--apply", "manifest.json", "-d", "gate-1"]).ok();
    assert!(said.stderr.contains("1 module(s)") && said.stderr.contains("are not run"), "{}", said.stderr);
    let shown = || workspace.json(&["edge", "device", "show", "-n", "gate-1"])["agent"].clone();
    // This device has no Engine, and says so; what the deployment put there goes on.
    let cam = || shown()["modules"]["cam"].clone();
    assert!(
        eventually(PATIENCE, || cam()["description"].as_str().is_some_and(|why| why.contains("--engine"))),
        "{}",
        cam()
    );
    assert_eq!(device.module(&workspace)["status"], "running");
    let twin = workspace.json(&["edge", "twin", "show", "-d", "gate-1", "-m", "$edgeAgent"]);
    assert_eq!(twin["properties"]["desired"]["modules"]["cam"]["type"], "docker", "{twin}");
    // A name that a deployment has, and a manifest that says what no device does.
    let taken = manifest.to_string().replace("\"cam\":", "\"iris\":");
    workspace.write("taken.json", taken);
    let refused = workspace.moorline(&["edge", "manifest", "--apply", "taken.json", "-d", "gate-1"]);
    assert!(refused.code != Some(0) && refused.stderr.contains("is a deployment's"), "{}", refused.stderr);
    workspace.moorline(&["edge", "manifest", "--remove", "-d", "gate-1"]).ok();
    assert!(eventually(PATIENCE, || cam().is_null()), "{}", cam());
    assert_eq!(device.module(&workspace)["status"], "running");
    let log = workspace.moorline(&["edge", "device", "logs", "-n", "gate-1", "-m", "iris"]).ok();
    assert!(!log.stdout.is_empty());
    let nobody = workspace.moorline(&["edge", "device", "logs", "-n", "gate-1", "-m", "nobody"]);
    assert_ne!(nobody.code, Some(0));
}

const VERSIONS: &str = "import os, six\n\n\ndef init():\n    pass\n\n\ndef run(data):\n    \
                        return [six.__version__, len(os.environ['PASSWORD'])]\n";

#[test]
fn a_script_runs_on_a_device_with_its_environment_and_its_secret() {
    let (Some(base), Some(registry), Some(host)) = (base_image(), Registry::start(), engine()) else {
        return;
    };
    registry.take(&base, "python:1");
    let workspace = up("127.0.82.5");
    let secret = |value: &str| {
        workspace.write("password.txt", value);
        workspace.moorline(&["secret", "set", "password", "--value-file", "password.txt"]).ok();
    };
    secret("correct horse battery staple");
    workspace.write("code/score.py", VERSIONS);
    workspace.write(
        "blue.yml",
        format!(
            "name: blue\nendpoint_name: iris\ncode_configuration: {{code: code, scoring_script: score.py}}\n\
             environment:\n  image: {}/python:1\n  conda_file:\n    \
             dependencies: [python=3.11, pip: [six==1.16.0]]\n\
             environment_variables: {{PASSWORD: 'secret:password'}}\n",
            registry.host
        ),
    );
    fleet(&workspace, "all", "condition: 'true'\n");
    workspace.write("endpoint.yml", "name: iris\ncompute: azureml:all\n");
    workspace.json(&["online-endpoint", "create", "-f", "endpoint.yml"]);

    // A device without an Engine says so, and one that has one runs it.
    let mut device = Device::enrol(&workspace, "gate-1", &[]);
    device.run();
    let refused = workspace.moorline(&["online-deployment", "create", "-f", "blue.yml"]);
    assert!(refused.code == Some(1) && refused.stderr.contains("--engine"), "{}", refused.stderr);
    workspace.moorline(&["online-deployment", "delete", "-n", "blue", "-e", "iris", "-y"]).ok();
    assert!(eventually(PATIENCE, || device.module(&workspace).is_null()));
    device.kill();
    let answers = |device: &Device, expected: Value| {
        eventually(2 * PATIENCE, || device.score(&workspace).as_ref() == Some(&expected))
    };
    let socket = host.strip_prefix("unix://").expect("the Engine of the tests has a socket");
    device.arguments = vec!["--engine".to_owned(), socket.to_owned()];
    device.run();
    workspace.moorline(&["online-deployment", "create", "-f", "blue.yml"]).ok();
    assert!(answers(&device, json!(["1.16.0", 28])), "{}", device.module(&workspace));

    // Another value of the secret reaches the device by itself, and no value is told to anybody else.
    secret("a shorter staple");
    assert!(answers(&device, json!(["1.16.0", 16])), "{}", device.module(&workspace));
    let twin = workspace.json(&["edge", "twin", "show", "-d", "gate-1", "-m", "$edgeAgent"]).to_string();
    let path = device.folder.join("log");
    let log = || fs_err::read_to_string(&path).expect("the agent has a log");
    for text in [twin, workspace.server_log(), log()] {
        assert!(!text.contains("staple"), "the secret is in {text}");
    }
    let kept = device.folder.join("state/secrets");
    let modes: Vec<u32> = fs_err::read_dir(&kept)
        .expect("secrets are kept")
        .map(|entry| entry.and_then(|entry| entry.metadata()).expect("a file").permissions().mode() & 0o777)
        .collect();
    assert_eq!(modes.iter().max(), Some(&0o600));

    // Another script costs its own layer: those of base, scorer and environment are at the Engine.
    workspace.write("code/score.py", VERSIONS.replace("len(os.environ['PASSWORD'])", "2"));
    workspace.moorline(&["online-deployment", "update", "-f", "blue.yml"]).ok();
    assert!(answers(&device, json!(["1.16.0", 2])), "{}", device.module(&workspace));
    let loaded: Vec<String> =
        log().lines().filter(|line| line.contains("loaded an image")).map(str::to_owned).collect();
    assert!(loaded.len() == 2 && !loaded[1].contains("had=0"), "{loaded:?}");

    // One that does not start leaves what runs, and its reason is told.
    workspace.write(
        "code/score.py",
        "def init():\n    raise RuntimeError('the oracle is out')\n\n\ndef run(data):\n    pass\n",
    );
    let broken = workspace.moorline(&["online-deployment", "update", "-f", "blue.yml"]);
    assert!(broken.code == Some(1) && broken.stderr.contains("the oracle is out"), "{}", broken.stderr);
    assert!(answers(&device, json!(["1.16.0", 2])), "{}", device.module(&workspace));

    // Killed, it comes back by itself with what worked, and leaves no second container.
    let containers = || {
        let named = docker(&host, &["ps", "--all", "--format", "{{.Names}}"]);
        named.lines().filter(|name| name.starts_with("iris-")).count()
    };
    device.kill();
    device.run();
    assert!(answers(&device, json!(["1.16.0", 2])), "{}", device.module(&workspace));
    assert!(eventually(PATIENCE, || containers() == 1), "{} containers", containers());
    workspace.moorline(&["online-deployment", "delete", "-n", "blue", "-e", "iris", "-y"]).ok();
    assert!(eventually(PATIENCE, || containers() == 0), "{} containers", containers());
    let images = || docker(&host, &["images", "--quiet", "moorline.invalid/module"]);
    assert!(eventually(PATIENCE, || images().is_empty()), "{}", images());
    assert!(eventually(PATIENCE, || fs_err::read_dir(&kept).expect("a folder").next().is_none()));
}
