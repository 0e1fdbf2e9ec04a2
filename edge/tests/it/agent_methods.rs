//! What the agent is asked and what it tells by itself: its direct methods, and what it measures.

use std::{io::Read as _, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use moorline_edge::{
    hub::{MethodAnswer, MethodCall},
    metrics::{DEVICE, Measure, Snapshot},
};
use serde_json::{Value, json};

use crate::{
    agent::{Server, agent_id, runs, score},
    place::{PATIENCE, soon},
};

async fn call(server: &Server, name: &str, payload: Value) -> MethodAnswer {
    let call =
        MethodCall { name: name.to_owned(), payload, timeout: 2 * PATIENCE, connect_timeout: PATIENCE };
    server.hub.call(&agent_id(), call).await.unwrap()
}

fn message(answer: &MethodAnswer) -> String {
    answer.payload["message"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_restarts_modules_tells_their_logs_and_runs_golden_requests() {
    let Some(server) = Server::start(Duration::from_hours(240)).await else { return };
    assert!(server.enrol("once"));
    let version = server.releases.version(1, |_, _| {});
    let mut bare = server.releases.version(2, |_, _| {});
    bare.module.settings.golden = None;
    server.publish(&version);
    server.publish(&bare);
    let agent = server.run();
    server.wish(1, &[("m", &version), ("bare", &bare)]).await;
    let reported = server
        .reported("both modules", |reported| runs(reported, "m", &version) && runs(reported, "bare", &bare))
        .await;

    // Azure's names, in whatever capitals, and its answers.
    assert_eq!(call(&server, "Ping", json!(null)).await.status, 200);
    let unknown = call(&server, "reboot", json!({})).await;
    assert_eq!(unknown.status, 400);
    assert!(message(&unknown).contains("restartModule"), "{unknown:?}");
    let restarted = call(&server, "RestartModule", json!({"schemaVersion": "1.0", "id": "m"})).await;
    assert_eq!((restarted.status, restarted.payload), (200, json!(null)));
    assert_eq!(score(&reported, "m").await, json!([[2.0, 6.0, 10.0]]));
    server.reported("the restart", |reported| reported["modules"]["m"]["restartCount"] == 1).await;
    for (payload, status, told) in [
        (json!(null), 400, "needs a payload"),
        (json!({"id": 3}), 400, "cannot be read"),
        (json!({"schemaVersion": "2.0", "id": "m"}), 400, "schemaVersion"),
        (json!({"schemaVersion": "1.0", "id": "x"}), 500, "no module `x`"),
    ] {
        let answer = call(&server, "restartModule", payload).await;
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(message(&answer).contains(told), "{answer:?}");
    }

    let logs = json!({"schemaVersion": "1.0", "items": [{"id": "m", "filter": {"tail": 1}}, {"id": ".*"}]});
    let answer = call(&server, "GetModuleLogs", logs).await;
    let ids: Vec<&str> =
        answer.payload.as_array().unwrap().iter().map(|log| log["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["m", "bare", "m"]);
    assert_eq!(answer.payload[0]["payload"].as_str().unwrap().lines().count(), 1);
    assert!(answer.payload[2]["payload"].as_str().unwrap().contains("listening"), "{answer:?}");
    let packed = json!({"schemaVersion": "1.0", "items": {"id": "m"}, "encoding": "gzip"});
    let answer = call(&server, "GetModuleLogs", packed).await;
    let bytes = STANDARD.decode(answer.payload[0]["payloadBytes"].as_str().unwrap()).unwrap();
    let mut text = String::new();
    flate2::read::GzDecoder::new(bytes.as_slice()).read_to_string(&mut text).unwrap();
    assert!(text.contains("listening"));
    for wrong in [
        json!({"items": [{"id": "x"}]}),
        json!({"items": [{"id": "m", "filter": {"regex": "a"}}]}),
        json!({"items": [{"id": "m"}], "contentType": "json"}),
        json!({}),
    ] {
        assert_eq!(call(&server, "GetModuleLogs", wrong.clone()).await.status, 400, "{wrong}");
    }

    let golden = call(&server, "runGolden", json!({"id": "m"})).await;
    assert_eq!(golden.status, 200);
    assert_eq!(golden.payload["met"], true);
    assert_eq!(golden.payload["release"], json!(version.module.settings.release));
    assert!(golden.payload["milliseconds"].as_f64().unwrap() > 0.0);
    let none = call(&server, "runGolden", json!({"id": "bare"})).await;
    assert_eq!(none.status, 500);
    assert!(message(&none).contains("no golden request"), "{none:?}");
    assert_eq!(call(&server, "runGolden", json!({"id": "x"})).await.status, 404);
    drop(agent);
    server.hub.clone().shutdown().await;
}

fn value(measures: &[Measure], numbers: &[Option<f64>], name: &str) -> Option<f64> {
    let place = measures.iter().position(|measure| measure.name == name).unwrap();
    numbers[place]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_device_measures_arrives_at_the_server() {
    let Some(server) = Server::start(Duration::from_hours(240)).await else { return };
    assert!(server.enrol("once"));
    let version = server.releases.version(1, |_, _| {});
    server.publish(&version);
    let agent = server.run_with(&["--listen", "127.0.0.1:0", "--measure-every", "1"]);
    server.wish(1, &[("m", &version)]).await;
    let reported = server.reported("the module", |reported| runs(reported, "m", &version)).await;
    for _ in 0..20 {
        score(&reported, "m").await;
    }
    let mut upstream = server.hub.upstream();
    let snapshot = loop {
        let message = soon(upstream.next()).await.unwrap();
        upstream.done(message.sequence).unwrap();
        let Some(snapshot) = Snapshot::of(&message) else { continue };
        assert_eq!(message.sender, agent_id());
        assert!(message.payload.len() < 500, "{}", message.payload.len());
        let snapshot = snapshot.unwrap();
        let Some(module) = snapshot.modules.get("m") else { continue };
        // The golden request is one too.
        if module[2].is_some_and(|requests| requests >= 21.0) {
            break snapshot;
        }
    };
    let module = |name: &str| {
        value(&moorline_edge::metrics::MODULE, &snapshot.modules["m"], &format!("moorline_module_{name}"))
    };
    assert_eq!(
        (module("up"), module("restarts_total"), module("errors_total")),
        (Some(1.0), Some(0.0), Some(0.0))
    );
    assert!(module("request_seconds_total").unwrap() > 0.0);
    assert!(module("resident_bytes").unwrap() > 1e6 && module("cpu_seconds_total").is_some());
    let device = |name: &str| value(&DEVICE, &snapshot.device, &format!("moorline_device_{name}"));
    assert!(device("releases_bytes").unwrap() > 100.0);
    assert!(device("agent_resident_bytes").unwrap() > 1e6 && device("memory_bytes").unwrap() > 1e8);
    assert_eq!((device("queue_messages"), device("lost_messages_total")), (Some(0.0), Some(0.0)));
    drop(agent);
    server.hub.clone().shutdown().await;
}
