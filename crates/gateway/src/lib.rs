//! The front of endpoints: keys, traffic split, mirror, retry, scale from zero.
//!
//! It holds what the control plane tells it ([`Gateway::set`]) and nothing else: no disk, no clock of its own, no idea
//! of what a model is. A request's way: endpoint → key → deployment → place → replica → answer.

mod answer;
mod answers;
mod auth;
mod body;
mod config;
mod deployment;
mod forward;
mod gateway;
mod headers;
mod http1;
mod http2;
mod metrics;
mod mirror;
mod places;
mod problem;
mod replica;
mod route;
mod split;
mod table;
mod watch;

pub use answers::Answers;
pub use config::{GatewayConfig, Hooks, Observation, Verify, Wake};
pub use gateway::{Gateway, GatewayError, Load};
pub use route::{Auth, DeploymentRoute, EndpointRoute, ReplicaRoute};
