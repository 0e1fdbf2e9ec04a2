//! The documents themselves, one kind a file: their fields, and the rules between them.

mod azure;
mod bitstream;
mod collector;
mod compute;
mod container;
mod deployment;
mod edge;
mod endpoint;
mod environment;
mod fpga;
mod image;
mod kubernetes;
mod model;
mod registries;
mod runtime;
mod workspace;

use std::collections::BTreeMap;

pub use bitstream::Bitstream;
pub use collector::{Collection, CollectionData, DataAsset, DataCollector, RequestLogging, RollingRate};
pub use compute::{Compute, InstanceType, Requests};
pub use container::{ContainerHost, EngineTls};
pub use deployment::{
    CodeConfiguration, DeploymentType, OnlineDeployment, ResourceRequirements, ResourceSettings,
    ScaleSettings,
};
pub use edge::{EdgeDevices, EdgeMessaging};
pub use endpoint::{AuthMode, OnlineEndpoint};
pub use environment::{BuildContext, BuildSource, Environment, OsType};
pub use fpga::{FpgaDevice, FpgaDevices};
pub use kubernetes::{ClusterGateway, GatewayParent, KubernetesCluster, ModelVolume, ModelVolumeKind, Reach};
pub use model::Model;
pub use registries::{Registries, RegistryHost};
pub use runtime::RuntimeSettings;
pub use workspace::Workspace;

/// `tags` and `properties`: texts by name; numbers and booleans become their text.
pub type Tags = BTreeMap<String, String>;
