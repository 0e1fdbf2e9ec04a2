//! What the control plane tells the gateway: endpoints, their deployments, and where the replicas listen now.

use std::{collections::BTreeMap, net::SocketAddr, num::NonZeroU32, time::Duration};

use moorline_core::{DeploymentId, Digest, Name};

/// One endpoint, whole. [`Gateway::set`](crate::Gateway::set) replaces what was known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointRoute {
    pub workspace: Name,
    /// Unique over all workspaces.
    pub name: Name,
    pub auth: Auth,
    /// Weights of deployments; those that are absent have none. The sum is what whoever sets it allows; the shares are
    /// exact over every run of as many requests as the sum.
    pub traffic: Vec<(Name, u8)>,
    /// The deployment that gets copies, and of how many requests in a hundred.
    pub mirror: Option<(Name, u8)>,
    pub deployments: BTreeMap<Name, DeploymentRoute>,
}

/// Who may call an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// Whoever has a key with one of these digests, or a token that [`Verify`](crate::Verify) accepts.
    Key {
        hashes: [Digest; 2],
    },
    /// Whoever has a token that [`Verify`](crate::Verify) accepts.
    Token,
    Open,
}

/// One deployment of an endpoint and its replicas that take requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeploymentRoute {
    pub id: DeploymentId,
    pub replicas: Vec<ReplicaRoute>,
    /// From a request's arrival to the head of its answer, without the wait for a start from zero; then 408.
    pub request_timeout: Duration,
    pub max_concurrent_per_replica: NonZeroU32,
    /// How long a request waits for one of those places; then 429.
    pub max_queue_wait: Duration,
    /// Whether a request may wait for a first replica, after [`Wake`](crate::Wake) was told.
    pub can_scale_from_zero: bool,
    /// Where the replicas have what is `/score` here; `None` where they have it there too.
    pub scoring_path: Option<String>,
}

/// A replica that takes requests. One that drains is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaRoute {
    pub id: String,
    /// Of its data port.
    pub address: SocketAddr,
}
