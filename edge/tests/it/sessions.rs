//! What a session promises: one for each client, kept when the client is away, answered within itself.

use std::time::Duration;

use bytes::Bytes;
use moorline_edge::hub::{HubConfig, HubEvent, MethodCall, MethodError, NamedRoute, Properties};
use rumqttc::mqttbytes::v4::{Packet, Publish, SubscribeReasonCode};
use serde_json::{Value, json};

use crate::place::{TestHub, id, soon, until, will};

const ALL: [&str; 3] =
    ["$iothub/twin/res/#", "$iothub/twin/PATCH/properties/desired/#", "$iothub/methods/POST/#"];

fn call(name: &str, payload: Value) -> MethodCall {
    MethodCall {
        name: name.to_owned(),
        payload,
        timeout: Duration::from_secs(30),
        connect_timeout: Duration::ZERO,
    }
}

fn body(publish: &Publish) -> Value {
    serde_json::from_slice(&publish.payload).unwrap_or_else(|_| panic!("{:?}", publish.payload))
}

pub(crate) fn route(name: &str, text: &str) -> NamedRoute {
    NamedRoute { name: name.to_owned(), route: text.parse().unwrap(), time_to_live: None }
}

fn camera_to_detector(config: &mut HubConfig) {
    config.routes = vec![
        route(
            "frames",
            "FROM /messages/modules/m1/outputs/frames INTO BrokeredEndpoint(\"/modules/m2/inputs/in\")",
        ),
        route("rest", "FROM /messages/* WHERE level = 'high' INTO $upstream"),
    ];
}

