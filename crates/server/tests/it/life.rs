//! A server's life: one at a time on a home, one at a time on a port, and what is left when it ends.

use std::{future::pending, time::Duration};

use moorline_server::{Announcement, Server, StartError};
use reqwest::Method;
use serde_json::json;

use crate::place::{Place, config, send};

#[tokio::test(flavor = "multi_thread")]
async fn a_home_has_one_server_and_says_where_it_is() {
    let place = Place::new().await;
    let announced = Announcement::read(place.home()).unwrap().unwrap();
    assert_eq!(announced.address, place.address());
    assert_eq!(announced.pid, std::process::id());
    assert_eq!(announced.version, env!("CARGO_PKG_VERSION"));
    let error = place.second().await;
    assert!(matches!(error, StartError::AlreadyRunning { .. }), "{error:?}");
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
    assert!(error.hint().unwrap().contains(&place.address().to_string()));
    place.get("/api/v1/health").await.expect(200);
    let home = place.stop().await;
    assert_eq!(Announcement::read(home.path()).unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_named() {
    let place = Place::new().await;
    let home = tempfile::tempdir().unwrap();
    let mut settings = config(home.path());
    settings.listen = place.address();
    let error = Server::start(settings.clone()).await.unwrap_err();
    assert!(matches!(error, StartError::PortTaken { .. }), "{error:?}");
    assert!(error.to_string().contains(&place.address().port().to_string()), "{error}");
    assert!(error.hint().is_some());
    assert_eq!(Announcement::read(home.path()).unwrap(), None);
    // The home is free for another attempt.
    settings.listen.set_port(0);
    Server::start(settings).await.unwrap().stop(false, pending()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_outlives_the_server() {
    let mut place = Place::new().await;
    place.model("iris").await;
    place.put("online-endpoints/weather", json!({})).await.expect(201);
    let keys = place.post("online-endpoints/weather/keys", json!({})).await.expect(200);
    let blue = "online-endpoints/weather/deployments/blue";
    let begun = place.put(blue, json!({"model": "azureml:iris:1"})).await;
    place.restart().await;
    assert_eq!(place.get("models/iris/versions/1").await.expect(200)["version"], "1");
    assert_eq!(place.post("online-endpoints/weather/keys", json!({})).await.expect(200), keys);
    // The operation is finished by the server that came after.
    assert_eq!(place.ended(&begun).await["state"], "Failed");
    assert_eq!(place.get(blue).await.expect(200)["provisioning_state"], "Failed");
    // Whoever has no key is refused as soon as the endpoint is known again.
    let score = || send(place.request(Method::POST, "/endpoints/weather/score").json(&json!({})));
    let until_known = async {
        while score().await.status != 401 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), until_known).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_end_with_the_server() {
    let place = Place::new().await;
    place.model("iris").await;
    place.put("online-endpoints/weather", json!({})).await.expect(201);
    let blue = "online-endpoints/weather/deployments/blue";
    place.put(blue, json!({"model": "azureml:iris:1"})).await.expect(202);
    let following = place.request(Method::GET, &format!("{blue}/logs?follow=true")).send().await.unwrap();
    assert_eq!(following.status(), 200);
    let reading = tokio::spawn(following.text());
    place.stop().await;
    tokio::time::timeout(Duration::from_secs(30), reading).await.unwrap().unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_says_what_it_is() {
    let place = Place::new().await;
    let about = place.get("/api/v1").await.expect(200);
    assert_eq!(about["name"], "moorline");
    assert_eq!(about["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(about["default_workspace"], "default");
    assert_eq!(place.get("/api/v1/health").await.expect(200)["status"], "healthy");
    let metrics = place.get("/metrics").await;
    assert!(metrics.text.contains("process_resident_memory_bytes"), "{}", metrics.text);
}
