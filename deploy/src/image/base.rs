//! Bases: what a layout holds of one, read and verified.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use moorline_core::{Digest, ErrorClass};
use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};
use serde_json::Value;

use super::{
    ImageError, LayerKind, Layout, LayoutError, digest_of,
    layers::{Blob, Layers},
};
use crate::registry::Platform;

/// Engines refuse more layers than 127, and some are to be added.
const MOST_LAYERS: usize = 120;
/// No layer unpacks to more.
pub(crate) const LARGEST_LAYER: u64 = 256 << 30;

/// A base, in the layout.
#[derive(Debug)]
pub(crate) struct BaseImage {
    /// Of the manifest or index as it was found; `None` for the scorer's own base.
    pub(crate) descriptor: Option<Descriptor>,
    /// Its reference, where it has one that means the same everywhere.
    pub(crate) name: Option<String>,
    pub(crate) is_index: bool,
    pub(crate) images: Vec<BaseOfPlatform>,
}

/// The image of one platform in a base.
#[derive(Clone, Debug)]
pub(crate) struct BaseOfPlatform {
    pub(crate) platform: Platform,
    pub(crate) layers: Vec<Blob>,
    pub(crate) config: Value,
}

pub(crate) fn is_index(descriptor: &Descriptor) -> bool {
    let kind = descriptor.media_type();
    *kind == MediaType::ImageIndex
        || kind.to_string() == "application/vnd.docker.distribution.manifest.list.v2+json"
}

/// Reads the images of the wanted platforms, the most wanted first. That the layers unpack to what the config says is
/// looked at once for every layer.
pub(crate) fn read(
    layout: &Layout,
    layers: &Layers,
    descriptor: Descriptor,
    name: Option<String>,
    wanted: &[Platform],
) -> Result<BaseImage, ImageError> {
    let of_index = is_index(&descriptor);
    let manifests: Vec<Descriptor> = if of_index {
        let index: ImageIndex = layout.document("index", &digest(&descriptor)?)?;
        let found: Vec<Descriptor> =
            wanted.iter().filter_map(|platform| platform.choose(&index).cloned()).collect();
        if found.is_empty() {
            let list: Vec<String> = wanted.iter().map(Platform::to_string).collect();
            return Err(ImageError::refused(format!(
                "the base has no image for {}; name one that has",
                list.join(" or ")
            )));
        }
        found
    } else {
        vec![descriptor.clone()]
    };
    let mut images = Vec::new();
    for manifest in manifests {
        let image = of_manifest(layout, layers, &manifest)?;
        if !wanted.contains(&image.platform)
            && !wanted.iter().any(|one| Platform { variant: None, ..image.platform.clone() } == *one)
        {
            let list: Vec<String> = wanted.iter().map(Platform::to_string).collect();
            return Err(ImageError::refused(format!(
                "the base is for {}, and scorers are here for {}",
                image.platform,
                list.join(" and ")
            )));
        }
        images.push(image);
    }
    Ok(BaseImage { descriptor: Some(descriptor), name, is_index: of_index, images })
}

fn of_manifest(
    layout: &Layout,
    layers: &Layers,
    descriptor: &Descriptor,
) -> Result<BaseOfPlatform, ImageError> {
    let manifest: ImageManifest = layout.document("manifest", &digest(descriptor)?)?;
    let config: Value = layout.document("config", &digest(manifest.config())?)?;
    let text = |name: &str| config.get(name).and_then(Value::as_str).map(str::to_owned);
    let (Some(os), Some(architecture)) = (text("os"), text("architecture")) else {
        return Err(ImageError::refused(
            "the base's config names no platform; it is no image that can be run",
        ));
    };
    let platform = Platform { os, architecture, variant: text("variant") };
    let diff_ids = diff_ids(&config)?;
    if diff_ids.len() != manifest.layers().len() || diff_ids.len() > MOST_LAYERS {
        return Err(ImageError::refused(format!(
            "the base has {} layers and lists {} of them in its config; {MOST_LAYERS} are the most that can be built upon",
            manifest.layers().len(),
            diff_ids.len()
        )));
    }
    let mut blobs = Vec::new();
    for (layer, diff_id) in manifest.layers().iter().zip(diff_ids) {
        let media_type = layer_type(layer.media_type())?;
        let (digest, size) = (digest(layer)?, layer.size());
        let blob = Blob { digest, size, diff_id, media_type: media_type.to_string() };
        blobs.push(layers.once(&("verified", digest, diff_id), || {
            verify(layout, &blob)?;
            Ok(blob)
        })?);
    }
    Ok(BaseOfPlatform { platform, layers: blobs, config })
}

