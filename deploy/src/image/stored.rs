//! Images that are in the layout: read again, and taken away.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use moorline_core::{Digest, Source};
use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use serde_json::Value;

use super::{
    Image, ImageError, ImageLayer, LayerKind, Layout, LayoutError, Pruned,
    base::{diff_ids, is_index},
    digest_of,
    layers::Layers,
    layout::name_of,
};
use crate::registry::Platform;

const BASE_NAME: &str = "org.opencontainers.image.base.name";
const BASE_DIGEST: &str = "org.opencontainers.image.base.digest";

/// Where the base is noted in a manifest.
pub(crate) fn base_annotations(name: Option<&str>, digest: Option<&str>) -> BTreeMap<String, String> {
    let noted = [(BASE_NAME, name), (BASE_DIGEST, digest)];
    noted.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned()))).collect()
}

/// The names and descriptors of what was built here.
pub(crate) fn built(layout: &Layout) -> Result<Vec<(String, Descriptor)>, ImageError> {
    let index = layout.index()?;
    let own = index.manifests().iter().filter_map(|descriptor| {
        let name = name_of(descriptor).filter(|name| is_built(name))?;
        Some((name.to_owned(), descriptor.clone()))
    });
    let mut own: Vec<_> = own.collect();
    own.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(own)
}

fn is_built(name: &str) -> bool {
    name.strip_prefix(Source::UNPUSHED).is_some_and(|rest| rest.starts_with('/'))
}

/// Reads an image; of an index, the image of this machine's platform, or the first.
pub(crate) fn read(
    layout: &Layout,
    reference: &str,
    descriptor: &Descriptor,
    host: &Platform,
) -> Result<Image, ImageError> {
    let digest = known(descriptor)?;
    let (manifest_digest, manifests) = if is_index(descriptor) {
        let index: ImageIndex = layout.document("index", &digest)?;
        let chosen = host.choose(&index).or(index.manifests().first());
        let chosen = chosen.ok_or(LayoutError::Missing(digest))?;
        (known(chosen)?, index.manifests().clone())
    } else {
        (digest, Vec::new())
    };
    let manifest: ImageManifest = layout.document("manifest", &manifest_digest)?;
    let config_digest = known(manifest.config())?;
    let config: Value = layout.document("config", &config_digest)?;
    let diff_ids = diff_ids(&config)?;
    let mut layers = Vec::new();
    for (layer, diff_id) in manifest.layers().iter().zip(&diff_ids) {
        let kind = LayerKind::of(layer);
        layers.push(ImageLayer { kind, digest: known(layer)?, size: layer.size(), diff_id: *diff_id });
    }
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let own = Platform {
        os: text(&config, "os").unwrap_or_default(),
        architecture: text(&config, "architecture").unwrap_or_default(),
        variant: text(&config, "variant"),
    };
    let platforms = if manifests.is_empty() {
        vec![own]
    } else {
        let of = |descriptor: &Descriptor| {
            let platform = descriptor.platform().as_ref()?;
            Some(Platform {
                os: platform.os().to_string(),
                architecture: platform.architecture().to_string(),
                variant: platform.variant().clone(),
            })
        };
        manifests.iter().filter_map(of).collect()
    };
    let entrypoint = config.pointer("/config/Entrypoint").and_then(Value::as_array);
    let labels = config.pointer("/config/Labels").and_then(Value::as_object);
    let noted = |name: &str| manifest.annotations().as_ref().and_then(|all| all.get(name).cloned());
    let base = match (noted(BASE_NAME), noted(BASE_DIGEST)) {
        (Some(name), Some(digest)) if !name.contains('@') => Some(format!("{name}@{digest}")),
        (name, digest) => name.or(digest),
    };
    let size = layers.iter().map(|layer| layer.size).sum::<u64>() + manifest.config().size();
    Ok(Image {
        descriptor: plain(descriptor),
        digest,
        reference: reference.to_owned(),
        manifest: manifest_digest,
        config_digest,
        diff_ids,
        layers,
        entrypoint: entrypoint
            .map(|all| all.iter().filter_map(Value::as_str).map(str::to_owned).collect())
            .unwrap_or_default(),
        labels: labels
            .map(|all| {
                let text =
                    |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_owned()));
                all.iter().filter_map(text).collect()
            })
            .unwrap_or_default(),
        base,
        platforms,
        size,
    })
}

/// A descriptor without the name that `index.json` gives it.
fn plain(descriptor: &Descriptor) -> Descriptor {
    let mut descriptor = descriptor.clone();
    descriptor.set_annotations(None);
    descriptor
}

