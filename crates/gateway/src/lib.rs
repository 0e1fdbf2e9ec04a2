//! The front of endpoints: keys, traffic split, mirror, retry, scale from zero.

#![expect(clippy::unimplemented, clippy::unused_async, reason = "the signatures come before the bodies")]

mod config;
mod gateway;
mod route;

pub use config::{GatewayConfig, Hooks, Verify, Wake};
pub use gateway::{Gateway, Load};
pub use route::{Auth, DeploymentRoute, EndpointRoute, ReplicaRoute};