#[tokio::test]
async fn twins_are_read_reported_and_told_within_the_session() {
    let place = TestHub::start(|_| {}).await;
    place.hub.patch_desired(&id("dev1/m1"), &json!({"rate": 5}), None).await.unwrap();
    let mut module = place.connect("dev1/m1").await;
    let mut other = place.connect("dev1/m2").await;
    assert!(module.subscribe(&ALL).await.iter().all(|code| matches!(code, SubscribeReasonCode::Success(_))));
    other.subscribe(&ALL).await;
    assert!(module.deliver("$iothub/twin/GET/?$rid=one", " ").await);
    let answer = module.message().await;
    assert_eq!(answer.topic, "$iothub/twin/res/200/?$rid=one");
    assert_eq!(body(&answer), json!({"desired": {"rate": 5, "$version": 2}, "reported": {"$version": 1}}));

    let mut events = place.hub.events();
    assert!(
        module.deliver("$iothub/twin/PATCH/properties/reported/?$rid=two", r#"{"a":{"b":1},"c":2}"#).await
    );
    assert_eq!(module.message().await.topic, "$iothub/twin/res/204/?$rid=two&$version=2");
    assert_eq!(soon(events.recv()).await.unwrap(), HubEvent::Reported(id("dev1/m1")));
    for bad in ["[]", "not json", r#"{"a$":1}"#] {
        assert!(module.deliver("$iothub/twin/PATCH/properties/reported/?$rid=bad", bad).await);
        assert_eq!(module.message().await.topic, "$iothub/twin/res/400/?$rid=bad", "{bad}");
    }
    // A change and a look at it, without waiting in between.
    module.publish("$iothub/twin/PATCH/properties/reported/?$rid=3", r#"{"c":null}"#, 11).await;
    module.publish("$iothub/twin/GET/?$rid=4", "", 12).await;
    assert_eq!(module.message().await.topic, "$iothub/twin/res/204/?$rid=3&$version=3");
    assert_eq!(body(&module.message().await)["reported"], json!({"a": {"b": 1}, "$version": 3}));

    let version =
        place.hub.patch_desired(&id("dev1/m1"), &json!({"rate": null, "x": 1}), Some(2)).await.unwrap();
    assert_eq!(version, 3);
    assert!(place.hub.patch_desired(&id("dev1/m1"), &json!({"rate": 9}), Some(2)).await.is_err());
    let patch = module.message().await;
    assert_eq!(patch.topic, "$iothub/twin/PATCH/properties/desired/?$version=3");
    assert_eq!(body(&patch), json!({"rate": null, "x": 1, "$version": 3}));
    place.hub.replace_desired(&id("dev1/m1"), &json!({"x": 2}), 9).await.unwrap();
    assert_eq!(body(&module.message().await), json!({"x": 2, "$version": 9}));
    // The other module heard nothing of all this: the first thing it hears is its own.
    assert!(other.deliver("$iothub/twin/GET/?$rid=five", "").await);
    assert_eq!(other.message().await.topic, "$iothub/twin/res/200/?$rid=five");

    // Everything is there after a restart.
    let (registry, folder) = (prometheus::Registry::new(), place.folder.path().join("hub"));
    let config =
        HubConfig::new(folder, "localhost".to_owned(), ([127, 0, 0, 1], 0).into(), place.pki.tls_files());
    place.hub.shutdown().await;
    assert!(module.is_closed().await);
    let again = moorline_edge::hub::Hub::start(config, place.identities.clone(), &registry).await.unwrap();
    let twin = again.twin(&id("dev1/m1")).unwrap();
    assert_eq!((twin.desired.version, twin.reported.version), (9, 3));
    assert_eq!(Value::Object(twin.desired.properties), json!({"x": 2}));
    again.shutdown().await;
}

#[tokio::test]
async fn methods_are_answered_by_the_client_that_was_asked() {
    let place = TestHub::start(|_| {}).await;
    let (first, second) = (id("dev1/m1"), id("dev1/m2"));
    assert_eq!(place.hub.call(&first, call("ping", json!(1))).await, Err(MethodError::Offline));
    let mut module = place.connect("dev1/m1").await;
    // Connected, and not listening yet.
    assert_eq!(place.hub.call(&first, call("ping", json!(1))).await, Err(MethodError::Offline));
    let mut other = place.connect("dev1/m2").await;
    module.subscribe(&ALL).await;
    other.subscribe(&ALL).await;
    let hub = place.hub.clone();
    let asked = tokio::spawn(async move { hub.call(&first, call("ping", json!({"n": 1}))).await });
    let request = module.message().await;
    let rid =
        request.topic.strip_prefix("$iothub/methods/POST/ping/?$rid=").expect(&request.topic).to_owned();
    assert_eq!(body(&request), json!({"n": 1}));
    // Another client's answer to the same request id reaches nobody.
    assert!(other.deliver(&format!("$iothub/methods/res/500/?$rid={rid}"), "{}").await);
    assert!(module.deliver(&format!("$iothub/methods/res/201/?$rid={rid}"), r#"{"ok":true}"#).await);
    let answer = soon(asked).await.unwrap().unwrap();
    assert_eq!((answer.status, answer.payload), (201, json!({"ok": true})));

    // Nobody answers in time; the client goes away; it comes while it is waited for.
    let short = MethodCall { timeout: Duration::from_millis(50), ..call("slow", json!(null)) };
    assert_eq!(place.hub.call(&second, short).await, Err(MethodError::Timeout));
    let hub = place.hub.clone();
    let asked = tokio::spawn(async move { hub.call(&second, call("late", json!(null))).await });
    assert!(other.message().await.topic.starts_with("$iothub/methods/POST/slow/"));
    assert!(other.message().await.topic.starts_with("$iothub/methods/POST/late/"));
    other.leave().await;
    assert_eq!(soon(asked).await.unwrap(), Err(MethodError::Gone));
    let hub = place.hub.clone();
    let patient = MethodCall { connect_timeout: Duration::from_mins(1), ..call("wait", json!(null)) };
    let asked = tokio::spawn(async move { hub.call(&id("dev1/m2"), patient).await });
    let mut other = place.connect("dev1/m2").await;
    let request = other.message().await;
    let rid = request.topic.rsplit('=').next().unwrap();
    assert!(other.deliver(&format!("$iothub/methods/res/200/?$rid={rid}"), "null").await);
    assert_eq!(soon(asked).await.unwrap().unwrap().status, 200);
    place.hub.shutdown().await;
}

#[tokio::test]
async fn a_new_session_of_a_client_ends_the_old_one() {
    let place = TestHub::start(|_| {}).await;
    let mut first = place.connect("dev1").await;
    first.subscribe(&["devices/dev1/messages/devicebound/#"]).await;
    let mut second = place.dial().await;
    let ack = second.login(&id("dev1"), |_| {}).await;
    assert!(ack.session_present, "what it is subscribed to is kept");
    assert!(first.is_closed().await);
    place
        .hub
        .send_to_device(&id("dev1"), &Properties::default(), Bytes::from_static(b"hi"), None)
        .await
        .unwrap();
    assert_eq!(second.message().await.payload, "hi");
    assert!(place.metrics().contains("moorline_hub_sessions_ended_total{reason=\"superseded\"} 1"));
    // A clean session forgets it.
    let mut third = place.dial().await;
    assert!(!third.login(&id("dev1"), |connect| connect.clean_session = true).await.session_present);
    assert!(second.is_closed().await);
    third.leave().await;
    let mut fourth = place.dial().await;
    assert!(!fourth.login(&id("dev1"), |_| {}).await.session_present);
    place.hub.shutdown().await;
}

#[tokio::test]
async fn messages_wait_for_a_client_that_is_away_and_come_in_order() {
    let place = TestHub::start(camera_to_detector).await;
    let mut detector = place.connect("dev1/m2").await;
    detector.subscribe(&["devices/dev1/modules/m2/inputs/#"]).await;
    detector.leave().await;
    let mut camera = place.connect("dev1/m1").await;
    for number in 0..300 {
        let topic =
            format!("devices/dev1/modules/m1/messages/events/%24.on=frames&%24.cmid=forged&n={number}");
        assert!(camera.deliver(&topic, &number.to_string()).await);
    }
    let mut detector = place.connect("dev1/m2").await;
    let mut taken = 0;
    // Ends in the middle without having acknowledged the last ones.
    for _ in 0..100 {
        let message = detector.message().await;
        assert_eq!(
            message.topic,
            format!("devices/dev1/modules/m2/inputs/in/%24.cdid=dev1&%24.cmid=m1&n={taken}")
        );
        taken += 1;
    }
    drop(detector);
    let mut detector = place.connect("dev1/m2").await;
    let mut expected = None::<u64>;
    while expected != Some(300) {
        let number: u64 = std::str::from_utf8(&detector.message().await.payload).unwrap().parse().unwrap();
        assert!(expected.is_none_or(|expected| number == expected), "{number} after {expected:?}");
        assert!(number <= taken);
        expected = Some(number + 1);
        taken = taken.max(number + 1);
    }
    place.hub.shutdown().await;
}

#[tokio::test]
async fn routes_lead_upstream_and_wills_are_messages() {
    let place = TestHub::start(camera_to_detector).await;
    let mut upstream = place.hub.upstream();
    let mut wire = place.dial().await;
    let ack = wire
        .login(&id("dev2/m1"), |connect| {
            connect.last_will = Some(will("devices/dev2/modules/m1/messages/events/level=high", "gone"));
        })
        .await;
    assert_eq!(ack.code as u8, 0);
    assert!(wire.deliver("devices/dev2/modules/m1/messages/events/level=low", "1").await);
    assert!(wire.deliver("devices/dev2/modules/m1/messages/events/level=high&%24.cdid=dev1", "2").await);
    drop(wire);
    let message = soon(upstream.next()).await.unwrap();
    assert_eq!((message.sender, message.payload.as_ref()), (id("dev2/m1"), &b"2"[..]));
    assert_eq!(message.properties.encode(), "level=high");
    upstream.done(message.sequence).unwrap();
    let last = soon(upstream.next()).await.unwrap();
    assert_eq!(last.payload, "gone");
    assert_eq!(last.properties.own("iothub-MessageType"), Some("Will"));
    assert!(place.metrics().contains("moorline_hub_unrouted_messages_total 1"));
    // Whoever says goodbye has no will.
    let mut wire = place.dial().await;
    let own = will("devices/dev2/modules/m1/messages/events/level=high", "never");
    wire.login(&id("dev2/m1"), |connect| connect.last_will = Some(own)).await;
    wire.leave().await;
    // A will for another client's topic is no way around the rules.
    let mut wire = place.dial().await;
    wire.say(&Packet::Connect({
        let mut connect = rumqttc::mqttbytes::v4::Connect::new("dev2/m1");
        connect.login = Some(rumqttc::mqttbytes::v4::Login::new(
            crate::place::user_name("localhost", &id("dev2/m1")),
            crate::place::token(
                "localhost",
                &id("dev2/m1"),
                &crate::place::key_of(&id("dev2/m1")),
                Duration::from_mins(1),
            ),
        ));
        connect.last_will = Some(will("devices/dev1/messages/events/level=high", "forged"));
        connect
    }))
    .await;
    assert!(wire.is_closed().await);
    place
        .hub
        .send_from(&id("dev1"), Properties::parse("level=high").unwrap(), Bytes::from_static(b"own"))
        .await
        .unwrap();
    upstream.done(last.sequence).unwrap();
    let own = soon(upstream.next()).await.unwrap();
    assert_eq!(own.payload, "own");
    upstream.done(own.sequence).unwrap();
    // A hub that ends says nothing of its clients.
    let mut wire = place.dial().await;
    let own = will("devices/dev2/modules/m1/messages/events/level=high", "never");
    wire.login(&id("dev2/m1"), |connect| connect.last_will = Some(own)).await;
    place.hub.clone().shutdown().await;
    assert!(wire.is_closed().await);
    assert!(place.metrics().contains("moorline_hub_queue_messages{queue=\"$upstream\"} 0"));
}

#[tokio::test]
async fn who_is_here_is_known() {
    let place = TestHub::start(|_| {}).await;
    let mut events = place.hub.events();
    let wire = place.connect("dev1/m1").await;
    assert_eq!(soon(events.recv()).await.unwrap(), HubEvent::Connected(id("dev1/m1")));
    let state = place.hub.clients().into_iter().find(|(own, _)| *own == id("dev1/m1")).unwrap().1;
    assert!(state.connected && state.last_connect.is_some() && state.last_disconnect.is_none());
    drop(wire);
    assert_eq!(soon(events.recv()).await.unwrap(), HubEvent::Disconnected(id("dev1/m1")));
    // Removed: nothing of it is left.
    let mut wire = place.connect("dev1/m1").await;
    wire.subscribe(&ALL).await;
    place.hub.patch_desired(&id("dev1/m1"), &json!({"a": 1}), None).await.unwrap();
    place.identities.remove(&id("dev1/m1"));
    place.hub.remove(&id("dev1/m1")).await.unwrap();
    assert!(wire.is_closed().await);
    assert_eq!(place.hub.twin(&id("dev1/m1")).unwrap(), moorline_edge::hub::Twin::default());
    until(|| (!place.metrics().contains("module=\"m1\"")).then_some(())).await;
    place.hub.shutdown().await;
}
