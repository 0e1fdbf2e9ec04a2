//! The gateway of a namespace: pods that take requests to endpoints there and hold keys, split, mirror and the start from
//! zero as the server's own gateway does, so that a request never passes the control plane.
//!
//! The server keeps the objects and one secret with all routes ([`keep`]). The gateway's pods read that secret and see the
//! pods of deployments come and go by watches of their own ([`follow`]): while no server runs, requests are answered on.
//! What the gateways have counted comes back by a question to each of them ([`report`]).

mod follow;
mod keep;
mod objects;
mod report;
mod routes;

pub use follow::{Followed, Follower};
pub use keep::{GatewayHooks, ImageSupply};
pub(super) use keep::{NamespaceGateway, remove_others};
#[cfg(test)]
pub(super) use objects::objects;
pub use objects::{GatewayParent, GatewaySettings};
pub use report::{DeploymentReport, GatewayReport};
pub use routes::{PublishedDeployment, PublishedEndpoint};

/// Of the gateway's pods: requests come to the one, questions about it to the other.
pub const DATA_PORT: u16 = 5001;
pub const ADMIN_PORT: u16 = 5000;
