//! The words of images: what is asked for, and what came of it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use moorline_core::{Digest, Environment, Release};
use oci_spec::image::Descriptor;
use serde::Serialize;

use super::{BasePython, Hold};
use crate::{
    environment::{EnvironmentError, Environments},
    registry::{Platform, Reference, Registries},
};

/// Where images are made, and of what.
#[derive(Clone, Debug)]
pub struct ImageConfig {
    /// The folder of the OCI layout: `$MOORLINE_HOME/images`.
    pub dir: PathBuf,
    /// The scorer of this machine's platform, as it was built: it loads libraries.
    pub scorer: PathBuf,
    /// The same without any library: what images get where no engine has to be loaded.
    pub static_scorer: Option<PathBuf>,
    /// `libonnxruntime.so` of this machine's platform.
    pub onnxruntime: Option<PathBuf>,
    /// Static scorers of other platforms; an image is made for those of them that its base has.
    pub other_platforms: BTreeMap<String, PathBuf>,
    pub registries: Registries,
    /// Registries for which a mirror is configured: what is pulled from them is never substituted.
    pub mirrored: Vec<String>,
    /// What makes the environment layers of scoring scripts.
    pub environments: Environments,
}

/// What an image stands on.
#[derive(Clone, Debug)]
pub enum Base {
    /// The scorer on nothing else.
    Scorer,
    /// An image of a registry.
    Registry(Reference),
    /// An OCI layout, as a folder or a tar, or what `docker save` writes; compressed with gzip or not.
    Path(PathBuf),
}

/// How layers are compressed, but for the model's, which never is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// What every Engine reads.
    #[default]
    Gzip,
    /// Smaller and faster; Docker reads it from 23.0 on.
    Zstd,
    None,
}

/// An image to be made.
#[derive(Clone, Debug)]
pub struct ImageRequest<'a> {
    pub release: &'a Release,
    /// The release's folder, with `model/` and `code/` in it.
    pub files: &'a Path,
    pub environment: Option<&'a Environment>,
    /// `None`: the environment's image; a Python image where the release needs Python; else [`Base::Scorer`].
    pub base: Option<Base>,
    pub compression: Compression,
    /// The repository that the image is named by: `default/iris`.
    pub name: &'a str,
    /// A bitstream for the devices that the scorer will find: it comes to [`BITSTREAM_PATH`](super::BITSTREAM_PATH).
    pub bitstream: Option<&'a Path>,
    /// Where the model lies in an image that brings its own server, in the place of
    /// `/var/azureml-app/azureml-models`: Azure ML's `model_mount_path`.
    pub model_mount_path: Option<&'a str>,
    /// The model is left out: it is an image of its own, see [`Images::model`](super::Images::model).
    pub model_apart: bool,
}

/// What a layer holds: the annotation [`LayerKind::ANNOTATION`] of its descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerKind {
    Base,
    Engine,
    Scorer,
    Gateway,
    Bitstream,
    Environment,
    Model,
    Code,
    Release,
}

impl LayerKind {
    pub const ANNOTATION: &str = "org.moorline.layer";

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Engine => "engine",
            Self::Scorer => "scorer",
            Self::Gateway => "gateway",
            Self::Bitstream => "bitstream",
            Self::Environment => "environment",
            Self::Model => "model",
            Self::Code => "code",
            Self::Release => "release",
        }
    }

    pub(super) fn of(descriptor: &Descriptor) -> Self {
        let said = descriptor.annotations().as_ref().and_then(|all| all.get(Self::ANNOTATION));
        let all = [
            Self::Engine,
            Self::Scorer,
            Self::Gateway,
            Self::Environment,
            Self::Model,
            Self::Code,
            Self::Release,
        ];
        said.and_then(|said| all.into_iter().find(|kind| kind.as_str() == said)).unwrap_or(Self::Base)
    }
}

/// One layer of an image, in its order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImageLayer {
    pub kind: LayerKind,
    /// Of the blob.
    pub digest: Digest,
    /// Of the blob.
    pub size: u64,
    /// Of the tar in it.
    pub diff_id: Digest,
}

/// An image in the layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Of the manifest, or of the index where the base has one: what is pushed, signed and named.
    pub descriptor: Descriptor,
    pub digest: Digest,
    /// `moorline.invalid/<name>@<digest>`, see [`Source::UNPUSHED`](moorline_core::Source::UNPUSHED).
    pub reference: String,
    /// The manifest of this machine's platform: [`Image::digest`] itself where there is no index.
    pub manifest: Digest,
    /// Its config, by which an Engine with the classic store names the image.
    pub config_digest: Digest,
    /// Of all layers, bottom first.
    pub diff_ids: Vec<Digest>,
    pub layers: Vec<ImageLayer>,
    /// What the image runs; an exec probe is this with `probe` after it.
    pub entrypoint: Vec<String>,
    pub labels: BTreeMap<String, String>,
    /// The base's reference and digest, as far as it has them.
    pub base: Option<String>,
    pub platforms: Vec<Platform>,
    /// Bytes of all blobs that it is made of.
    pub size: u64,
}

/// An image that cannot be made before packages of its environment were compiled in its base: see
/// [`Environments::compilation`].
#[derive(Debug)]
pub struct Uncompiled {
    pub error: EnvironmentError,
    /// The base, which an Engine can be given.
    pub base: Image,
    pub platform: Platform,
    pub python: BasePython,
    /// The base stays in the layout.
    pub(super) _hold: Arc<Hold>,
}

/// An image, and what refers to it.
#[derive(Clone, Debug)]
pub struct ImageDetails {
    pub image: Image,
    /// SBOM, provenance, signatures: manifests whose subject is the image.
    pub referrers: Vec<Descriptor>,
}

/// What [`Images::prune`](super::Images::prune) took away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pruned {
    pub images: usize,
    pub blobs: usize,
    pub bytes: u64,
}
