//! mosquitto's command-line clients, which know nothing of Azure, and methods over HTTPS.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use moorline_edge::hub::Properties;
use serde_json::{Value, json};

use crate::place::{TestHub, id, key_of, skip, soon, token, user_name};

fn program(name: &str) -> Option<PathBuf> {
    let found = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    if found.is_none() {
        skip(&format!("`{name}` is not on PATH (Debian: `apt-get install mosquitto-clients`)"));
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_mqtt_clients_send_and_receive() {
    let (Some(publisher), Some(subscriber)) = (program("mosquitto_pub"), program("mosquitto_sub")) else {
        return;
    };
    let place = TestHub::start(|_| {}).await;
    let command = |program: &PathBuf, name: &str| {
        let own = id(name);
        let mut command = Command::new(program);
        command
            .args([
                "-h",
                "localhost",
                "-p",
                &place.hub.mqtt_address().port().to_string(),
                "-V",
                "mqttv311",
                "-q",
                "1",
            ])
            .args(["-i", name, "-u", &user_name("localhost", &own)])
            .args(["-P", &token("localhost", &own, &key_of(&own), Duration::from_mins(10))])
            .arg("--cafile")
            .arg(place.pki.trust());
        command
    };
    let sent = command(&publisher, "dev1")
        .args(["-t", "devices/dev1/messages/events/unit=C", "-m", "21.5"])
        .output()
        .unwrap();
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    let message = soon(place.hub.upstream().next()).await.unwrap();
    assert_eq!((message.sender, message.payload.as_ref()), (id("dev1"), &b"21.5"[..]));
    assert_eq!(message.properties.own("unit"), Some("C"));

    for number in 0..3 {
        let payload = Bytes::from(format!("command {number}"));
        place.hub.send_to_device(&id("dev1"), &Properties::default(), payload, None).await.unwrap();
    }
    assert!(
        place.hub.send_to_device(&id("dev1/m1"), &Properties::default(), Bytes::new(), None).await.is_err()
    );
    let mut listening = command(&subscriber, "dev1");
    listening
        .args(["-t", "devices/dev1/messages/devicebound/#", "-C", "3", "-W", "30"])
        .stdout(Stdio::piped());
    let heard = tokio::task::spawn_blocking(move || listening.output().unwrap());
    let heard = soon(heard).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&heard.stdout), "command 0\ncommand 1\ncommand 2\n");
    let refused = command(&publisher, "dev1")
        .args(["-t", "devices/dev2/messages/events/", "-m", "x"])
        .output()
        .unwrap();
    assert!(!refused.status.success());
    place.hub.shutdown().await;
}

#[tokio::test]
async fn methods_are_called_over_https_within_a_device() {
    let place = TestHub::start(|config| config.https = Some(([127, 0, 0, 1], 0).into())).await;
    let mut module = place.connect("dev1/m2").await;
    module.subscribe(&["$iothub/methods/POST/#"]).await;
    let authority = reqwest::Certificate::from_pem(place.pki.authority.certificate().as_bytes()).unwrap();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().tls_certs_only([authority]).build().unwrap();
    let base = format!("https://localhost:{}", place.hub.https_address().unwrap().port());
    let call = |path: &str, caller: &str, body: Value| {
        let caller = id(caller);
        let token = token("localhost", &caller, &key_of(&caller), Duration::from_mins(10));
        client
            .post(format!("{base}{path}?api-version=2019-10-01"))
            .header("Authorization", token)
            .header("x-ms-edge-moduleId", caller.to_string())
            .json(&body)
            .send()
    };
    let body = json!({"methodName": "ping", "payload": [1, 2], "responseTimeoutInSeconds": 30});
    let asked = tokio::spawn(call("/twins/dev1/modules/m2/methods", "dev1/m1", body.clone()));
    let request = module.message().await;
    assert_eq!(request.payload, "[1,2]");
    let rid = request.topic.rsplit('=').next().unwrap();
    assert!(module.deliver(&format!("$iothub/methods/res/207/?$rid={rid}"), r#"{"a":1}"#).await);
    let answer = soon(asked).await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.json::<Value>().await.unwrap(), json!({"status": 207, "payload": {"a": 1}}));

    for (path, caller, body, status) in [
        ("/twins/dev1/modules/m1/methods", "dev1/m1", body.clone(), 404),
        ("/twins/dev1/modules/m2/methods", "dev2/m1", body.clone(), 403),
        ("/twins/dev1/modules/m2/methods", "dev9/m1", body.clone(), 401),
        ("/twins/dev1/modules/m2/methods", "dev1/m1", json!({"payload": 1}), 422),
        ("/twins/dev1/modules/m2/methods", "dev1/m1", json!({"methodName": "a/b"}), 400),
        (
            "/twins/dev1/modules/m2/methods",
            "dev1/m1",
            json!({"methodName": "a", "responseTimeoutInSeconds": 1}),
            400,
        ),
        (
            "/twins/dev1/modules/m2/methods",
            "dev1/m1",
            json!({"methodName": "a", "payload": "x".repeat(200_000)}),
            413,
        ),
        ("/twins/a%2Fb/methods", "dev1/m1", body.clone(), 404),
        ("/twins", "dev1/m1", body.clone(), 404),
    ] {
        assert_eq!(call(path, caller, body.clone()).await.unwrap().status(), status, "{path} {caller}");
    }
    // Without a token, and with another's.
    let bare = client.post(format!("{base}/twins/dev1/modules/m2/methods")).json(&body).send().await.unwrap();
    assert_eq!(bare.status(), 401);
    place.hub.shutdown().await;
}
