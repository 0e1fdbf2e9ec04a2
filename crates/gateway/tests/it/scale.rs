//! Starts from zero: who waits, for how long, and how many.

use std::{sync::Arc, sync::atomic::Ordering, time::Duration};

use http::StatusCode;
use moorline_gateway::{DeploymentRoute, GatewayConfig};

use crate::harness::{Front, counting, deployment, endpoint, until};

fn asleep() -> DeploymentRoute {
    DeploymentRoute {
        can_scale_from_zero: true,
        // Less than the start takes: the start is not the request's fault.
        request_timeout: Duration::from_secs(5),
        ..deployment("blue", &[])
    }
}

#[tokio::test]
async fn a_request_wakes_a_deployment_and_waits_for_it() {
    let config = GatewayConfig { max_cold_waiters: 8, ..GatewayConfig::default() };
    let front = Arc::new(Front::with(config).await);
    let route = asleep();
    let id = route.id.clone();
    front.gateway.set(endpoint(vec![route.clone()]));
    let asking: Vec<_> = (0..8)
        .map(|_| {
            let front = Arc::clone(&front);
            tokio::spawn(async move { front.score().await.status })
        })
        .collect();
    until("all wait", || front.gateway.load(&id).waiting == 8).await;
    assert!(front.woken.load(Ordering::Relaxed) >= 1);
    assert!(front.gateway.load(&id).last_request.is_some());
    let refused = front.score().await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS, "one too many");
    let (replica, count) = counting("blue").await;
    let replicas = deployment("blue", &[replica.address]).replicas;
    front.gateway.set(endpoint(vec![DeploymentRoute { replicas, ..route }]));
    for asked in asking {
        assert_eq!(asked.await.unwrap(), StatusCode::OK);
    }
    assert_eq!(count.load(Ordering::Relaxed), 8);
    assert_eq!(front.gateway.load(&id).waiting, 0);
}

#[tokio::test]
async fn a_deployment_that_does_not_start_is_503() {
    let cold_start_timeout = Duration::from_millis(10);
    let front = Front::with(GatewayConfig { cold_start_timeout, ..GatewayConfig::default() }).await;
    front.gateway.set(endpoint(vec![asleep()]));
    let refused = front.score().await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.text().contains("did not start in time"), "{}", refused.text());
}

#[tokio::test]
async fn who_waits_for_what_is_removed_is_told() {
    let front = Arc::new(Front::new().await);
    let route = endpoint(vec![asleep()]);
    let id = asleep().id;
    front.gateway.set(route.clone());
    let asking = tokio::spawn({
        let front = Arc::clone(&front);
        async move { front.score().await.status }
    });
    until("it waits", || front.gateway.load(&id).waiting == 1).await;
    front.gateway.remove(&route.workspace, &route.name);
    assert_eq!(asking.await.unwrap(), StatusCode::SERVICE_UNAVAILABLE);
}
