//! The verbs of `az ml` and their relatives: one file a noun, its flags beside what they do.

pub(crate) mod bitstream;
pub(crate) mod compute;
pub(crate) mod device;
pub(crate) mod edge;
pub(crate) mod edge_device;
mod edge_manifest;
pub(crate) mod environment;
pub(crate) mod fpga;
pub(crate) mod fpga_profile;
pub(crate) mod image;
mod invoke;
pub(crate) mod kubernetes;
mod metrics;
pub(crate) mod model;
pub(crate) mod online_deployment;
pub(crate) mod online_endpoint;
pub(crate) mod quantize;
mod rollout;
pub(crate) mod secret;
pub(crate) mod token;
mod versions;
pub(crate) mod workspace;
