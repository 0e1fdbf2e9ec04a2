//! The Kubernetes target: scorers as pods of a cluster, by objects that a platform engineer would have written.
//!
//! [`ClusterAddress`] says which cluster is meant. What is written is in `objects`, what is read comes from `watch`, and
//! `deployment` brings the one to the other. A [`Lease`] is for servers, of which one leads.

mod cluster;
mod deployment;
mod drift;
mod error;
mod forward;
mod gateway;
#[cfg(test)]
mod golden;
mod lease;
mod logs;
mod names;
mod objects;
mod pods;
#[cfg(test)]
mod protocol;
mod rbac;
mod role;
mod served;
mod sizes;
mod state;
mod target;
mod watch;
mod write;

pub use cluster::{Cluster, ClusterAddress};
pub use error::ClusterError;
pub use gateway::{
    ADMIN_PORT, DATA_PORT, DeploymentReport, Followed, Follower, GatewayHooks, GatewayParent, GatewayReport,
    GatewaySettings, ImageSupply, PublishedDeployment, PublishedEndpoint,
};
pub use lease::{HeldLease, Lease, LeaseLost, LeaseTimes};
pub use names::{FIELD_MANAGER, object_name};
pub use rbac::{rbac, rbac_of_instance_types};
pub use role::{PodRole, mark_pod};
pub use served::Served;
pub use target::{Action, Change, KubernetesConfig, KubernetesTarget};
