//! Releases that run in containers: their images, by layers. A layer is fetched by its digest as any file of a release is,
//! going on where it broke off, and handed to the device's Engine; one that the Engine has of another image is not
//! fetched. So a new version of a model costs the layer of the model.

use std::{
    collections::BTreeSet,
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
};

use bytes::Bytes;
use futures_util::{Stream, stream};
use moorline_core::{Digest, Source};
use serde::Deserialize;
use serde_json::json;
use tar::{Builder, Header};
use thiserror::Error;
use tokio::sync::mpsc;

use crate::{
    containers::{Engine, EngineError},
    fleet::{Blob, ImageManifest},
    releases::{Releases, ReleasesError},
};

/// What an Engine is handed at once, and pieces that wait for it.
const CHUNK: usize = 128 * 1024;
const AHEAD: usize = 4;
/// Of the names of these images at the Engine.
const REPOSITORY: &str = "module";

/// Why an image is not at the Engine.
#[derive(Debug, Error)]
pub enum ImagesError {
    #[error(transparent)]
    Fetch(#[from] ReleasesError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("`{0}` is no manifest of an image, or its config is none")]
    Shape(Digest, #[source] serde_json::Error),
    #[error("the image `{0}` has another number of layers than its config says")]
    Layers(Digest),
    #[error("the Engine took the image `{0}` and does not have it")]
    Lost(Digest),
    #[error("this device runs no containers: its agent was started without --engine")]
    NoEngine,
}

/// What is looked at of an image's config.
#[derive(Debug, Deserialize)]
struct Config {
    rootfs: RootFs,
}

#[derive(Debug, Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

/// The images of a device's releases.
#[derive(Debug)]
pub struct Images {
    releases: Arc<Releases>,
    engine: Arc<Engine>,
}

impl Images {
    pub(crate) fn new(releases: Arc<Releases>, engine: Arc<Engine>) -> Self {
        Self { releases, engine }
    }

    /// Makes sure that the Engine has the image of this manifest.
    pub async fn ensure(&self, digest: &Digest) -> Result<(), ImagesError> {
        let name = name(digest);
        if self.engine.has_image(&name).await? {
            return Ok(());
        }
        let shape = |error| ImagesError::Shape(*digest, error);
        let manifest = self.releases.document(digest).await?;
        let manifest: ImageManifest = serde_json::from_slice(&manifest).map_err(shape)?;
        let config = self.releases.document(&manifest.config.digest).await?;
        let config: Config = serde_json::from_slice(&config).map_err(shape)?;
        if config.rootfs.diff_ids.len() != manifest.layers.len() {
            return Err(ImagesError::Layers(*digest));
        }
        let had = self.engine.leading_layers(&config.rootfs.diff_ids).await;
        let mut loaded = self.load(&manifest, &name, had).await;
        if had > 0 && matches!(loaded, Err(ImagesError::Engine(_))) {
            // They went in the meantime, or it is an Engine that cannot do without them.
            loaded = self.load(&manifest, &name, 0).await;
        }
        loaded?;
        tracing::info!(%digest, layers = manifest.layers.len(), had, "loaded an image");
        if !self.engine.has_image(&name).await? {
            return Err(ImagesError::Lost(*digest));
        }
        // The Engine has them; the disk need not have them twice.
        Ok(self.releases.drop_files(manifest.layers.iter().map(|layer| &layer.digest))?)
    }

    /// Hands the image over, without the layers that the Engine has.
    async fn load(&self, manifest: &ImageManifest, name: &str, had: usize) -> Result<(), ImagesError> {
        let mut files = Vec::with_capacity(manifest.layers.len());
        for layer in &manifest.layers[had..] {
            files.push((layer.digest, self.releases.file(&layer.digest, layer.size).await?));
        }
        let config = (
            manifest.config.digest,
            self.releases.file(&manifest.config.digest, manifest.config.size).await?,
        );
        let description = description(name, manifest);
        let archive = streamed(move |to| archive(&description, &config, &files, to));
        Ok(self.engine.load(archive).await?)
    }

    /// Takes away the images of releases that are not among these.
    pub async fn retain(&self, keep: &BTreeSet<Digest>) -> Result<(), EngineError> {
        let kept: BTreeSet<String> = keep.iter().map(name).collect();
        for found in self.engine.names_of(&format!("{}/{REPOSITORY}", Source::UNPUSHED)).await? {
            if !kept.contains(&found) {
                self.engine.forget_image(&found).await?;
            }
        }
        Ok(())
    }
}

/// What an image is called at the Engine.
pub(crate) fn name(digest: &Digest) -> String {
    format!("{}/{REPOSITORY}:{}", Source::UNPUSHED, digest.hex())
}

fn config_name(digest: &Digest) -> String {
    format!("{}.json", digest.hex())
}

fn layer_name(digest: &Digest) -> String {
    format!("{}.tar", digest.hex())
}

/// What `docker load` reads first.
fn description(name: &str, manifest: &ImageManifest) -> String {
    let layers: Vec<String> = manifest.layers.iter().map(|Blob { digest, .. }| layer_name(digest)).collect();
    json!([{ "Config": config_name(&manifest.config.digest), "RepoTags": [name], "Layers": layers }])
        .to_string()
}

/// Writes what `docker load` takes. Leading layers that the Engine has may be missing: it looks for a layer by all that is
/// below it before it opens its file.
fn archive(
    description: &str,
    (config, config_file): &(Digest, PathBuf),
    layers: &[(Digest, PathBuf)],
    to: impl Write,
) -> io::Result<()> {
    let mut tar = Builder::new(to);
    let header = |size: u64| {
        let mut header = Header::new_gnu();
        header.set_size(size);
        header.set_mode(0o644);
        header
    };
    tar.append_data(&mut header(description.len() as u64), "manifest.json", description.as_bytes())?;
    let config = (config_name(config), config_file);
    let layers = layers.iter().map(|(digest, file)| (layer_name(digest), file));
    let mut written = BTreeSet::new();
    for (name, file) in std::iter::once(config).chain(layers) {
        if written.insert(name.clone()) {
            let file = fs_err::File::open(file)?;
            tar.append_data(&mut header(file.metadata()?.len()), name, file)?;
        }
    }
    tar.finish()
}

/// What is written on a thread of its own, as it is written.
fn streamed(
    write: impl FnOnce(&mut Pieces) -> io::Result<()> + Send + 'static,
) -> impl Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static {
    let (to, mut from) = mpsc::channel(AHEAD);
    // It ends with the archive, or when nobody reads any more.
    drop(tokio::task::spawn_blocking(move || {
        let mut pieces = Pieces { to, piece: Vec::with_capacity(CHUNK) };
        let written = write(&mut pieces).and_then(|()| pieces.flush());
        if let Err(error) = written {
            let _ = pieces.to.blocking_send(Err(error));
        }
    }));
    stream::poll_fn(move |context| from.poll_recv(context))
}

struct Pieces {
    to: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(CHUNK));
        self.to.blocking_send(Ok(piece.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn an_archive_holds_what_the_engine_lacks_and_names_everything() {
        let folder = tempfile::tempdir().unwrap();
        let blob = |content: &[u8]| {
            let digest = Digest::of(content);
            let path = folder.path().join(digest.hex());
            fs_err::write(&path, content).unwrap();
            (digest, path)
        };
        let (config, base, model) = (blob(b"{}"), blob(b"base"), blob(b"model"));
        let part = |(digest, path): &(Digest, PathBuf)| Blob {
            digest: *digest,
            size: fs_err::metadata(path).unwrap().len(),
        };
        let manifest = ImageManifest { config: part(&config), layers: vec![part(&base), part(&model)] };
        let mut bytes = Vec::new();
        archive(&description("m:1", &manifest), &config, std::slice::from_ref(&model), &mut bytes).unwrap();
        let mut read = tar::Archive::new(bytes.as_slice());
        let mut files = std::collections::BTreeMap::new();
        for entry in read.entries().unwrap() {
            let mut entry = entry.unwrap();
            let (name, mut content) = (entry.path().unwrap().display().to_string(), Vec::new());
            entry.read_to_end(&mut content).unwrap();
            files.insert(name, content);
        }
        let described: serde_json::Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
        assert_eq!(
            described,
            json!([{
                "Config": config_name(&config.0), "RepoTags": ["m:1"],
                "Layers": [layer_name(&base.0), layer_name(&model.0)],
            }])
        );
        assert_eq!(files[&layer_name(&model.0)], b"model");
        assert!(!files.contains_key(&layer_name(&base.0)));
    }
}
