//! A module's workload socket, as a client library uses it.

use std::{path::Path, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use moorline_edge::{
    authority::Authority,
    hub::SharedKey,
    workload::{Workload, WorkloadConfig},
};
use ring::hmac;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use crate::place::{id, key_of, soon};

async fn ask(socket: &Path, method: &str, path: &str, body: &str) -> (u16, Value) {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

#[tokio::test]
async fn a_socket_serves_one_module_and_refuses_every_other_name() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, _) = Authority::create("device", Duration::from_hours(1)).unwrap();
    let module = id("dev1/m1");
    let config = WorkloadConfig {
        socket: folder.path().join("m1/workload.sock"),
        module: module.clone(),
        generation: "g1".to_owned(),
        key: SharedKey::new(&STANDARD.encode(key_of(&module))).unwrap(),
        trust_bundle: authority.certificate().to_owned(),
        authority: Arc::new(authority),
    };
    let environment = config.environment("hub", "gateway");
    assert!(environment.contains(&("IOTEDGE_MODULEID", "m1".to_owned())));
    let device = WorkloadConfig { module: id("dev1"), ..config.clone() };
    assert!(Workload::start(device).is_err());
    // A socket that a run before this one left.
    drop(Workload::start(config.clone()).unwrap());
    let workload = Workload::start(config.clone()).unwrap();
    let socket = workload.socket().to_owned();

    let (status, bundle) = ask(&socket, "GET", "/trust-bundle?api-version=2019-01-30", "").await;
    assert_eq!((status, bundle["certificate"].as_str()), (200, Some(config.trust_bundle.as_str())));
    let data = b"hub%2Fdevices%2Fdev1%2Fmodules%2Fm1\n2000000000";
    let sign = json!({"keyId": "primary", "algo": "HMACSHA256", "data": STANDARD.encode(data)}).to_string();
    let (status, signed) =
        ask(&socket, "POST", "/modules/m1/genid/g1/sign?api-version=2019-01-30", &sign).await;
    assert_eq!(status, 200);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key_of(&module));
    assert_eq!(signed["digest"], STANDARD.encode(hmac::sign(&key, data)));
    let certificate = "/modules/m1/genid/g1/certificate/server";
    let asked = json!({"commonName": "m1.local", "expiration": "2100-01-01T00:00:00Z"}).to_string();
    let (status, issued) = ask(&socket, "POST", certificate, &asked).await;
    assert_eq!(status, 201);
    assert!(issued["certificate"].as_str().unwrap().contains("BEGIN CERTIFICATE"));
    assert!(issued["privateKey"]["bytes"].as_str().unwrap().contains("PRIVATE KEY"));
    // No longer than a module's certificates may live.
    let expiration: jiff::Timestamp = issued["expiration"].as_str().unwrap().parse().unwrap();
    assert!(expiration < "2099-01-01T00:00:00Z".parse().unwrap());
    let (status, identity) = ask(&socket, "POST", "/modules/m1/certificate/identity", "").await;
    assert_eq!((status, identity["privateKey"]["type"].as_str()), (201, Some("key")));
    assert_eq!(ask(&socket, "GET", "/modules", "").await.1["identities"][0]["moduleId"], "m1");

    for (path, body, expected) in [
        ("/modules/m2/genid/g1/sign", sign.as_str(), 403),
        ("/modules/m1/genid/g2/sign", sign.as_str(), 403),
        ("/modules/..%2Fm1/genid/g1/sign", sign.as_str(), 403),
        ("/modules/m2/genid/g1/certificate/server", "{}", 403),
        ("/modules/m2/certificate/identity", "", 403),
        ("/modules/m1/genid/g1/sign", "{}", 400),
        ("/modules/m1/genid/g1/sign", &sign.replace("primary", "other"), 400),
        (certificate, r#"{"commonName":"not a name\u0000"}"#, 400),
        ("/other", "", 404),
    ] {
        assert_eq!(ask(&socket, "POST", path, body).await.0, expected, "{path} {body}");
    }
    assert_eq!(ask(&socket, "POST", "/modules/m1/genid/g1/sign", &"x".repeat(100_000)).await.0, 413);
    soon(workload.close()).await;
    assert!(!socket.exists());
}