pub(crate) fn diff_ids(config: &Value) -> Result<Vec<Digest>, ImageError> {
    let bad = || ImageError::refused("the base's config has no sound `rootfs.diff_ids`");
    let listed = config.pointer("/rootfs/diff_ids").and_then(Value::as_array).ok_or_else(bad)?;
    listed.iter().map(|one| one.as_str().and_then(|one| one.parse().ok()).ok_or_else(bad)).collect()
}

fn digest(descriptor: &Descriptor) -> Result<Digest, ImageError> {
    digest_of(descriptor).ok_or_else(|| {
        ImageError::refused(format!(
            "the base uses the digest `{}`; only sha256 is known",
            descriptor.digest()
        ))
    })
}

/// OCI's word for what a layer is.
fn layer_type(said: &MediaType) -> Result<MediaType, ImageError> {
    Ok(match said.to_string().as_str() {
        "application/vnd.oci.image.layer.v1.tar" | "application/vnd.docker.image.rootfs.diff.tar" => {
            MediaType::ImageLayer
        }
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip" => MediaType::ImageLayerGzip,
        "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => MediaType::ImageLayerZstd,
        other => {
            return Err(ImageError::refused(format!(
                "the base has a layer of the type `{other}`, which cannot be built upon"
            )));
        }
    })
}

fn verify(layout: &Layout, blob: &Blob) -> Result<(), ImageError> {
    let file = open(layout, &blob.digest)?;
    let (found, _) = unpacked(file)
        .and_then(|tar| Digest::of_reader(tar.take(LARGEST_LAYER)))
        .map_err(|error| broken(&blob.digest, error))?;
    if found != blob.diff_id {
        return Err(lie(&blob.diff_id, &found));
    }
    Ok(())
}

pub(crate) fn lie(announced: &Digest, found: &Digest) -> ImageError {
    ImageError::refused(format!(
        "the base says that a layer is {announced}, and it unpacks to {found}; get the base again, from whom you trust"
    ))
}

fn broken(digest: &Digest, error: io::Error) -> ImageError {
    ImageError::caused(
        ErrorClass::InvalidInput,
        format!("layer {digest} of the base cannot be unpacked"),
        error,
    )
}

pub(crate) fn open(layout: &Layout, digest: &Digest) -> Result<fs_err::File, ImageError> {
    fs_err::File::open(layout.blob_path(digest)).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => LayoutError::Missing(*digest).into(),
        _ => layout.io(error).into(),
    })
}

/// The tar of a layer, whatever it is compressed with: its first bytes say.
pub(crate) fn unpacked<'a>(from: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut from = BufReader::with_capacity(128 * 1024, from);
    Ok(match from.fill_buf()? {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(from)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::Decoder::with_buffer(from)?),
        _ => Box::new(from),
    })
}

/// The layers of a base as tars, bottom first.
pub(crate) fn tars<'a>(
    layout: &'a Layout,
    layers: &'a [Blob],
) -> impl Iterator<Item = io::Result<Box<dyn Read + 'a>>> + 'a {
    layers.iter().map(|blob| {
        let file = fs_err::File::open(layout.blob_path(&blob.digest))?;
        Ok(Box::new(unpacked(file)?.take(LARGEST_LAYER)) as Box<dyn Read + 'a>)
    })
}

/// The base that the scorer has of its own: one small layer for each platform.
pub(crate) fn of_scorer(made: Vec<(Platform, Blob)>) -> BaseImage {
    let image = |(platform, layer): (Platform, Blob)| {
        let mut config = serde_json::json!({
            "architecture": platform.architecture,
            "os": platform.os,
            "config": { "Env": ["PATH=/opt/moorline/bin"] },
            "rootfs": { "type": "layers", "diff_ids": [layer.diff_id] },
            "history": [super::config::history(LayerKind::Base)],
        });
        if let Some(variant) = &platform.variant {
            config["variant"] = variant.as_str().into();
        }
        BaseOfPlatform { platform, layers: vec![layer], config }
    };
    let images: Vec<BaseOfPlatform> = made.into_iter().map(image).collect();
    BaseImage { descriptor: None, name: None, is_index: images.len() > 1, images }
}
