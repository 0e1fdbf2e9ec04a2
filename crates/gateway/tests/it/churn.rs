//! Replicas come and go under load, and no request is lost or run twice.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::body::Body;
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use moorline_gateway::DeploymentRoute;

use crate::harness::{Front, Server, connect, deployment, endpoint, id, post, until};

const CLIENTS: usize = 8;
const ROUNDS: usize = 40;

async fn replica(runs: &Arc<AtomicUsize>) -> Server {
    let runs = Arc::clone(runs);
    Server::start(move |_| {
        runs.fetch_add(1, Ordering::Relaxed);
        async {
            tokio::time::sleep(Duration::from_micros(200)).await;
            Response::new(Body::from("ok"))
        }
    })
    .await
}

fn route(replicas: &[&Server]) -> DeploymentRoute {
    let addresses: Vec<_> = replicas.iter().map(|replica| replica.address).collect();
    DeploymentRoute {
        max_concurrent_per_replica: NonZeroU32::MIN.saturating_add(2),
        ..deployment("blue", &addresses)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_request_is_lost_when_replicas_are_replaced() {
    let front = Front::new().await;
    let runs = Arc::new(AtomicUsize::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let mut running = [replica(&runs).await, replica(&runs).await];
    front.gateway.set(endpoint(vec![route(&running.each_ref())]));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (stop, address) = (Arc::clone(&stop), front.server.address);
            tokio::spawn(async move {
                let mut sender = connect(address).await;
                let mut answered = 0;
                while !stop.load(Ordering::Relaxed) {
                    let response = sender.send_request(post("/endpoints/iris/score", "x")).await.unwrap();
                    assert_eq!(response.status(), StatusCode::OK);
                    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok");
                    sender.ready().await.unwrap();
                    answered += 1;
                }
                answered
            })
        })
        .collect();
    for round in 0..ROUNDS {
        let fresh = replica(&runs).await;
        let old = std::mem::replace(&mut running[round % 2], fresh);
        front.gateway.set(endpoint(vec![route(&running.each_ref())]));
        let name = old.address.to_string();
        until("the old one has nothing left", || front.gateway.in_flight(&id("blue"), &name) == 0).await;
        old.drain().await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut answered = 0;
    for client in clients {
        answered += client.await.unwrap();
    }
    assert_eq!(runs.load(Ordering::Relaxed), answered, "each ran once");
    assert!(answered > ROUNDS, "there was a load: {answered}");
    assert_eq!(front.gateway.load(&id("blue")).in_flight, 0);
}
