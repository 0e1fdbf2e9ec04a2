//! What is too large, too deep, or not what it says.

use std::time::Duration;

use moorline_core::Digest;
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::place::{Place, send};

#[tokio::test(flavor = "multi_thread")]
async fn bodies_have_bounds() {
    let place = Place::new().await;
    let put = |body: String| {
        let request = place.request(Method::PUT, "online-endpoints/weather");
        send(request.header("content-type", "application/json").body(body))
    };
    let large = json!({"description": "x".repeat(2 << 20)}).to_string();
    put(large.clone()).await.problem(413, "too_large");
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    put(deep).await.problem(400, "invalid_input");
    put("{\"name\":".to_owned()).await.problem(400, "invalid_input");
    put("[]".to_owned()).await.problem(400, "invalid_input");
    put(String::new()).await.problem(400, "invalid_input");
    // A list of files has more room.
    let list = place.request(Method::PUT, "models/big/versions/1").header("content-type", "application/json");
    assert_ne!(send(list.body(large)).await.status.as_u16(), 413);
    let list = place.request(Method::PUT, "models/big/versions/1").header("content-type", "application/json");
    send(list.body("x".repeat(17 << 20))).await.problem(413, "too_large");
    place.get("/api/v1/workspaces/default").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_answered_as_a_problem() {
    let place = Place::new().await;
    place.get("/nowhere").await.problem(404, "not_found");
    place.get("/api/v2").await.problem(404, "not_found");
    place.get("/api/v1/").await.problem(404, "not_found");
    place.get("models/").await.problem(404, "not_found");
    place.delete("models").await.problem(405, "invalid_input");
    place.get("/api/v1/workspaces/..%2f..%2fetc/models").await.problem(400, "invalid_input");
    place.get("/api/v1/workspaces/%ff/models").await.problem(400, "invalid_input");
    let id = place.request(Method::GET, "/nowhere").header("x-request-id", "mine-1");
    assert_eq!(send(id).await.problem(404, "not_found")["request_id"], "mine-1");
    let long = "x".repeat(500);
    let id = place.request(Method::GET, "/nowhere").header("x-request-id", &long);
    assert_ne!(send(id).await.problem(404, "not_found")["request_id"], long);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_stands_still_is_ended_and_kept() {
    let place = Place::with(|config| config.bounds.body_timeout = Duration::from_millis(200)).await;
    let digest = Digest::of(b"never all of it");
    let mut stream = tokio::net::TcpStream::connect(place.address()).await.unwrap();
    let head = format!(
        "PATCH /api/v1/workspaces/default/blobs/{digest}?size=15 HTTP/1.1\r\nhost: localhost\r\n\
         upload-offset: 0\r\ncontent-length: 15\r\nconnection: close\r\n\r\nnever"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("upload"), "{answer}");
    let offset = send(place.request(Method::HEAD, &format!("blobs/{digest}"))).await;
    assert_eq!(offset.header("upload-offset"), "5");
}
