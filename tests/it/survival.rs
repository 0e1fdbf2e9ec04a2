//! What is left when the server dies: everything that was acknowledged, and the replicas, which are adopted and never
//! started twice.

use std::{collections::BTreeSet, thread, time::Duration};

use moorline_tests::{
    Workspace,
    documents::{endpoint, onnx_deployment, script_deployment},
    eventually, onnx,
};

const SLOW_START: &str =
    "import time\n\n\ndef init():\n    time.sleep(0.4)\n\n\ndef run(data):\n    return 'here'\n";

#[test]
fn replicas_outlive_the_server_and_are_adopted() {
    let mut workspace = Workspace::up();
    workspace.write("model.onnx", onnx::linear_model());
    let document =
        onnx_deployment("blue", "steady", "model.onnx").replace("instance_count: 1", "instance_count: 2");
    let key = workspace.deploy("steady", &document);
    let before: BTreeSet<u32> = workspace.scorers().into_iter().collect();
    assert_eq!(before.len(), 2);
    workspace.kill();
    workspace.start();
    let scoring = Workspace::scoring("steady", &key, r#"{"data": [[1, 2, 3, 4]]}"#);
    assert!(eventually(Duration::from_secs(10), || workspace.call(&scoring).status == 200));
    assert_eq!(workspace.scorers().into_iter().collect::<BTreeSet<_>>(), before);

    // So they do when it ends in order, as for a new version of it.
    assert_eq!(workspace.stop(), Some(0));
    assert_eq!(workspace.scorers().into_iter().collect::<BTreeSet<_>>(), before);
    workspace.start();
    assert!(eventually(Duration::from_secs(10), || workspace.call(&scoring).status == 200));
    assert_eq!(workspace.scorers().into_iter().collect::<BTreeSet<_>>(), before);

    // An end of everything leaves nothing behind, and the next start brings everything back.
    workspace.moorline(&["down", "--everything"]).ok();
    assert_eq!(workspace.ended(), Some(0));
    assert!(workspace.scorers().is_empty());
    workspace.start();
    assert!(eventually(Duration::from_secs(20), || workspace.call(&scoring).status == 200));
    assert!(eventually(Duration::from_secs(10), || workspace.scorers().len() == 2));
}

#[test]
fn a_server_killed_within_any_step_goes_on_where_it_was() {
    let mut workspace = Workspace::up();
    workspace.write("code/score.py", SLOW_START);
    workspace.write("endpoint.yml", endpoint("stubborn"));
    workspace.write("blue.yml", script_deployment("blue", "stubborn", "code"));
    workspace.moorline(&["online-endpoint", "create", "-f", "endpoint.yml"]).ok();
    workspace.moorline(&["online-deployment", "create", "-f", "blue.yml", "--no-wait", "--all-traffic"]).ok();
    for (round, millis) in [1, 40, 120, 250, 500, 900].into_iter().enumerate() {
        // The moment is what the test varies; nothing waits for it to be long enough.
        thread::sleep(Duration::from_millis(millis));
        workspace.kill();
        workspace.start();
        let set = format!("environment_variables.ROUND={round}");
        workspace
            .moorline(&[
                "online-deployment",
                "update",
                "-n",
                "blue",
                "-e",
                "stubborn",
                "--set",
                &set,
                "--no-wait",
            ])
            .ok();
    }
    let state = || {
        let shown = workspace.json(&["online-deployment", "show", "-n", "blue", "-e", "stubborn"]);
        shown["provisioning_state"].as_str().unwrap_or_default().to_owned()
    };
    assert!(eventually(Duration::from_mins(1), || state() == "Succeeded"), "{}", workspace.server_log());
    let key = workspace.key("stubborn");
    let reply = workspace.call(&Workspace::scoring("stubborn", &key, "{}"));
    assert_eq!((reply.status, reply.value()), (200, "here".into()), "{}", workspace.server_log());
    assert!(
        eventually(Duration::from_secs(20), || workspace.scorers().len() == 1),
        "{:?}",
        workspace.scorers()
    );
    workspace.moorline(&["online-endpoint", "delete", "-n", "stubborn", "-y"]).ok();
    assert!(eventually(Duration::from_secs(10), || workspace.scorers().is_empty()));
}

#[test]
fn a_replica_that_dies_is_started_again() {
    let workspace = Workspace::up();
    workspace.write("model.onnx", onnx::linear_model());
    let key = workspace.deploy("phoenix", &onnx_deployment("blue", "phoenix", "model.onnx"));
    let first = workspace.scorers();
    let pid = rustix::process::Pid::from_raw(i32::try_from(first[0]).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let scoring = Workspace::scoring("phoenix", &key, r#"{"data": [[1, 2, 3, 4]]}"#);
    assert!(eventually(Duration::from_secs(20), || workspace.call(&scoring).status == 200));
    assert_ne!(workspace.scorers(), first);
}

#[test]
fn a_second_server_on_the_same_home_is_refused() {
    let workspace = Workspace::up();
    let second = workspace.moorline(&["up", "--listen", "127.0.0.1:0"]);
    assert_eq!(second.code, Some(1));
    assert!(second.stderr.contains(&workspace.server_pid().to_string()), "{}", second.stderr);
}

#[test]
fn a_port_that_is_taken_and_an_open_address_are_refused() {
    let workspace = Workspace::down();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let refused = workspace.moorline(&["up", "--listen", &address.to_string()]);
    assert_eq!(refused.code, Some(1));
    let port = format!("port {}", address.port());
    assert!(refused.stderr.contains(&port) && refused.stderr.contains("in use"), "{}", refused.stderr);
    let open = workspace.moorline(&["up", "--listen", "0.0.0.0:0"]);
    assert_eq!(open.code, Some(1));
    assert!(open.stderr.contains("moorline token create"), "{}", open.stderr);
}
