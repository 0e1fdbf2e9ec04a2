//! Twins of modules that connect to the device's own hub: the server's and the device's come together, also after a time
//! without a connection.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    agent::{Server, runs, sensor},
    place::{PATIENCE, Wire, id, soon},
};

/// The next message of the hub on this kind of topic.
async fn heard(wire: &mut Wire, topic: &str) -> (String, Value) {
    loop {
        let message = wire.message().await;
        if message.topic.starts_with(topic) {
            return (message.topic, serde_json::from_slice(&message.payload).unwrap_or_default());
        }
    }
}

async fn report(wire: &mut Wire, patch: Value) {
    assert!(wire.deliver("$iothub/twin/PATCH/properties/reported/?$rid=1", &patch.to_string()).await);
}

async fn reported(server: &Server, expected: &Value) {
    let mut often = tokio::time::interval(Duration::from_millis(20));
    let begun = std::time::Instant::now();
    loop {
        let twin = server.hub.twin(&id("dev1/sensor")).unwrap();
        if Value::Object(twin.reported.properties.clone()) == *expected {
            return;
        }
        assert!(begun.elapsed() < 2 * PATIENCE, "{twin:?} is not {expected}");
        often.tick().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_desired_of_a_module_reaches_it_and_what_it_reports_comes_back() {
    let Some(mut server) = Server::start(Duration::from_hours(240)).await else { return };
    assert!(server.enrol("once"));
    let module = id("dev1/sensor");
    let version = server.releases.version(1, |_, _| {});
    server.publish(&version);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let listen = address.to_string();
    // Said before the device runs the module.
    server.hub.patch_desired(&module, &json!({"rate": 1, "unit": "C"}), None).await.unwrap();
    let agent = server.run_with(&["--listen", &listen]);
    server.wish(1, &[("sensor", &version)]).await;
    server.reported("the module", |reported| runs(reported, "sensor", &version)).await;
    let mut wire = sensor(&server, address).await;
    wire.subscribe(&["$iothub/twin/res/#", "$iothub/twin/PATCH/properties/desired/#"]).await;
    let twin = soon(async {
        loop {
            assert!(wire.deliver("$iothub/twin/GET/?$rid=7", " ").await);
            let (_, twin) = heard(&mut wire, "$iothub/twin/res/200/").await;
            if twin["desired"]["rate"] == 1 {
                return twin;
            }
        }
    })
    .await;
    assert_eq!(twin["desired"], json!({"rate": 1, "unit": "C", "$version": 2}));

    // A change, at the version that the server gave it.
    let given = server.hub.patch_desired(&module, &json!({"rate": 2, "unit": null}), None).await.unwrap();
    let (topic, patch) = soon(heard(&mut wire, "$iothub/twin/PATCH/properties/desired/")).await;
    assert_eq!(patch, json!({"rate": 2, "unit": null, "$version": given}));
    assert!(topic.ends_with(&format!("$version={given}")));
    report(&mut wire, json!({"seen": 2, "deep": {"a": 1, "b": 2}})).await;
    reported(&server, &json!({"seen": 2, "deep": {"a": 1, "b": 2}})).await;
    report(&mut wire, json!({"deep": {"a": null}})).await;
    reported(&server, &json!({"seen": 2, "deep": {"b": 2}})).await;

    // Cut off: both sides go on, and come together afterwards. The agent is killed in between.
    let port = server.hub.mqtt_address().port();
    server.hub.clone().shutdown().await;
    report(&mut wire, json!({"seen": 3, "deep": null})).await;
    drop(agent);
    let agent = server.run_with(&["--listen", &listen]);
    let mut wire = sensor(&server, address).await;
    wire.subscribe(&["$iothub/twin/res/#", "$iothub/twin/PATCH/properties/desired/#"]).await;
    let folder = server.releases.folder.path().join("hub");
    server.hub = Server::hub(&server.pki, folder, port, &server.identities).await;
    let given = server.hub.patch_desired(&module, &json!({"rate": 3}), None).await.unwrap();
    let (_, patch) = soon(heard(&mut wire, "$iothub/twin/PATCH/properties/desired/")).await;
    assert_eq!(patch, json!({"rate": 3, "$version": given}));
    reported(&server, &json!({"seen": 3})).await;
    drop(agent);
    server.hub.clone().shutdown().await;
}
