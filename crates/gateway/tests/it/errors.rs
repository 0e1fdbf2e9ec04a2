//! Each refusal, and what is sent again and what never is.

use std::{
    net::SocketAddr,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::body::Body;
use http::{Request, Response, StatusCode};
use moorline_gateway::{Auth, DeploymentRoute, EndpointRoute, GatewayConfig};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::Notify,
};

use crate::harness::{Front, Server, counting, deployment, endpoint, id, keys, nowhere, post, until};

/// A server that reads a request's head and body `x`, writes `answer` and closes.
async fn raw(answer: &'static str) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut read = Vec::new();
            while !read.ends_with(b"\r\n\r\nx") {
                let mut part = [0; 1024];
                match stream.read(&mut part).await {
                    Ok(length) if length > 0 => read.extend_from_slice(&part[..length]),
                    _ => break,
                }
            }
            if read.ends_with(b"x") {
                seen.fetch_add(1, Ordering::Relaxed);
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    });
    (address, count)
}

#[tokio::test]
async fn nobody_comes_in_without_a_key() {
    let front = Front::new().await;
    let (replica, count) = counting("blue").await;
    let route = endpoint(vec![deployment("blue", &[replica.address])]);
    for (auth, right, wrong) in [
        (keys(), "primary", "mrl_1_bad"),
        (keys(), "mrl_1_good", "x"),
        (Auth::Token, "mrl_1_good", "primary"),
    ] {
        front.gateway.set(EndpointRoute { auth, ..route.clone() });
        for (credential, status) in [(Some(right), 200), (Some(wrong), 401), (None, 401)] {
            let mut request = post("/endpoints/iris/score", "x");
            if let Some(credential) = credential {
                let value = format!("Bearer {credential}").parse().unwrap();
                request.headers_mut().insert("authorization", value);
            }
            let answer = front.ask(request).await;
            assert_eq!(answer.status, status, "{credential:?}");
            assert_eq!(answer.headers.contains_key("www-authenticate"), status == 401);
            assert!(answer.headers.contains_key("x-request-id"));
        }
    }
    assert_eq!(count.load(Ordering::Relaxed), 3);
    let preflight = Request::options("/endpoints/iris/score")
        .header("host", "front")
        .header("origin", "https://example.org")
        .header("access-control-request-method", "POST")
        .body(Body::empty())
        .unwrap();
    assert_eq!(front.ask(preflight).await.status, StatusCode::OK);
}

