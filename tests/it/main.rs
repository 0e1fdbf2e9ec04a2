//! The end-to-end tests of Moorline: everything here goes through the front door of the real binaries.

#[cfg(test)]
mod admission;
#[cfg(test)]
mod az_script;
#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod bad_release;
#[cfg(test)]
mod batching;
#[cfg(test)]
mod bitstreams;
#[cfg(test)]
mod built_packages;
#[cfg(test)]
mod chaos;
#[cfg(test)]
mod chart;
#[cfg(test)]
mod chart_pods;
#[cfg(test)]
mod cluster_faults;
#[cfg(test)]
mod cluster_gateway;
#[cfg(test)]
mod cluster_scaling;
#[cfg(test)]
mod collection;
#[cfg(test)]
mod containers;
#[cfg(test)]
mod deployments;
#[cfg(test)]
mod differential;
#[cfg(test)]
mod documents;
#[cfg(test)]
mod edge_devices;
mod edge_fleet;
#[cfg(test)]
mod endpoints;
#[cfg(test)]
mod fpga;
#[cfg(test)]
mod fpga_places;
#[cfg(test)]
mod host_faults;
#[cfg(test)]
mod hosts;
#[cfg(test)]
mod image_inputs;
#[cfg(test)]
mod images;
#[cfg(test)]
mod kubernetes;
#[cfg(test)]
mod leader;
#[cfg(test)]
mod life_cycle;
#[cfg(test)]
mod mlflow;
#[cfg(test)]
mod monitoring;
#[cfg(test)]
mod observation;
#[cfg(test)]
mod onnx_nodes;
#[cfg(test)]
mod onnx_score;
#[cfg(test)]
mod open_inference;
#[cfg(test)]
mod platforms;
#[cfg(test)]
mod portal;
#[cfg(test)]
mod quantize;
#[cfg(test)]
mod rollout;
#[cfg(test)]
mod scaling;
#[cfg(test)]
mod scoring_script;
#[cfg(test)]
mod soak;
#[cfg(test)]
mod survival;
#[cfg(test)]
mod traces;
#[cfg(test)]
mod transport;
#[cfg(test)]
mod workspace_bad_input;
