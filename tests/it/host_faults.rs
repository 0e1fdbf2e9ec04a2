//! Container hosts that break: an Engine that is killed in the middle of a deployment, one that is started anew below
//! what runs, and one without room.

use std::{path::Path, process::Stdio, time::Duration};

use moorline_tests::{
    Hosted, Workspace,
    containers::{docker, tool},
    dockerd::Dockerd,
    documents::{endpoint, onnx_deployment},
    eventually, onnx,
};

/// Longer than an Engine, and a deployment on it, takes to come back.
const PATIENCE: Duration = Duration::from_mins(1);

/// A workspace on an Engine, with a model and the documents of a deployment `blue`.
fn prepared(engine: &Dockerd, name: &str) -> Hosted {
    let hosted = Hosted::on(Workspace::down(), "", engine.host());
    hosted.workspace.write("model.onnx", onnx::linear_model());
    hosted.workspace.write("blue.yml", onnx_deployment("blue", name, "model.onnx"));
    hosted.workspace.write("endpoint.yml", endpoint(name));
    hosted.workspace.moorline(&["online-endpoint", "create", "-f", "endpoint.yml"]).ok();
    hosted
}

#[test]
fn a_deployment_goes_on_when_its_engine_is_killed_and_comes_back() {
    let Some(mut engine) = Dockerd::start() else { return };
    let hosted = prepared(&engine, "sunk");
    let create = ["online-deployment", "create", "-f", "blue.yml", "--compute", "docker", "--all-traffic"];
    let mut command = hosted.workspace.command(&create);
    let waiting = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = || !docker(&hosted.host, &["ps", "--all", "--quiet"]).is_empty();
    assert!(eventually(PATIENCE, begun), "no container is made");
    engine.kill();
    engine.start_again();
    let said = waiting.wait_with_output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let key = hosted.workspace.key("sunk");
    assert_eq!(hosted.score("sunk", &key).0, 200);
    assert!(eventually(PATIENCE, || docker(&hosted.host, &["ps", "--all", "--quiet"]).lines().count() == 1));
}

#[test]
fn what_ran_runs_again_when_its_engine_was_started_anew() {
    let Some(mut engine) = Dockerd::start() else { return };
    let hosted = prepared(&engine, "refloated");
    hosted.create(&["-f", "blue.yml", "--all-traffic"]).ok();
    let key = hosted.workspace.key("refloated");
    assert_eq!(hosted.score("refloated", &key).0, 200);
    let before = hosted.containers("refloated");
    engine.stop();
    engine.start_again();
    // The Engine may find the old one once more before it ends it.
    let again = || {
        let now = hosted.containers("refloated");
        now.len() == 1 && now != before && hosted.score("refloated", &key).0 == 200
    };
    assert!(eventually(PATIENCE, again), "the server's log:\n{}", hosted.workspace.server_log());
}

#[test]
fn an_engine_without_room_is_the_reason_and_nothing_is_left_of_it() {
    let in_memory = |size: &str, place: &Path| {
        let size = format!("size={size}");
        let place = place.display().to_string();
        tool("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", &place]);
    };
    let mut data = None;
    let small = |place: &Path| {
        in_memory("24m", place);
        data = Some(place.to_owned());
    };
    let Some(engine) = Dockerd::start_with(&[], small) else { return };
    let hosted = prepared(&engine, "stranded");
    let refused = hosted.create(&["-f", "blue.yml", "--all-traffic"]);
    assert_eq!(refused.code, Some(1), "{}", refused.stdout);
    let reason: Vec<&str> = refused.stderr.lines().filter(|line| line.contains("no space left")).collect();
    assert!(!reason.is_empty() && reason[0].contains("make room on the Engine's disk"), "{}", refused.stderr);
    assert_eq!(docker(&hosted.host, &["ps", "--all", "--quiet"]), "", "a container is left");

    let data = data.expect("the Engine has a folder").display().to_string();
    tool("mount", &["-o", "remount,size=512m", &data]);
    hosted.workspace.moorline(&["online-deployment", "delete", "-n", "blue", "-e", "stranded", "-y"]).ok();
    hosted.create(&["-f", "blue.yml", "--all-traffic"]).ok();
    let key = hosted.workspace.key("stranded");
    assert_eq!(hosted.score("stranded", &key).0, 200);
}