#[tokio::test]
async fn what_is_not_there_is_404() {
    let front = Front::new().await;
    let (replica, _) = counting("blue").await;
    let route = endpoint(vec![deployment("blue", &[replica.address])]);
    let answer = front.score().await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert_eq!(answer.text(), r#"{"message":"There is no endpoint `iris` here."}"#);

    front.gateway.set(EndpointRoute { traffic: Vec::new(), ..route.clone() });
    let answer = front.score().await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert!(answer.text().contains("no deployment with traffic"), "{}", answer.text());

    let mut request = post("/endpoints/iris/v2/models/m/infer", "x");
    request.headers_mut().insert("azureml-model-deployment", "red".parse().unwrap());
    let answer = front.ask(request).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert!(answer.text().starts_with(r#"{"error":"The endpoint has no deployment `red`"#));

    front.gateway.set(route.clone());
    assert_eq!(front.score().await.status, StatusCode::OK);
    front.gateway.remove(&"other".parse().unwrap(), &route.name);
    assert_eq!(front.score().await.status, StatusCode::OK);
    front.gateway.remove(&route.workspace, &route.name);
    assert_eq!(front.score().await.status, StatusCode::NOT_FOUND);
    assert!(!front.metrics().contains("iris"), "{}", front.metrics());
}

#[tokio::test]
async fn bounds_are_kept() {
    let config = GatewayConfig { max_body_bytes: 50, buffer_bytes: 20, ..GatewayConfig::default() };
    let front = Front::with(config).await;
    let replica = Server::start(|request: Request<Body>| async {
        let _ = axum::body::to_bytes(request.into_body(), usize::MAX).await;
        Response::new(Body::empty())
    })
    .await;
    front.gateway.set(endpoint(vec![deployment("blue", &[replica.address])]));
    let status = async |body: Body| front.ask(post("/endpoints/iris/score", body)).await.status;
    assert_eq!(status(Body::from(vec![0; 50])).await, StatusCode::OK);
    assert_eq!(status(Body::from(vec![0; 51])).await, StatusCode::PAYLOAD_TOO_LARGE);
    let chunked = |parts: usize| {
        let parts = (0..parts).map(|_| Ok::<_, std::io::Error>(vec![0; 30]));
        Body::from_stream(futures_util::stream::iter(parts))
    };
    assert_eq!(status(chunked(1)).await, StatusCode::OK);
    assert_eq!(status(chunked(2)).await, StatusCode::PAYLOAD_TOO_LARGE);
    let mut request = post("/endpoints/iris/score", "x");
    request.headers_mut().insert("x-request-id", "a".repeat(101).parse().unwrap());
    assert_eq!(front.ask(request).await.status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
}

#[tokio::test]
async fn a_full_deployment_lets_wait_and_then_refuses() {
    let config = GatewayConfig { max_queue_length: 1, ..GatewayConfig::default() };
    let front = Arc::new(Front::with(config).await);
    let gate = Arc::new(Notify::new());
    let held = Arc::clone(&gate);
    let replica = Server::start(move |_| {
        let held = Arc::clone(&held);
        async move {
            held.notified().await;
            Response::new(Body::empty())
        }
    })
    .await;
    let blue = deployment("blue", &[replica.address]);
    let id = blue.id.clone();
    let blue = DeploymentRoute { max_concurrent_per_replica: NonZeroU32::MIN, ..blue };
    front.gateway.set(endpoint(vec![blue.clone()]));
    let asking = || {
        let front = Arc::clone(&front);
        tokio::spawn(async move { front.score().await.status })
    };
    let first = asking();
    until("the first has the place", || front.gateway.load(&id).in_flight == 1).await;
    let second = asking();
    until("the second waits", || front.gateway.load(&id).waiting == 1).await;
    let refused = front.score().await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(refused.headers["azureml-model-deployment"], "blue");
    gate.notify_one();
    assert_eq!(first.await.unwrap(), StatusCode::OK);
    gate.notify_one();
    assert_eq!(second.await.unwrap(), StatusCode::OK);

    let max_queue_wait = Duration::from_millis(5);
    front.gateway.set(endpoint(vec![DeploymentRoute { max_queue_wait, ..blue }]));
    let first = asking();
    until("the place is taken again", || front.gateway.load(&id).in_flight == 1).await;
    assert_eq!(front.score().await.status, StatusCode::TOO_MANY_REQUESTS);
    gate.notify_one();
    assert_eq!(first.await.unwrap(), StatusCode::OK);
    until("nothing is left", || front.gateway.load(&id).in_flight == 0).await;
    assert_eq!(front.gateway.load(&id).waiting, 0);
}

#[tokio::test]
async fn a_late_answer_is_408() {
    let front = Front::new().await;
    let replica = Server::start(|_| std::future::pending()).await;
    let blue = deployment("blue", &[replica.address]);
    let id = blue.id.clone();
    let request_timeout = Duration::from_millis(20);
    front.gateway.set(endpoint(vec![DeploymentRoute { request_timeout, ..blue }]));
    let answer = front.score().await;
    assert_eq!(answer.status, StatusCode::REQUEST_TIMEOUT);
    assert_eq!(answer.text(), r#"{"message":"Request timeout after 20 ms"}"#);
    assert_eq!(front.gateway.load(&id).in_flight, 0);
}

#[tokio::test]
async fn an_error_of_the_model_is_424_on_score_and_itself_elsewhere() {
    let front = Front::new().await;
    let replica = Server::start(|_| async {
        Response::builder().status(500).body(Body::from(r#"{"message":"oh"}"#)).unwrap()
    })
    .await;
    front.gateway.set(endpoint(vec![deployment("blue", &[replica.address])]));
    let answer = front.score().await;
    assert_eq!(answer.status, StatusCode::FAILED_DEPENDENCY);
    assert_eq!(answer.headers["ms-azureml-model-error-statuscode"], "500");
    assert_eq!(answer.headers["ms-azureml-model-error-reason"], "Internal Server Error");
    assert_eq!(answer.text(), r#"{"message":"oh"}"#);
    let answer = front.ask(post("/endpoints/iris/invocations", "x")).await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    let code = r#"moorline_gateway_requests_total{code="424",deployment="blue",endpoint="iris"} 1"#;
    assert!(front.metrics().contains(code), "{}", front.metrics());
    let answers = front.gateway.answers(&id("blue"));
    assert_eq!((answers.requests, answers.failed), (2, 2));
}

#[tokio::test]
async fn what_the_deployment_is_to_blame_for_is_counted() {
    let front = Front::new().await;
    let picky =
        Server::start(|_| async { Response::builder().status(404).body(Body::empty()).unwrap() }).await;
    front.gateway.set(endpoint(vec![deployment("blue", &[picky.address])]));
    assert_eq!(front.score().await.status, StatusCode::FAILED_DEPENDENCY);
    let count = || {
        let answers = front.gateway.answers(&id("blue"));
        (answers.requests, answers.failed, front.gateway.load(&id("blue")).replicas)
    };
    // A script that does not know what it was asked for has answered well.
    assert_eq!(count(), (1, 0, 1));
    front.gateway.set(endpoint(vec![deployment("blue", &[])]));
    assert_eq!(front.score().await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(count(), (2, 1, 0));
    assert_eq!(front.gateway.answers(&id("green")), moorline_gateway::Answers::default());
}

#[tokio::test]
async fn a_replica_that_dies_with_a_request_is_502_and_nobody_else_gets_it() {
    let front = Front::new().await;
    let (dying, deaths) = raw("").await;
    let (well, answers) = counting("well").await;
    front.gateway.set(endpoint(vec![deployment("blue", &[dying, well.address])]));
    let mut statuses = Vec::new();
    for _ in 0..8 {
        statuses.push(front.score().await.status);
    }
    let lost = statuses.iter().filter(|status| **status == StatusCode::BAD_GATEWAY).count();
    let answered = statuses.iter().filter(|status| **status == StatusCode::OK).count();
    assert_eq!(lost + answered, 8, "{statuses:?}");
    assert_eq!((deaths.load(Ordering::Relaxed), answers.load(Ordering::Relaxed)), (lost, answered));
    assert!(lost > 0 && answered > 0);
}

#[tokio::test]
async fn a_request_that_nobody_saw_goes_to_another_replica() {
    let front = Front::new().await;
    let (well, answers) = counting("well").await;
    front.gateway.set(endpoint(vec![deployment("blue", &[nowhere().await, well.address])]));
    for _ in 0..8 {
        assert_eq!(front.score().await.status, StatusCode::OK);
    }
    assert_eq!(answers.load(Ordering::Relaxed), 8);
    assert!(!front.metrics().contains(r#"retries_total{deployment="blue",endpoint="iris"} 0"#));
}

#[tokio::test]
async fn without_a_replica_that_answers_it_is_503() {
    let front = Front::new().await;
    front.gateway.set(endpoint(vec![deployment("blue", &[nowhere().await])]));
    let refused = front.score().await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers["retry-after"], "1");
    front.gateway.set(endpoint(vec![deployment("blue", &[])]));
    assert_eq!(front.score().await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(front.woken.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_costs_nobody_an_answer() {
    let front = Front::new().await;
    let (address, count) = raw("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    front.gateway.set(endpoint(vec![deployment("blue", &[address])]));
    for asked in 1..=20 {
        let answer = front.score().await;
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, "ok"));
        assert_eq!(count.load(Ordering::Relaxed), asked);
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_seen_to() {
    let front = Front::new().await;
    let (address, _) = raw("HTTP/1.1 200 OK\r\ncontent-length: 2000000\r\n\r\nok").await;
    let blue = deployment("blue", &[address]);
    let id = blue.id.clone();
    front.gateway.set(endpoint(vec![blue]));
    let mut sender = crate::harness::connect(front.server.address).await;
    let whole = async {
        let response = sender.send_request(post("/endpoints/iris/score", "x")).await?;
        http_body_util::BodyExt::collect(response.into_body()).await
    };
    assert!(whole.await.is_err());
    until("it is over", || front.gateway.load(&id).in_flight == 0).await;
}
