//! Images: a release becomes an OCI image, without an Engine.
//!
//! Everything is made from the release's folder and a base, layer by layer, and the same is made from the same, to the
//! byte. Layers that were made before are known by what they are made of, and are not made again.

mod archive;
mod assemble;
pub mod attest;
mod base;
mod config;
mod describe;
mod elf;
mod error;
mod filesystem;
mod import;
mod layers;
mod layout;
mod python;
mod scorer;
mod stored;
mod substitution;
mod tarball;
mod types;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use moorline_core::{Digest, ErrorClass};
use oci_spec::image::{Descriptor, ImageManifest};

pub use archive::DockerArchive;
pub use assemble::model_of;
pub use error::ImageError;
pub use filesystem::{Entry, Filesystem, FilesystemError, Kind};
pub use layout::{Hold, Layout, LayoutError, name_of};
pub(crate) use layout::{LONGEST_DOCUMENT, digest_of};
pub use python::{BasePython, BasePythonError};
pub use scorer::BITSTREAM_PATH;
pub use types::{
    Base, Compression, Image, ImageConfig, ImageDetails, ImageLayer, ImageRequest, LayerKind, Pruned,
    Uncompiled,
};

use self::layers::Layers;
use crate::{environment::Environments, registry::Platform};

const PRUNE_WAITS: Duration = Duration::from_mins(5);
const PRUNE_POLL: Duration = Duration::from_millis(100);

/// The images of one layout. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Images(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: ImageConfig,
    layout: Layout,
    layers: Layers,
    /// The platform of this machine.
    host: Platform,
    others: BTreeMap<String, (Platform, PathBuf)>,
    /// Of bases that were looked through, by their configs.
    pythons: Mutex<HashMap<Digest, Option<BasePython>>>,
}

impl Inner {
    /// Those for which there are scorers, this machine's first.
    fn platforms(&self) -> impl Iterator<Item = &Platform> {
        std::iter::once(&self.host).chain(self.others.values().map(|(platform, _)| platform))
    }

    /// The scorer of another platform than this machine's.
    fn other(&self, platform: &Platform) -> Option<&Path> {
        let any = Platform { variant: None, ..platform.clone() };
        let found = self.others.get(&platform.to_string()).or_else(|| self.others.get(&any.to_string()));
        found.map(|(_, program)| program.as_path())
    }
}

