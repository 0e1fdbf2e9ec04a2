//! Clusters that refuse, that are not there, and that go away in the middle of a rollout: one line says why, nothing is
//! half-applied, and what can heal heals.

use std::{
    io,
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use moorline_tests::{Clustered, GivenCluster, Workspace, documents::onnx_deployment, eventually, onnx};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_mins(2);

/// The kubeconfig of the tests, as JSON, which is YAML.
fn kubeconfig(cluster: &GivenCluster) -> Value {
    let text = cluster.kubectl(&["config", "view", "--raw", "--flatten", "--minify", "-o", "json"]);
    serde_json::from_str(&text).expect("kubectl prints JSON")
}

/// A server with a compute `cluster` that is described by these lines.
fn server_with(lines: &str) -> Workspace {
    let workspace = Workspace::up();
    workspace.write("model.onnx", onnx::linear_model());
    workspace.write("blue.yml", onnx_deployment("blue", "faulty", "model.onnx"));
    workspace.write("cluster.yml", format!("name: cluster\ntype: kubernetes\n{lines}"));
    workspace.moorline(&["compute", "create", "-f", "cluster.yml"]).ok();
    workspace.moorline(&["online-endpoint", "create", "-n", "faulty"]).ok();
    workspace
}

fn create(workspace: &Workspace) -> moorline_tests::Said {
    workspace.moorline(&["online-deployment", "create", "-f", "blue.yml", "--compute", "cluster"])
}

/// What the command said was wrong, which is one line.
fn reason(workspace: &Workspace) -> String {
    let said = create(workspace);
    assert_ne!(said.code, Some(0), "{said:?}");
    let errors: Vec<&str> = said.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{}", said.stderr);
    errors[0].to_owned()
}

#[test]
fn a_cluster_that_cannot_be_used_is_one_line() {
    let Some(given) = GivenCluster::find() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, config: &Value| {
        let path = folder.path().join(name);
        fs_err::write(&path, config.to_string()).unwrap();
        path.display().to_string()
    };
    let real = kubeconfig(&given);
    let mut dead = real.clone();
    dead["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1".into();
    let mut expired = real.clone();
    expired["users"][0]["user"] = json!({ "token": "long ago" });
    let missing = folder.path().join("missing.yml").display().to_string();
    let cases = [
        (format!("kubeconfig: {missing}\n"), "missing.yml"),
        (format!("kubeconfig: {}\ncontext: elsewhere\n", file("real.yml", &real)), "no context `elsewhere`"),
        (format!("kubeconfig: {}\n", file("dead.yml", &dead)), "127.0.0.1:1"),
        (format!("kubeconfig: {}\n", file("expired.yml", &expired)), "renew them"),
    ];
    for (lines, expected) in cases {
        let workspace = server_with(&lines);
        let said = reason(&workspace);
        assert!(said.contains(expected), "{expected} is not in: {said}");
    }

    let workspace = server_with(&format!(
        "kubeconfig: {}\nnamespace: nobodys\nregistry: {}/nobodys\n",
        file("real.yml", &real),
        given.registry
    ));
    let said = reason(&workspace);
    assert!(said.contains("nobodys") && said.contains("kubectl create namespace"), "{said}");
    let workspace = server_with(&format!("kubeconfig: {}\n", file("real.yml", &real)));
    let said = reason(&workspace);
    assert!(said.contains("has no `registry`"), "{said}");
}

#[test]
fn the_printed_role_is_enough_and_what_is_missing_is_named() {
    let Some(given) = GivenCluster::find() else { return };
    let namespace = given.namespace();
    let printer = Workspace::down();
    let role = printer.moorline(&["kubernetes", "rbac", "--namespace", &namespace.name]).ok().stdout;
    given.kubectl_with(&["apply", "-f", "-"], &role).ok();
    let path = format!("/api/v1/namespaces/{}/serviceaccounts/moorline/token", namespace.name);
    let asked =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": []}});
    let token = given.kubectl_with(&["create", "--raw", &path, "-f", "-"], &asked.to_string()).ok().json();
    let token = token["status"]["token"].as_str().expect("a token");
    let mut config = kubeconfig(&given);
    config["users"][0]["user"] = json!({ "token": token });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("account.yml");
    fs_err::write(&file, config.to_string()).unwrap();
    let lines = format!(
        "kubeconfig: {}\nnamespace: {}\nregistry: {}/{}\nreach: forward\n",
        file.display(),
        namespace.name,
        given.registry,
        namespace.name
    );
    let workspace = server_with(&lines);
    create(&workspace).ok();
    workspace.moorline(&["online-endpoint", "update", "-n", "faulty", "--traffic", "blue=100"]).ok();
    let key = workspace.key("faulty");
    let reply = workspace.call(&Workspace::scoring("faulty", &key, moorline_tests::BODY));
    assert_eq!(reply.status, 200, "{}", reply.text());
    let logs = workspace.moorline(&["online-deployment", "get-logs", "-n", "blue", "-e", "faulty"]).ok();
    assert!(logs.stdout.contains("ready"), "{}", logs.stdout);
    workspace.moorline(&["online-endpoint", "delete", "-n", "faulty", "-y"]).ok();
    assert!(eventually(PATIENCE, || namespace
        .items("deployments,services,networkpolicies,serviceaccounts,pods")
        .is_empty()));

    // Without one of its verbs.
    let mut less: Value =
        serde_json::from_str(&namespace.kubectl(&["get", "role", "moorline", "-o", "json"])).unwrap();
    for rule in less["rules"].as_array_mut().unwrap() {
        if rule["resources"][0] == "networkpolicies" {
            rule["verbs"] = json!(["get", "list", "watch"]);
        }
    }
    given.kubectl_with(&["replace", "-f", "-"], &less.to_string()).ok();
    workspace.moorline(&["online-endpoint", "create", "-n", "faulty"]).ok();
    let said = reason(&workspace);
    assert!(said.contains("cannot patch resource \"networkpolicies\""), "{said}");
    assert!(said.contains("moorline kubernetes rbac"), "{said}");
    assert!(
        namespace.items("deployments,services,networkpolicies,serviceaccounts").is_empty(),
        "something is left of it"
    );
}

#[test]
fn a_quota_is_waited_for() {
    let Some(clustered) = Clustered::up("") else { return };
    let namespace = &clustered.namespace;
    namespace.kubectl(&["create", "quota", "few", "--hard=count/services=0"]);
    // It holds once it was counted.
    let counted = || !namespace.kubectl(&["get", "quota", "few", "-o", "jsonpath={.status.used}"]).is_empty();
    assert!(eventually(PATIENCE, counted));
    let workspace = &clustered.workspace;
    workspace.write("model.onnx", onnx::linear_model());
    workspace.write("blue.yml", onnx_deployment("blue", "patient", "model.onnx"));
    workspace.moorline(&["online-endpoint", "create", "-n", "patient"]).ok();
    let show = || workspace.moorline(&["online-deployment", "show", "-n", "blue", "-e", "patient"]).stdout;
    let create = thread::scope(|scope| {
        let create = scope.spawn(|| clustered.create(&["-f", "blue.yml", "--all-traffic"]));
        let refused = || workspace.server_log().contains("exceeded quota");
        let was_refused = eventually(PATIENCE, refused);
        // Between two tries nothing of it is there.
        let none = || namespace.items("deployments,networkpolicies,serviceaccounts").is_empty();
        let half = !eventually(PATIENCE, none);
        namespace.kubectl(&["delete", "quota", "few"]);
        let create = create.join().unwrap();
        assert!(was_refused, "{}", workspace.server_log());
        assert!(!half, "it is half there");
        create
    });
    let create = create.ok();
    assert!(create.stderr.contains("exceeded quota"), "{}", create.stderr);
    assert!(show().contains("Succeeded"), "{}", show());
}

/// A way to the API server that can be cut.
#[derive(Debug)]
struct Way {
    port: u16,
    open: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Way {
    fn to(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let way = Self { port, open: Arc::new(AtomicBool::new(true)), streams: Arc::default() };
        let (open, streams) = (Arc::clone(&way.open), Arc::clone(&way.streams));
        thread::spawn(move || {
            for from in listener.incoming().flatten() {
                if !open.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(to) = TcpStream::connect(&server) else { continue };
                let mut known = streams.lock().unwrap();
                for (one, other) in [(&from, &to), (&to, &from)] {
                    let (mut one, mut other) = (one.try_clone().unwrap(), other.try_clone().unwrap());
                    known.push(one.try_clone().unwrap());
                    thread::spawn(move || {
                        // A connection that breaks is what this is for.
                        let _ = io::copy(&mut one, &mut other);
                        let _ = other.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        way
    }

    fn cut(&self) {
        self.open.store(false, Ordering::SeqCst);
        for stream in self.streams.lock().unwrap().drain(..) {
            // One that has ended by itself is cut already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn mend(&self) {
        self.open.store(true, Ordering::SeqCst);
    }
}

#[test]
fn an_api_server_that_goes_away_in_a_rollout_costs_no_request() {
    let Some(given) = GivenCluster::find() else { return };
    let mut config = kubeconfig(&given);
    let server = config["clusters"][0]["cluster"]["server"].as_str().unwrap().to_owned();
    let address = server.trim_start_matches("https://").to_owned();
    let way = Way::to(address.clone());
    config["clusters"][0]["cluster"]["server"] = format!("https://127.0.0.1:{}", way.port).into();
    config["clusters"][0]["cluster"]["tls-server-name"] = address.split(':').next().unwrap().into();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("way.yml");
    fs_err::write(&file, config.to_string()).unwrap();
    let mut namespace = given.namespace();
    namespace.cluster.kubeconfig = file;
    let clustered = Clustered::on(Workspace::down(), namespace, "");
    let workspace = &clustered.workspace;
    workspace.write("model.onnx", onnx::linear_model());
    let key = clustered.deploy("cut", &onnx_deployment("blue", "cut", "model.onnx"));
    let before = clustered.namespace.pods();

    let stop = AtomicBool::new(false);
    let failed = thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut failed = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let (status, text) = clustered.score("cut", &key);
                if status != 200 {
                    failed.push((status, text));
                }
            }
            failed
        });
        let update = scope.spawn(|| clustered.update("cut", &["--set", "environment_variables.WORD=two"]));
        let began =
            eventually(PATIENCE, || clustered.namespace.pods().iter().any(|pod| !before.contains(pod)));
        way.cut();
        let noticed = eventually(PATIENCE, || {
            let log = workspace.server_log();
            log.contains("a watch broke") || log.contains("tried again")
        });
        way.mend();
        let update = update.join().unwrap();
        stop.store(true, Ordering::Relaxed);
        let failed = client.join().unwrap();
        assert!(began && noticed, "{}", workspace.server_log());
        update.ok();
        failed
    });
    assert!(failed.is_empty(), "these failed: {failed:?}");
    let after = || clustered.namespace.pods();
    assert!(eventually(PATIENCE, || after().len() == 1 && after() != before), "{:?}", after());
}