fn known(descriptor: &Descriptor) -> Result<Digest, ImageError> {
    digest_of(descriptor).ok_or_else(|| {
        ImageError::refused(format!(
            "the image uses the digest `{}`; only sha256 is known",
            descriptor.digest()
        ))
    })
}

/// The blobs that an image is made of, itself among them, in the order of their digests. Images that an index lists and
/// the layout does not have are passed over.
pub(crate) fn reachable(layout: &Layout, descriptor: &Descriptor) -> Result<BTreeSet<Digest>, ImageError> {
    let mut found = BTreeSet::new();
    let mut queue = vec![descriptor.clone()];
    while let Some(next) = queue.pop() {
        let digest = known(&next)?;
        if !found.insert(digest) {
            continue;
        }
        if is_index(&next) {
            let index: ImageIndex = layout.document("index", &digest)?;
            let there = |child: &&Descriptor| digest_of(child).is_some_and(|digest| layout.has(&digest));
            queue.extend(index.manifests().iter().filter(there).cloned());
        } else {
            let manifest: ImageManifest = layout.document("manifest", &digest)?;
            for part in manifest.layers().iter().chain([manifest.config()]) {
                found.insert(known(part)?);
            }
        }
    }
    Ok(found)
}

/// What a manifest refers to, where it is a referrer.
fn subject(layout: &Layout, descriptor: &Descriptor) -> Option<Digest> {
    if is_index(descriptor) {
        return None;
    }
    let manifest: ImageManifest = layout.document("manifest", &digest_of(descriptor)?).ok()?;
    manifest.subject().as_ref().and_then(digest_of)
}

/// The manifests whose subject is the image, or one of its platforms.
pub(crate) fn referrers(layout: &Layout, image: &Descriptor) -> Result<Vec<Descriptor>, ImageError> {
    let of = reachable(layout, image)?;
    let index = layout.index()?;
    let all = index.manifests().iter();
    Ok(all.filter(|one| subject(layout, one).is_some_and(|digest| of.contains(&digest))).cloned().collect())
}

/// Takes away what is not kept. Nobody else is at the layout.
pub(crate) fn prune(layout: &Layout, layers: &Layers, keep: &HashSet<Digest>) -> Result<Pruned, ImageError> {
    let mut pruned = Pruned::default();
    let index = layout.index()?;
    let (mut kept, mut undecided): (Vec<Descriptor>, Vec<(Descriptor, Digest)>) = Default::default();
    let mut needed = BTreeSet::new();
    for descriptor in index.manifests() {
        if let Some(subject) = subject(layout, descriptor) {
            undecided.push((descriptor.clone(), subject));
        } else if name_of(descriptor).is_some_and(is_built)
            && !digest_of(descriptor).is_some_and(|digest| keep.contains(&digest))
        {
            pruned.images += 1;
        } else {
            needed.extend(reachable(layout, descriptor)?);
            kept.push(descriptor.clone());
        }
    }
    // A signature may be of an SBOM, which is of an image.
    loop {
        let (wanted, rest): (Vec<_>, Vec<_>) =
            undecided.into_iter().partition(|(_, subject)| needed.contains(subject));
        undecided = rest;
        if wanted.is_empty() {
            break;
        }
        for (descriptor, _) in wanted {
            needed.extend(reachable(layout, &descriptor)?);
            kept.push(descriptor);
        }
    }
    // The names go first: whatever ends this process, no name is left without its blobs.
    layout.change_index(|manifests| manifests.retain(|one| kept.contains(one)))?;
    let blobs = layout.dir().join("blobs/sha256");
    for entry in fs_err::read_dir(&blobs).map_err(|error| layout.io(error))? {
        let entry = entry.map_err(|error| layout.io(error))?;
        let digest = entry.file_name().to_str().and_then(|name| format!("sha256:{name}").parse().ok());
        if digest.is_some_and(|digest: Digest| needed.contains(&digest)) {
            continue;
        }
        let size = entry.metadata().map(|metadata| metadata.len()).unwrap_or_default();
        fs_err::remove_file(entry.path()).map_err(|error| layout.io(error))?;
        pruned.blobs += 1;
        pruned.bytes += size;
    }
    layers.tidy().map_err(|error| layout.io(error))?;
    Ok(pruned)
}

/// Clears away what was not written to the end. Nobody else is at the layout.
pub(crate) fn sweep(layout: &Layout) -> Result<(), ImageError> {
    let blobs = layout.dir().join("blobs/sha256");
    for entry in fs_err::read_dir(&blobs).map_err(|error| layout.io(error))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(".new-") {
            fs_err::remove_file(entry.path()).map_err(|error| layout.io(error))?;
        }
    }
    Ok(())
}
