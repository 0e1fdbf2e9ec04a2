//! Registries: images are pulled and pushed by the OCI distribution protocol.
//!
//! The protocol is spoken here over `reqwest` and not by the crate `oci-client`, which knows neither uploads and
//! downloads that go on after a cut, nor mirrors, nor progress, and keeps whole blobs in memory.
//!
//! Source: the OCI distribution specification 1.1, and Docker's "Registry token authentication".

mod config;
mod error;
mod platform;
mod reference;

use oci_spec::image::Descriptor;

pub use self::{
    config::{Credentials, HostSettings, RegistryConfig},
    error::RegistryError,
    platform::{Platform, PlatformError, Wanted},
    reference::{Reference, ReferenceError},
};
use crate::{Progress, image::Layout};

/// What a push sent, and what it did not have to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Of blobs and manifests that were sent.
    pub bytes_sent: u64,
    pub blobs_sent: u64,
    /// Blobs that the registry took from another of its repositories.
    pub mounted: u64,
    /// Blobs that the repository had.
    pub skipped: u64,
}

/// All registries, as a server is told to use them. Cheap to clone; what one clone learned of a registry (tokens) the
/// others know.
#[derive(Clone, Debug)]
pub struct Registries {}

impl Registries {
    /// Reads the certificates that the settings name, and connects to nothing.
    pub fn new(config: RegistryConfig) -> Result<Self, RegistryError> {
        unimplemented!()
    }

    /// What the reference means now: the digest, size and media type of its manifest or index.
    pub async fn resolve(&self, what: &Reference) -> Result<Descriptor, RegistryError> {
        unimplemented!()
    }

    /// Brings the image into the layout: the manifest or index as it is served, whose descriptor is given back, and
    /// everything below it that is wanted. Every blob is verified, and those that the layout has are not asked for. A
    /// manifest is in the layout only after all that it names.
    pub async fn pull(
        &self,
        what: &Reference,
        wanted: &Wanted,
        into: &Layout,
        progress: &Progress,
    ) -> Result<Descriptor, RegistryError> {
        unimplemented!()
    }

    /// Brings a manifest or index of the layout, and everything below it, to the registry. Blobs that the repository has
    /// are not sent, and those of the repositories `mount_from` of the same registry are mounted. A reference with a
    /// digest alone is pushed without a tag.
    pub async fn push(
        &self,
        from: &Layout,
        what: &Descriptor,
        to: &Reference,
        mount_from: &[String],
        progress: &Progress,
    ) -> Result<Pushed, RegistryError> {
        unimplemented!()
    }

    /// The manifests whose subject is the image of this digest: signatures, SBOMs, provenance. Without `artifact_type`,
    /// all of them.
    pub async fn referrers(
        &self,
        subject: &Reference,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        unimplemented!()
    }

    /// The credentials for a registry (`host` or `host:port`), from the settings or else from Docker's own; for whoever
    /// lets an Engine pull.
    pub async fn credentials(&self, host: &str) -> Result<Option<Credentials>, RegistryError> {
        unimplemented!()
    }
}
