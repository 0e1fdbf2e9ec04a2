//! The gateway alone, before one replica whose address is the argument: an endpoint with a key, behind the door that the
//! server has, and nothing of the workspace.
#![expect(clippy::print_stdout, reason = "the harness reads the address from it")]

use std::{
    collections::BTreeMap, convert::Infallible, net::SocketAddr, num::NonZeroU32, sync::Arc, time::Duration,
};

use anyhow::{Context as _, Result};
use axum::{
    body::Body,
    http::{Request, Response, StatusCode},
};
use clap::Parser;
use hyper::{body::Incoming, service::service_fn};
use moorline_benches::peers::GATEWAY_KEY;
use moorline_core::{DeploymentId, Digest};
use moorline_gateway::{Auth, DeploymentRoute, EndpointRoute, Gateway, GatewayConfig, Hooks, ReplicaRoute};
use moorline_listen::{Door, ListenConfig};
use prometheus::Registry;
use tokio::net::TcpListener;

const ENDPOINT: &str = "bench";
const TIMEOUT: Duration = Duration::from_mins(1);

#[derive(Parser)]
struct Arguments {
    replica: SocketAddr,
}

#[tokio::main]
async fn main() -> Result<()> {
    let hooks = Hooks { wake: Arc::new(|_| {}), verify: Arc::new(|_, _| Box::pin(async { false })) };
    let gateway = Gateway::new(GatewayConfig::default(), hooks, &Registry::new())?;
    gateway.set(route(Arguments::parse().replica)?);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let door = Door::new(&ListenConfig {
        max_connections: 4096,
        max_header_bytes: 64 << 10,
        header_timeout: TIMEOUT,
        write_timeout: TIMEOUT,
    });
    let service = service_fn(move |request: Request<Incoming>| {
        let gateway = gateway.clone();
        async move { Ok::<_, Infallible>(answer(&gateway, request.map(Body::new)).await) }
    });
    door.accept(&listener, service).await;
    Ok(())
}

async fn answer(gateway: &Gateway, request: Request<Body>) -> Response<Body> {
    let uri = request.uri().clone();
    let target = uri.path_and_query().and_then(|target| target.as_str().strip_prefix("/endpoints/"));
    let Some((target, slash)) = target.and_then(|target| Some((target, target.find('/')?))) else {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_FOUND;
        return response;
    };
    gateway.handle(&target[..slash], &target[slash..], request).await
}

fn route(replica: SocketAddr) -> Result<EndpointRoute> {
    let id = DeploymentId {
        workspace: "default".parse()?,
        endpoint: ENDPOINT.parse()?,
        deployment: "blue".parse()?,
    };
    let key = Digest::of(GATEWAY_KEY.as_bytes());
    let deployment = DeploymentRoute {
        id: id.clone(),
        replicas: vec![ReplicaRoute { id: "0".to_owned(), address: replica }],
        request_timeout: TIMEOUT,
        max_concurrent_per_replica: NonZeroU32::new(256).context("256 is not zero")?,
        max_queue_wait: TIMEOUT,
        can_scale_from_zero: false,
    };
    Ok(EndpointRoute {
        workspace: id.workspace,
        name: id.endpoint,
        auth: Auth::Key { hashes: [key, key] },
        traffic: vec![(id.deployment.clone(), 100)],
        mirror: None,
        deployments: BTreeMap::from([(id.deployment, deployment)]),
    })
}
