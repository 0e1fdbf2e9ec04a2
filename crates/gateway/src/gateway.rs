//! The gateway as its owner sees it.

use std::time::Instant;

use axum::body::Body;
use http::{Request, Response};
use moorline_core::{DeploymentId, Name};
use prometheus::Registry;

use crate::{
    config::{GatewayConfig, Hooks},
    route::EndpointRoute,
};

/// What is asked of a deployment now, for whoever decides how many replicas it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests that have a place.
    pub in_flight: usize,
    /// Requests that wait for a place or for a first replica.
    pub waiting: usize,
    /// When the last request came or was answered.
    pub last_request: Option<Instant>,
}

/// The front of all endpoints of a server. Clones are the same gateway.
#[derive(Clone, Debug)]
pub struct Gateway {}

impl Gateway {
    /// A gateway without endpoints. Its metrics go into `registry`. Needs a tokio runtime around it once it is used.
    pub fn new(config: GatewayConfig, hooks: Hooks, registry: &Registry) -> Result<Self, prometheus::Error> {
        let _ = (config, hooks, registry);
        unimplemented!()
    }

    /// Replaces an endpoint. Requests under way stay where they are; none begun later goes to a replica that is not in
    /// `route` any more. Takes effect before it returns.
    pub fn set(&self, route: EndpointRoute) {
        let _ = route;
        unimplemented!()
    }

    /// Forgets an endpoint: 404 from now on.
    pub fn remove(&self, workspace: &Name, endpoint: &Name) {
        let _ = (workspace, endpoint);
        unimplemented!()
    }

    /// What is asked of a deployment now; nothing of one that is not known.
    pub fn load(&self, id: &DeploymentId) -> Load {
        let _ = id;
        unimplemented!()
    }

    /// Requests that the replica with this id has, for whoever waits to stop it.
    pub fn in_flight(&self, id: &DeploymentId, replica: &str) -> usize {
        let _ = (id, replica);
        unimplemented!()
    }

    /// Answers a request to `endpoint`. `target` is the path and query that the replica sees (`/score?a=b`). A gRPC
    /// call (`content-type: application/grpc`) goes over HTTP/2 with its trailers, anything else over HTTP/1.1.
    pub async fn handle(&self, endpoint: &str, target: &str, request: Request<Body>) -> Response<Body> {
        let _ = (endpoint, target, request);
        unimplemented!()
    }

    /// Answers a gRPC call whose endpoint is in its metadata, `moorline-endpoint`, and whose path is the method's.
    pub async fn handle_grpc(&self, request: Request<Body>) -> Response<Body> {
        let _ = request;
        unimplemented!()
    }
}
