//! What an image is made of, as an SPDX 2.3 document.

use std::path::Path;

use moorline_core::{Digest, Release};

use crate::image::Filesystem;

/// What is known of an image's contents.
#[derive(Clone, Copy, Debug)]
pub struct Contents<'a> {
    /// What people call the image: `registry/repository`.
    pub name: &'a str,
    /// Of its manifest.
    pub digest: &'a Digest,
    pub release: &'a Release,
    /// The base's files, which say what packages it has; `None` where the scorer stands on nothing.
    pub base: Option<&'a Filesystem>,
    /// The base's reference and digest.
    pub base_reference: Option<(&'a str, &'a Digest)>,
    /// [`LayerTree::root`](crate::environment::LayerTree) where there is an environment layer.
    pub environment: Option<&'a Path>,
    /// The scorer's version; `None` where the image runs a server of its own.
    pub scorer: Option<&'a str>,
    /// The version of the ONNX Runtime library where there is a layer with it, as far as it is known.
    pub onnxruntime: Option<&'a str>,
}

/// The document's bytes: the same for the same contents. Blocks.
pub fn sbom(contents: &Contents<'_>) -> std::io::Result<Vec<u8>> {
    let _ = contents;
    unimplemented!()
}
