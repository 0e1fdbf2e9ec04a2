//! The hub against real clients: Azure's own, mosquitto's, and ones that break the rules.

#[cfg(test)]
mod agent;
#[cfg(test)]
mod agent_methods;
#[cfg(test)]
mod azure;
#[cfg(test)]
mod bounds;
#[cfg(test)]
mod bridge;
#[cfg(test)]
mod certificates;
#[cfg(test)]
mod containers;
#[cfg(test)]
mod fleet;
#[cfg(test)]
mod kills;
#[cfg(test)]
mod manifests;
#[cfg(test)]
mod modules;
#[cfg(test)]
mod network;
#[cfg(test)]
mod place;
#[cfg(test)]
mod plain;
#[cfg(test)]
mod releases;
#[cfg(test)]
mod sessions;
#[cfg(test)]
mod twins;
#[cfg(test)]
mod workload;
