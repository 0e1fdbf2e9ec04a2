//! Clients that break the rules, or send more than they may: they are stopped, and nobody else notices.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use moorline_edge::{
    disk::{OnFull, QueueLimits},
    hub::{Identity, Proof},
};
use rumqttc::mqttbytes::{
    QoS,
    v4::{ConnectReturnCode, Packet, Publish, Subscribe, SubscribeFilter, SubscribeReasonCode},
};

use crate::{
    place::{TestHub, Wire, id, sas_identity, soon, token, until, user_name},
    sessions::route,
};

#[tokio::test]
async fn whoever_cannot_prove_who_it_is_is_refused_and_learns_nothing() {
    let place = TestHub::start(|_| {}).await;
    let own = id("dev1/m1");
    let valid = Duration::from_mins(10);
    let key = crate::place::key_of(&own);
    let disabled = id("dev3");
    place.identities.set(disabled.clone(), Identity { enabled: false, ..sas_identity(&disabled) });
    let by_certificate = id("dev4");
    place.identities.set(by_certificate.clone(), Identity { proof: Proof::Authority, enabled: true });
    let unknown = id("nobody");
    for (who, user, password, code) in [
        (&own, user_name("localhost", &own), token("localhost", &own, b"another key of someone", valid), 5),
        (&own, user_name("localhost", &own), token("other", &own, &key, valid), 5),
        (&own, user_name("localhost", &own), token("localhost", &id("dev1"), &key, valid), 5),
        (&own, user_name("localhost", &own), token("localhost", &own, &key, Duration::ZERO), 5),
        (&own, user_name("localhost", &own), String::new(), 5),
        (&own, user_name("localhost", &own), "secret".to_owned(), 5),
        (&own, user_name("localhost", &id("dev1/m2")), token("localhost", &own, &key, valid), 2),
        (&own, user_name("elsewhere", &own), token("localhost", &own, &key, valid), 5),
        (&own, "m1".to_owned(), token("localhost", &own, &key, valid), 4),
        (&unknown, user_name("localhost", &unknown), token("localhost", &unknown, &key, valid), 5),
        (
            &disabled,
            user_name("localhost", &disabled),
            token("localhost", &disabled, &crate::place::key_of(&disabled), valid),
            5,
        ),
        (
            &by_certificate,
            user_name("localhost", &by_certificate),
            token("localhost", &by_certificate, &key, valid),
            5,
        ),
    ] {
        let mut wire = place.dial().await;
        let ack = wire
            .login(who, |connect| {
                let login = connect.login.as_mut().unwrap();
                (login.username, login.password) = (user.clone(), password);
            })
            .await;
        assert_eq!(ack.code as u8, code, "{who} as {user}");
        assert!(wire.is_closed().await);
    }
    assert!(place.hub.clients().is_empty());
    place.hub.shutdown().await;
}

#[tokio::test]
async fn a_token_that_expires_ends_its_session() {
    let place = TestHub::start(|_| {}).await;
    let own = id("dev1");
    let mut wire = place.dial().await;
    let short = token("localhost", &own, &crate::place::key_of(&own), Duration::from_secs(2));
    let ack = wire.login(&own, |connect| connect.login.as_mut().unwrap().password = short).await;
    assert_eq!(ack.code, ConnectReturnCode::Success);
    assert!(wire.is_closed().await);
    until(|| place.metrics().contains("reason=\"expired\"} 1").then_some(())).await;
    place.hub.shutdown().await;
}

