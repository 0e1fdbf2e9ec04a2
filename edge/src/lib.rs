//! Devices and their modules, and the hub that they talk to.
//!
//! [`hub::Hub`] is an MQTT session server with the contract of Azure IoT Hub: unmodified clients of Azure's libraries
//! connect to it. The same hub runs inside the server, for all devices, and on a device, for its modules.
//!
//! ```no_run
//! # async fn start(identities: std::sync::Arc<dyn moorline_edge::hub::Identities>) -> Result<(), moorline_edge::hub::HubError> {
//! use moorline_edge::hub::{Hub, HubConfig, TlsFiles};
//!
//! let tls = TlsFiles { certificates: "hub.pem".into(), key: "hub.key".into(), client_authorities: None };
//! let config = HubConfig::new("hub".into(), "hub.local".to_owned(), ([0, 0, 0, 0], 8883).into(), tls);
//! let hub = Hub::start(config, identities, &prometheus::Registry::new()).await?;
//! let mut upstream = hub.upstream();
//! let message = upstream.next().await?;
//! upstream.done(message.sequence)?;
//! hub.shutdown().await;
//! # Ok(()) }
//! ```
//!
//! Who embeds it provides two things: [`hub::Identities`], asked at every connection, and a reader of
//! [`hub::Hub::upstream`], the queue of all messages that routes lead to `$upstream`. Twins, methods and messages to
//! devices are methods of the handle. What is done to a twin is told to its client; what a client does to its own is an
//! event of [`hub::Hub::events`].

pub mod agent;
pub mod authority;
pub mod containers;
pub mod desired;
pub mod disk;
pub mod enrol;
pub mod fleet;
pub mod hub;
pub mod images;
pub mod manifest;
pub mod metrics;
pub mod modules;
pub mod releases;
pub mod secrets;
pub mod supply;
pub mod workload;

/// An error and what caused it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
