//! What passes the gateway and what does not: paths, headers, keys, the split, copies for a mirror.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use axum::body::Body;
use http::{HeaderMap, Request, Response, StatusCode};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use moorline_gateway::{DeploymentRoute, EndpointRoute, GatewayConfig};
use tokio::{net::TcpStream, sync::Notify};

use crate::harness::{Front, Server, counting, deployment, endpoint, keys, name, post, until};

/// A replica that answers with the path and notes the headers.
async fn noting() -> (Server, Arc<Mutex<HeaderMap>>) {
    let noted = Arc::new(Mutex::new(HeaderMap::new()));
    let notes = Arc::clone(&noted);
    let server = Server::start(move |request: Request<Body>| {
        *notes.lock().unwrap() = request.headers().clone();
        let text = format!("{} {}", request.method(), request.uri());
        async move {
            let mut response = Response::new(Body::from(text));
            response.headers_mut().insert("keep-alive", "timeout=5".parse().unwrap());
            response.headers_mut().insert("x-own", "1".parse().unwrap());
            response
        }
    })
    .await;
    (server, noted)
}

#[tokio::test]
async fn what_brings_its_own_server_is_scored_where_it_says() {
    let front = Front::new().await;
    let (replica, _) = noting().await;
    let own = deployment("blue", &[replica.address]);
    front
        .gateway
        .set(endpoint(vec![DeploymentRoute { scoring_path: Some("/v1/predict".to_owned()), ..own }]));
    for (asked, seen) in [
        ("/endpoints/iris/score", "POST /v1/predict"),
        ("/endpoints/iris/score?a=b", "POST /v1/predict?a=b"),
        ("/endpoints/iris/v1/other", "POST /v1/other"),
    ] {
        assert_eq!(front.ask(post(asked, "{}")).await.text(), seen);
    }
}

#[tokio::test]
async fn a_request_arrives_as_it_was_sent_but_for_what_concerns_one_hop() {
    let front = Front::new().await;
    let (replica, noted) = noting().await;
    let route = endpoint(vec![deployment("blue", &[replica.address])]);
    front.gateway.set(EndpointRoute { auth: keys(), ..route });
    let request = Request::post("/endpoints/iris/v2/models/m/infer?a=b%20c")
        .header("host", "front")
        .header("authorization", "Bearer secondary")
        .header("connection", "x-hop")
        .header("x-hop", "1")
        .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .header("x-request-id", "mine")
        .body(Body::from("body"))
        .unwrap();
    let answer = front.ask(request).await;
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, "POST /v2/models/m/infer?a=b%20c"));
    assert_eq!(answer.headers["azureml-model-deployment"], "blue");
    assert_eq!(answer.headers["x-request-id"], "mine");
    assert_eq!(answer.headers["x-own"], "1");
    assert!(!answer.headers.contains_key("keep-alive"));
    let noted = noted.lock().unwrap().clone();
    assert_eq!(noted["traceparent"].len(), 55);
    assert_eq!(noted["x-request-id"], "mine");
    assert_eq!(noted["content-length"], "4");
    assert!(!noted.contains_key("x-hop") && !noted.contains_key("authorization"));
}

#[tokio::test]
async fn every_method_and_path_passes() {
    let front = Front::new().await;
    let (replica, _) = noting().await;
    front.gateway.set(endpoint(vec![deployment("blue", &[replica.address])]));
    for (method, path) in [("GET", "/"), ("GET", "/swagger.json?version=3"), ("OPTIONS", "/score")] {
        let request = Request::builder().method(method).uri(format!("/endpoints/iris{path}"));
        let answer = front.ask(request.header("host", "front").body(Body::empty()).unwrap()).await;
        assert_eq!(answer.text(), format!("{method} {path}"));
        assert_eq!(answer.headers["x-request-id"].len(), 36, "one is made where the replica gave none");
    }
    let head = Request::head("/endpoints/iris/score").header("host", "front").body(Body::empty()).unwrap();
    let answer = front.ask(head).await;
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, ""));
}

#[tokio::test]
async fn http2_in_is_http1_out() {
    let front = Front::new().await;
    let (replica, noted) = noting().await;
    front.gateway.set(endpoint(vec![deployment("blue", &[replica.address])]));
    let stream = TcpStream::connect(front.server.address).await.unwrap();
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for body in ["", "body"] {
        let request = Request::post("http://front/endpoints/iris/score").body(Body::from(body)).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["azureml-model-deployment"], "blue");
        assert_eq!(noted.lock().unwrap()["host"], replica.address.to_string());
    }
}

#[tokio::test]
async fn traffic_is_split_as_it_says_and_a_named_deployment_is_past_the_split() {
    let front = Front::new().await;
    let (blue, blues) = counting("blue").await;
    let (green, greens) = counting("green").await;
    let route = endpoint(vec![deployment("blue", &[blue.address]), deployment("green", &[green.address])]);
    let traffic = vec![(name("blue"), 90), (name("green"), 10)];
    front.gateway.set(EndpointRoute { traffic, ..route });
    for _ in 0..50 {
        let answer = front.score().await;
        assert_eq!(answer.headers["azureml-model-deployment"], answer.text());
    }
    assert_eq!((blues.load(Ordering::Relaxed), greens.load(Ordering::Relaxed)), (45, 5));
    let mut request = post("/endpoints/iris/score", "x");
    request.headers_mut().insert("azureml-model-deployment", "green".parse().unwrap());
    assert_eq!(front.ask(request).await.text(), "green");
}

#[tokio::test]
async fn a_mirror_gets_its_share_and_delays_nobody() {
    let front = Front::with(GatewayConfig { buffer_bytes: 100, ..GatewayConfig::default() }).await;
    let (blue, _) = counting("blue").await;
    let copies = Arc::new(AtomicUsize::new(0));
    let gate = Arc::new(Notify::new());
    let (seen, held) = (Arc::clone(&copies), Arc::clone(&gate));
    let green = Server::start(move |_| {
        seen.fetch_add(1, Ordering::Relaxed);
        let held = Arc::clone(&held);
        async move {
            held.notified().await;
            Response::builder().status(500).body(Body::empty()).unwrap()
        }
    })
    .await;
    let route = endpoint(vec![deployment("blue", &[blue.address]), deployment("green", &[green.address])]);
    let route = EndpointRoute { mirror: Some((name("green"), 20)), ..route };
    front.gateway.set(route.clone());
    for _ in 0..50 {
        assert_eq!(front.score().await.text(), "blue");
    }
    until("a fifth is copied", || copies.load(Ordering::Relaxed) == 10).await;
    let outcome = |outcome: &str, count: usize| {
        let labels = r#"deployment="green",endpoint="iris",outcome="#;
        let line = format!("moorline_gateway_mirrored_total{{{labels}\"{outcome}\"}} {count}\n");
        front.metrics().contains(&line)
    };
    (0..10).for_each(|_| gate.notify_waiters());
    until("an answer is an answer, whatever its status", || {
        gate.notify_waiters();
        outcome("answered", 10)
    })
    .await;

    front.gateway.set(EndpointRoute { mirror: Some((name("green"), 100)), ..route });
    let answer = front.ask(post("/endpoints/iris/score", vec![b'x'; 101])).await;
    assert_eq!(answer.text(), "blue");
    assert!(outcome("dropped", 1), "a body that was not read is not copied\n{}", front.metrics());
}