#[tokio::test]
async fn what_is_not_of_the_contract_ends_the_connection() {
    let place = TestHub::start(|_| {}).await;
    let publish = |topic: &str, qos, payload: Vec<u8>| {
        let mut publish = Publish::new(topic, qos, payload);
        publish.pkid = 9;
        Packet::Publish(publish)
    };
    let small = || b"x".to_vec();
    let telemetry = "devices/dev1/modules/m1/messages/events/";
    let mut many = Subscribe::new_many(
        (0..17).map(|n| SubscribeFilter::new(format!("$iothub/{n}/#"), QoS::AtLeastOnce)),
    );
    many.pkid = 1;
    let cases = [
        (
            "another module's topic",
            publish("devices/dev1/modules/m2/messages/events/", QoS::AtLeastOnce, small()),
        ),
        ("another device's topic", publish("devices/dev2/messages/events/", QoS::AtMostOnce, small())),
        ("what only the hub says", publish("$iothub/methods/POST/ping/?$rid=1", QoS::AtLeastOnce, small())),
        ("a plain topic", publish("sensors/1", QoS::AtLeastOnce, small())),
        ("exactly once", publish(telemetry, QoS::ExactlyOnce, small())),
        ("a long topic", publish(&format!("{telemetry}a={}", "x".repeat(9000)), QoS::AtLeastOnce, small())),
        (
            "many properties",
            publish(&format!("{telemetry}{}", "a=b&".repeat(200)), QoS::AtLeastOnce, small()),
        ),
        ("a long message", publish(telemetry, QoS::AtLeastOnce, vec![b'x'; 300 * 1024])),
        ("many filters", Packet::Subscribe(many)),
        ("CONNECT again", Packet::Connect(rumqttc::mqttbytes::v4::Connect::new("dev1/m1"))),
        ("what only servers say", Packet::PingResp),
    ];
    // Somebody who keeps to the rules all the while.
    let mut good = place.connect("dev1").await;
    for (what, packet) in cases {
        let mut wire = place.connect("dev1/m1").await;
        wire.say(&packet).await;
        assert!(wire.is_closed().await, "{what}");
        assert!(good.deliver("devices/dev1/messages/events/", "still here").await, "{what}");
    }
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 64], &[0x82, 0xff, 0xff, 0xff, 0x7f], &[0x10, 0x00]]
    {
        let mut wire = place.dial().await;
        wire.say_bytes(bytes).await;
        assert!(wire.is_closed().await, "{bytes:?}");
        let mut wire = place.connect("dev1/m1").await;
        wire.say_bytes(bytes).await;
        assert!(wire.is_closed().await, "{bytes:?}");
    }
    // MQTT 5 and 3.1 are told that they are refused.
    for (name, level) in [("MQTT", 5), ("MQIsdp", 3)] {
        let mut bytes = BytesMut::from(&[0x10, (name.len() + 8) as u8, 0, name.len() as u8][..]);
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(&[level, 2, 0, 10, 0, 0]);
        let mut wire = place.dial().await;
        wire.say_bytes(&bytes).await;
        match wire.hear().await {
            Some(Packet::ConnAck(ack)) => assert_eq!(ack.code, ConnectReturnCode::RefusedProtocolVersion),
            other => panic!("{name} {level}: {other:?}"),
        }
    }
    // Filters that are not its own are refused, and cost nothing.
    let mut wire = place.connect("dev1/m1").await;
    let codes = wire
        .subscribe(&["#", "$iothub/twin/res/#", "devices/dev1/modules/m2/inputs/#", "+/+/+/+/inputs/#"])
        .await;
    assert_eq!(codes.iter().filter(|code| **code == SubscribeReasonCode::Failure).count(), 3);
    assert!(good.deliver("devices/dev1/messages/events/", "still here").await);
    place.hub.shutdown().await;
}

#[tokio::test]
async fn silent_clients_do_not_stay() {
    let place = TestHub::start(|config| {
        config.limits.connect_timeout = Duration::from_secs(2);
        config.limits.handshakes = 4;
    })
    .await;
    // Without a word: before TLS, and after it.
    let tcp = tokio::net::TcpStream::connect(place.hub.mqtt_address()).await.unwrap();
    let mut tls = place.dial().await;
    assert!(tls.is_closed().await);
    until(|| place.metrics().contains("outcome=\"timeout\"} 2").then_some(())).await;
    drop(tcp);
    // After CONNECT: one and a half times its keep-alive.
    let mut wire = place.dial().await;
    wire.login(&id("dev1"), |connect| connect.keep_alive = 1).await;
    assert!(wire.is_closed().await);
    until(|| place.metrics().contains("reason=\"keep_alive\"} 1").then_some(())).await;
    place.hub.shutdown().await;
}

#[tokio::test]
async fn there_are_as_many_clients_as_may_be() {
    let place = TestHub::start(|config| config.limits.clients = 2).await;
    let _first = place.connect("dev1").await;
    let second = place.connect("dev2").await;
    let mut third = place.dial().await;
    assert_eq!(third.login(&id("dev1/m1"), |_| {}).await.code, ConnectReturnCode::ServiceUnavailable);
    // One that is here may come again.
    let _again = place.connect("dev1").await;
    second.leave().await;
    let hub = place.hub.clone();
    until(move || (hub.clients().iter().filter(|(_, state)| state.connected).count() == 1).then_some(()))
        .await;
    let _third = place.connect("dev1/m1").await;
    place.hub.shutdown().await;
}

