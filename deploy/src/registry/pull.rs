//! A pull: from the name to everything below it, blobs first, so that a manifest is there only after what it names.

use std::{collections::HashSet, sync::Arc};

use futures_util::{StreamExt as _, TryStreamExt as _, future::BoxFuture, stream};
use moorline_core::Digest;
use oci_spec::image::{
    Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType, ToDockerV2S2 as _,
};

use super::{
    Reference, RegistryError, Wanted,
    download::download,
    manifest::{Document, Served},
    remote::{Remote, Shared},
};
use crate::{
    Progress,
    image::{Layout, LayoutError, digest_of},
};

/// Blobs on their way at a time.
const PARALLEL: usize = 4;
/// Indexes in indexes.
const DEEPEST: usize = 4;

/// One pull.
pub(super) struct Pull<'a> {
    sources: Vec<Remote>,
    what: &'a Reference,
    wanted: &'a Wanted,
    into: &'a Layout,
    progress: &'a Progress,
}

/// Whose turn it is: one source is asked after the other, the registry itself at last.
pub(super) struct Turns<'a> {
    sources: &'a [Remote],
    progress: &'a Progress,
    turn: usize,
}

impl<'a> Turns<'a> {
    pub(super) fn of(sources: &'a [Remote], progress: &'a Progress) -> Self {
        Self { sources, progress, turn: 0 }
    }

    pub(super) fn source(&self) -> &'a Remote {
        &self.sources[self.turn]
    }

    /// The next one's turn, because of this error; the error of the last is that of all.
    pub(super) fn pass(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        // What is wrong on this machine is not better with another source.
        let is_ours =
            matches!(error, RegistryError::Layout(LayoutError::Io { .. }) | RegistryError::Blocking(_));
        match self.sources.get(self.turn + 1) {
            Some(next) if !is_ours => {
                self.progress.line(&format!("{error}; asking `{}` instead", next.endpoint.name));
                self.turn += 1;
                Ok(())
            }
            _ => Err(error),
        }
    }
}

impl<'a> Pull<'a> {
    pub(super) fn new(
        shared: &Arc<Shared>,
        what: &'a Reference,
        wanted: &'a Wanted,
        into: &'a Layout,
        progress: &'a Progress,
    ) -> Result<Self, RegistryError> {
        Ok(Self { sources: Remote::sources(shared, what)?, what, wanted, into, progress })
    }

    pub(super) async fn run(mut self) -> Result<Descriptor, RegistryError> {
        let version = self.what.version();
        let kept = match self.what.digest() {
            Some(digest) => self.kept(*digest, None).await?,
            None => None,
        };
        let root = match kept {
            Some(root) => root,
            None => self.root(&version).await?,
        };
        let descriptor = root.descriptor();
        self.take(root, DEEPEST).await?;
        Ok(descriptor)
    }

    /// The document that the name means. Who does not have it is not asked for its blobs first.
    async fn root(&mut self, version: &str) -> Result<Served, RegistryError> {
        let (root, failed) = self.document(version).await?;
        self.sources.drain(..failed);
        Ok(root)
    }

    /// A document, and how many sources did not give it.
    async fn document(&self, version: &str) -> Result<(Served, usize), RegistryError> {
        let mut turns = Turns::of(&self.sources, self.progress);
        loop {
            match turns.source().manifest(version).await {
                Ok(served) => return Ok((served, turns.turn)),
                Err(error) => turns.pass(error)?,
            }
        }
    }

    /// A document that the layout has already.
    async fn kept(&self, digest: Digest, media_type: Option<&str>) -> Result<Option<Served>, RegistryError> {
        if !self.into.has(&digest) {
            return Ok(None);
        }
        let layout = self.into.clone();
        let bytes = tokio::task::spawn_blocking(move || layout.read(&digest)).await??;
        Served::read(bytes, media_type, &self.what.to_string()).map(Some)
    }

