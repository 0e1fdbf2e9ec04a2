//! Long bodies pass as they come, in both directions, and a client that leaves takes its request along.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::sync::mpsc;

use crate::harness::{Front, LIMIT, Server, connect, deployment, endpoint, post, until};

const PART: usize = 64 << 10;
const PARTS: usize = 800;

#[tokio::test]
async fn fifty_mebibytes_pass_while_they_come() {
    let front = Front::new().await;
    let received = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&received);
    // Sends back what it gets, part by part.
    let replica = Server::start(move |request: Request<Body>| {
        let count = Arc::clone(&count);
        async move {
            let parts = request.into_body().into_data_stream().inspect(move |part| {
                count.fetch_add(part.as_ref().map_or(0, Bytes::len) as u64, Ordering::Relaxed);
            });
            Response::new(Body::from_stream(parts))
        }
    })
    .await;
    front.gateway.set(endpoint(vec![deployment("blue", &[replica.address])]));

    let (parts, mut body) = mpsc::channel::<Result<Vec<u8>, std::io::Error>>(1);
    let length = (PART * PARTS).to_string();
    let request = Request::post("/endpoints/iris/score")
        .header("host", "front")
        .header("content-length", length)
        .body(Body::from_stream(stream::poll_fn(move |context| body.poll_recv(context))))
        .unwrap();
    let mut sender = connect(front.server.address).await;
    let exchange = tokio::spawn(async move { sender.send_request(request).await.unwrap() });
    parts.send(Ok(vec![1; PART])).await.unwrap();
    until("the first part is there before the second is sent", || {
        received.load(Ordering::Relaxed) == PART as u64
    })
    .await;
    let response = tokio::time::timeout(LIMIT, exchange).await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let mut back = response.into_body().into_data_stream();
    let mut returned = 0;
    while returned < PART {
        returned += back.next().await.unwrap().unwrap().len();
    }
    let rest = tokio::spawn(async move {
        for _ in 1..PARTS {
            parts.send(Ok(vec![2; PART])).await.unwrap();
        }
    });
    while let Some(part) = tokio::time::timeout(LIMIT, back.next()).await.unwrap() {
        returned += part.unwrap().len();
    }
    rest.await.unwrap();
    assert_eq!(returned, PART * PARTS);
    let load = || front.gateway.load(&crate::harness::id("blue"));
    until("nothing is left", || load().in_flight == 0).await;
}

/// Counts what is dropped.
struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_along() {
    let front = Front::new().await;
    let arrived = Arc::new(AtomicUsize::new(0));
    let dropped = Arc::new(AtomicUsize::new(0));
    let (seen, gone) = (Arc::clone(&arrived), Arc::clone(&dropped));
    let replica = Server::start(move |_| {
        seen.fetch_add(1, Ordering::Relaxed);
        let guard = Dropped(Arc::clone(&gone));
        async move {
            std::future::pending::<()>().await;
            drop(guard);
            Response::new(Body::empty())
        }
    })
    .await;
    let blue = deployment("blue", &[replica.address]);
    let id = blue.id.clone();
    front.gateway.set(endpoint(vec![blue]));
    let mut asking = Vec::new();
    for _ in 0..4 {
        let address = front.server.address;
        asking.push(tokio::spawn(async move {
            crate::harness::ask(address, post("/endpoints/iris/score", "x")).await
        }));
    }
    until("they are there", || arrived.load(Ordering::Relaxed) == 4).await;
    assert_eq!(front.gateway.load(&id).in_flight, 4);
    assert_eq!(front.gateway.in_flight(&id, &replica.address.to_string()), 4);
    asking.iter().for_each(tokio::task::JoinHandle::abort);
    until("the replica was told", || dropped.load(Ordering::Relaxed) == 4).await;
    until("their places are free", || front.gateway.load(&id).in_flight == 0).await;
    assert_eq!(front.gateway.in_flight(&id, &replica.address.to_string()), 0);
    let left = r#"moorline_gateway_requests_total{code="499",deployment="blue",endpoint="iris"} 4"#;
    assert!(front.metrics().contains(left), "{}", front.metrics());
    assert!(
        front.metrics().contains(r#"requests_in_flight{deployment="blue",endpoint="iris"} 0"#),
        "{}",
        front.metrics()
    );
}

#[tokio::test]
async fn who_leaves_in_the_middle_of_an_answer_frees_its_place() {
    let front = Front::new().await;
    let replica = Server::start(|_| async {
        let parts = stream::repeat_with(|| Ok::<_, std::io::Error>(vec![0; PART]));
        Response::new(Body::from_stream(parts))
    })
    .await;
    let blue = deployment("blue", &[replica.address]);
    let id = blue.id.clone();
    front.gateway.set(endpoint(vec![blue]));
    let mut sender = connect(front.server.address).await;
    let mut response = sender.send_request(post("/endpoints/iris/score", "x")).await.unwrap();
    response.frame().await.unwrap().unwrap();
    assert_eq!(front.gateway.load(&id).in_flight, 1);
    drop((response, sender));
    until("its place is free", || front.gateway.load(&id).in_flight == 0).await;
}
