//! Which files a device may have: those of the releases that its document names, found where they lie by their digests.
//!
//! What was deployed since is not looked at: a device that lost its disk before it was told of the newest release gets the
//! files of the one that it was told of.

use std::{collections::BTreeSet, path::PathBuf};

use moorline_core::{Digest, Release};
use serde::Deserialize;

use crate::desired::{Desired, ReleaseSettings};

/// Where a server has releases and images.
#[derive(Clone, Debug)]
pub struct Files {
    /// Each in a folder that is named by its digest, in hexadecimal.
    pub releases: PathBuf,
    /// The blobs of an OCI layout, by the same kind of names.
    pub blobs: PathBuf,
}

/// What is looked at of an image's manifest.
#[derive(Debug, Deserialize)]
pub(crate) struct ImageManifest {
    pub(crate) config: Blob,
    pub(crate) layers: Vec<Blob>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

impl ImageManifest {
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Blob> {
        std::iter::once(&self.config).chain(&self.layers)
    }
}

impl Files {
    /// The file of this digest, if `told` names what it is a part of. Reads files.
    pub(crate) fn find(&self, told: &Desired, digest: &Digest) -> Option<PathBuf> {
        told.modules.values().find_map(|module| self.of_module(&module.settings, digest))
    }

    fn of_module(&self, settings: &ReleaseSettings, wanted: &Digest) -> Option<PathBuf> {
        if let Some(image) = &settings.image {
            let manifest = self.blobs.join(image.digest.hex());
            if *wanted == image.digest {
                return Some(manifest);
            }
            let manifest: ImageManifest = serde_json::from_slice(&fs_err::read(manifest).ok()?).ok()?;
            let part = manifest.blobs().any(|blob| blob.digest == *wanted);
            return part.then(|| self.blobs.join(wanted.hex()));
        }
        let folder = self.releases.join(settings.release.hex());
        let path = folder.join(Release::FILE);
        if *wanted == settings.release {
            return Some(path);
        }
        let release = Release::parse(&fs_err::read_to_string(path).ok()?).ok()?;
        let model = release.model.iter().flat_map(|model| &model.files);
        let file = model.into_iter().find(|file| file.sha256 == *wanted)?;
        Some(folder.join(Release::MODEL_DIR).join(&file.path))
    }
}

/// The digests of all that these documents name: nothing of it may be taken away.
pub(super) fn needed<'a>(told: impl Iterator<Item = &'a Desired>) -> BTreeSet<Digest> {
    let settings = told.flat_map(|told| told.modules.values()).map(|module| &module.settings);
    settings
        .flat_map(|settings| [Some(settings.release), settings.image.as_ref().map(|image| image.digest)])
        .flatten()
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_an_image_its_manifest_and_its_blobs_are_given() {
        let folder = tempfile::tempdir().unwrap();
        let (config, layer) = (Digest::of(b"config"), Digest::of(b"layer"));
        let manifest = json!({
            "schemaVersion": 2, "config": {"digest": config, "size": 6}, "layers": [{"digest": layer, "size": 5}],
        });
        let manifest = manifest.to_string();
        let digest = Digest::of(manifest.as_bytes());
        fs_err::write(folder.path().join(digest.hex()), manifest).unwrap();
        let module = json!({
            "type": "release", "status": "running", "restartPolicy": "always",
            "settings": {"release": Digest::of(b"release"), "size": 7, "image": {"digest": digest}},
        });
        let module = serde_json::from_value(module).unwrap();
        let told = Desired { modules: [("m".to_owned(), module)].into(), ..Desired::default() };
        let files = Files { releases: folder.path().join("none"), blobs: folder.path().to_owned() };
        for part in [digest, config, layer] {
            assert_eq!(files.find(&told, &part), Some(folder.path().join(part.hex())));
        }
        assert_eq!(files.find(&told, &Digest::of(b"other")), None);
        assert_eq!(files.find(&Desired::default(), &layer), None);
        assert_eq!(needed([&told].into_iter()), [Digest::of(b"release"), digest].into());
    }
}