#[tokio::test]
async fn a_flood_is_read_slowly_and_disturbs_nobody() {
    let place = TestHub::start(|config| {
        config.limits.packets_per_second = 200;
        config.limits.twin_requests_per_second = 5;
        config.upstream =
            QueueLimits { max_bytes: 64 * 1024, on_full: OnFull::DropOldest, flush_on_write: false };
    })
    .await;
    let mut flood = place.connect("dev2/m1").await;
    flood.subscribe(&["$iothub/twin/res/#"]).await;
    let mut publish =
        Publish::new("devices/dev2/modules/m1/messages/events/", QoS::AtMostOnce, vec![7; 1000]);
    publish.pkid = 0;
    let mut bytes = BytesMut::new();
    for _ in 0..2000 {
        publish.write(&mut bytes).unwrap();
    }
    let flooding = tokio::spawn(async move {
        flood.say_bytes(&bytes).await;
        flood
    });
    // While that goes on, somebody else is answered as ever.
    let mut good = place.connect("dev1").await;
    good.subscribe(&["$iothub/twin/res/#"]).await;
    for _ in 0..50 {
        assert!(good.deliver("devices/dev1/messages/events/", "quick").await);
    }
    until(|| {
        let metrics = place.metrics();
        let throttled =
            metrics.lines().find(|line| line.starts_with("moorline_hub_throttled_total{device=\"dev2\""))?;
        throttled.ends_with(|c: char| c != '0').then_some(())
    })
    .await;
    assert!(!place.metrics().contains("moorline_hub_throttled_total{device=\"dev1\",module=\"\"} 1"));
    // The queue stayed within its bound, and what was dropped is counted.
    let mut flood = soon(flooding).await.unwrap();
    let metrics = place.metrics();
    let value = |name: &str| -> f64 {
        let line = metrics
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_else(|| panic!("{name}: {metrics}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert!(value("moorline_hub_queue_bytes{queue=\"$upstream\"}") <= 64.0 * 1024.0);
    // Asking for the twin again and again is answered with 429.
    for n in 0..60 {
        flood.publish(&format!("$iothub/twin/GET/?$rid={n}"), "", n + 1).await;
    }
    let mut refused = 0;
    for _ in 0..60 {
        refused += usize::from(flood.message().await.topic.starts_with("$iothub/twin/res/429/"));
    }
    assert!(refused > 0);
    place.hub.shutdown().await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_cut_off_and_its_messages_wait() {
    let place = TestHub::start(|config| {
        config.limits.write_timeout = Duration::from_secs(1);
        config.limits.unacknowledged_out = 1000;
        config.routes = vec![route("in", "FROM /* INTO BrokeredEndpoint(\"/modules/m2/inputs/in\")")];
    })
    .await;
    let mut lazy = place.connect("dev1/m2").await;
    lazy.subscribe(&["devices/dev1/modules/m2/inputs/#"]).await;
    let mut sender = place.connect("dev1/m1").await;
    let large = "x".repeat(200 * 1024);
    let begun = Instant::now();
    while !place.metrics().contains("reason=\"slow_reader\"} 1") {
        assert!(begun.elapsed() < crate::place::PATIENCE, "{}", place.metrics());
        assert!(sender.deliver("devices/dev1/modules/m1/messages/events/", &large).await);
    }
    drop(lazy);
    // A slow machine may be taken for a slow client again.
    let first = loop {
        if let Some(Packet::Publish(publish)) = place.connect("dev1/m2").await.hear().await {
            break publish;
        }
    };
    assert_eq!(first.payload.len(), large.len());
    place.hub.shutdown().await;
}

#[tokio::test]
async fn a_folder_has_one_hub() {
    let place = TestHub::start(|_| {}).await;
    let config = moorline_edge::hub::HubConfig::new(
        place.folder.path().join("hub"),
        "localhost".to_owned(),
        ([127, 0, 0, 1], 0).into(),
        place.pki.tls_files(),
    );
    let error =
        moorline_edge::hub::Hub::start(config, place.identities.clone(), &prometheus::Registry::new()).await;
    assert!(format!("{:?}", error.unwrap_err()).contains("InUse"));
    place.hub.shutdown().await;
}

/// Whoever floods with CONNECTs keeps nobody out.
#[tokio::test]
async fn many_at_once_are_turned_away_and_the_known_get_in() {
    let place = TestHub::start(|config| config.limits.handshakes = 8).await;
    let mut good = place.connect("dev1").await;
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(tokio::net::TcpStream::connect(place.hub.mqtt_address()).await.unwrap());
    }
    until(|| place.metrics().contains("outcome=\"crowded\"}").then_some(())).await;
    assert!(good.deliver("devices/dev1/messages/events/", "still here").await);
    drop(silent);
    let config = place.pki.client_config(None);
    let address = place.hub.mqtt_address();
    // As soon as there is room again.
    let mut wire = until_connected(address, &config).await;
    assert_eq!(wire.login(&id("dev2"), |_| {}).await.code, ConnectReturnCode::Success);
    place.hub.shutdown().await;
}

async fn until_connected(address: std::net::SocketAddr, config: &rustls::ClientConfig) -> Wire {
    let mut often = tokio::time::interval(Duration::from_millis(20));
    loop {
        often.tick().await;
        if let Some(wire) = soon(Wire::try_dial(address, config)).await {
            return wire;
        }
    }
}