    /// Everything below a document, and then the document.
    fn take(&self, served: Served, depth: usize) -> BoxFuture<'_, Result<(), RegistryError>> {
        Box::pin(async move {
            match &served.document {
                Document::Manifest(manifest) => self.take_blobs(manifest).await?,
                Document::Index(index) => self.take_images(index, depth).await?,
            }
            self.keep(served.bytes).await
        })
    }

    async fn take_images(&self, index: &ImageIndex, depth: usize) -> Result<(), RegistryError> {
        let Some(depth) = depth.checked_sub(1) else {
            return Err(RegistryError::TooLarge {
                image: self.what.to_string(),
                what: "the depth",
                why: format!("indexes in indexes, more than {DEEPEST} deep"),
            });
        };
        let wanted: Vec<&Descriptor> = match self.wanted {
            Wanted::All => index.manifests().iter().collect(),
            Wanted::One(platform) => {
                vec![platform.choose(index).ok_or_else(|| RegistryError::NoPlatform {
                    image: self.what.to_string(),
                    wanted: platform.clone(),
                    has: index.manifests().iter().filter_map(platform_of).collect(),
                })?]
            }
        };
        for descriptor in wanted {
            let digest = self.digest(descriptor)?;
            let media_type = descriptor.media_type().to_string();
            let served = match self.kept(digest, Some(&media_type)).await? {
                Some(served) => served,
                None => self.document(&digest.to_string()).await?.0,
            };
            self.take(served, depth).await?;
        }
        Ok(())
    }

    async fn take_blobs(&self, manifest: &ImageManifest) -> Result<(), RegistryError> {
        // The config is small, and says whether the rest is wanted.
        self.take_blob(manifest.config()).await?;
        self.check_platform(manifest.config()).await?;
        let mut seen = HashSet::new();
        let layers = manifest.layers().iter().filter(|layer| seen.insert(layer.digest().to_string()));
        let taken: Vec<_> = layers.map(|layer| self.take_blob(layer)).collect();
        stream::iter(taken).buffer_unordered(PARALLEL).try_collect::<()>().await
    }

    /// An image alone is of the platform that is wanted, if it says of which it is.
    async fn check_platform(&self, config: &Descriptor) -> Result<(), RegistryError> {
        let docker = MediaType::ImageConfig.to_docker_v2s2().unwrap_or_default();
        let is_config =
            *config.media_type() == MediaType::ImageConfig || config.media_type().as_ref() == docker;
        let (Wanted::One(platform), true) = (self.wanted, is_config) else { return Ok(()) };
        let (layout, digest) = (self.into.clone(), self.digest(config)?);
        let config: ImageConfiguration =
            tokio::task::spawn_blocking(move || layout.document("config", &digest)).await??;
        let (os, architecture) = (config.os().to_string(), config.architecture().to_string());
        if platform.suits(&os, &architecture, config.variant().as_deref()) {
            return Ok(());
        }
        Err(RegistryError::NoPlatform {
            image: self.what.to_string(),
            wanted: platform.clone(),
            has: vec![format!("{os}/{architecture}")],
        })
    }

    async fn take_blob(&self, blob: &Descriptor) -> Result<(), RegistryError> {
        let digest = self.digest(blob)?;
        if self.into.has(&digest) {
            return Ok(());
        }
        let mut turns = Turns::of(&self.sources, self.progress);
        loop {
            match download(turns.source(), &digest, blob.size(), self.into, self.progress).await {
                Ok(()) => return Ok(()),
                Err(error) => turns.pass(error)?,
            }
        }
    }

    async fn keep(&self, bytes: Vec<u8>) -> Result<(), RegistryError> {
        let layout = self.into.clone();
        tokio::task::spawn_blocking(move || layout.put(&bytes)).await??;
        Ok(())
    }

    fn digest(&self, descriptor: &Descriptor) -> Result<Digest, RegistryError> {
        digest_of(descriptor).ok_or_else(|| RegistryError::Kind {
            image: self.what.to_string(),
            kind: format!("it names `{}`", descriptor.digest()),
            hint: "only sha256 digests are known here",
        })
    }
}

fn platform_of(descriptor: &Descriptor) -> Option<String> {
    let platform = descriptor.platform().as_ref()?;
    let variant = platform.variant().as_ref().map(|variant| format!("/{variant}")).unwrap_or_default();
    Some(format!("{}/{}{variant}", platform.os(), platform.architecture()))
}
