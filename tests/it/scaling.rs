//! Replicas by load: more while requests wait, none while nobody asks, and one again for the next request.

use std::{thread, time::Duration};

use moorline_tests::{
    Workspace, call,
    documents::{onnx_deployment, script_deployment},
    eventually, onnx,
};

const SLOW: &str =
    "import time\n\n\ndef init():\n    pass\n\n\ndef run(data):\n    time.sleep(0.3)\n    return 'done'\n";

fn scale(min: u32, max: u32) -> String {
    format!(
        "scale_settings:\n  type: target_utilization\n  min_instances: {min}\n  max_instances: {max}\n  \
         target_utilization_percentage: 70\n  polling_interval: 1\nproperties:\n  moorline.scale_down_delay: \"1\"\n"
    )
}

#[test]
fn from_zero_and_back() {
    let workspace = Workspace::up();
    workspace.write("model.onnx", onnx::linear_model());
    let key = workspace.deploy("sleepy", &(onnx_deployment("blue", "sleepy", "model.onnx") + &scale(0, 1)));
    for _ in 0..2 {
        let gone = eventually(Duration::from_secs(30), || workspace.scorers().is_empty());
        assert!(gone, "a replica is left:\n{}", workspace.server_log());
        let reply = workspace.call(&Workspace::scoring("sleepy", &key, r#"{"data": [[1, 2, 3, 4]]}"#));
        assert_eq!(reply.status, 200, "{}\n{}", reply.text(), workspace.server_log());
        assert_eq!(workspace.scorers().len(), 1);
    }
}

#[test]
fn more_replicas_while_requests_wait_and_fewer_after() {
    let workspace = Workspace::up();
    workspace.write("code/score.py", SLOW);
    let key = workspace.deploy("busy", &(script_deployment("blue", "busy", "code") + &scale(1, 3)));
    let address = workspace.address();
    assert_eq!(workspace.scorers().len(), 1);
    let clients: Vec<_> = (0..6)
        .map(|_| {
            let key = key.clone();
            thread::spawn(move || {
                let scoring = Workspace::scoring("busy", &key, "{}");
                (0..25).map(|_| call(address, &scoring).status).collect::<Vec<_>>()
            })
        })
        .collect();
    assert!(
        eventually(Duration::from_secs(20), || workspace.scorers().len() == 3),
        "{}",
        workspace.server_log()
    );
    for client in clients {
        assert!(client.join().unwrap().iter().all(|status| *status == 200));
    }
    assert!(
        eventually(Duration::from_secs(30), || workspace.scorers().len() == 1),
        "{}",
        workspace.server_log()
    );
}
