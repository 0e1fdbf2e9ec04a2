//! Modules as containers, with a real Engine: kept running, found again, given up, and one with Azure's unmodified client.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use moorline_edge::{
    containers::{Allowed, ContainerView, Containers, ContainersConfig, Spec},
    desired::{Desired, DesiredRoute},
    manifest::{ImagePullPolicy, Module, RestartPolicy, Status},
    modules::RuntimeStatus,
};
use serde_json::{Value, json};

use crate::{
    agent::Server,
    place::{PATIENCE, id, python, skip, soon},
};

/// What `cargo xtask test` makes, as it is named in there.
const BASE: &str = "moorline-test-python:1";

/// An Engine of the tests, with an image of Python.
struct Engine {
    host: String,
}

impl Engine {
    fn find() -> Option<Self> {
        let host = env::var_os("MOORLINE_TEST_DOCKER").and_then(|host| host.into_string().ok());
        let Some(host) = host else {
            skip("no Docker Engine; `cargo xtask test` starts one where docker.io can be installed");
            return None;
        };
        let Some(image) = env::var_os("MOORLINE_TEST_BASE_IMAGE") else {
            skip("no base image; `cargo xtask test` makes one where mmdebstrap can be installed");
            return None;
        };
        let engine = Self { host };
        engine.docker(&["load", "--quiet", "--input", &image.to_string_lossy()]);
        Some(engine)
    }

    fn docker(&self, arguments: &[&str]) -> String {
        let done = Command::new("docker").args(["--host", &self.host]).args(arguments).output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).trim().to_owned()
    }

    fn socket(&self) -> PathBuf {
        self.host.strip_prefix("unix://").unwrap().into()
    }

    /// Ids of the containers of a module, whatever they do.
    fn ids(&self, config: &ContainersConfig, module: &str) -> Vec<String> {
        let owner = format!("label=io.moorline.edge.owner={}", config.owner);
        let module = format!("label=io.moorline.edge.module={module}");
        let listed =
            self.docker(&["ps", "--all", "--quiet", "--no-trunc", "--filter", &owner, "--filter", &module]);
        listed.lines().map(str::to_owned).collect()
    }
}

fn spec(name: &str, image: &str, options: Value) -> Spec {
    Spec {
        name: name.to_owned(),
        module: Module {
            image: image.to_owned(),
            create_options: options.as_object().unwrap().clone(),
            restart_policy: RestartPolicy::Always,
            image_pull_policy: ImagePullPolicy::Never,
            ..Module::default()
        },
        credentials: None,
        environment: BTreeMap::new(),
        sockets: None,
        hub_name: None,
    }
}

fn script(text: &str) -> Value {
    json!({ "Cmd": ["/usr/bin/python3", "-u", "-c", text], "StopSignal": "SIGKILL" })
}

async fn seen(
    containers: &Containers,
    what: &str,
    expected: impl Fn(&ContainerView) -> bool,
) -> ContainerView {
    let mut often = tokio::time::interval(Duration::from_millis(50));
    let begun = std::time::Instant::now();
    loop {
        let view = containers.views().remove("m").unwrap_or_default();
        if expected(&view) {
            return view;
        }
        assert!(begun.elapsed() < 2 * PATIENCE, "{what}: {view:#?}");
        often.tick().await;
    }
}