impl Images {
    /// Opens the layout, and clears away what was not written to the end.
    pub async fn open(config: ImageConfig) -> Result<Self, ImageError> {
        let host = Platform::linux(match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        });
        let mut others = BTreeMap::new();
        for (text, program) in &config.other_platforms {
            let platform: Platform = text.parse().map_err(|error| {
                ImageError::caused(ErrorClass::InvalidInput, "a scorer is configured for no platform", error)
            })?;
            if platform == host {
                return Err(ImageError::refused(format!(
                    "{platform} is the platform of this machine, whose scorers are configured by themselves"
                )));
            }
            others.insert(platform.to_string(), (platform, program.clone()));
        }
        blocking(move || {
            for (platform, program) in others.values() {
                scorer::check_other(platform, program)?;
            }
            let layout = Layout::open(&config.dir)?;
            let layers = Layers::open(&layout)?;
            if let Some(_alone) = layout.hold_alone()? {
                stored::sweep(&layout)?;
            }
            Ok(Self(Arc::new(Inner { config, layout, layers, host, others, pythons: Mutex::default() })))
        })
        .await
    }

    pub fn layout(&self) -> &Layout {
        &self.0.layout
    }

    /// What makes the environment layers.
    pub fn environments(&self) -> &Environments {
        &self.0.config.environments
    }

    /// Every image that was built here, in the order of their references. One that cannot be read is left out, and told
    /// in the log.
    pub async fn list(&self) -> Result<Vec<Image>, ImageError> {
        self.work(|inner| {
            let built = stored::built(&inner.layout)?;
            let read = built.iter().filter_map(|(reference, descriptor)| {
                let read = stored::read(&inner.layout, reference, descriptor, &inner.host);
                read.inspect_err(|error| tracing::warn!(%reference, %error, "an image cannot be read")).ok()
            });
            Ok(read.collect())
        })
        .await
    }

    /// The image of this digest, read again from the layout.
    pub async fn image(&self, digest: &Digest) -> Result<Image, ImageError> {
        let digest = *digest;
        self.work(move |inner| inner.image(&digest)).await
    }

    /// The image of this digest, with its referrers.
    pub async fn show(&self, digest: &Digest) -> Result<ImageDetails, ImageError> {
        let digest = *digest;
        self.work(move |inner| {
            let image = inner.image(&digest)?;
            let referrers = stored::referrers(&inner.layout, &image.descriptor)?;
            Ok(ImageDetails { image, referrers })
        })
        .await
    }

    /// The SBOM of an image, in SPDX's JSON, where it has one.
    pub async fn sbom(&self, digest: &Digest) -> Result<Option<serde_json::Value>, ImageError> {
        let digest = *digest;
        self.work(move |inner| {
            let image = inner.image(&digest)?;
            let referrers = stored::referrers(&inner.layout, &image.descriptor)?;
            let sbom = |one: &&Descriptor| attest::Attachment::of(one) == Some(attest::Attachment::Sbom);
            let Some(found) = referrers.iter().find(sbom).and_then(digest_of) else { return Ok(None) };
            let manifest: ImageManifest = inner.layout.document("manifest", &found)?;
            let Some(content) = manifest.layers().first().and_then(digest_of) else { return Ok(None) };
            Ok(Some(inner.layout.document("SBOM", &content)?))
        })
        .await
    }

    /// Removes every image that is not kept, its referrers, and every blob that nothing needs any more. Waits for
    /// builds that are under way, in this process and in others.
    pub async fn prune(&self, keep: &HashSet<Digest>) -> Result<Pruned, ImageError> {
        let deadline = Instant::now() + PRUNE_WAITS;
        loop {
            let keep = keep.clone();
            let pruned = self
                .work(move |inner| match inner.layout.hold_alone()? {
                    Some(_alone) => stored::prune(&inner.layout, &inner.layers, &keep).map(Some),
                    None => Ok(None),
                })
                .await?;
            match pruned {
                Some(pruned) => return Ok(pruned),
                None if Instant::now() > deadline => {
                    return Err(ImageError::new(
                        ErrorClass::Unavailable,
                        "images are being made or loaded, and none can be taken away meanwhile; try again later",
                    ));
                }
                None => tokio::time::sleep(PRUNE_POLL).await,
            }
        }
    }

    /// The image as `docker load` takes it, under the name `tag`. Leading layers whose `diff_id` is among `without` are
    /// left out: an Engine that has them looks at no file.
    pub async fn docker_archive(
        &self,
        image: &Image,
        tag: &str,
        without: &HashSet<Digest>,
    ) -> Result<DockerArchive, ImageError> {
        let (image, tag, without) = (image.clone(), tag.to_owned(), without.clone());
        self.work(move |inner| archive::for_docker(&inner.layout, &image, &tag, &without)).await
    }

    /// Writes the image as the tar of an OCI layout, under the name `tag`: the same for the same image.
    pub async fn oci_archive(&self, digest: &Digest, tag: &str, to: &Path) -> Result<(), ImageError> {
        let (digest, tag, to) = (*digest, tag.to_owned(), to.to_owned());
        self.work(move |inner| {
            let image = inner.image(&digest)?;
            archive::write_oci(&inner.layout, &image, &tag, &to)
        })
        .await
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, ImageError> + Send + 'static,
    ) -> Result<T, ImageError> {
        let inner = Arc::clone(&self.0);
        blocking(move || work(&inner)).await
    }
}

impl Inner {
    fn image(&self, digest: &Digest) -> Result<Image, ImageError> {
        let built = stored::built(&self.layout)?;
        let found = built.iter().find(|(_, descriptor)| digest_of(descriptor) == Some(*digest));
        let (reference, descriptor) = found
            .ok_or_else(|| ImageError::new(ErrorClass::NotFound, format!("there is no image {digest}")))?;
        stored::read(&self.layout, reference, descriptor, &self.host)
    }
}

/// Files are read, hashed and written on threads of their own.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ImageError::caused(ErrorClass::Internal, "work on an image was broken off", error))?
}
