//! Registries: images are pulled and pushed by the OCI distribution protocol.
//!
//! The protocol is spoken here over `reqwest` and not by the crate `oci-client`, which knows neither uploads and
//! downloads that go on after a cut, nor mirrors, nor progress.
//!
//! Source: the OCI distribution specification 1.1, and Docker's "Registry token authentication".

mod auth;
mod challenge;
mod config;
mod docker_config;
mod download;
mod endpoint;
mod error;
mod exchange;
mod manifest;
mod meter;
mod platform;
mod pull;
mod push;
mod reference;
mod referrers;
mod remote;
mod upload;

use std::sync::Arc;

use oci_spec::image::Descriptor;

use self::{
    auth::Grants,
    endpoint::Endpoints,
    pull::{Pull, Turns},
    push::Push,
    remote::{Remote, Shared},
};
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
pub struct Registries(Arc<Shared>);

impl Registries {
    /// Reads the certificates that the settings name, and connects to nothing.
    pub fn new(config: RegistryConfig) -> Result<Self, RegistryError> {
        let endpoints = Endpoints::new(&config)?;
        Ok(Self(Arc::new(Shared { endpoints, grants: Grants::new(config.environment) })))
    }

    /// What the reference means now: the digest, size and media type of its manifest or index.
    pub async fn resolve(&self, what: &Reference) -> Result<Descriptor, RegistryError> {
        let version = what.version();
        let sources = Remote::sources(&self.0, what)?;
        let progress = Progress::none();
        let mut turns = Turns::of(&sources, &progress);
        loop {
            match turns.source().descriptor(&version).await {
                Ok(descriptor) => return Ok(descriptor),
                Err(error) => turns.pass(error)?,
            }
        }
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
        Pull::new(&self.0, what, wanted, into, progress)?.run().await
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
        Push { shared: &self.0, from, to, mount_from, progress }.run(what).await
    }

    /// The manifests whose subject is the image of this digest: signatures, SBOMs, provenance. Without `artifact_type`,
    /// all of them.
    pub async fn referrers(
        &self,
        subject: &Reference,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let digest = subject.digest().ok_or_else(|| RegistryError::NoDigest(subject.to_string()))?;
        let sources = Remote::sources(&self.0, subject)?;
        let progress = Progress::none();
        let mut turns = Turns::of(&sources, &progress);
        loop {
            let source = turns.source();
            match referrers::list(source, digest, artifact_type).await {
                // What a mirror does not have the registry itself may have.
                Ok(found) if found.is_empty() && source.is_mirror() => {
                    turns.pass(source.missing(&digest.to_string()))?;
                }
                Ok(found) => return Ok(found),
                Err(error) => turns.pass(error)?,
            }
        }
    }

    /// The credentials for a registry (`host` or `host:port`), from the settings or else from Docker's own; for whoever
    /// lets an Engine pull.
    pub async fn credentials(&self, host: &str) -> Result<Option<Credentials>, RegistryError> {
        self.0.grants.credentials(&self.0.endpoints, host).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_may_move_between_threads_and_shows_no_environment() {
        fn moves<T: Send>(_: &T) {}
        let environment =
            [("HTTPS_PROXY", "http://me:s3cret@127.0.0.1:1"), ("AWS_SECRET_ACCESS_KEY", "s3cret")];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let config = RegistryConfig { environment, ..RegistryConfig::default() };
        assert!(!format!("{config:?}").contains("s3cret"));
        let registries = Registries::new(config).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(dir.path()).unwrap();
        let (what, progress) = ("localhost/a".parse().unwrap(), Progress::none());
        let image = manifest::descriptor(&moorline_core::Digest::of(b""), 0, "a/b");
        moves(&registries.resolve(&what));
        moves(&registries.pull(&what, &Wanted::All, &layout, &progress));
        moves(&registries.push(&layout, &image, &what, &[], &progress));
        moves(&registries.referrers(&what, None));
        moves(&registries.credentials("localhost"));
        for source in Remote::sources(&registries.0, &what).unwrap() {
            assert!(!format!("{registries:?} {source:?}").contains("s3cret"));
        }
    }
}