const SLEEPS: &str = "import time; print('it runs'); time.sleep(600)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_run_are_found_again_and_give_way() {
    let Some(engine) = Engine::find() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut config = ContainersConfig::new(engine.socket(), Allowed::default(), folder.path());
    (config.proof, config.poll) = (Duration::from_secs(3), Duration::from_millis(100));
    let containers = Containers::new(config.clone());
    let good = spec("m", BASE, script(SLEEPS));
    containers.set(good.clone());
    let view = seen(&containers, "it runs", |view| view.status == RuntimeStatus::Running).await;
    let first = view.id.clone().unwrap();
    assert!(view.image_hash.as_deref().unwrap().starts_with("sha256:"));
    let mut often = tokio::time::interval(Duration::from_millis(50));
    soon(async {
        while !containers.log("m").await.is_some_and(|log| log.contains("it runs")) {
            often.tick().await;
        }
    })
    .await;
    assert!(containers.usage("m").await.unwrap().memory_bytes > 1e5);
    containers.restart("m").await.unwrap();
    let view = seen(&containers, "restarted", |view| view.restarts == 1).await;
    assert_eq!(view.id.as_deref(), Some(first.as_str()));

    // The agent goes and comes: the same container, which did not stop.
    containers.leave().await;
    let started = |id: &str| engine.docker(&["inspect", "--format", "{{.State.StartedAt}}", id]);
    let since = started(&first);
    let containers = Containers::new(config.clone());
    containers.set(good.clone());
    let view = seen(&containers, "found again", |view| view.status == RuntimeStatus::Running).await;
    assert_eq!((view.id.as_deref(), started(&first)), (Some(first.as_str()), since));

    // It is killed: it comes back.
    engine.docker(&["kill", &first]);
    let view =
        seen(&containers, "comes back", |view| view.restarts == 1 && view.status == RuntimeStatus::Running)
            .await;
    assert_eq!(view.exit_code, Some(137));

    // A new one that never stays gives way to the one before it, and it is told why.
    let bad = spec("m", BASE, script("print('no camera'); raise SystemExit(3)"));
    containers.set(bad.clone());
    let view = seen(&containers, "gives way", |view| {
        view.status == RuntimeStatus::Running && view.description.contains("gave way")
    })
    .await;
    assert_eq!(view.id.as_deref(), Some(first.as_str()));
    assert!(view.description.contains("exited with code 3"), "{}", view.description);
    assert!(view.description.contains("no camera"), "{}", view.description);
    // What cannot be made leaves what runs: options that are refused, an image that is not there.
    for (wish, told) in [
        (spec("m", BASE, json!({"HostConfig": {"Privileged": true}})), "`Privileged` is refused"),
        (spec("m", "not.here/x:1", json!({})), "is not on the device"),
    ] {
        containers.set(wish);
        let view = seen(&containers, told, |view| view.description.contains(told)).await;
        assert_eq!((view.status, view.id.as_deref()), (RuntimeStatus::Running, Some(first.as_str())));
    }

    // Its registry is gone, and it is on the device: it starts. The one before is removed once it has proved itself.
    let gone = "127.0.0.1:9/gone/python:1";
    engine.docker(&["tag", BASE, gone]);
    let mut local = spec("m", gone, script(SLEEPS));
    local.module.image_pull_policy = ImagePullPolicy::OnCreate;
    containers.set(local.clone());
    let view = seen(&containers, "the local image", |view| view.image.as_deref() == Some(gone)).await;
    assert_eq!(view.status, RuntimeStatus::Running);
    let own = view.id.unwrap();
    soon(async {
        while engine.ids(&config, "m") != [own.as_str()] {
            often.tick().await;
        }
    })
    .await;

    local.module.status = Status::Stopped;
    containers.set(local);
    seen(&containers, "stopped", |view| view.status == RuntimeStatus::Stopped).await;
    assert_eq!(engine.docker(&["inspect", "--format", "{{.State.Running}}", &own]), "false");
    // Gone with the desired state; by an agent that only finds it, too.
    containers.leave().await;
    let containers = Containers::new(config.clone());
    containers.retain(&BTreeSet::new()).await.unwrap();
    soon(async {
        while !engine.ids(&config, "m").is_empty() {
            often.tick().await;
        }
    })
    .await;
    assert!(containers.views().is_empty());
    engine.docker(&["rmi", gone]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_is_started_again_as_its_policy_says() {
    let Some(engine) = Engine::find() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut config = ContainersConfig::new(engine.socket(), Allowed::default(), folder.path());
    config.poll = Duration::from_millis(100);
    let containers = Containers::new(config.clone());
    for (policy, code, status) in [
        (RestartPolicy::Never, 3, RuntimeStatus::Failed),
        (RestartPolicy::OnFailure, 0, RuntimeStatus::Stopped),
        (RestartPolicy::OnFailure, 3, RuntimeStatus::Backoff),
        (RestartPolicy::Always, 0, RuntimeStatus::Backoff),
    ] {
        let mut one = spec("m", BASE, script(&format!("raise SystemExit({code})")));
        one.module.restart_policy = policy;
        one.environment = BTreeMap::from([("CASE".to_owned(), format!("{policy:?} {code}"))]);
        containers.set(one);
        let own = format!("{policy:?} {code}");
        let view =
            seen(&containers, &own, |view| view.status == status && view.exit_code == Some(code)).await;
        let again = status == RuntimeStatus::Backoff;
        if again {
            let before = view.restarts;
            seen(&containers, &own, |view| view.restarts > before).await;
        }
    }
    // Nothing that crashes gives way to what crashes as well and for ever: it is reported, and the pauses grow.
    containers.retain(&BTreeSet::new()).await.unwrap();
    let mut often = tokio::time::interval(Duration::from_millis(50));
    soon(async {
        while !engine.ids(&config, "m").is_empty() {
            often.tick().await;
        }
    })
    .await;
}

fn site_packages(python: &Path) -> PathBuf {
    let lib = python.parent().and_then(Path::parent).unwrap().join("lib");
    let versions = fs_err::read_dir(lib).unwrap().map(|entry| entry.unwrap().path().join("site-packages"));
    versions.into_iter().find(|path| path.exists()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_with_azures_client_talks_to_the_devices_hub() {
    let (Some(engine), Some(python)) = (Engine::find(), python()) else { return };
    let Some(server) = Server::start(Duration::from_hours(240)).await else { return };
    assert!(server.enrol("once"));
    let site = site_packages(&python);
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    let options = json!({
        "Cmd": ["/usr/bin/python3", "/clients/azure_client.py", "{\"kind\": \"module_edge\"}"],
        // The client ends with its standard input.
        "OpenStdin": true, "StopSignal": "SIGKILL",
        "HostConfig": { "Binds": [
            format!("{}:/site:ro", site.display()), format!("{}:/clients:ro", clients.display()),
        ]},
    });
    let mut module = spec("cam", BASE, options).module;
    module.environment = BTreeMap::from([("PYTHONPATH".to_owned(), json!("/site"))]);
    let route = DesiredRoute {
        route: "FROM /messages/modules/cam/outputs/out INTO $upstream".to_owned(),
        time_to_live_secs: None,
    };
    let desired = Desired {
        serial: 1,
        containers: BTreeMap::from([("cam".to_owned(), module)]),
        routes: BTreeMap::from([("up".to_owned(), route)]),
        ..Desired::default()
    };
    // Where containers find this machine; their client knows one port alone.
    let subnet = "{{(index .IPAM.Config 0).Subnet}}";
    let subnet = engine.docker(&["network", "inspect", "bridge", "--format", subnet]);
    let bridge = format!("{}.1", subnet.rsplit_once('.').unwrap().0);
    let (listen, socket) = (format!("{bridge}:8883"), engine.socket());
    let (socket, site, clients) =
        (socket.to_string_lossy(), site.to_string_lossy(), clients.to_string_lossy());
    let arguments = [
        "--listen",
        &listen,
        "--host-name",
        "edge.test",
        "--engine",
        &socket,
        "--allow-mount",
        &site,
        "--allow-mount",
        &clients,
    ];
    let config = ContainersConfig::new(engine.socket(), Allowed::default(), &server.folder());
    server.set(&server.signer.document("dev1", &desired)).await;
    let agent = server.run_with(&arguments);
    let reported = server
        .reported("the container", |reported| reported["modules"]["cam"]["runtimeStatus"] == "running")
        .await;
    assert_eq!(reported["modules"]["cam"]["type"], "docker");
    assert_eq!(reported["modules"]["cam"]["settings"]["image"], BASE);
    let mut upstream = server.hub.upstream();
    let mut numbers = BTreeSet::new();
    while numbers.len() < 5 {
        let message = soon(upstream.next()).await.unwrap();
        upstream.done(message.sequence).unwrap();
        if message.sender == id("dev1/cam") {
            numbers.insert(message.properties.own("number").unwrap().to_owned());
        }
    }
    // The agent is killed and comes again: the container ran on.
    let own = engine.ids(&config, "cam");
    assert_eq!(own.len(), 1);
    drop(agent);
    assert_eq!(engine.docker(&["inspect", "--format", "{{.State.Running}}", &own[0]]), "true");
    let agent = server.run_with(&arguments);
    let empty = Desired { serial: 2, ..Desired::default() };
    server.reported("found again", |reported| reported["modules"]["cam"]["runtimeStatus"] == "running").await;
    assert_eq!(engine.ids(&config, "cam"), own);
    server.set(&server.signer.document("dev1", &empty)).await;
    server.reported("no container", |reported| reported["modules"] == json!({})).await;
    let mut often = tokio::time::interval(Duration::from_millis(50));
    soon(async {
        while !engine.ids(&config, "cam").is_empty() {
            often.tick().await;
        }
    })
    .await;
    drop(agent);
    server.hub.clone().shutdown().await;
}
