//! Images: a release becomes an OCI image, without an Engine.
//!
//! Everything is made from the release's folder and a base, layer by layer, and the same is made from the same, to the
//! byte. Layers that were made before are known by what they are made of, and are not made again.

#![expect(unused, clippy::unimplemented, reason = "signatures only in this commit")]
mod error;
mod layout;
mod types;

use std::{collections::HashSet, path::Path};

use moorline_core::Digest;

pub use error::ImageError;
pub(crate) use layout::{LONGEST_DOCUMENT, digest_of};
pub use layout::{Layout, LayoutError};
pub use types::{
    Base, Compression, Image, ImageConfig, ImageDetails, ImageLayer, ImageRequest, LayerKind, Pruned,
};

use crate::Progress;

/// What an Engine loads; read it to the end. `size` is known before.
#[derive(Debug)]
pub struct DockerArchive {}

impl DockerArchive {
    /// Bytes in all.
    pub fn size(&self) -> u64 {
        unimplemented!()
    }

    /// The archive as a stream of chunks, read on a thread of its own.
    pub fn into_stream(
        self,
    ) -> impl futures_util::Stream<Item = std::io::Result<bytes::Bytes>> + Send + Unpin + 'static {
        futures_util::stream::empty()
    }
}

/// The images of one layout. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Images {
    layout: Layout,
}

impl Images {
    /// Opens the layout, and clears away what was not written to the end.
    pub async fn open(config: ImageConfig) -> Result<Self, ImageError> {
        unimplemented!()
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Makes the image of a release, or finds it made. Cancelling loses nothing that was finished.
    pub async fn build(&self, request: ImageRequest<'_>, progress: &Progress) -> Result<Image, ImageError> {
        unimplemented!()
    }

    /// Every image that was built here, in the order of their references.
    pub async fn list(&self) -> Result<Vec<Image>, ImageError> {
        unimplemented!()
    }

    /// The image of this digest, read again from the layout.
    pub async fn image(&self, digest: &Digest) -> Result<Image, ImageError> {
        unimplemented!()
    }

    /// The image of this digest, with its referrers.
    pub async fn show(&self, digest: &Digest) -> Result<ImageDetails, ImageError> {
        unimplemented!()
    }

    /// Removes every image that is not kept, its referrers, and every blob that nothing needs any more. Waits for
    /// builds that are under way.
    pub async fn prune(&self, keep: &HashSet<Digest>) -> Result<Pruned, ImageError> {
        unimplemented!()
    }

    /// The image as `docker load` takes it, under the name `tag`. Leading layers whose `diff_id` is among `without` are
    /// left out: an Engine that has them looks at no file.
    pub async fn docker_archive(
        &self,
        digest: &Digest,
        tag: &str,
        without: &HashSet<Digest>,
    ) -> Result<DockerArchive, ImageError> {
        unimplemented!()
    }

    /// Writes the image as the tar of an OCI layout, under the name `tag`: the same for the same image.
    pub async fn oci_archive(&self, digest: &Digest, tag: &str, to: &Path) -> Result<(), ImageError> {
        unimplemented!()
    }
}
