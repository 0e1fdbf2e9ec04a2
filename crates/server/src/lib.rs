//! The control plane: API, operations, reconciler, roles.
//!
//! [`Server::start`] opens a home and serves it; [`Running`] is what it gives. Requests of the API change what is
//! desired and answer with an operation; the reconciler makes it true. Requests to endpoints go to the gateway.

mod api;
mod auth;
mod autoscale;
mod clusters;
mod collection;
mod config;
mod control;
mod edge;
mod fpgas;
mod front;
mod home;
mod hosts;
mod images;
mod leader;
mod monitor;
mod namespace_gateway;
mod observation;
mod openapi;
mod opened;
mod operations;
mod problem;
mod reconcile;
mod registries;
mod release;
mod resolve;
mod rollout;
mod route_settings;
mod secrets;
mod server;
mod signature;
mod status;
mod targets;

pub use config::{Bounds, Pages, ServerConfig};
pub use edge::HubSettings;
pub use home::Announcement;
pub use leader::{LeaderElection, Leadership};
pub use namespace_gateway::{NamespaceGatewayConfig, serve_namespace};
pub use observation::Observation;
pub use openapi::document;
pub use rollout::{ErrorRate, Latency, PlanError, Step, Steps};
pub use server::{Running, Server, StartError};
